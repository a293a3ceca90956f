//! The process between a VMM and `passt`: it drops what must not leave the sandbox, carries UDP
//! itself and hands the rest on.
//!
//! One thread waits on everything at once. Neither side can make it use more memory than the
//! bounds below: while a side does not take its output, nothing more is read for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use banger_host::HostError;
use banger_host::readiness::{Interest, Ready, wait};
use banger_model::MacAddress;

use super::error::RelayError;
use super::flows::Flows;
use super::frame::{LENGTH_LEN, MAX_UDP_PAYLOAD, push_datagram};
use super::plan::GATEWAY_MAC;
use super::policy::{Ends, Flow, Verdict, judge};
use super::resolver;
use super::side::{Filled, Side, Writing};
use super::tcp::{Openings, mend_reset, opens_connection};

/// How often silent flows are looked for while there are any.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);
/// How long `passt` may take nothing while frames wait for it. It never needs that long, but a
/// guest has made it spin; a link that goes down tells the guest more than silence.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves one sandbox until either side hangs up, which is the normal end.
///
/// `vmm` and `passt` are connected stream sockets on which frames travel behind their lengths.
///
/// # Errors
/// When a side sends what is no frame, or the system refuses to go on.
pub fn relay(
    vmm: OwnedFd,
    passt: OwnedFd,
    guest: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), RelayError> {
    Relay::new(vmm, passt, Ends { guest, gateway })?.run(resolver::current)
}

/// What the relay process does: [`relay`] on its standard input (the VMM) and standard output
/// (`passt`), with the arguments that [`super::NetBackend::start`] gave it.
///
/// # Errors
/// As [`relay`], or when the arguments are not those.
pub fn relay_inherited(args: &[String]) -> Result<(), RelayError> {
    let address = |at: usize| args.get(at).and_then(|text| text.parse::<Ipv4Addr>().ok());
    let (Some(guest), Some(gateway)) = (address(0), address(1)) else {
        return Err(RelayError::Arguments(args.to_vec()));
    };
    let own = |fd: io::Result<OwnedFd>| {
        fd.map_err(|e| RelayError::Sockets(HostError::system("duplicate an inherited socket", e)))
    };
    let vmm = own(io::stdin().as_fd().try_clone_to_owned())?;
    let passt = own(io::stdout().as_fd().try_clone_to_owned())?;
    relay(vmm, passt, guest, gateway)
}

#[derive(Debug)]
struct Relay {
    ends: Ends,
    vmm: Side,
    passt: Side,
    flows: Flows,
    openings: Openings,
    /// The hardware address that the guest sends from: where its datagrams are sent back to.
    guest_mac: MacAddress,
    scratch: Vec<u8>,
}

impl Relay {
    fn new(vmm: OwnedFd, passt: OwnedFd, ends: Ends) -> Result<Self, RelayError> {
        Ok(Self {
            ends,
            vmm: Side::new("sandbox", vmm, Writing::Together)?,
            passt: Side::new("passt", passt, Writing::FrameByFrame)?,
            flows: Flows::default(),
            openings: Openings::new(Instant::now()),
            guest_mac: MacAddress([0xff; 6]),
            scratch: vec![0; MAX_UDP_PAYLOAD],
        })
    }

    fn run(mut self, resolver: impl Fn() -> Option<SocketAddr>) -> Result<(), RelayError> {
        let mut expire_at = Instant::now() + EXPIRE_EVERY;
        loop {
            let ready = self.wait()?;
            self.vmm.flush_if(ready.vmm)?;
            self.passt.flush_if(ready.passt)?;
            if ready.vmm.reading && self.passt.has_room() {
                if self.vmm.fill()? == Filled::HungUp {
                    return Ok(());
                }
                self.take_from_guest(&resolver)?;
            }
            if ready.passt.reading && self.vmm.has_room() {
                if self.passt.fill()? == Filled::HungUp {
                    return Ok(());
                }
                while let Some(frame) = self.passt.next_frame()? {
                    mend_reset(&mut self.passt.input[frame.start + LENGTH_LEN..frame.end]);
                    self.vmm.output.extend_from_slice(&self.passt.input[frame]);
                }
            }
            for flow in ready.flows {
                self.take_from_world(&flow);
            }
            self.vmm.flush()?;
            self.passt.flush()?;
            self.watch_passt(Instant::now())?;
            if Instant::now() >= expire_at {
                self.flows.expire(Instant::now());
                expire_at = Instant::now() + EXPIRE_EVERY;
            }
        }
    }

    /// Gives up a `passt` that takes nothing. While the VMM takes nothing either, as when its
    /// machine is paused, `passt` may be waiting for us, and is not to blame.
    fn watch_passt(&mut self, now: Instant) -> Result<(), RelayError> {
        let Some(since) = &mut self.passt.waiting else { return Ok(()) };
        if !self.vmm.has_room() {
            *since = now;
        }
        let waited = now.saturating_duration_since(*since);
        if waited < PATIENCE { Ok(()) } else { Err(RelayError::Stuck(PATIENCE)) }
    }

