//! Frames of a guest, and what of them may leave its sandbox.

use std::net::Ipv4Addr;

use crate::user::policy::{Ends, Target, Verdict, judge};

const ENDS: Ends =
    Ends { guest: Ipv4Addr::new(198, 19, 0, 2), gateway: Ipv4Addr::new(198, 19, 0, 1) };

/// Nothing goes to the host itself or its link. The destination is read here anew, at the place
/// where the kernel and `passt` would find it, not where our parser did.
pub(crate) fn frame(bytes: &[u8]) {
    match judge(ENDS, bytes) {
        Verdict::Drop => {}
        Verdict::Pass => {
            if bytes[12..14] == [0x08, 0x06] {
                return;
            }
            assert_eq!(bytes[12..14], [0x08, 0x00], "neither ARP nor IPv4 passed");
            let address =
                |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
            assert_eq!(address(26), ENDS.guest, "a forged sender passed");
            assert_reachable(address(30));
            assert_ne!(bytes[23], 17, "UDP went to passt");
        }
        Verdict::Send { flow, payload } => {
            assert!(payload.start >= 42 && payload.end <= bytes.len(), "{payload:?}");
            assert_eq!(*flow.source.ip(), ENDS.guest, "a forged sender was served");
            match flow.target {
                Target::Resolver => assert_eq!(*flow.destination.ip(), ENDS.gateway),
                Target::Named => assert_reachable(*flow.destination.ip()),
            }
        }
    }
}

/// What DESIGN and the threat model promise, written down a second time in other words.
fn assert_reachable(address: Ipv4Addr) {
    let forbidden = address.is_loopback()
        || address.is_unspecified()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address == ENDS.gateway
        || address.octets()[0] == 0;
    assert!(!forbidden, "a frame for {address} left the sandbox");
}
