//! A sandbox's place in its network.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::id::SandboxId;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The locally administered unicast address that belongs to this sandbox.
    pub fn of(id: &SandboxId) -> Self {
        let mut mac = id.bytes();
        mac[0] = (mac[0] & 0xfc) | 0x02;
        Self(mac)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The addresses a guest gives its network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNet {
    /// The sandbox's own address.
    pub address: Ipv4Addr,
    /// Length of the network prefix, in bits.
    pub prefix_len: u8,
    /// Where packets for other networks go.
    pub gateway: Ipv4Addr,
    /// Name servers, most preferred first.
    pub dns: Vec<Ipv4Addr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_unicast_and_locally_administered() {
        for first in 0..=255 {
            let id = SandboxId::from_random([first, 1, 2, 3, 4, 5]);
            let mac = MacAddress::of(&id);
            assert_eq!(mac.0[0] & 0b11, 0b10, "{mac}");
        }
    }
}
