//! The sockets behind a guest's UDP traffic: one for each flow, connected, so that the kernel
//! delivers nothing but the answers of the one peer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use super::policy::{Flow, Target};

/// Most flows of one sandbox. A guest that opens more loses those that were silent longest.
pub(crate) const MAX_FLOWS: usize = 256;
/// How long a flow is kept without traffic: what RFC 4787 (REQ-5) asks of an address translator.
const IDLE: Duration = Duration::from_secs(120);
/// The same for DNS: a query has its answer within seconds or never.
const IDLE_DNS: Duration = Duration::from_secs(15);
/// Most datagrams taken from one flow in a row, so that none starves the others.
const BURST: usize = 32;

/// Every flow of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    open: HashMap<Flow, Socket>,
}

#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    used: Instant,
}

impl Flows {
    /// Sends a datagram of the guest, opening its flow first where there is none. `resolver` is
    /// asked where the host's name server is. What cannot be sent is lost, as datagrams are.
    pub(crate) fn send(
        &mut self,
        flow: Flow,
        payload: &[u8],
        now: Instant,
        resolver: impl FnOnce() -> Option<SocketAddr>,
    ) {
        if !self.open.contains_key(&flow) {
            let peer = match flow.target {
                Target::Named => Some(SocketAddr::V4(flow.destination)),
                Target::Resolver => resolver(),
            };
            let Some(Ok(socket)) = peer.map(connect) else { return };
            self.make_room();
            self.open.insert(flow, Socket { socket, used: now });
        }
        if let Some(open) = self.open.get_mut(&flow) {
            open.used = now;
            // Refused, unreachable, no room: the guest's program will notice the silence.
            let _ = open.socket.send(payload);
        }
    }

    /// Forgets the flows that have been silent for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.open.retain(|flow, open| {
            let limit = if flow.target == Target::Resolver { IDLE_DNS } else { IDLE };
            now.saturating_duration_since(open.used) < limit
        });
    }

    /// Whether there is no flow at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Every open flow with what to wait on.
    pub(crate) fn sockets(&self) -> Vec<(Flow, BorrowedFd<'_>)> {
        self.open.iter().map(|(flow, open)| (*flow, open.socket.as_fd())).collect()
    }

    /// Takes what has arrived on a flow, up to [`BURST`] datagrams.
    pub(crate) fn receive(
        &mut self,
        flow: &Flow,
        buffer: &mut [u8],
        now: Instant,
        mut deliver: impl FnMut(&[u8]),
    ) {
        let Some(open) = self.open.get_mut(flow) else { return };
        for _ in 0..BURST {
            match open.socket.recv(buffer) {
                Ok(len) => {
                    open.used = now;
                    deliver(&buffer[..len]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // "Would block" ends a burst; a refusal told by ICMP is thereby taken note of.
                Err(_) => break,
            }
        }
    }

    fn make_room(&mut self) {
        if self.open.len() < MAX_FLOWS {
            return;
        }
        let oldest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(flow, _)| *flow);
        if let Some(flow) = oldest {
            self.open.remove(&flow);
        }
    }
}

fn connect(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV4;

    const GUEST: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 2);

    fn server() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { unreachable!() };
        (socket, address)
    }

    fn flow(port: u16, destination: SocketAddrV4) -> Flow {
        Flow { source: SocketAddrV4::new(GUEST, port), destination, target: Target::Named }
    }

    #[test]
    fn silent_flows_end_and_a_crowd_pushes_out_the_oldest() {
        let (_server, address) = server();
        let mut flows = Flows::default();
        let start = Instant::now();
        for port in 0..=u16::try_from(MAX_FLOWS).unwrap() {
            let now = start + Duration::from_millis(u64::from(port));
            flows.send(flow(port, address), b"x", now, || None);
        }
        assert_eq!(flows.open.len(), MAX_FLOWS);
        assert!(!flows.open.contains_key(&flow(0, address)), "the oldest is gone");
        flows.expire(start + IDLE);
        assert_eq!(flows.open.len(), MAX_FLOWS);
        flows.expire(start + IDLE + Duration::from_secs(1));
        assert!(flows.is_empty());
    }

    #[test]
    fn the_resolver_is_asked_for_only_by_new_dns_flows() {
        let (server, address) = server();
        let mut flows = Flows::default();
        let destination = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 1), 53);
        let dns = Flow { target: Target::Resolver, ..flow(1, destination) };
        flows.send(dns, b"lost", Instant::now(), || None);
        assert!(flows.is_empty(), "a host without resolver opens no flow");
        flows.send(dns, b"query", Instant::now(), || Some(address.into()));
        flows.send(dns, b"again", Instant::now(), || panic!("the flow is open"));
        let mut buffer = [0; 16];
        assert_eq!(server.recv(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"query");
    }
}
