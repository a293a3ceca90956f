//! For which kind of machine an image is.

use std::fmt;

use serde::Deserialize;
use thiserror::Error;

use super::shown;

/// The kind of machine that images are wanted for. The system is always Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: String,
    /// The newest variant that will do, such as `v3` of `amd64`; the oldest when there is none.
    pub variant: Option<String>,
}

/// Nothing for this kind of machine.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no image for {wanted} in it, only for: {}", list(available))]
pub struct NoPlatform {
    /// What is needed.
    pub wanted: String,
    /// What there is.
    pub available: Vec<String>,
}

fn list(platforms: &[String]) -> String {
    if platforms.is_empty() { "nothing".to_owned() } else { platforms.join(", ") }
}

/// What an index says of one manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Spec {
    /// `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{}", shown(variant)),
            _ => Ok(()),
        }
    }
}

impl Platform {
    /// That of this host.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// How well a manifest fits, more is better; `None` when it does not.
    pub(super) fn rank(&self, spec: Option<&Spec>) -> Option<u32> {
        // Its config will tell.
        let Some(spec) = spec else { return Some(0) };
        let fits = spec.os == "linux" && spec.architecture == self.architecture;
        let own = self.variant.as_deref().unwrap_or_default();
        let its = spec.variant.as_deref().unwrap_or_default();
        if !fits {
            return None;
        }
        match (self.generation(own), self.generation(its)) {
            (Some(own), Some(its)) => (its <= own).then_some(its.saturating_add(1)),
            _ => (own == its).then_some(1),
        }
    }

    /// Variants are numbered; without a number the oldest that is common is meant.
    fn generation(&self, variant: &str) -> Option<u32> {
        match (self.architecture.as_str(), variant) {
            ("arm64", "") => Some(8),
            ("arm", "") => Some(7),
            (_, "") => Some(1),
            (_, text) => text.strip_prefix('v')?.split('.').next()?.parse().ok(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(architecture: &str, variant: Option<&str>) -> Platform {
        let variant = variant.map(str::to_owned);
        Platform { architecture: architecture.to_owned(), variant }
    }

    fn rank(platform: &Platform, spec: &str) -> Option<u32> {
        let mut parts = spec.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        platform.rank(Some(&Spec { architecture, os, variant: parts.next() }))
    }

    #[test]
    fn the_newest_variant_that_will_do_is_best() {
        let v3 = platform("amd64", Some("v3"));
        assert!(rank(&v3, "linux/amd64/v3") > rank(&v3, "linux/amd64/v2"));
        assert!(rank(&v3, "linux/amd64/v2") > rank(&v3, "linux/amd64"));
        assert!(rank(&v3, "linux/amd64") > v3.rank(None));
        assert_eq!(rank(&v3, "linux/amd64/v4"), None);
        let oldest = platform("amd64", None);
        assert_eq!(rank(&oldest, "linux/amd64"), rank(&oldest, "linux/amd64/v1"));
        assert_eq!(rank(&oldest, "linux/amd64/v2"), None);
    }

    #[test]
    fn other_systems_and_processors_do_not_fit() {
        let arm = platform("arm", Some("v7"));
        assert!(rank(&arm, "linux/arm") > rank(&arm, "linux/arm/v6"));
        for bad in ["windows/arm", "linux/arm64", "linux/arm/v8", "unknown/unknown", "linux/arm/x"]
        {
            assert_eq!(rank(&arm, bad), None, "{bad}");
        }
        let arm64 = platform("arm64", None);
        assert_eq!(rank(&arm64, "linux/arm64/v8"), rank(&arm64, "linux/arm64"));
        assert_eq!(rank(&arm64, "linux/arm64/v9"), None);
    }
}
