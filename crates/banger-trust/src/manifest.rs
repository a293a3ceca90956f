//! The release manifest of an appliance: `latest.json` of KubeSolo OS's update servers.
//!
//! Fields that are not known are ignored, and what may be left out may also be empty or null.
//! Digests and addresses of both files have to be there: a release without them cannot be
//! installed, so there is nothing to tell about it.

use banger_model::Timestamp;
use serde::Deserialize;

use crate::digest::Sha256Digest;
use crate::document::{DocumentError, SignedDocument};
use crate::freshness::Freshness;
use crate::json::{JsonBounds, strict_json};
use crate::rollout::Rollout;
use crate::time::parse_time;
use crate::version::Version;

/// A manifest with long release notes has a few kilobytes.
const MAX_LEN: usize = 256 * 1024;
const BOUNDS: JsonBounds = JsonBounds { len: MAX_LEN, depth: 8, values: 4096 };
/// Longest address.
const MAX_URL: usize = 2048;
/// Longest name of a channel or an architecture.
const MAX_WORD: usize = 64;
/// Most stepping stones.
const MAX_VIA: usize = 16;
/// Most characters of release notes that are kept.
const MAX_NOTES: usize = 4096;
/// What a manifest may call itself, if it does. Anything else is another document, which the same
/// key may sign.
const SCHEMA: &str = "os-release/1";

/// The two files of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArtifactName {
    /// The kernel.
    Kernel,
    /// The initramfs, which holds the whole system.
    Initramfs,
}

impl ArtifactName {
    /// Both, in the order in which they are fetched.
    pub const ALL: [Self; 2] = [Self::Kernel, Self::Initramfs];

    /// The name of its file, staged and in a slot.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinuz",
            Self::Initramfs => "kubesolo-os.gz",
        }
    }

    /// Most bytes that it may have when nothing else was signed: 128 MiB and 2 GiB.
    pub fn default_max_len(self) -> u64 {
        match self {
            Self::Kernel => 128 << 20,
            Self::Initramfs => 2 << 30,
        }
    }
}

/// One file of a release, as the manifest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Which.
    pub name: ArtifactName,
    /// Where it is: an address, or a path on the server. Nothing was checked about it.
    pub url: String,
    /// Where its own signature is, if it has one.
    pub signature_url: Option<String>,
    /// The digest of its bytes.
    pub sha256: Sha256Digest,
    /// Their number, if it was signed.
    pub size: Option<u64>,
}

/// What a machine follows: `stable`, `beta` and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel(String);

