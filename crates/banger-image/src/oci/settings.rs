//! How images are fetched: from where, how many at once, with which bounds and patience.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use banger_model::Bytes;
use thiserror::Error;

use super::document::Platform;

/// Most layers that are fetched at once, whatever is asked for.
const MAX_AT_ONCE: usize = 16;
/// Layers that are fetched at once unless more are asked for, as Docker does it.
const AT_ONCE: NonZeroUsize = NonZeroUsize::new(3).expect("it is three");
/// Most layers of one image, and twice what Docker can make.
const MAX_LAYERS: usize = 256;
/// Most bytes of one compressed layer.
const MAX_LAYER: Bytes = Bytes::gib(32);
/// Most bytes of all compressed layers of one image.
const MAX_IMAGE: Bytes = Bytes::gib(64);
/// Most bytes of all unpacked layers of one image.
const MAX_UNPACKED: Bytes = Bytes::gib(128);
/// Most bytes that one compressed byte may become: gzip can make 1030 at most, and what people
/// pack makes 2 to 20.
const MAX_RATIO: u64 = 200;
/// What may become of any layer whatever its ratio: a file of zeros is nothing unusual.
const RATIO_FREE: Bytes = Bytes::mib(256);

/// Bounds on what is taken from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most layers of one image.
    pub max_layers: usize,
    /// Most bytes of one compressed layer.
    pub max_layer: Bytes,
    /// Most bytes of all compressed layers of one image.
    pub max_image: Bytes,
    /// Most bytes of all unpacked layers of one image; also of an archive that comes compressed.
    pub max_unpacked: Bytes,
    /// Most bytes that one compressed byte may become on average, beyond [`Limits::ratio_free`].
    pub max_ratio: u64,
    /// Unpacked bytes of each layer that the ratio does not count; of an image four times as many.
    pub ratio_free: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_layers: MAX_LAYERS,
            max_layer: MAX_LAYER,
            max_image: MAX_IMAGE,
            max_unpacked: MAX_UNPACKED,
            max_ratio: MAX_RATIO,
            ratio_free: RATIO_FREE,
        }
    }
}

/// How long is waited for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, its TLS included.
    pub connect: Duration,
    /// For the next bytes.
    pub idle: Duration,
    /// For a manifest or a token, whole.
    pub document: Duration,
    /// For one image, whole.
    pub overall: Duration,
    /// Before the first repetition; doubled for each further one, and made less by chance.
    pub back_off: Duration,
    /// Before any repetition at most.
    pub max_back_off: Duration,
    /// A registry that asks to wait longer than this is not waited for.
    pub max_retry_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            document: Duration::from_secs(60),
            overall: Duration::from_secs(6 * 60 * 60),
            back_off: Duration::from_millis(500),
            max_back_off: Duration::from_secs(15),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

/// Whether what a tag meant before will do when its registry cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastKnown {
    /// It will; the result says so.
    Allow,
    /// It will not.
    #[default]
    Refuse,
}

/// A place that has what a registry has: `HOST[:PORT][/PREFIX]`, the prefix standing before the
/// repository.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mirror {
    host: String,
    prefix: String,
}

/// A text that is no mirror.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a mirror: write HOST, HOST:PORT or HOST/PREFIX")]
pub struct ParseMirrorError(String);

impl Mirror {
    /// Its host, with the port where there is one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where it keeps a repository.
    pub(super) fn repository(&self, repository: &str) -> String {
        if self.prefix.is_empty() {
            return repository.to_owned();
        }
        format!("{}/{repository}", self.prefix)
    }
}

impl FromStr for Mirror {
    type Err = ParseMirrorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        // A reference to an image there has to make sense.
        let under = if prefix.is_empty() { "x".to_owned() } else { format!("{prefix}/x") };
        let plain = |text: &str| text.parse::<banger_model::ImageReference>().ok();
        // What has a port or a dot is a host also to whoever reads a reference.
        let host_only =
            if host.contains([':', '.']) { host.to_owned() } else { format!("{host}:1") };
        match plain(&format!("{host_only}/{under}")) {
            Some(_) => Ok(Self { host: host.to_ascii_lowercase(), prefix: prefix.to_owned() }),
            None => Err(ParseMirrorError(text.to_owned())),
        }
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository(&self.host).as_str())
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How images are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For a registry the places that are asked before it, in this order.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Hosts, with their ports, that are spoken to without TLS. No host is among them by itself.
    pub insecure: BTreeSet<String>,
    /// Layers that are fetched at once, at most 16.
    pub at_once: NonZeroUsize,
    /// Bounds on what is taken.
    pub limits: Limits,
    /// How long is waited.
    pub patience: Patience,
    /// Docker's `config.json` with the user's credentials. None there are no credentials.
    pub credentials: Option<PathBuf>,
    /// Where the programs are that Docker's configuration may name.
    pub search_path: OsString,
    /// A file of certificates to trust besides those of the system, in PEM.
    pub roots: Option<PathBuf>,
    /// Whether what a tag meant before will do when its registry cannot be reached.
    pub last_known: LastKnown,
    /// What kind of machine images are for.
    pub platform: Platform,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            at_once: AT_ONCE,
            limits: Limits::default(),
            patience: Patience::default(),
            credentials: None,
            search_path: OsString::new(),
            roots: None,
            last_known: LastKnown::default(),
            platform: Platform::host(),
        }
    }
}

impl Settings {
    /// Layers that are fetched at once.
    pub(super) fn at_once(&self) -> usize {
        self.at_once.get().min(MAX_AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_has_a_host_and_may_have_a_prefix() {
        let plain: Mirror = "mirror.example.com:5000".parse().unwrap();
        assert_eq!(
            (plain.host(), plain.repository("a/b").as_str()),
            ("mirror.example.com:5000", "a/b")
        );
        let deep: Mirror = "cache.example.com/hub/x".parse().unwrap();
        assert_eq!(deep.repository("library/a"), "hub/x/library/a");
        for bad in ["", "/x", "https://a.example.com", "a b", "host/Upper", "a.example.com/../x"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
        assert!("proxyhost".parse::<Mirror>().is_ok());
    }
}
