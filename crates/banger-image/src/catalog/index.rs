//! The index of a catalog: which names there are, and what each of them is. Pure.
//!
//! ```json
//! {
//!   "schema": "banger-catalog/1",
//!   "serial": 7,
//!   "expires": "2027-01-31T00:00:00Z",
//!   "images": {
//!     "debian-bookworm": { "kind": "recipe", "recipe": "debian-bookworm" },
//!     "alpine": { "kind": "oci", "reference": "docker.io/library/alpine@sha256:…" },
//!     "tools": { "kind": "bundle", "bundles": [
//!       { "architecture": "amd64", "url": "tools.tar.zst", "size": 1234, "sha256": "…" } ] }
//!   },
//!   "kernels": { "debian-cloud": { "kind": "recipe", "recipe": "debian-cloud" } }
//! }
//! ```
//!
//! Fields that are not known are ignored, and an entry of an unknown kind is one that this program
//! cannot use; all others can be used nevertheless.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use banger_model::{ImageName, ImageReference, KernelName, Timestamp};
use banger_trust::{
    DocumentError, Freshness, JsonBounds, Sha256Digest, SignedDocument, parse_time, show_time,
    strict_json,
};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

/// Most bytes of an index: room for [`MAX_NAMES`] names with everything that is said of them.
pub const MAX_INDEX: usize = 4 << 20;
const BOUNDS: JsonBounds = JsonBounds { len: MAX_INDEX, depth: 16, values: 1 << 17 };
/// Most images, and most kernels.
pub const MAX_NAMES: usize = 4096;
/// Most bundles of one name: one for each architecture.
const MAX_BUNDLES: usize = 16;
/// Most bytes of one bundle.
const MAX_BUNDLE: u64 = 64 << 30;
/// Longest place of a bundle, and most directories in it.
const MAX_URL: usize = 512;
const MAX_URL_PARTS: usize = 8;
/// Longest word: an architecture, a kind.
const MAX_WORD: usize = 64;
/// What every index calls itself, before the number of its form.
const SCHEMA: &str = "banger-catalog/";
/// The form that is known.
const FORM: u64 = 1;

/// What a catalog has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Rises with every index of its signer.
    pub serial: u64,
    /// From then on it is void.
    pub expires: Timestamp,
    /// Its images.
    pub images: BTreeMap<ImageName, ImageEntry>,
    /// Its kernels.
    pub kernels: BTreeMap<KernelName, KernelEntry>,
}

/// What an image's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageEntry {
    /// Files to be had, one for each architecture.
    Bundles(Vec<Bundle>),
    /// An image in a registry. It has a digest.
    Oci(ImageReference),
    /// Something that is made on this host.
    Recipe(ImageRecipe),
    /// Something that only a newer program knows: what it is called.
    Unknown(String),
}

/// What a kernel's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEntry {
    /// Files to be had, one for each architecture.
    Bundles(Vec<Bundle>),
    /// Something that is made on this host.
    Recipe(KernelRecipe),
    /// Something that only a newer program knows: what it is called.
    Unknown(String),
}

/// How an image is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageRecipe {
    /// Debian 12, from Debian's archive.
    DebianBookworm,
}

/// How a kernel is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelRecipe {
    /// Debian's kernel for clouds, from Debian's archive.
    DebianCloud,
}

/// A file with an image or a kernel in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The machines that it is for, by Go's names: `amd64`.
    pub architecture: String,
    /// Where it is, from the index's own directory.
    pub url: BundleUrl,
    /// Its bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256Digest,
}

/// A place below the index's own directory: words with `/` between them, none of which begins with
/// a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleUrl(String);

/// A text that is no place of a bundle.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is no place below the index: write words of letters, digits, '.', '_' and '-' with '/' between them, none beginning with '.'"
)]
pub struct ParseBundleUrlError(String);

impl BundleUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BundleUrl {
    type Err = ParseBundleUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let is_part =
            |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
        let parts = text.split('/').take(MAX_URL_PARTS + 1).count();
        if text.len() <= MAX_URL && parts <= MAX_URL_PARTS && text.split('/').all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseBundleUrlError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for BundleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BundleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ImageRecipe {
    /// What an index calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DebianBookworm => "debian-bookworm",
        }
    }
}

