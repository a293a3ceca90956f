//! Versions as semver.org defines them, with a `v` before them or not.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest version: it becomes part of names and messages.
const MAX_LEN: usize = 64;

/// A version. They are ordered by precedence: what stands behind a `+` does not count.
#[derive(Clone, Debug)]
pub struct Version(semver::Version);

/// A text that is no version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no version such as 1.2.3, v1.2.3 or 1.2.3-rc.1 of at most {MAX_LEN} characters")]
pub struct ParseVersionError(String);

impl Version {
    /// `major.minor.patch`.
    pub fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self(semver::Version::new(major, minor, patch))
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseVersionError(text.chars().take(MAX_LEN).collect());
        if text.len() > MAX_LEN {
            return Err(bad());
        }
        let bare = text.strip_prefix('v').unwrap_or(text);
        bare.parse().map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp_precedence(&other.0)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_ordered_as_semver_says() {
        // semver.org, clause 11.
        let rising = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "v1.0.0-rc.1",
            "1.0.0",
            "v1.9.0",
            "1.10.0",
        ];
        for pair in rising.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("v1.2.3+x"), version("1.2.3+y"));
        assert_eq!(version("v1.2.3+x").to_string(), "1.2.3+x");
    }

    #[test]
    fn only_plain_versions_are_taken() {
        let long = format!("1.2.3-{}", "a".repeat(60));
        for bad in [
            "",
            "v",
            "1",
            "1.2",
            "v1.2",
            "01.2.3",
            "1.2.3-",
            "1.2.3-01",
            "vv1.2.3",
            "V1.2.3",
            "1.2.3 ",
            "1.2.3/../..",
            "../1.2.3",
            "1.2.３",
            "1.2.3-é",
            "99999999999999999999.0.0",
            &long,
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert_eq!(version("999999999.0.0").to_string(), "999999999.0.0");
    }
}