    /// Waits for something to do. Without flows or waiting frames there is nothing to look
    /// after, hence no timeout: an idle sandbox costs no processor time.
    fn wait(&self) -> Result<Work, RelayError> {
        let flows = if self.vmm.has_room() { self.flows.sockets() } else { Vec::new() };
        let mut fds = vec![
            (self.vmm.stream.as_fd(), self.vmm.interest(&self.passt)),
            (self.passt.stream.as_fd(), self.passt.interest(&self.vmm)),
        ];
        fds.extend(flows.iter().map(|(_, fd)| (*fd, Interest::Reading)));
        let timed = !self.flows.is_empty() || !self.passt.output.is_empty();
        let timeout = timed.then_some(EXPIRE_EVERY);
        let ready = wait(&fds, timeout).map_err(RelayError::Sockets)?;
        let readable = flows.iter().zip(&ready[2..]).filter(|(_, ready)| ready.reading);
        Ok(Work {
            vmm: ready[0],
            passt: ready[1],
            flows: readable.map(|((flow, _), _)| *flow).collect(),
        })
    }

    /// Judges every whole frame that the guest sent and does what the verdict says.
    fn take_from_guest(
        &mut self,
        resolver: &impl Fn() -> Option<SocketAddr>,
    ) -> Result<(), RelayError> {
        let now = Instant::now();
        while let Some(range) = self.vmm.next_frame()? {
            let frame = &self.vmm.input[range.start + LENGTH_LEN..range.end];
            if let Some(mac) = frame.get(6..12) {
                self.guest_mac.0.copy_from_slice(mac);
            }
            match judge(self.ends, frame) {
                Verdict::Drop => {}
                Verdict::Pass if opens_connection(frame) && !self.openings.take(now) => {}
                Verdict::Pass => self.passt.output.extend_from_slice(&self.vmm.input[range]),
                Verdict::Send { flow, payload } => {
                    self.flows.send(flow, &frame[payload], now, resolver);
                }
            }
        }
        Ok(())
    }

    /// Wraps the datagrams that arrived on a flow into frames for the guest.
    fn take_from_world(&mut self, flow: &Flow) {
        let macs = (GATEWAY_MAC, self.guest_mac);
        let (from, to): (SocketAddrV4, SocketAddrV4) = (flow.destination, flow.source);
        let output = &mut self.vmm.output;
        self.flows.receive(flow, &mut self.scratch, Instant::now(), |payload| {
            push_datagram(output, macs, from, to, payload);
        });
    }
}

/// What is ready.
#[derive(Debug)]
struct Work {
    vmm: Ready,
    passt: Ready,
    flows: Vec<Flow>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::frame::{Frame, MAX_FRAME_LEN, parse};
    use std::io::{Read as _, Write as _};
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    const LONG: Duration = Duration::from_secs(10);
    const ENDS: Ends =
        Ends { guest: Ipv4Addr::new(198, 19, 0, 2), gateway: Ipv4Addr::new(198, 19, 0, 1) };
    const GUEST_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    /// A relay on a thread, with the test at both of its ends.
    struct Bench {
        guest: UnixStream,
        passt: UnixStream,
        relay: JoinHandle<Result<(), RelayError>>,
    }

    fn bench(resolver: Option<SocketAddr>) -> Bench {
        let (guest, a) = UnixStream::pair().unwrap();
        let (passt, b) = UnixStream::pair().unwrap();
        for stream in [&guest, &passt] {
            stream.set_read_timeout(Some(LONG)).unwrap();
        }
        let relay = Relay::new(a.into(), b.into(), ENDS).unwrap();
        Bench { guest, passt, relay: std::thread::spawn(move || relay.run(|| resolver)) }
    }

    fn datagram(source_port: u16, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let from = SocketAddrV4::new(ENDS.guest, source_port);
        push_datagram(&mut out, (GUEST_MAC, GATEWAY_MAC), from, to, payload);
        out
    }