impl Channel {
    /// A word of letters, digits, `.`, `_` and `-`; `None` for everything else.
    pub fn parse(text: &str) -> Option<Self> {
        is_word(text).then(|| Self(text.to_owned()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A release that has to be installed before the one that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// Its version.
    pub version: Version,
    /// Where its own manifest is.
    pub url: String,
}

/// What a server says of its newest release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The release.
    pub version: Version,
    /// Its kernel.
    pub kernel: Artifact,
    /// Its initramfs.
    pub initramfs: Artifact,
    /// Who it is for; none is everybody.
    pub channel: Option<Channel>,
    /// The machines that it runs on, by Go's names; none is all.
    pub architecture: Option<String>,
    /// What has to run already, at least.
    pub min_compatible_version: Option<Version>,
    /// What may be installed on the way if that is not so.
    pub via: Vec<Via>,
    /// What part of all machines it is for.
    pub rollout: Option<Rollout>,
    /// For people, without control characters.
    pub release_notes: String,
    /// For people.
    pub release_date: String,
    /// Its own age.
    pub freshness: Freshness,
}

impl Manifest {
    /// Its file of this name.
    pub fn artifact(&self, name: ArtifactName) -> &Artifact {
        match name {
            ArtifactName::Kernel => &self.kernel,
            ArtifactName::Initramfs => &self.initramfs,
        }
    }

    /// What tells this pair of files from every other: the digest of both digests.
    pub fn fingerprint(&self) -> Sha256Digest {
        let both = [&self.kernel.sha256.bytes()[..], &self.initramfs.sha256.bytes()[..]].concat();
        Sha256Digest::of(&both)
    }

    /// Where bytes that nobody has verified yet say that their signature is: a hint of where to
    /// look, and worth nothing else.
    pub fn signature_url_hint(unverified: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Hint {
            metadata_sig_url: Option<String>,
        }
        let hint: Hint = strict_json(unverified, BOUNDS).ok()?;
        hint.metadata_sig_url.filter(|url| is_url(url))
    }
}

/// The fields as they are written.
#[derive(Deserialize)]
struct Raw {
    schema: Option<String>,
    version: String,
    vmlinuz_url: Option<String>,
    vmlinuz_sha256: Option<String>,
    vmlinuz_sig_url: Option<String>,
    vmlinuz_size: Option<u64>,
    initramfs_url: Option<String>,
    initramfs_sha256: Option<String>,
    initramfs_sig_url: Option<String>,
    initramfs_size: Option<u64>,
    release_notes: Option<String>,
    release_date: Option<String>,
    channel: Option<String>,
    min_compatible_version: Option<String>,
    architecture: Option<String>,
    serial: Option<u64>,
    expires: Option<String>,
    via: Option<Vec<RawVia>>,
    rollout: Option<RawRollout>,
}

#[derive(Deserialize)]
struct RawVia {
    version: String,
    url: String,
}

#[derive(Deserialize)]
struct RawRollout {
    start: String,
    hours: u32,
    percent: u8,
}

impl SignedDocument for Manifest {
    const NAME: &'static str = "the release manifest";
    const MAX_LEN: usize = MAX_LEN;

    fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let raw: Raw = strict_json(bytes, BOUNDS)?;
        if let Some(found) = raw.schema.filter(|schema| schema != SCHEMA) {
            let found = found.chars().take(MAX_WORD).collect();
            return Err(DocumentError::Schema { found, expected: SCHEMA });
        }
        let kernel = artifact(
            ArtifactName::Kernel,
            ["vmlinuz_url", "vmlinuz_sha256", "vmlinuz_sig_url", "vmlinuz_size"],
            (raw.vmlinuz_url, raw.vmlinuz_sha256, raw.vmlinuz_sig_url, raw.vmlinuz_size),
        )?;
        let initramfs = artifact(
            ArtifactName::Initramfs,
            ["initramfs_url", "initramfs_sha256", "initramfs_sig_url", "initramfs_size"],
            (raw.initramfs_url, raw.initramfs_sha256, raw.initramfs_sig_url, raw.initramfs_size),
        )?;
        let channel = said(raw.channel)
            .map(|text| Channel::parse(&text).ok_or_else(|| bad("channel", "no plain word")))
            .transpose()?;
        let architecture = said(raw.architecture);
        if architecture.as_deref().is_some_and(|text| !is_word(text)) {
            return Err(bad("architecture", "no plain word"));
        }
        Ok(Self {
            version: version("version", &raw.version)?,
            kernel,
            initramfs,
            channel,
            architecture,
            min_compatible_version: said(raw.min_compatible_version)
                .map(|text| version("min_compatible_version", &text))
                .transpose()?,
            via: via(raw.via.unwrap_or_default())?,
            rollout: raw.rollout.map(|raw| rollout(&raw)).transpose()?,
            release_notes: for_people(raw.release_notes.unwrap_or_default()),
            release_date: for_people(raw.release_date.unwrap_or_default()),
            freshness: Freshness {
                serial: raw.serial,
                expires: said(raw.expires).map(|text| time("expires", &text)).transpose()?,
            },
        })
    }

    fn freshness(&self) -> Freshness {
        self.freshness
    }
}

/// Address, digest, address of the signature, size.
type RawArtifact = (Option<String>, Option<String>, Option<String>, Option<u64>);

fn artifact(
    name: ArtifactName,
    fields: [&'static str; 4],
    (address, sha256, signature, size): RawArtifact,
) -> Result<Artifact, DocumentError> {
    let [url_field, sha256_field, signature_field, size_field] = fields;
    let sha256 = said(sha256).ok_or_else(|| bad(sha256_field, "missing, and it is mandatory"))?;
    let url = said(address).ok_or_else(|| bad(url_field, "missing"))?;
    let signature_url = said(signature);
    for (field, text) in [(url_field, Some(&url)), (signature_field, signature_url.as_ref())] {
        if text.is_some_and(|text| !is_url(text)) {
            return Err(bad(field, "no address"));
        }
    }
    if size.is_some_and(|size| size == 0 || size > name.default_max_len()) {
        return Err(bad(size_field, "no size that such a file may have"));
    }
    let sha256 = sha256.parse().map_err(|_| bad(sha256_field, "no sha256 digest"))?;
    Ok(Artifact { name, url, signature_url, sha256, size })
}

fn via(raw: Vec<RawVia>) -> Result<Vec<Via>, DocumentError> {
    if raw.len() > MAX_VIA {
        return Err(bad("via", "too long"));
    }
    let one = |raw: RawVia| {
        let version = version("via", &raw.version)?;
        if is_url(&raw.url) {
            Ok(Via { version, url: raw.url })
        } else {
            Err(bad("via", "without an address"))
        }
    };
    raw.into_iter().map(one).collect()
}

fn rollout(raw: &RawRollout) -> Result<Rollout, DocumentError> {
    if raw.percent > 100 {
        return Err(bad("rollout", "more than 100 per cent"));
    }
    let start = time("rollout", &raw.start)?;
    Ok(Rollout { start, hours: raw.hours, percent: raw.percent })
}

fn version(field: &'static str, text: &str) -> Result<Version, DocumentError> {
    text.parse().map_err(|error: crate::ParseVersionError| bad(field, &format!("wrong: {error}")))
}

fn time(field: &'static str, text: &str) -> Result<Timestamp, DocumentError> {
    parse_time(text).map_err(|error| bad(field, &format!("wrong: {error}")))
}

fn bad(field: &'static str, problem: &str) -> DocumentError {
    DocumentError::Field { field, problem: problem.to_owned() }
}

/// An empty text says nothing.
fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && text.len() <= MAX_WORD && text.bytes().all(plain)
}

fn is_url(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_URL && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What a terminal can show without being driven by it.
fn for_people(text: String) -> String {
    let shown = |c: &char| !c.is_control() || *c == '\n';
    text.chars().filter(shown).take(MAX_NOTES).collect()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
