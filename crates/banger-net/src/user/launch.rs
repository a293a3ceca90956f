//! Starting the programs that make a sandbox's network, and what belongs to them afterwards.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use banger_host::HostError;
use banger_host::fs::{open_append, read_text};
use banger_host::process::{Launch, Process};
use banger_host::socket;

use super::error::StartNetError;
use super::plan::{GATEWAY_MAC, UserNet};

/// Name of `passt`'s log in a sandbox's directory.
pub const PASST_LOG: &str = "passt.log";
/// Name of the file with what `passt` said before it opened its log: why it did not start. With
/// a log it says nothing there any more, so this stays as short as that.
pub const PASST_ERRORS: &str = "passt.err";
/// Name of the relay's log: the one error it ends with.
pub const RELAY_LOG: &str = "relay.log";

/// `passt` removes old entries when its log exceeds this, in bytes.
pub(crate) const PASST_LOG_LEN: u64 = 64 * 1024;
/// How long a program that was killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// The number under which `passt` inherits its socket.
const PASST_FD: i32 = 3;
/// Where Linux lists its IPv4 routes (proc(5)), and the longest list that is looked at.
const ROUTES: (&str, u64) = ("/proc/net/route", 16 * 1024 * 1024);

/// The command that runs [`super::relay_inherited`] with the arguments that are added to it.
#[derive(Clone, Debug)]
pub struct RelayCommand {
    /// The program; usually this very executable.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

/// A running network that waits for its VMM.
#[derive(Debug)]
pub struct NetBackend {
    /// The stream socket on which the VMM exchanges frames. When its last copy is closed, the
    /// processes end by themselves.
    pub vmm_fd: OwnedFd,
    /// The programs behind it, in the order that [`super::ended`] wants.
    pub processes: Vec<Process>,
}

impl NetBackend {
    /// Starts the network of a sandbox whose directory is `dir`.
    ///
    /// # Errors
    /// When `passt` is missing, finds no network, or a program does not start. Nothing that was
    /// started stays: each ends with the sockets that are closed then.
    pub fn start(net: &UserNet, dir: &Path, relay: &RelayCommand) -> Result<Self, StartNetError> {
        // passt would look for it, too, but end only when the sandbox boots already.
        if ways_out().map_err(StartNetError::Connect)?.is_empty() {
            return Err(StartNetError::NoRoute);
        }
        let (vmm_fd, relay_to_vmm) = socket::pair().map_err(StartNetError::Connect)?;
        let (relay_to_passt, passt_fd) = socket::pair().map_err(StartNetError::Connect)?;
        let passt = Launch::new("passt", dir)
            .args(passt_args(net, dir))
            .output(empty(&dir.join(PASST_ERRORS))?)
            .fd(passt_fd, PASST_FD);
        let relay = Launch::new(&relay.program, dir)
            .args(&relay.args)
            .args(relay_args(net, dir))
            .output(empty(&dir.join(RELAY_LOG))?)
            .fd(relay_to_vmm, 0)
            .fd(relay_to_passt, 1);
        Ok(Self { vmm_fd, processes: start_both(passt, relay)?.into() })
    }
}

/// A program's start takes milliseconds, and neither waits for the other.
fn start_both(passt: Launch, relay: Launch) -> Result<[Process; 2], StartNetError> {
    let (passt, relay) = thread::scope(|scope| {
        let relay = thread::Builder::new().spawn_scoped(scope, || relay.start());
        let passt = passt.start();
        let relay = match relay {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(error) => Err(HostError::system("start a thread", error)),
        };
        (passt, relay)
    });
    // One alone would end by itself, and be nobody's to reap.
    let end = |alone: Process| drop(alone.kill(KILL_PATIENCE));
    match (passt, relay) {
        (Ok(passt), Ok(relay)) => Ok([passt, relay]),
        (Err(error), relay) => {
            relay.map_or_else(drop, end);
            Err(StartNetError::Passt(error))
        }
        (Ok(passt), Err(error)) => {
            end(passt);
            Err(StartNetError::Relay(error))
        }
    }
}

/// An empty file to be added to. What an earlier run in the same directory said is gone.
fn empty(path: &Path) -> Result<File, StartNetError> {
    let file = open_append(path).map_err(StartNetError::Log)?;
    let failed = |error| StartNetError::Log(HostError::system("empty a log", error));
    file.set_len(0).map_err(failed)?;
    Ok(file)
}

/// The arguments of `passt` for this network.
pub fn passt_args(net: &UserNet, dir: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: String| args.extend([name.into(), value.into()]);
    option("--fd", PASST_FD.to_string());
    option("--address", net.guest.address.to_string());
    option("--netmask", net.guest.prefix_len.to_string());
    option("--gateway", net.guest.gateway.to_string());
    option("--mac-addr", GATEWAY_MAC.to_string());
    // Nothing on the host leads into the guest.
    option("--tcp-ports", "none".into());
    option("--udp-ports", "none".into());
    // The relay deals with DNS; the agent tells the guest all the rest.
    option("--dns", "none".into());
    option("--search", "none".into());
    option("--log-size", PASST_LOG_LEN.to_string());
    args.extend(["--log-file".into(), dir.join(PASST_LOG).into_os_string()]);
    let flags = [
        "--foreground",
        "--quiet",
        "--ipv4-only",
        "--no-map-gw",
        "--no-udp",
        "--no-dhcp",
        "--no-dhcpv6",
        "--no-ndp",
        "--no-ra",
    ];
    args.extend(flags.map(OsString::from));
    args
}

fn relay_args(net: &UserNet, dir: &Path) -> [OsString; 3] {
    [
        net.guest.address.to_string().into(),
        net.guest.gateway.to_string().into(),
        // By this a process is known to belong to the directory, whoever started it.
        banger_host::owned::tag(dir),
    ]
}

/// This host's ways to everywhere.
///
/// # Errors
/// When its routes cannot be read.
pub fn ways_out() -> Result<WaysOut, HostError> {
    Ok(WaysOut::of(&read_text(Path::new(ROUTES.0), ROUTES.1)?))
}

/// The interface and the gateway of each route for every destination. A network that was started
/// when these were others leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaysOut(Vec<(String, String)>);

impl WaysOut {
    /// Those in a list of routes: address and mask are zero. Columns are interface, destination,
    /// gateway, flags, three counters, mask.
    fn of(routes: &str) -> Self {
        let ways = routes.lines().filter_map(|line| {
            let columns: Vec<_> = line.split_ascii_whitespace().collect();
            let [interface, "00000000", gateway, _, _, _, _, "00000000", ..] = columns[..] else {
                return None;
            };
            Some((interface.to_owned(), gateway.to_owned()))
        });
        Self(ways.collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_passt() {
        let net = UserNet::plan(&"0123456789ab".parse().unwrap());
        let args: Vec<_> = passt_args(&net, Path::new("/s"))
            .iter()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        insta::assert_snapshot!(args.join(" ").replace(" --", "\n--"), @r"
        --fd 3
        --address 198.19.38.174
        --netmask 30
        --gateway 198.19.38.173
        --mac-addr 02:62:6e:67:72:01
        --tcp-ports none
        --udp-ports none
        --dns none
        --search none
        --log-size 65536
        --log-file /s/passt.log
        --foreground
        --quiet
        --ipv4-only
        --no-map-gw
        --no-udp
        --no-dhcp
        --no-dhcpv6
        --no-ndp
        --no-ra
        ");
    }

    #[test]
    fn a_default_route_has_no_destination_and_no_mask() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n";
        let subnet = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let half = "tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert!(WaysOut::of(&[head, subnet, half].concat()).is_empty());
        let ways = WaysOut::of(&[head, subnet, default].concat());
        assert_eq!(ways.0, [("eth0".to_owned(), "010200C0".to_owned())]);
    }
}