impl KernelRecipe {
    /// What an index calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DebianCloud => "debian-cloud",
        }
    }
}

/// An index as it is written. Entries are read one by one: of a kind that is not known, nothing is
/// known.
#[derive(Deserialize)]
struct Raw {
    serial: u64,
    expires: String,
    #[serde(default)]
    images: BTreeMap<String, Value>,
    #[serde(default)]
    kernels: BTreeMap<String, Value>,
}

/// What all forms have.
#[derive(Deserialize)]
struct Head {
    schema: String,
}

#[derive(Deserialize)]
struct RawBundles {
    bundles: Vec<RawBundle>,
}

#[derive(Deserialize)]
struct RawBundle {
    architecture: String,
    url: String,
    size: u64,
    sha256: String,
}

impl SignedDocument for Index {
    const NAME: &'static str = "the index of the catalog";
    const MAX_LEN: usize = MAX_INDEX;

    fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let Head { schema } = strict_json(bytes, BOUNDS)?;
        check_schema(&schema, SCHEMA, FORM)?;
        let raw: Raw = strict_json(bytes, BOUNDS)?;
        let expires = parse_time(&raw.expires).map_err(|e| field("expires", e.to_string()))?;
        Ok(Self {
            serial: raw.serial,
            expires,
            images: named("images", raw.images, image_entry)?,
            kernels: named("kernels", raw.kernels, kernel_entry)?,
        })
    }

    fn freshness(&self) -> Freshness {
        Freshness { serial: Some(self.serial), expires: Some(self.expires) }
    }
}

impl Index {
    /// As [`SignedDocument::parse`] reads it: the same index is always the same bytes. Entries of
    /// unknown kinds have to be left out, as nothing else is known of them.
    pub fn to_json(&self) -> Vec<u8> {
        let bundles = |bundles: &[Bundle]| {
            let one = |it: &Bundle| {
                json!({
                    "architecture": it.architecture, "url": it.url.as_str(), "size": it.size,
                    "sha256": it.sha256.to_string(),
                })
            };
            json!({ "kind": "bundle", "bundles": bundles.iter().map(one).collect::<Vec<_>>() })
        };
        let recipe = |name: &str| json!({ "kind": "recipe", "recipe": name });
        let image = |entry: &ImageEntry| match entry {
            ImageEntry::Bundles(all) => Some(bundles(all)),
            ImageEntry::Oci(it) => Some(json!({ "kind": "oci", "reference": it.to_string() })),
            ImageEntry::Recipe(it) => Some(recipe(it.as_str())),
            ImageEntry::Unknown(_) => None,
        };
        let kernel = |entry: &KernelEntry| match entry {
            KernelEntry::Bundles(all) => Some(bundles(all)),
            KernelEntry::Recipe(it) => Some(recipe(it.as_str())),
            KernelEntry::Unknown(_) => None,
        };
        let images = self.images.iter().filter_map(|(n, entry)| Some((n.as_str(), image(entry)?)));
        let kernels =
            self.kernels.iter().filter_map(|(n, entry)| Some((n.as_str(), kernel(entry)?)));
        let document = json!({
            "schema": format!("{SCHEMA}{FORM}"),
            "serial": self.serial,
            "expires": show_time(self.expires),
            "images": images.collect::<BTreeMap<_, _>>(),
            "kernels": kernels.collect::<BTreeMap<_, _>>(),
        });
        format!("{document:#}\n").into_bytes()
    }
}

/// The bundle for machines of this architecture.
pub fn bundle_for<'a>(bundles: &'a [Bundle], architecture: &str) -> Option<&'a Bundle> {
    bundles.iter().find(|bundle| bundle.architecture == architecture)
}

/// Whether a document is of the form that is known. A key may sign documents of several kinds.
pub(super) fn check_schema(
    found: &str,
    expected: &'static str,
    form: u64,
) -> Result<(), DocumentError> {
    let number = found.strip_prefix(expected).and_then(|number| number.parse::<u64>().ok());
    match number {
        Some(number) if number == form => Ok(()),
        Some(number) if number > form => {
            let problem = format!(
                "{expected}{number}, and this banger knows no newer one than {expected}{form}: update banger"
            );
            Err(field("schema", problem))
        }
        _ => {
            let found: String = found.chars().take(MAX_WORD).collect();
            Err(field("schema", format!("{found:?} instead of {expected}{form}")))
        }
    }
}

