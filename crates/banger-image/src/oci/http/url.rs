//! Addresses of registries and of what they redirect to.

use std::fmt;

use hyper::Uri;
use thiserror::Error;

/// Longest address: redirects to storage carry long signatures.
const MAX_LEN: usize = 16 * 1024;

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// An address of HTTP, with neither user nor fragment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    scheme: Scheme,
    /// Host, with the port unless it is the scheme's own.
    authority: String,
    /// Path and query, beginning with a slash.
    target: String,
}

/// A text that is no address to go to.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not an address of HTTP without a user in it")]
pub(crate) struct ParseUrlError(String);

impl Url {
    /// An address on a host that may have a port.
    pub(crate) fn on(scheme: Scheme, host: &str, target: &str) -> Result<Self, ParseUrlError> {
        Self::parse(&format!("{}://{host}{target}", scheme.as_str()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, ParseUrlError> {
        let bad = || ParseUrlError(text.chars().take(200).collect());
        if text.len() > MAX_LEN {
            return Err(bad());
        }
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad());
        }
        let host = authority.host().to_ascii_lowercase();
        let authority = match (scheme, authority.port_u16()) {
            (_, None) if !authority.as_str().ends_with(authority.host()) => return Err(bad()),
            (_, None) | (Scheme::Http, Some(80)) | (Scheme::Https, Some(443)) => host,
            (_, Some(port)) => format!("{host}:{port}"),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { scheme, authority, target })
    }

    /// Where a redirect from here leads.
    pub(crate) fn join(&self, location: &str) -> Result<Self, ParseUrlError> {
        let location = location.split('#').next().unwrap_or_default();
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme.as_str()));
        }
        if location.starts_with('/') {
            return Self::on(self.scheme, &self.authority, location);
        }
        // A scheme is letters before the first colon; a path may have colons later.
        let scheme = location.split_once(':').map_or("", |(scheme, _)| scheme);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"+.-".contains(&b);
        if !scheme.is_empty() && scheme.bytes().all(plain) {
            return Self::parse(location);
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        Self::on(self.scheme, &self.authority, &format!("{dir}/{location}"))
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host, with the port unless it is the scheme's own.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether both are at the same place, so that what one may know the other may, too.
    pub(crate) fn has_origin_of(&self, other: &Self) -> bool {
        (self.scheme, &self.authority) == (other.scheme, &other.authority)
    }

    /// With a query, or with more of it.
    pub(crate) fn with_query(&self, query: &str) -> Result<Self, ParseUrlError> {
        let mark = if self.target.contains('?') { '&' } else { '?' };
        Self::parse(&format!("{self}{mark}{query}"))
    }

    /// Without the query, which may be a secret: for people.
    pub(crate) fn shown(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", self.scheme.as_str(), self.authority)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority, self.target)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_port_of_the_scheme_is_left_out() {
        assert_eq!(url("https://A.example.com:443/x?y").to_string(), "https://a.example.com/x?y");
        assert_eq!(url("http://[::1]:5000").to_string(), "http://[::1]:5000/");
        assert!(url("https://a.example.com").has_origin_of(&url("https://a.example.com:443/z")));
        assert!(!url("https://a.example.com").has_origin_of(&url("http://a.example.com:443")));
        assert!(!url("https://a.example.com").has_origin_of(&url("https://a.example.com:444")));
        assert_eq!(
            url("http://a.example.com/t?x=1").with_query("y=2").unwrap().to_string(),
            "http://a.example.com/t?x=1&y=2"
        );
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let here = url("https://a.example.com/v2/x/blobs/1?a=b");
        for (location, there) in [
            ("https://b.example.com/y#frag", "https://b.example.com/y"),
            ("//b.example.com/y", "https://b.example.com/y"),
            ("/y?z", "https://a.example.com/y?z"),
            ("y:1", "https://a.example.com/v2/x/blobs/y:1"),
        ] {
            let joined = here.join(location).map(|url| url.to_string());
            if location == "y:1" {
                assert!(joined.is_err(), "a colon in the first part makes it a scheme");
            } else {
                assert_eq!(joined.unwrap(), there);
            }
        }
        assert_eq!(here.join("y").unwrap().to_string(), "https://a.example.com/v2/x/blobs/y");
        for bad in [
            "ftp://a.example.com",
            "https://user:pw@b.example.com/",
            "file:///etc",
            "https://",
            "http:// a/",
        ] {
            assert!(here.join(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_redirect_panics_and_what_is_taken_reads_back(
            location in "[a-z0-9:/?#@%.\\[\\] -]{0,40}"
        ) {
            if let Ok(next) = url("https://a.example.com/v2/x").join(&location) {
                proptest::prop_assert_eq!(Url::parse(&next.to_string()), Ok(next.clone()));
                proptest::prop_assert!(!next.authority().contains(['@', '/', '?', '#']));
            }
        }
    }
}
