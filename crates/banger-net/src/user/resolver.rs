//! Which name server the host itself asks.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use banger_host::fs::read_text;

/// Where the host's resolver configuration is (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Longest such file that makes sense.
const MAX_RESOLV_CONF_LEN: u64 = 64 * 1024;
/// The port of DNS.
const DNS_PORT: u16 = 53;

/// The name server that the host asks first at this moment, if it has one. It is asked for anew
/// for each flow: a laptop changes its network while a sandbox runs.
pub(crate) fn current() -> Option<SocketAddr> {
    let text = read_text(Path::new(RESOLV_CONF), MAX_RESOLV_CONF_LEN).ok()?;
    first(&text).map(|address| SocketAddr::new(address, DNS_PORT))
}

/// The first name server of a configuration. One with a scope (`fe80::1%eth0`) is passed over.
fn first(text: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_usable_server_counts() {
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver fe80::1%eth0\n\
                    nameserver\t127.0.0.53 \nnameserver 1.1.1.1\n";
        assert_eq!(first(text), Some("127.0.0.53".parse().unwrap()));
        assert_eq!(first("nameserver ::1"), Some("::1".parse().unwrap()));
        assert_eq!(first("nameserver\noptions edns0"), None);
    }
}
