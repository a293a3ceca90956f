//! What of a guest's traffic may leave its sandbox. A pure function, and the only one that
//! decides.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use super::frame::{Frame, ICMP, TCP, parse};

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// The two ends of a sandbox's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) guest: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
}

/// Where a UDP datagram of a guest is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// To the host's resolver, whichever that is at the time.
    Resolver,
    /// To the address that the guest named.
    Named,
}

/// A guest's datagrams with the same ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    pub(crate) target: Target,
}

/// What to do with a frame of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it is lost.
    Drop,
    /// Hand it to `passt` as it is.
    Pass,
    /// Send these bytes of it as a datagram.
    Send { flow: Flow, payload: Range<usize> },
}

/// Decides about one frame of a guest.
pub(crate) fn judge(ends: Ends, frame: &[u8]) -> Verdict {
    match parse(frame) {
        Frame::Arp => Verdict::Pass,
        Frame::Ipv4 { source, destination, protocol } => {
            let known = matches!(protocol, TCP | ICMP);
            if known && source == ends.guest && may_reach(ends, destination) {
                Verdict::Pass
            } else {
                Verdict::Drop
            }
        }
        Frame::Datagram { source, destination, payload } => {
            let asks_dns = *destination.ip() == ends.gateway && destination.port() == DNS_PORT;
            let target = if asks_dns { Target::Resolver } else { Target::Named };
            let allowed = asks_dns || may_reach(ends, *destination.ip());
            if *source.ip() == ends.guest && allowed && destination.port() != 0 {
                Verdict::Send { flow: Flow { source, destination, target }, payload }
            } else {
                Verdict::Drop
            }
        }
        Frame::Other => Verdict::Drop,
    }
}

/// Whether a guest may talk to this address. Addresses that mean the host itself or its own
/// link, whatever the routing table says, are out of reach; so are those that mean many.
fn may_reach(ends: Ends, address: Ipv4Addr) -> bool {
    let network = |a: Ipv4Addr| u32::from(a) >> 2;
    // 0.0.0.0/8 is "this host" (RFC 1122): Linux connects 0.0.0.0 to the loopback.
    let this_host = address.octets()[0] == 0 || address.is_loopback();
    // Multicast 224/4, reserved 240/4 and the broadcast address are all above this line.
    let many = address.octets()[0] >= 224;
    let own_network = network(address) == network(ends.gateway);
    !(this_host || many || own_network || address.is_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::frame::{LENGTH_LEN, push_datagram};
    use banger_model::MacAddress;

    const ENDS: Ends =
        Ends { guest: Ipv4Addr::new(198, 19, 0, 2), gateway: Ipv4Addr::new(198, 19, 0, 1) };

    fn frame(from: Ipv4Addr, to: &str, port: u16, protocol: u8) -> Vec<u8> {
        let macs = (MacAddress([2; 6]), MacAddress([4; 6]));
        let mut out = Vec::new();
        let to = SocketAddrV4::new(to.parse().unwrap(), port);
        push_datagram(&mut out, macs, SocketAddrV4::new(from, 1000), to, b"x");
        let mut frame = out.split_off(LENGTH_LEN);
        frame[23] = protocol;
        frame
    }

    fn passes(to: &str, port: u16, protocol: u8) -> bool {
        judge(ENDS, &frame(ENDS.guest, to, port, protocol)) != Verdict::Drop
    }

    #[test]
    fn the_host_itself_and_its_link_are_out_of_reach() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.0.0.53",
            "127.255.255.255",
            "169.254.0.1",
            "169.254.169.254",
            "224.0.0.251",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "198.19.0.0",
            "198.19.0.2",
            "198.19.0.3",
        ] {
            for protocol in [1, 6, 17] {
                assert!(!passes(address, 53, protocol), "{address} by protocol {protocol}");
            }
        }
    }

    #[test]
    fn the_rest_of_the_world_is_in_reach() {
        for address in ["1.1.1.1", "10.0.0.1", "192.168.1.1", "172.17.0.1", "198.19.0.5"] {
            for protocol in [1, 6, 17] {
                assert!(passes(address, 443, protocol), "{address} by protocol {protocol}");
            }
        }
    }

    #[test]
    fn the_gateway_answers_dns_and_nothing_else() {
        let flow = Flow {
            source: SocketAddrV4::new(ENDS.guest, 1000),
            destination: SocketAddrV4::new(ENDS.gateway, 53),
            target: Target::Resolver,
        };
        let verdict = judge(ENDS, &frame(ENDS.guest, "198.19.0.1", 53, 17));
        assert_eq!(verdict, Verdict::Send { flow, payload: 42..43 });
        assert!(!passes("198.19.0.1", 80, 17));
        assert!(!passes("198.19.0.1", 53, 6));
    }

    #[test]
    fn foreign_senders_and_unknown_protocols_are_dropped() {
        let spoofed = Ipv4Addr::new(198, 19, 0, 6);
        for protocol in [1, 6, 17] {
            assert_eq!(judge(ENDS, &frame(spoofed, "1.1.1.1", 80, protocol)), Verdict::Drop);
        }
        for protocol in [0, 2, 41, 47, 50, 132, 255] {
            assert!(!passes("1.1.1.1", 80, protocol), "{protocol}");
        }
        let mut tagged = frame(ENDS.guest, "1.1.1.1", 80, 6);
        tagged[12..14].copy_from_slice(&[0x81, 0x00]);
        assert_eq!(judge(ENDS, &tagged), Verdict::Drop, "VLAN tag");
        tagged[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(judge(ENDS, &tagged), Verdict::Drop, "IPv6");
        assert_eq!(judge(ENDS, &[]), Verdict::Drop);
    }
}