    /// A frame that the policy passes on unseen: address resolution.
    fn arp(tag: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 42];
        frame.extend_from_slice(&[tag; 42]);
        frame[LENGTH_LEN + 12..LENGTH_LEN + 14].copy_from_slice(&[8, 6]);
        frame
    }

    fn read_frame(stream: &mut UnixStream) -> Vec<u8> {
        let mut length = [0; LENGTH_LEN];
        stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut frame).unwrap();
        frame
    }

    fn server() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { unreachable!() };
        (socket, address)
    }

    #[test]
    fn frames_pass_both_ways_in_order_and_forbidden_ones_do_not() {
        let mut bench = bench(None);
        let mut metadata = datagram(1, "169.254.169.254:80".parse().unwrap(), b"x");
        metadata[LENGTH_LEN + 23] = super::super::frame::TCP;
        let sent = [arp(1), metadata, arp(2)].concat();
        // Cut in the middle of a frame: what came is kept until the rest does.
        bench.guest.write_all(&sent[..60]).unwrap();
        bench.guest.write_all(&sent[60..]).unwrap();
        assert_eq!(read_frame(&mut bench.passt), arp(1)[LENGTH_LEN..]);
        assert_eq!(read_frame(&mut bench.passt), arp(2)[LENGTH_LEN..]);
        bench.passt.write_all(&arp(3)).unwrap();
        assert_eq!(read_frame(&mut bench.guest), arp(3)[LENGTH_LEN..]);
        drop(bench.guest);
        bench.relay.join().unwrap().unwrap();
        assert_eq!(bench.passt.read(&mut [0; 8]).unwrap(), 0, "passt sees the end");
    }

    #[test]
    fn dns_goes_to_the_hosts_resolver_even_on_the_loopback() {
        let (resolver, address) = server();
        let mut bench = bench(Some(address.into()));
        let gateway = SocketAddrV4::new(ENDS.gateway, 53);
        bench.guest.write_all(&datagram(5353, gateway, b"query")).unwrap();
        let mut buffer = [0; 16];
        let (len, from) = resolver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"query");
        resolver.send_to(b"answer", from).unwrap();
        let frame = read_frame(&mut bench.guest);
        assert_eq!(frame[..6], GUEST_MAC.0);
        let Frame::Datagram { source, destination, payload } = parse(&frame) else { panic!() };
        assert_eq!((source, destination), (gateway, SocketAddrV4::new(ENDS.guest, 5353)));
        assert_eq!(&frame[payload], b"answer");
    }

    #[test]
    fn sandboxes_with_the_same_source_port_get_their_own_answers_and_no_strangers() {
        let (server, address) = server();
        let gateway = SocketAddrV4::new(ENDS.gateway, 53);
        let mut benches = [bench(Some(address.into())), bench(Some(address.into()))];
        let mut peers = Vec::new();
        for bench in &mut benches {
            bench.guest.write_all(&datagram(4000, gateway, b"query")).unwrap();
            peers.push(server.recv_from(&mut [0; 16]).unwrap().1);
        }
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (bench, (peer, answer)) in benches.iter_mut().zip(peers.iter().zip([b"A", b"B"])) {
            stranger.send_to(b"injected", peer).unwrap();
            server.send_to(answer, peer).unwrap();
            let frame = read_frame(&mut bench.guest);
            let Frame::Datagram { payload, .. } = parse(&frame) else { panic!() };
            assert_eq!(&frame[payload], answer);
        }
    }

    #[test]
    fn a_length_that_no_frame_has_ends_the_network() {
        for length in [0, 13, u32::try_from(MAX_FRAME_LEN).unwrap() + 1, u32::MAX] {
            let mut bench = bench(None);
            bench.guest.write_all(&length.to_be_bytes()).unwrap();
            let end = bench.relay.join().unwrap();
            assert!(matches!(end, Err(RelayError::BadFrame { side: "sandbox", .. })), "{end:?}");
        }
    }

    #[test]
    fn a_side_that_does_not_read_stops_the_other_and_loses_nothing() {
        const FRAMES: usize = 1000;
        let mut bench = bench(None);
        let big = {
            let mut frame = vec![0, 0, 0x20, 0];
            frame.resize(LENGTH_LEN + 0x2000, 7);
            frame[LENGTH_LEN + 12..LENGTH_LEN + 14].copy_from_slice(&[8, 6]);
            frame
        };
        let mut guest = bench.guest.try_clone().unwrap();
        let sent = big.clone();
        // Eight megabytes: far more than the relay and the sockets hold together.
        let writer = std::thread::spawn(move || {
            for _ in 0..FRAMES {
                guest.write_all(&sent).unwrap();
            }
        });
        for _ in 0..FRAMES {
            assert_eq!(read_frame(&mut bench.passt), big[LENGTH_LEN..]);
        }
        writer.join().unwrap();
    }

    #[test]
    fn a_passt_that_takes_nothing_is_given_up_unless_the_machine_is_paused() {
        let (_guest, a) = UnixStream::pair().unwrap();
        let (mut passt, b) = UnixStream::pair().unwrap();
        let mut relay = Relay::new(a.into(), b.into(), ENDS).unwrap();
        relay.watch_passt(Instant::now() + 2 * PATIENCE).unwrap();
        relay.passt.output = arp(1).repeat(100_000);
        relay.passt.flush().unwrap();
        let start = Instant::now();
        relay.watch_passt(start + PATIENCE / 2).unwrap();
        relay.passt.flush().unwrap();
        let end = relay.watch_passt(start + PATIENCE);
        assert!(matches!(end, Err(RelayError::Stuck(_))), "{end:?}");
        relay.vmm.output = vec![0; 1 << 20];
        relay.watch_passt(start + PATIENCE).unwrap();
        relay.vmm.output.clear();
        relay.watch_passt(start + PATIENCE * 3 / 2).unwrap();
        passt.read_exact(&mut vec![0; 4600]).unwrap();
        relay.passt.flush().unwrap();
        relay.watch_passt(Instant::now() + PATIENCE / 2).unwrap();
    }
}
