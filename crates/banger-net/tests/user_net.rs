//! A sandbox's network with the real `passt`, and a guest that is nothing but a socket: it
//! speaks ARP and TCP's first packet.
//!
//! The relay must be a process of its own to be tested as one: this program starts itself again
//! for that, hence no test harness, whose output would go to the relay's socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_net::user::{NetBackend, RelayCommand, StartNetError, UserNet, relay_inherited};

/// The argument by which this program knows that it is to be the relay.
const RELAY: &str = "be-the-relay";
const LONG: Duration = Duration::from_secs(20);
const ETHERNET_LEN: usize = 14;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == RELAY) {
        return Ok(relay_inherited(&args[1..])?);
    }
    let Some(host) = routed_address() else {
        banger_testkit::skipped_on_this_machine("this host has no default route for passt");
        return Ok(());
    };
    the_guest_reaches_the_network_but_not_the_host_itself(host)?;
    the_programs_end_with_the_vmm()?;
    Ok(())
}

/// The address by which this host is known to its network.
fn routed_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: connecting a UDP socket only looks up the route (documentation address).
    socket.connect("203.0.113.1:9").ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}

type Started = (NetBackend, UserNet, tempfile::TempDir);

fn start() -> Result<Option<Started>, Box<dyn std::error::Error>> {
    // AppArmor's profile lets passt write its log under /tmp and /home only.
    let dir = tempfile::tempdir_in("/tmp")?;
    let net = UserNet::plan(&"00000000c0de".parse()?);
    let relay = RelayCommand { program: std::env::current_exe()?, args: vec![RELAY.into()] };
    match NetBackend::start(&net, dir.path(), &relay) {
        Ok(backend) => Ok(Some((backend, net, dir))),
        Err(StartNetError::Passt(error)) if error.to_string().contains("not installed") => {
            banger_testkit::skipped(&error.to_string());
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn the_guest_reaches_the_network_but_not_the_host_itself(host: Ipv4Addr) -> Outcome {
    let Some((backend, net, _dir)) = start()? else { return Ok(()) };
    let mut guest = Guest::new(backend.vmm_fd.try_clone()?.into(), &net)?;
    guest.resolve_gateway()?;
    let public = TcpListener::bind((host, 0))?;
    let private = TcpListener::bind("127.0.0.1:0")?;
    let private_port = private.local_addr()?.port();
    for forbidden in ["127.0.0.1", "0.0.0.0", "127.0.0.2"] {
        guest.syn(forbidden.parse()?, private_port)?;
    }
    guest.syn(net.guest.gateway, private_port)?;
    // Frames are dealt with in order: when this one is answered, those above are done with.
    guest.syn(host, public.local_addr()?.port())?;
    guest.expect_syn_ack(host)?;
    let (_, peer) = public.accept()?;
    assert_eq!(peer.ip(), host);
    private.set_nonblocking(true)?;
    let accepted = private.accept();
    assert!(
        matches!(&accepted, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "the guest reached a server on the host's loopback: {accepted:?}"
    );
    Ok(())
}

fn the_programs_end_with_the_vmm() -> Outcome {
    let Some((NetBackend { vmm_fd, processes, .. }, _, dir)) = start()? else { return Ok(()) };
    let tagged = banger_host::owned::find(dir.path())?;
    assert_eq!(tagged.len(), 1, "the relay carries the directory's tag");
    for process in &processes {
        assert!(!process.wait(Deadline::after(Duration::ZERO))?);
    }
    drop(vmm_fd);
    for process in &processes {
        assert!(process.wait(Deadline::after(LONG))?, "{:?} still runs", process.identity());
    }
    Ok(())
}

/// A guest that sends single packets and looks at the headers of what comes back.
struct Guest {
    stream: UnixStream,
    net: UserNet,
    gateway_mac: [u8; 6],
    next_port: u16,
}

impl Guest {
    fn new(stream: UnixStream, net: &UserNet) -> Result<Self, std::io::Error> {
        stream.set_read_timeout(Some(LONG))?;
        Ok(Self { stream, net: net.clone(), gateway_mac: [0xff; 6], next_port: 40_000 })
    }

    fn send(&mut self, kind: [u8; 2], packet: &[u8]) -> Outcome {
        let len = u32::try_from(ETHERNET_LEN + packet.len())?;
        let frame =
            [&len.to_be_bytes()[..], &self.gateway_mac, &self.net.mac.0, &kind, packet].concat();
        Ok(self.stream.write_all(&frame)?)
    }

    fn receive(&mut self) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(len))?];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    fn resolve_gateway(&mut self) -> Outcome {
        let (guest, gateway) = (self.net.guest.address.octets(), self.net.guest.gateway.octets());
        let request = [0, 1, 8, 0, 6, 4, 0, 1];
        let packet = [&request[..], &self.net.mac.0, &guest, &[0; 6], &gateway].concat();
        self.send([8, 6], &packet)?;
        let answer = self.receive()?;
        assert_eq!(answer[12..14], [8, 6]);
        self.gateway_mac.copy_from_slice(&answer[22..28]);
        Ok(())
    }

    /// Sends the packet that asks for a TCP connection.
    fn syn(&mut self, to: Ipv4Addr, port: u16) -> Outcome {
        self.next_port += 1;
        let mut tcp = [&self.next_port.to_be_bytes()[..], &port.to_be_bytes(), &[0; 16]].concat();
        (tcp[7], tcp[12], tcp[13], tcp[14]) = (1, 0x50, 0x02, 0xff);
        let addresses = [self.net.guest.address.octets(), to.octets()].concat();
        let pseudo = [&addresses[..], &[0, 6, 0, 20], &tcp].concat();
        tcp[16..18].copy_from_slice(&checksum(&pseudo));
        let mut ip = [&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0], &addresses[..]].concat();
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        self.send([8, 0], &[ip, tcp].concat())
    }

    /// Waits for an accepted connection; nothing else may come before it.
    fn expect_syn_ack(&mut self, from: Ipv4Addr) -> Outcome {
        let frame = self.receive()?;
        assert_eq!(frame[12..14], [8, 0], "no IPv4: {frame:?}");
        assert_eq!(frame[26..30], from.octets(), "an answer from someone else: {frame:?}");
        assert_eq!(frame[47] & 0x3f, 0x12, "no SYN and ACK: {frame:?}");
        Ok(())
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.fold(0u32, |sum, word| (sum + word) % 0xffff);
    u16::try_from(!sum & 0xffff).unwrap_or(0).to_be_bytes()
}
