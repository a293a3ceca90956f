//! A sandbox's network with the real `passt`, and a guest that is nothing but a socket: it
//! speaks ARP and TCP's first packet.
//!
//! The relay must be a process of its own to be tested as one: this program starts itself again
//! for that, hence no test harness, whose output would go to the relay's socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::readiness::{Interest, wait};
use banger_net::user::{NetBackend, RelayCommand, StartNetError, UserNet, ended, relay_inherited};

/// The argument by which this program knows that it is to be the relay.
const RELAY: &str = "be-the-relay";
const LONG: Duration = Duration::from_secs(120);
/// How long frames are smuggled.
const FLOOD: Duration = Duration::from_secs(6);
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
    frames_within_packets_stay_there(host)?;
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

/// Frames written into packets that may pass, at every offset and in batches of every length: if
/// `passt` ever loses its place in the stream, it takes one of them for a frame of its own.
fn frames_within_packets_stay_there(host: Ipv4Addr) -> Outcome {
    let Some((backend, net, dir)) = start()? else { return Ok(()) };
    let mut guest = Guest::new(backend.vmm_fd.try_clone()?.into(), &net)?;
    guest.resolve_gateway()?;
    let (public, private) = (TcpListener::bind((host, 0))?, TcpListener::bind("127.0.0.1:0")?);
    private.set_nonblocking(true)?;
    let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, private.local_addr()?.port());
    let mut answers = guest.stream.try_clone()?;
    answers.set_read_timeout(None)?;
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while answers.read(&mut buffer).is_ok_and(|len| len > 0) {}
    });
    let mut choose = Choice(0x2545_f491_4f6c_dd1d);
    let frames = guest.smuggling_frames(host, target, &mut choose)?;
    let flood = Deadline::after(FLOOD);
    while !flood.passed() {
        let count = 100 + choose.below(300);
        let batch: Vec<_> = (0..count).map(|_| &frames[choose.below(400)][..]).collect();
        let batch = batch.concat();
        guest.stream.write_all(&batch)?;
        let accepted = private.accept();
        assert!(accepted.is_err(), "a smuggled frame reached the loopback: {accepted:?}");
    }
    guest.syn(host, public.local_addr()?.port())?;
    let ready = wait(&[(public.as_fd(), Interest::Reading)], Some(LONG))?;
    assert!(ready[0].reading, "the network does not work any more");
    let accepted = private.accept();
    assert!(accepted.is_err(), "a smuggled frame reached the loopback: {accepted:?}");
    let programs: Vec<_> = backend.processes.iter().map(|p| p.identity().clone()).collect();
    assert_eq!(ended(&programs, dir.path()), None);
    guest.stream.shutdown(Shutdown::Both)?;
    reader.join().map_err(|_| "the reader panicked")?;
    Ok(())
}

/// Numbers that look like chance (xorshift), the same in each run.
struct Choice(u64);

impl Choice {
    fn below(&mut self, bound: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound).unwrap_or(0)
    }
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

    fn frame(&self, kind: [u8; 2], packet: &[u8]) -> Result<Vec<u8>, std::num::TryFromIntError> {
        let len = u32::try_from(ETHERNET_LEN + packet.len())?.to_be_bytes();
        Ok([&len[..], &self.gateway_mac, &self.net.mac.0, &kind, packet].concat())
    }

    fn send(&mut self, kind: [u8; 2], packet: &[u8]) -> Outcome {
        let frame = self.frame(kind, packet)?;
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

    /// Frames to `host`, each with a frame for `target` in its payload.
    fn smuggling_frames(
        &self,
        host: Ipv4Addr,
        target: SocketAddrV4,
        choose: &mut Choice,
    ) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
        let mut frames = Vec::new();
        for _ in 0..400 {
            let port = u16::try_from(20_000 + choose.below(20_000))?;
            let from = SocketAddrV4::new(self.net.guest.address, port);
            let inner = self.frame([8, 0], &tcp_packet(from, target, SYN, &[])?)?;
            let zeros = vec![0; choose.below(4) + 4 * choose.below(30)];
            let payload = [zeros, inner].concat();
            let outer = tcp_packet(from, SocketAddrV4::new(host, 9), ACK, &payload)?;
            frames.push(self.frame([8, 0], &outer)?);
        }
        Ok(frames)
    }

    /// Sends the packet that asks for a TCP connection.
    fn syn(&mut self, to: Ipv4Addr, port: u16) -> Outcome {
        self.next_port += 1;
        let from = SocketAddrV4::new(self.net.guest.address, self.next_port);
        let packet = tcp_packet(from, SocketAddrV4::new(to, port), SYN, &[])?;
        self.send([8, 0], &packet)
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

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// An IPv4 packet with a TCP segment.
fn tcp_packet(
    from: SocketAddrV4,
    to: SocketAddrV4,
    flags: u8,
    payload: &[u8],
) -> Result<Vec<u8>, std::num::TryFromIntError> {
    let header = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &[0; 16]].concat();
    let mut tcp = [&header, payload].concat();
    (tcp[7], tcp[12], tcp[13], tcp[14]) = (1, 0x50, flags, 0xff);
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let len = u16::try_from(tcp.len())?.to_be_bytes();
    let pseudo = [&addresses[..], &[0, 6], &len, &tcp].concat();
    tcp[16..18].copy_from_slice(&checksum(&pseudo));
    let total = u16::try_from(20 + tcp.len())?.to_be_bytes();
    let mut ip = [&[0x45, 0], &total[..], &[0, 0, 0, 0, 64, 6, 0, 0], &addresses[..]].concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    Ok([ip, tcp].concat())
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let low = |pair: &[u8]| pair.get(1).copied().map_or(0, u32::from);
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | low(pair));
    let sum = words.fold(0u32, |sum, word| (sum + word) % 0xffff);
    u16::try_from(!sum & 0xffff).unwrap_or(0).to_be_bytes()
}
