//! Network interfaces by the old ioctls.
//!
//! They are a page of code where netlink is a library, and say all that an Ethernet interface
//! with one IPv4 address needs (netdevice(7)).

use std::net::Ipv4Addr;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Longest name of an interface, with the NUL that ends it (`IFNAMSIZ`).
const NAME_LEN: usize = 16;

/// `ARPHRD_ETHER`: what a hardware address is.
const ETHERNET: u16 = 1;

/// The operations; each is a constant of `linux/sockios.h`.
const GET_FLAGS: Opcode = 0x8913;
const SET_FLAGS: Opcode = 0x8914;
const SET_ADDRESS: Opcode = 0x8916;
const SET_NETMASK: Opcode = 0x891c;
const SET_HARDWARE: Opcode = 0x8924;
const ADD_ROUTE: Opcode = 0x890b;
const GET_INDEX: Opcode = 0x8933;

/// The flags of an interface that works, `IFF_UP` and `IFF_RUNNING`: both are in the first byte.
const UP: u8 = 0x41;

/// `struct ifreq`: a name and a union of 24 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
struct Request {
    name: [u8; NAME_LEN],
    value: [u8; 24],
}

/// An interface by its name.
#[derive(Debug)]
pub(crate) struct Interface {
    socket: OwnedFd,
    name: [u8; NAME_LEN],
}

impl Interface {
    /// The interface of this name, whether it exists or not.
    ///
    /// # Errors
    /// `ENODEV` for a name that no interface can have, and what the kernel says to a socket.
    pub(crate) fn named(name: &str) -> Result<Self, Errno> {
        let mut padded = [0; NAME_LEN];
        match padded[..NAME_LEN - 1].get_mut(..name.len()) {
            Some(place) => place.copy_from_slice(name.as_bytes()),
            None => return Err(Errno::NODEV),
        }
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, name: padded })
    }

    /// The number that no other has as long as it is there.
    ///
    /// # Errors
    /// What the kernel says; `ENODEV` when there is none of this name.
    pub(crate) fn index(&self) -> Result<u32, Errno> {
        let [a, b, c, d, ..] = self.get::<GET_INDEX>()?;
        Ok(u32::from_ne_bytes([a, b, c, d]))
    }

    /// Gives it an Ethernet address.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn set_mac(&self, mac: [u8; 6]) -> Result<(), Errno> {
        let mut value = [0; 24];
        value[..2].copy_from_slice(&ETHERNET.to_ne_bytes());
        value[2..8].copy_from_slice(&mac);
        self.set::<SET_HARDWARE>(value)
    }

    /// Gives it an address in a network of so many prefix bits.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn set_address(&self, address: Ipv4Addr, prefix_len: u8) -> Result<(), Errno> {
        self.set::<SET_ADDRESS>(socket_address(address))?;
        self.set::<SET_NETMASK>(socket_address(netmask(prefix_len)))
    }

    /// Takes its address away; one that has none is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn clear_address(&self) -> Result<(), Errno> {
        match self.set::<SET_ADDRESS>(socket_address(Ipv4Addr::UNSPECIFIED)) {
            Err(Errno::ADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// Lets it send and receive.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn bring_up(&self) -> Result<(), Errno> {
        self.set_flags(|flags| flags | UP)
    }

    /// Lets it do nothing; its routes go.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn bring_down(&self) -> Result<(), Errno> {
        self.set_flags(|flags| flags & !UP)
    }

    /// Whether it works.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn is_up(&self) -> Result<bool, Errno> {
        // The other flag is the kernel's to say: there may be no carrier.
        Ok(self.get::<GET_FLAGS>()?[0] & UP & 1 != 0)
    }

    fn set_flags(&self, change: impl FnOnce(u8) -> u8) -> Result<(), Errno> {
        let mut value = self.get::<GET_FLAGS>()?;
        value[0] = change(value[0]);
        self.set::<SET_FLAGS>(value)
    }

    fn get<const OPERATION: Opcode>(&self) -> Result<[u8; 24], Errno> {
        let mut request = Request { name: self.name, value: [0; 24] };
        // SAFETY: every operation used here reads and writes an ifreq, which `Request` is.
        // JUSTIFICATION: rustix has no form of these ioctls.
        unsafe { ioctl(&self.socket, Updater::<OPERATION, Request>::new(&mut request)) }?;
        Ok(request.value)
    }

    /// Sends packets for `to` through it: directly, or by way of a gateway. A route that is
    /// there already is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn add_route(
        &self,
        to: Destination,
        gateway: Option<Ipv4Addr>,
    ) -> Result<(), Errno> {
        // SAFETY: rtentry is numbers and one pointer, all of which may be zero.
        // JUSTIFICATION: libc's structure has no constructor.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        let mut name = self.name;
        let (address, flags) = match to {
            Destination::Host(address) => (address, libc::RTF_UP | libc::RTF_HOST),
            Destination::Everywhere => (Ipv4Addr::UNSPECIFIED, libc::RTF_UP),
        };
        let via = if gateway.is_some() { libc::RTF_GATEWAY } else { 0 };
        route.rt_flags = flags | via;
        route.rt_dst = raw_address(address);
        route.rt_genmask = raw_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = raw_address(gateway.unwrap_or(Ipv4Addr::UNSPECIFIED));
        route.rt_dev = name.as_mut_ptr().cast();
        // SAFETY: the operation reads an rtentry; the name it points to ends with a NUL and
        // outlives the call.
        // JUSTIFICATION: rustix has no form of this ioctl.
        match unsafe { ioctl(&self.socket, Setter::<ADD_ROUTE, libc::rtentry>::new(route)) } {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    fn set<const OPERATION: Opcode>(&self, value: [u8; 24]) -> Result<(), Errno> {
        let request = Request { name: self.name, value };
        // SAFETY: every operation used here reads an ifreq, which `Request` is.
        // JUSTIFICATION: rustix has no form of these ioctls.
        unsafe { ioctl(&self.socket, Setter::<OPERATION, Request>::new(request)) }
    }
}

/// Where packets go that take a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To this one address.
    Host(Ipv4Addr),
    /// To whatever no other route is for.
    Everywhere,
}

/// A `sockaddr_in`: family, port, address.
fn socket_address(address: Ipv4Addr) -> [u8; 24] {
    let mut value = [0; 24];
    let family = AddressFamily::INET.as_raw();
    value[..2].copy_from_slice(&family.to_ne_bytes());
    value[4..8].copy_from_slice(&address.octets());
    value
}

/// The same in libc's type.
fn raw_address(address: Ipv4Addr) -> libc::sockaddr {
    let bytes = socket_address(address);
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(&bytes[2..]) {
        *to = from.cast_signed();
    }
    libc::sockaddr { sa_family: AddressFamily::INET.as_raw(), sa_data: data }
}

/// The mask with so many leading ones.
fn netmask(prefix_len: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(prefix_len.min(32));
    Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_length_is_a_mask() {
        assert_eq!(netmask(0), Ipv4Addr::new(0, 0, 0, 0));
        assert_eq!(netmask(20), Ipv4Addr::new(255, 255, 240, 0));
        assert_eq!(netmask(32), Ipv4Addr::BROADCAST);
        assert_eq!(netmask(99), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn the_request_has_the_kernels_size() {
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_refused() {
        assert!(matches!(Interface::named("sixteen-letters-"), Err(Errno::NODEV)));
    }
}
