//! Ethernet frames as they travel over a stream: each behind its length in four bytes, big end
//! first. Parsing and building only; nothing here reads or writes a socket.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use banger_model::MacAddress;

/// Length of the number before each frame.
pub(crate) const LENGTH_LEN: usize = 4;
/// Length of an Ethernet header.
pub(crate) const ETHERNET_LEN: usize = 14;
/// Length of an IPv4 header without options.
const IPV4_LEN: usize = 20;
/// Length of a UDP header.
const UDP_LEN: usize = 8;
/// The largest frame there is: 65535 bytes of IPv4 behind an Ethernet header.
pub(crate) const MAX_FRAME_LEN: usize = ETHERNET_LEN + 65535;
/// Length up to which a shorter frame is padded (IEEE 802.3, without its checksum).
const MIN_FRAME_LEN: usize = 60;
/// The most payload that a UDP datagram in one frame carries.
pub(crate) const MAX_UDP_PAYLOAD: usize = MAX_FRAME_LEN - ETHERNET_LEN - IPV4_LEN - UDP_LEN;

/// Protocol numbers of IPv4 that this crate knows.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Time to live of the packets built here: they cross no router.
const TTL: u8 = 64;

/// What a frame carries, as far as the policy has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Address resolution.
    Arp,
    /// An IPv4 packet that is no UDP datagram.
    Ipv4 { source: Ipv4Addr, destination: Ipv4Addr, protocol: u8 },
    /// A whole UDP datagram; `payload` is where its bytes are in the frame.
    Datagram { source: SocketAddrV4, destination: SocketAddrV4, payload: Range<usize> },
    /// Anything else, or something that contradicts itself.
    Other,
}

/// Understands one frame, without the length before it.
pub(crate) fn parse(frame: &[u8]) -> Frame {
    match frame.get(12..ETHERNET_LEN) {
        Some([0x08, 0x06]) => Frame::Arp,
        Some([0x08, 0x00]) => parse_ipv4(frame).unwrap_or(Frame::Other),
        _ => Frame::Other,
    }
}

fn parse_ipv4(frame: &[u8]) -> Option<Frame> {
    let packet = &frame[ETHERNET_LEN..];
    let header = packet.get(..IPV4_LEN)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(be16(header, 2));
    if header[0] >> 4 != 4 || header_len < IPV4_LEN {
        return None;
    }
    // What stands behind a packet is at most what brings a frame to the least length.
    let padded = frame.len() <= MIN_FRAME_LEN && total_len < packet.len();
    if total_len < header_len || !(total_len == packet.len() || padded) {
        return None;
    }
    let address =
        |at: usize| Ipv4Addr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (source, destination, protocol) = (address(12), address(16), header[9]);
    if protocol != UDP {
        return Some(Frame::Ipv4 { source, destination, protocol });
    }
    // A fragment has no ports, or lacks the rest of its payload.
    let fragmented = be16(header, 6) & 0x3fff != 0;
    let udp = packet.get(header_len..total_len)?;
    let udp_len = usize::from(be16(udp.get(..UDP_LEN)?, 4));
    if fragmented || udp_len < UDP_LEN || udp_len > udp.len() {
        return None;
    }
    let begin = ETHERNET_LEN + header_len;
    Some(Frame::Datagram {
        source: SocketAddrV4::new(source, be16(udp, 0)),
        destination: SocketAddrV4::new(destination, be16(udp, 2)),
        payload: begin + UDP_LEN..begin + udp_len,
    })
}