pub(super) fn field(field: &'static str, problem: impl Into<String>) -> DocumentError {
    DocumentError::Field { field, problem: problem.into() }
}

/// A word as architectures are.
pub(super) fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && text.len() <= MAX_WORD && text.bytes().all(plain)
}

fn named<N: FromStr<Err: fmt::Display> + Ord, E>(
    what: &'static str,
    entries: BTreeMap<String, Value>,
    read: impl Fn(Value) -> Result<E, String>,
) -> Result<BTreeMap<N, E>, DocumentError> {
    if entries.len() > MAX_NAMES {
        return Err(field(
            what,
            format!("of {} names, at most {MAX_NAMES} make sense", entries.len()),
        ));
    }
    let one = |(name, entry): (String, Value)| {
        let shown: String = name.chars().take(MAX_WORD).collect();
        let parsed = name.parse::<N>().map_err(|error| field(what, error.to_string()))?;
        let entry = read(entry).map_err(|problem| {
            field(what, format!("wrong where it says what {shown:?} is: {problem}"))
        })?;
        Ok((parsed, entry))
    };
    entries.into_iter().map(one).collect()
}

fn image_entry(value: Value) -> Result<ImageEntry, String> {
    let kind = text(&value, "kind")?;
    Ok(match kind {
        "bundle" => ImageEntry::Bundles(bundles(value)?),
        "oci" => ImageEntry::Oci(pinned(text(&value, "reference")?)?),
        "recipe" => match text(&value, "recipe")? {
            "debian-bookworm" => ImageEntry::Recipe(ImageRecipe::DebianBookworm),
            other => ImageEntry::Unknown(format!("recipe {}", shortened(other))),
        },
        other => ImageEntry::Unknown(shortened(other)),
    })
}

fn kernel_entry(value: Value) -> Result<KernelEntry, String> {
    let kind = text(&value, "kind")?;
    Ok(match kind {
        "bundle" => KernelEntry::Bundles(bundles(value)?),
        "recipe" => match text(&value, "recipe")? {
            "debian-cloud" => KernelEntry::Recipe(KernelRecipe::DebianCloud),
            other => KernelEntry::Unknown(format!("recipe {}", shortened(other))),
        },
        other => KernelEntry::Unknown(shortened(other)),
    })
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    value.get(name).and_then(Value::as_str).ok_or_else(|| format!("it has no text {name}"))
}

/// What is shown of words that somebody else chose.
fn shortened(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect()
}

/// A tag may come to mean something that nobody signed.
fn pinned(text: &str) -> Result<ImageReference, String> {
    let reference: ImageReference = text.parse().map_err(|e| format!("{e}"))?;
    match reference.digest() {
        Some(_) => Ok(reference),
        None => Err(format!("{} has no digest", reference.familiar())),
    }
}

fn bundles(value: Value) -> Result<Vec<Bundle>, String> {
    let RawBundles { bundles } = serde_json::from_value(value).map_err(|e| e.to_string())?;
    if bundles.is_empty() || bundles.len() > MAX_BUNDLES {
        return Err(format!("{} bundles are not from 1 to {MAX_BUNDLES}", bundles.len()));
    }
    let bundles = bundles.into_iter().map(bundle).collect::<Result<Vec<_>, _>>()?;
    for (at, bundle) in bundles.iter().enumerate() {
        if bundle_for(&bundles[..at], &bundle.architecture).is_some() {
            return Err(format!("it has two bundles for {}", bundle.architecture));
        }
    }
    Ok(bundles)
}

fn bundle(raw: RawBundle) -> Result<Bundle, String> {
    if !is_word(&raw.architecture) {
        return Err(format!("{:?} is no architecture", shortened(&raw.architecture)));
    }
    if raw.size == 0 || raw.size > MAX_BUNDLE {
        return Err(format!("{} bytes are not from 1 to {MAX_BUNDLE}", raw.size));
    }
    let url = raw.url.parse().map_err(|e: ParseBundleUrlError| e.to_string())?;
    let sha256 = raw.sha256.parse().map_err(|e: banger_trust::ParseSha256Error| e.to_string())?;
    Ok(Bundle { architecture: raw.architecture, url, size: raw.size, sha256 })
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
