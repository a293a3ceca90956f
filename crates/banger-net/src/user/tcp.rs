//! What the relay must know of TCP: which frames open connections, how many may, and how to mend
//! a refusal. Nothing here reads or writes a socket.

use std::time::{Duration, Instant};

use super::frame::{ETHERNET_LEN, Frame, TCP, be16, parse};

/// Connections that a guest may open in a second for long, and at once. More made `passt` spin
/// for want of sockets; what is dropped here TCP asks for again.
const OPENINGS_PER_SECOND: u32 = 256;
const OPENINGS_AT_ONCE: u32 = 512;

/// Length of a TCP header without options, and where in it things are (RFC 9293).
const TCP_LEN: usize = 20;
const ACK_NUMBER_AT: usize = 8;
const FLAGS_AT: usize = 12;
const CHECKSUM_AT: usize = 16;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Where the TCP header of a frame begins, if it has a whole one.
fn header_at(frame: &[u8]) -> Option<usize> {
    let Frame::Ipv4 { protocol: TCP, .. } = parse(frame) else { return None };
    let at = ETHERNET_LEN + usize::from(frame[ETHERNET_LEN] & 0x0f) * 4;
    (frame.len() >= at + TCP_LEN).then_some(at)
}

/// Whether a frame asks for a new TCP connection.
pub(crate) fn opens_connection(frame: &[u8]) -> bool {
    header_at(frame).is_some_and(|at| frame[at + FLAGS_AT + 1] & (SYN | ACK) == SYN)
}

/// Makes a refusal by `passt` one that the guest heeds.
///
/// `passt` answers a connection that is refused with a reset that has an acknowledgement number
/// but not the flag that makes it count. A system that is opening a connection ignores that one
/// (RFC 9293, 3.10.7.3), so its program would wait for minutes.
pub(crate) fn mend_reset(frame: &mut [u8]) {
    let Some(at) = header_at(frame) else { return };
    let tcp = &mut frame[at..];
    let unacknowledged = tcp[ACK_NUMBER_AT..ACK_NUMBER_AT + 4] == [0; 4];
    if tcp[FLAGS_AT + 1] != RST || unacknowledged {
        return;
    }
    let old = be16(tcp, FLAGS_AT);
    tcp[FLAGS_AT + 1] |= ACK;
    let checksum = updated(be16(tcp, CHECKSUM_AT), old, be16(tcp, FLAGS_AT));
    tcp[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// An Internet checksum after one of its words has changed (RFC 1624, equation 3).
fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

/// How many connections a guest may still open: a bucket that fills with time.
#[derive(Debug)]
pub(crate) struct Openings {
    left: u32,
    filled: Instant,
}

impl Openings {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: OPENINGS_AT_ONCE, filled: now }
    }

    /// Takes one, if there is one left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let one = Duration::from_secs(1) / OPENINGS_PER_SECOND;
        let grown = now.saturating_duration_since(self.filled).as_nanos() / one.as_nanos();
        let grown = u32::try_from(grown).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(grown).min(OPENINGS_AT_ONCE);
        // A bucket that is full does not save up; else what is not yet a whole one still counts.
        let full = self.left == OPENINGS_AT_ONCE;
        self.filled = if full { now } else { self.filled + one * grown };
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, ack_number: u32) -> Vec<u8> {
        let ip = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0, 192, 0, 2, 1, 198, 19, 0, 2];
        let mut tcp = [0; TCP_LEN];
        tcp[ACK_NUMBER_AT..FLAGS_AT].copy_from_slice(&ack_number.to_be_bytes());
        (tcp[12], tcp[13]) = (0x50, flags);
        let mut frame = [&[2; 12][..], &[8, 0], &ip, &tcp].concat();
        let checksum = !u16::try_from(total(&frame)).unwrap();
        frame[50..52].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// The sum over pseudo header and segment (RFC 1071), from scratch.
    fn total(frame: &[u8]) -> u32 {
        let words = frame[26..].chunks(2).map(|pair| u32::from(be16(pair, 0)));
        let sum = words.sum::<u32>() + u32::from(TCP) + 20;
        (sum & 0xffff) + (sum >> 16)
    }

    #[test]
    fn a_reset_that_acknowledges_says_so_and_its_checksum_holds() {
        for number in [1, 0xffff, 0x1234_5678, 0xffff_0000, u32::MAX] {
            let mut reset = frame(RST, number);
            mend_reset(&mut reset);
            assert_eq!(reset, frame(RST | ACK, number));
            assert_eq!(total(&reset), 0xffff);
        }
    }

    #[test]
    fn all_other_frames_stay_as_they_are() {
        let mut udp = frame(RST, 1);
        udp[23] = 17;
        let mut cut = frame(RST, 1);
        cut.truncate(53);
        cut[17] = 39;
        let others =
            [frame(RST, 0), frame(RST | ACK, 1), frame(SYN, 1), frame(ACK, 1), udp, cut, vec![]];
        for other in others {
            let mut mended = other.clone();
            mend_reset(&mut mended);
            assert_eq!(mended, other);
        }
    }

    #[test]
    fn a_syn_without_ack_opens_a_connection() {
        assert!(opens_connection(&frame(SYN, 0)));
        assert!(opens_connection(&frame(SYN | 0xc0, 0)), "with congestion notification");
        assert!(!opens_connection(&frame(SYN | ACK, 1)));
        assert!(!opens_connection(&frame(ACK, 1)));
    }

    #[test]
    fn openings_run_out_and_come_back_with_time() {
        let start = Instant::now();
        let mut openings = Openings::new(start);
        let mut taken = |now| (0..1000).filter(|_| openings.take(now)).count();
        assert_eq!(taken(start), 512);
        assert_eq!(taken(start + Duration::from_millis(2)), 0);
        assert_eq!(taken(start + Duration::from_millis(4)), 1, "two halves make one");
        assert_eq!(taken(start + Duration::from_millis(1004)), 256);
        assert_eq!(taken(start + Duration::from_hours(1)), 512, "no more are saved up");
    }
}