/// Reads two bytes, which the caller knows to be there.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Appends a frame with a UDP datagram, length included. A payload that fits no frame is cut
/// off, which cannot happen to one that came as a datagram.
pub(crate) fn push_datagram(
    out: &mut Vec<u8>,
    macs: (MacAddress, MacAddress),
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &[u8],
) {
    let payload = &payload[..payload.len().min(MAX_UDP_PAYLOAD)];
    let (from, to) = macs;
    let ip_len = IPV4_LEN + UDP_LEN + payload.len();
    out.extend_from_slice(&be32_len(ETHERNET_LEN + ip_len));
    out.extend_from_slice(&to.0);
    out.extend_from_slice(&from.0);
    out.extend_from_slice(&[0x08, 0x00]);
    let ip_at = out.len();
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&be16_len(ip_len));
    // No identification, "don't fragment": a packet that is never split needs none (RFC 6864).
    out.extend_from_slice(&[0, 0, 0x40, 0, TTL, UDP, 0, 0]);
    out.extend_from_slice(&source.ip().octets());
    out.extend_from_slice(&destination.ip().octets());
    let checksum = finish(sum(0, &out[ip_at..]));
    out[ip_at + 10..ip_at + 12].copy_from_slice(&checksum.to_be_bytes());
    let udp_at = out.len();
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    out.extend_from_slice(&be16_len(UDP_LEN + payload.len()));
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    let pseudo = sum(u32::from(UDP), &out[ip_at + 12..ip_at + 20]);
    let pseudo = sum(pseudo, &be16_len(UDP_LEN + payload.len()));
    // Zero would mean "no checksum" (RFC 768).
    let checksum = match finish(sum(pseudo, &out[udp_at..])) {
        0 => 0xffff,
        other => other,
    };
    out[udp_at + 6..udp_at + 8].copy_from_slice(&checksum.to_be_bytes());
}

fn be16_len(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

fn be32_len(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// Adds bytes to an Internet checksum in the making (RFC 1071), folded after each call so that
/// it cannot overflow.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let mut sum = u64::from(start);
    let (pairs, rest) = bytes.as_chunks::<2>();
    for pair in pairs {
        sum += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = rest {
        sum += u64::from(*last) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u32::try_from(sum).unwrap_or(u32::MAX)
}

fn finish(sum: u32) -> u16 {
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MACS: (MacAddress, MacAddress) = (MacAddress([2; 6]), MacAddress([4; 6]));

    fn datagram(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let end = |n, port| SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, n), port);
        push_datagram(&mut out, MACS, end(2, 4242), end(1, 53), payload);
        out.split_off(LENGTH_LEN)
    }

    #[test]
    fn a_built_datagram_is_understood_and_its_checksums_hold() {
        for payload in [&b""[..], b"odd", b"even", &[0xff; 65507]] {
            let frame = datagram(payload);
            let Frame::Datagram { source, destination, payload: range } = parse(&frame) else {
                panic!("no datagram: {frame:?}");
            };
            assert_eq!((source.port(), destination.port()), (4242, 53));
            assert_eq!(&frame[range], payload);
            assert_eq!(finish(sum(0, &frame[14..34])), 0, "IPv4 header");
            let pseudo = sum(u32::from(UDP), &frame[26..34]);
            let pseudo = sum(pseudo, &frame[38..40]);
            assert_eq!(finish(sum(pseudo, &frame[34..])), 0, "UDP");
        }
    }

    #[test]
    fn fragments_and_lying_lengths_are_no_datagrams() {
        let good = datagram(b"payload");
        let broken = |at: usize, byte: u8| {
            let mut frame = good.clone();
            frame[at] = byte;
            parse(&frame)
        };
        assert_eq!(broken(20, 0x20), Frame::Other, "more fragments");
        assert_eq!(broken(21, 1), Frame::Other, "fragment offset");
        assert_eq!(broken(14, 0x65), Frame::Other, "version 6");
        assert_eq!(broken(14, 0x44), Frame::Other, "header of 16 bytes");
        assert_eq!(broken(14, 0x4f), Frame::Other, "header beyond the packet");
        assert_eq!(broken(17, 200), Frame::Other, "packet beyond the frame");
        let padded = |len: usize| {
            let mut frame = good.clone();
            frame.resize(len, 0);
            parse(&frame)
        };
        assert!(matches!(padded(MIN_FRAME_LEN), Frame::Datagram { .. }));
        assert_eq!(padded(MIN_FRAME_LEN + 1), Frame::Other, "bytes behind the packet");
        assert_eq!(broken(39, 200), Frame::Other, "datagram beyond the packet");
        assert_eq!(broken(39, 7), Frame::Other, "datagram shorter than its header");
        assert_eq!(broken(13, 0x06), Frame::Arp);
    }

    proptest! {
        #[test]
        fn no_frame_breaks_the_parser(mut frame in prop::collection::vec(any::<u8>(), 0..128)) {
            parse(&frame);
            if frame.len() >= ETHERNET_LEN {
                frame[12..14].copy_from_slice(&[8, 0]);
                if let Frame::Datagram { payload, .. } = parse(&frame) {
                    prop_assert!(payload.end <= frame.len());
                }
            }
        }
    }
}
