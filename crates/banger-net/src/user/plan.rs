//! Which addresses a sandbox has.

use std::net::Ipv4Addr;

use banger_model::{GuestNet, MacAddress, SandboxId};

/// First address of the range that sandboxes' networks are taken from: 198.19.0.0/16, the upper
/// half of what RFC 2544 sets aside for measuring network equipment. It is routed nowhere, and
/// unlike 10/8, 172.16/12, 192.168/16 and 100.64/10 no home, office, container engine or VPN
/// hands it out, so a sandbox never hides a network its user wants to reach.
pub const POOL: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);

/// Each sandbox has a network of four addresses: its own name, gateway, guest, broadcast.
const PREFIX_LEN: u8 = 30;

/// Networks of that size in the pool.
const NETWORKS: u32 = 1 << (PREFIX_LEN - 16);

/// The hardware address of every sandbox's gateway. It is the same for all of them, so that a
/// restored guest's neighbour table is right at once, and nothing of the host shows in it.
pub(crate) const GATEWAY_MAC: MacAddress = MacAddress([0x02, 0x62, 0x6e, 0x67, 0x72, 0x01]);

/// A sandbox's place in a user-mode network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNet {
    /// What the guest gives its interface.
    pub guest: GuestNet,
    /// The hardware address of its interface.
    pub mac: MacAddress,
}

impl UserNet {
    /// The network that belongs to this sandbox.
    ///
    /// The addresses follow from the id alone. Two of about 150 sandboxes have an even chance to
    /// share them, which harms neither: no frame passes from one user-mode network to another.
    pub fn plan(id: &SandboxId) -> Self {
        let [.., high, low] = id.bytes();
        let index = u32::from(u16::from_be_bytes([high, low])) % NETWORKS;
        let network = u32::from(POOL) + (index << (32 - PREFIX_LEN));
        let gateway = Ipv4Addr::from(network + 1);
        let guest = GuestNet {
            address: Ipv4Addr::from(network + 2),
            prefix_len: PREFIX_LEN,
            gateway,
            // The gateway answers DNS: the relay asks the host's own resolver, wherever that is.
            dns: vec![gateway],
        };
        Self { guest, mac: MacAddress::of(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(id: &str) -> UserNet {
        UserNet::plan(&id.parse().unwrap())
    }

    #[test]
    fn the_id_alone_decides_the_addresses() {
        let net = plan("0123456789ab");
        assert_eq!(net, plan("0123456789ab"));
        assert_eq!(net.guest.gateway, Ipv4Addr::new(198, 19, 38, 173));
        assert_eq!(net.guest.address, Ipv4Addr::new(198, 19, 38, 174));
        assert_eq!(net.guest.dns, [net.guest.gateway]);
    }

    #[test]
    fn every_network_lies_in_the_pool_and_is_aligned() {
        for index in 0..=u16::MAX {
            let guest = plan(&format!("00000000{index:04x}")).guest;
            let gateway = u32::from(guest.gateway);
            assert_eq!(gateway & !0xffff, u32::from(POOL));
            assert_eq!(gateway & 3, 1);
            assert_eq!(u32::from(guest.address), gateway + 1);
        }
    }
}
