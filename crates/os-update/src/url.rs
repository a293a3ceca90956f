//! Addresses of update servers, and which of them may be asked.

use std::fmt;

use hyper::Uri;
use thiserror::Error;

/// Longest address.
const MAX_LEN: usize = 4096;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// An address of HTTP, with neither user nor fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: Scheme,
    host: String,
    port: u16,
    target: String,
}

/// A text that is no address to go to.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no address such as https://updates.example.com/os, without a user in it")]
pub struct ParseUrlError(String);

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// When it is none, of another kind, or has a user in it.
    pub fn parse(text: &str) -> Result<Self, ParseUrlError> {
        let bad = || ParseUrlError(text.chars().take(200).collect());
        if text.len() > MAX_LEN || text.contains(['#', '@', '\\']) {
            return Err(bad());
        }
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let (scheme, usual) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, 80),
            Some("https") => (Scheme::Https, 443),
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host().to_ascii_lowercase();
        // A port that is no number is silently none for the library.
        if host.is_empty() || (authority.port().is_none() && authority.as_str().len() != host.len())
        {
            return Err(bad());
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        Ok(Self { scheme, host, port: authority.port_u16().unwrap_or(usual), target })
    }

    /// What `text` means for somebody who is here: an address, or a path on this server. Paths are
    /// counted from `/`, or from this directory.
    ///
    /// # Errors
    /// When it is neither.
    pub fn join(&self, text: &str) -> Result<Self, ParseUrlError> {
        if text.contains("://") {
            return Self::parse(text);
        }
        let bad = || ParseUrlError(text.chars().take(200).collect());
        if text.starts_with("//") || text.contains(':') && !text.starts_with('/') {
            return Err(bad());
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let target = if text.starts_with('/') { text.to_owned() } else { format!("{dir}/{text}") };
        let scheme = self.scheme_str();
        Self::parse(&format!("{scheme}://{}{target}", self.authority()))
    }

    /// A file below this address, which is a directory.
    ///
    /// # Errors
    /// When the name makes no address.
    pub fn child(&self, name: &str) -> Result<Self, ParseUrlError> {
        let path = self.target.split('?').next().unwrap_or_default().trim_end_matches('/');
        let scheme = self.scheme_str();
        Self::parse(&format!("{scheme}://{}{path}/{name}", self.authority()))
    }

    /// How it is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, IPv6 in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host as certificates and resolvers know it.
    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Host and, unless it is the scheme's own, port.
    pub fn authority(&self) -> String {
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    fn scheme_str(&self) -> &'static str {
        match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme_str(), self.authority(), self.target)
    }
}

/// Which addresses may be asked: an update server must not be able to send the agent, which is
/// root, around in the network.
#[derive(Clone, Debug)]
pub struct Rules {
    server: Url,
    also: Vec<String>,
}

/// An address that is not asked.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Forbidden {
    /// Without TLS.
    #[error("{0} is without TLS, and the server was configured with it")]
    Downgrade(String),
    /// Somebody else's.
    #[error("{0} is another host than the server's: list it in allowed_hosts if that is wanted")]
    Elsewhere(String),
}

impl Rules {
    /// The server as it was configured, and hosts, with ports unless they are the scheme's own,
    /// that it may send files from, too.
    pub fn new(server: &Url, also: &[String]) -> Self {
        let also = also.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { server: server.clone(), also }
    }

    /// Whether an address may be asked.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, url: &Url) -> Result<(), Forbidden> {
        if url.scheme == Scheme::Http && self.server.scheme == Scheme::Https {
            return Err(Forbidden::Downgrade(url.to_string()));
        }
        let same = (url.scheme, &url.host, url.port)
            == (self.server.scheme, &self.server.host, self.server.port);
        if same || self.also.contains(&url.authority()) {
            Ok(())
        } else {
            Err(Forbidden::Elsewhere(url.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn addresses_are_read_and_joined() {
        let server = url("https://Updates.example.com:443/os/");
        assert_eq!(server.to_string(), "https://updates.example.com/os/");
        let latest = server.child("latest.json").unwrap();
        assert_eq!(latest.target(), "/os/latest.json");
        for (text, expected) in [
            ("v1/vmlinuz", "https://updates.example.com/os/v1/vmlinuz"),
            ("/vmlinuz?x=1", "https://updates.example.com/vmlinuz?x=1"),
            ("https://cdn.example.com:8443/k", "https://cdn.example.com:8443/k"),
        ] {
            assert_eq!(latest.join(text).unwrap().to_string(), expected);
        }
        assert_eq!(url("http://[::1]:80").bare_host(), "::1");
    }

    #[test]
    fn n08_users_other_schemes_and_odd_hosts_are_no_addresses() {
        for bad in [
            "",
            "updates.example.com",
            "file:///etc/passwd",
            "ftp://a.example.com/",
            "https://",
            "https://user@a.example.com/",
            "https://a.example.com:x/",
            "https://a.example.com:99999/",
            "https://a.example.com/#x",
            "https://a.example.com\\b/",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        let latest = url("https://a.example.com/latest.json");
        for bad in ["//b.example.com/x", "file:/etc/passwd", "javascript:x", "a b"] {
            assert!(latest.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn n03_n08_only_the_server_and_listed_hosts_are_asked_and_never_without_tls() {
        let rules = Rules::new(&url("https://a.example.com/os"), &["CDN.example.com".into()]);
        let admit = |text: &str| rules.admit(&url(text));
        assert_eq!(admit("https://a.example.com/other/place"), Ok(()));
        assert_eq!(admit("https://cdn.example.com/k"), Ok(()));
        for elsewhere in [
            "https://b.example.com/",
            "https://a.example.com:8443/",
            "https://a.example.com.evil.example.org/",
            "https://cdn.example.com:444/",
            "https://169.254.169.254/",
        ] {
            assert!(matches!(admit(elsewhere), Err(Forbidden::Elsewhere(_))), "{elsewhere}");
        }
        assert!(matches!(admit("http://a.example.com/"), Err(Forbidden::Downgrade(_))));
        let plain = Rules::new(&url("http://10.0.0.1:8080"), &[]);
        assert_eq!(plain.admit(&url("http://10.0.0.1:8080/x")), Ok(()));
        assert!(plain.admit(&url("https://10.0.0.1/x")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_joined_reads_back(text in "[a-z0-9:/?#@%.\\[\\] -]{0,40}") {
            if let Ok(next) = url("https://a.example.com/os/x").join(&text) {
                proptest::prop_assert_eq!(Url::parse(&next.to_string()), Ok(next));
            }
        }
    }
}
