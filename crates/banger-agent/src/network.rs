//! The sandbox's place in its network.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use banger_model::{GuestNet, MacAddress};
use rustix::io::Errno;
use thiserror::Error;

use crate::files::set;
use crate::sys::interface::{Destination, Interface};

/// The kernel's directory of network interfaces.
const CLASS: &str = "/sys/class/net";

/// The driver of the one interface that a sandbox has.
const DRIVER: &str = "virtio_net";

/// The settings of interfaces for IPv6.
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// No address that the kernel makes up: a sandbox's network has no IPv6, so nobody would answer whom the
/// kernel asks about it whenever the interface comes up (`IN6_ADDR_GEN_MODE_NONE`, `linux/if_link.h`).
const NO_LINK_LOCAL: (&str, &[u8]) = ("addr_gen_mode", b"1");

/// Most interfaces looked at; there are two before anyone makes more.
const MAX_INTERFACES: usize = 256;

/// Why a sandbox has no network.
#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    #[error("cannot list network interfaces")]
    List(#[source] io::Error),
    #[error("the machine has no network interface")]
    None,
    #[error("cannot {step} of {interface}")]
    Interface {
        interface: String,
        step: &'static str,
        #[source]
        source: Errno,
    },
}

/// Brings up the loopback interface.
///
/// # Errors
/// [`NetworkError::Interface`].
pub(crate) fn loopback_up() -> Result<(), NetworkError> {
    on("lo", "set the state", Interface::named("lo").and_then(|lo| lo.bring_up()))
}

/// The interface of a sandbox. Once found it is not looked for again, unless its name is another's.
#[derive(Debug, Default)]
pub(crate) struct Nic(Option<Found>);

#[derive(Debug)]
struct Found {
    name: String,
    index: u32,
    interface: Interface,
}

impl Nic {
    /// Gives the interface its addresses, in the place of those it may have had as another
    /// machine's. A sandbox without a network gets the Ethernet address
    /// alone, if it has an interface at all.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) fn configure(
        &mut self,
        mac: MacAddress,
        net: Option<&GuestNet>,
    ) -> Result<(), NetworkError> {
        let known = self.0.as_ref().map(|found| found.index);
        match (self.find()?, net) {
            (Some(found), net) => {
                if known != Some(found.index) {
                    make_up_no_address(&found.name);
                }
                configure(found, mac, net)
            }
            (None, None) => Ok(()),
            (None, Some(_)) => Err(NetworkError::None),
        }
    }

    fn find(&mut self) -> Result<Option<&Found>, NetworkError> {
        self.0 = match self.0.take() {
            Some(found) if found.interface.index() == Ok(found.index) => Some(found),
            _ => find(Path::new(CLASS)).map_err(NetworkError::List)?.map(hold).transpose()?,
        };
        Ok(self.0.as_ref())
    }
}

fn make_up_no_address(name: &str) {
    let (setting, none) = NO_LINK_LOCAL;
    let _kernel_without_ipv6 = set(&Path::new(IPV6).join(name).join(setting), none);
}

fn hold(name: String) -> Result<Found, NetworkError> {
    let interface = on(&name, "take hold", Interface::named(&name))?;
    let index = on(&name, "read the number", interface.index())?;
    Ok(Found { name, index, interface })
}

fn configure(
    Found { name, interface, .. }: &Found,
    mac: MacAddress,
    net: Option<&GuestNet>,
) -> Result<(), NetworkError> {
    if on(name, "read the state", interface.is_up())? {
        on(name, "clear the state", interface.bring_down())?;
        on(name, "clear the address", interface.clear_address())?;
    }
    on(name, "set the Ethernet address", interface.set_mac(mac.0))?;
    let Some(net) = net else { return Ok(()) };
    on(name, "set the address", interface.set_address(net.address, net.prefix_len))?;
    on(name, "set the state", interface.bring_up())?;
    if !in_network(net) {
        let gateway = Destination::Host(net.gateway);
        on(name, "set the route to the gateway", interface.add_route(gateway, None))?;
    }
    let route = interface.add_route(Destination::Everywhere, Some(net.gateway));
    on(name, "set the default route", route)
}

fn on<T>(interface: &str, step: &'static str, done: Result<T, Errno>) -> Result<T, NetworkError> {
    let interface = interface.to_owned();
    done.map_err(|source| NetworkError::Interface { interface, step, source })
}

/// Whether the gateway is one of the addresses that the interface reaches directly.
fn in_network(net: &GuestNet) -> bool {
    let host_bits = 32 - u32::from(net.prefix_len.min(32));
    let network = |address: Ipv4Addr| address.to_bits().checked_shr(host_bits).unwrap_or(0);
    network(net.address) == network(net.gateway)
}

/// The first interface of the driver.
fn find(class: &Path) -> io::Result<Option<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(class)?.take(MAX_INTERFACES) {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    let driven = |name: &String| {
        let driver = fs::read_link(class.join(name).join("device/driver"));
        driver.is_ok_and(|driver| driver.ends_with(DRIVER))
    };
    Ok(names.into_iter().find(driven))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(address: [u8; 4], prefix_len: u8, gateway: [u8; 4]) -> GuestNet {
        GuestNet { address: address.into(), prefix_len, gateway: gateway.into(), dns: Vec::new() }
    }

    #[test]
    fn a_gateway_may_be_outside_the_network() {
        assert!(in_network(&net([10, 0, 2, 15], 24, [10, 0, 2, 1])));
        assert!(!in_network(&net([10, 0, 2, 15], 24, [10, 0, 3, 1])));
        assert!(!in_network(&net([10, 0, 2, 15], 32, [10, 0, 2, 1])));
        assert!(in_network(&net([10, 0, 2, 15], 0, [172, 16, 0, 1])));
    }

    #[test]
    fn the_interface_is_known_by_its_driver() {
        let class = tempfile::tempdir().unwrap();
        for (name, driver) in [("dummy0", "/drivers/dummy"), ("ens1", "/drivers/virtio_net")] {
            fs::create_dir_all(class.path().join(name).join("device")).unwrap();
            std::os::unix::fs::symlink(driver, class.path().join(name).join("device/driver"))
                .unwrap();
        }
        fs::create_dir(class.path().join("lo")).unwrap();
        assert_eq!(find(class.path()).unwrap().as_deref(), Some("ens1"));
    }

    #[test]
    fn an_interface_that_was_found_is_kept_as_long_as_it_is_that_one() {
        let lo = || hold("lo".to_owned()).unwrap();
        let index = lo().index;
        let kept = Nic(Some(lo())).find().unwrap().map(|found| (found.name.clone(), found.index));
        assert_eq!(kept, Some(("lo".to_owned(), index)));
        // Another has that name, or none.
        for gone in [
            Found { index: index + 1, ..lo() },
            Found { name: "lo".to_owned(), index, interface: Interface::named("no-such").unwrap() },
        ] {
            let found = Nic(Some(gone)).find().unwrap().map(|found| found.name.clone());
            assert_ne!(found.as_deref(), Some("lo"));
        }
    }
}
