//! What images in registries are called: `alpine`, `ghcr.io/org/app:1`, `host:5000/a/b@sha256:…`.
//!
//! The grammar is that of the distribution project; what is left out is filled in as Docker's
//! users expect: the registry `docker.io`, there the prefix `library/`, and the tag `latest`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{Digest, ParseDigestError};
use crate::limits::Limits;
use crate::name::ImageName;

/// The registry of a reference that names none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What the default registry was called before.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Where the default registry keeps the images without a user's name.
const OFFICIAL: &str = "library";
/// The tag of a reference with neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest registry and repository together, in bytes (`NameTotalLengthMax`).
const MAX_NAME_LEN: usize = 255;
/// Longest tag in bytes.
const MAX_TAG_LEN: usize = 128;
/// Longest text that is looked at: name, tag and the longest digest with what separates them.
const MAX_LEN: usize = MAX_NAME_LEN + MAX_TAG_LEN + 160;
/// Digits of a name that Docker takes for an image's number and so refuses as a repository.
const ID_LEN: usize = 64;

/// An image in a registry: which registry, which repository there, and which of its images.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    /// There is a tag, a digest, or both.
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseReferenceError {
    /// Nothing there.
    #[error("an image reference cannot be empty")]
    Empty,
    /// Longer than anything that could be one.
    #[error("an image reference has at most {MAX_NAME_LEN} characters before its tag")]
    TooLong,
    /// The part before the first slash is no host.
    #[error("{0:?} is not a registry: write HOST or HOST:PORT")]
    Registry(String),
    /// What follows is no repository.
    #[error(
        "{0:?} is not a repository: use lowercase letters and digits, separated by '/', '.', '_', '__' or '-'"
    )]
    Repository(String),
    /// Only digits of a digest, which may mean anything.
    #[error("{0:?} looks like an image's id: write NAME@sha256:DIGITS")]
    Id(String),
    /// The tag.
    #[error(
        "{0:?} is not a tag: use up to {MAX_TAG_LEN} letters, digits, '_', '.' and '-', beginning with none of the last two"
    )]
    Tag(String),
    /// The digest.
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}

impl ImageReference {
    /// Host of the registry, with its port where one was given: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository there: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Where there is a digest too, that decides.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// This repository at that digest, without a tag.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The shortest text that means the same: `alpine` for `docker.io/library/alpine:latest`.
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        let Some(path) = whole.strip_prefix("docker.io/") else { return self.short_tag(whole) };
        let official = path.strip_prefix("library/");
        let means_this = |text: &&str| text.parse::<Self>().as_ref() == Ok(self);
        let short = official.into_iter().chain([path]).find(means_this);
        self.short_tag(short.unwrap_or(&whole).to_owned())
    }

    fn short_tag(&self, text: String) -> String {
        let short = text.strip_suffix(":latest").filter(|_| self.digest.is_none());
        match short {
            Some(short) if short.parse::<Self>().as_ref() == Ok(self) => short.to_owned(),
            _ => text,
        }
    }

    /// What this image is called on this host unless its user says otherwise: the last part of
    /// the repository and the tag, `debian-bookworm` for `debian:bookworm`; without a tag the
    /// first digits of the digest. Two references may have the same.
    pub fn default_name(&self) -> ImageName {
        let last = self.repository.rsplit('/').next().unwrap_or_default();
        let mut name = NameText::default();
        name.push(last);
        match (&self.tag, &self.digest) {
            (Some(tag), _) if tag == DEFAULT_TAG => {}
            (Some(tag), _) => name.push(&format!("-{tag}")),
            (None, Some(digest)) => name.push(&format!("-{}", digest.short())),
            (None, None) => {}
        }
        ImageName::of_checked(name.finish())
    }
}

/// Makes a name of whatever it is given.
#[derive(Debug, Default)]
struct NameText(String);

impl NameText {
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            let plain = c.to_ascii_lowercase();
            if plain.is_ascii_lowercase() || plain.is_ascii_digit() {
                self.0.push(plain);
                continue;
            }
            let separator = if c == '.' { '.' } else { '-' };
            if self.0.ends_with(['-', '.']) {
                self.0.pop();
                self.0.push('-');
            } else if !self.0.is_empty() {
                self.0.push(separator);
            }
        }
    }

    fn finish(mut self) -> String {
        self.0.truncate(Limits::MAX_NAME_LEN);
        let len = self.0.trim_end_matches(['-', '.']).len();
        self.0.truncate(len);
        if self.0.is_empty() { "image".to_owned() } else { self.0 }
    }
}

impl FromStr for ImageReference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseReferenceError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(ParseReferenceError::TooLong);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon before a slash belongs to a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?)),
            _ => (rest, None),
        };
        let (registry, repository) = split_name(name)?;
        if registry.len() + 1 + repository.len() > MAX_NAME_LEN {
            return Err(ParseReferenceError::TooLong);
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry, repository, tag, digest })
    }
}

/// The registry and the repository, what is left out filled in.
fn split_name(name: &str) -> Result<(String, String), ParseReferenceError> {
    // Capitals alone make no host, unlike with Docker: in its normal form it would be none.
    let is_host =
        |first: &str| first.eq_ignore_ascii_case("localhost") || first.contains(['.', ':']);
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_host(first) => (check_registry(first)?, path),
        _ => (DEFAULT_REGISTRY.to_owned(), name),
    };
    check_repository(path)?;
    if registry == DEFAULT_REGISTRY && !path.contains('/') {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if path.len() == ID_LEN && path.bytes().all(digit) && !name.contains('/') {
            return Err(ParseReferenceError::Id(path.to_owned()));
        }
        return Ok((registry, format!("{OFFICIAL}/{path}")));
    }
    Ok((registry, path.to_owned()))
}

/// The host in its normal form: hosts are the same in capitals.
fn check_registry(text: &str) -> Result<String, ParseReferenceError> {
    let bad = || ParseReferenceError::Registry(text.to_owned());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(bad)?;
            address.parse::<Ipv6Addr>().map_err(|_| bad())?;
            let port =
                if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) };
            (format!("[{}]", address.to_ascii_lowercase()), port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
            if !host.split('.').all(is_host_label) {
                return Err(bad());
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    let host = if host == LEGACY_REGISTRY { DEFAULT_REGISTRY.to_owned() } else { host };
    match port {
        None => Ok(host),
        Some(port) if is_port(port) => Ok(format!("{host}:{port}")),
        Some(_) => Err(bad()),
    }
}

/// A number without zeros before it, so that one port is written in one way.
fn is_port(text: &str) -> bool {
    let number = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    number && text.parse::<u16>().is_ok()
}

fn is_host_label(label: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    let bytes = label.as_bytes();
    bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|&b| plain(b) || b == b'-')
}

fn check_repository(path: &str) -> Result<(), ParseReferenceError> {
    if path.split('/').all(is_path_part) {
        return Ok(());
    }
    Err(ParseReferenceError::Repository(path.to_owned()))
}

/// Words of lowercase letters and digits, with one `.`, one or two `_`, or any number of `-`
/// between each two.
fn is_path_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(plain) || !part.ends_with(plain) {
        return false;
    }
    let separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    part.split(plain).all(separator)
}

fn check_tag(tag: &str) -> Result<&str, ParseReferenceError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= MAX_TAG_LEN
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if good { Ok(tag) } else { Err(ParseReferenceError::Tag(tag.to_owned())) }
}

impl TryFrom<String> for ImageReference {
    type Error = ParseReferenceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

/// The normal form, with nothing left out.
impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
