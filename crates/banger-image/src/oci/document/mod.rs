//! Manifests, indexes and configs: the JSON that says what an image is made of.
//!
//! Pure functions over bytes that somebody else wrote. What is accepted is an image of layers
//! that can be unpacked; everything else that registries keep is refused by its name.

mod config;
mod index;
pub(crate) mod media;
mod platform;

use std::collections::BTreeMap;

use banger_model::{Bytes, Digest};
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

pub use config::{Config, HealthCheck, parse_config};
pub use index::Index;
pub use media::Compression;
pub use platform::{NoPlatform, Platform};

use super::settings::Limits;
use media::{LayerType, ManifestType};

/// Most bytes of a manifest or an index, as most registries have it.
pub const MAX_MANIFEST: Bytes = Bytes::mib(4);
/// Most bytes of a config.
pub const MAX_CONFIG: Bytes = Bytes::mib(4);
/// How many characters of a foreign text an error message repeats.
const SHOWN: usize = 100;

/// Why bytes are not the manifest, index or config of an image that can be used.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// More than makes sense.
    #[error("it has more than {0}")]
    TooLarge(Bytes),
    /// No JSON, or not that of the specification.
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    /// What Docker wrote until 2016.
    #[error("it is of the old schema 1: push the image again with a current tool")]
    SchemaOne,
    /// A version that does not exist yet.
    #[error("it is of schema {0}, and only 2 is known")]
    Schema(u64),
    /// What could be read in two ways.
    #[error("it has parts of an index and of a manifest, so that it could be taken for either")]
    Ambiguous,
    /// What it says of itself is not what was said of it.
    #[error("it was announced as {told:?} and calls itself {inside:?}")]
    TypesDisagree {
        /// The announced type.
        told: String,
        /// Its own.
        inside: String,
    },
    /// Something else.
    #[error("it is no manifest of an image but {0:?}")]
    NotAManifest(String),
    /// A chart, a signature, a module: registries keep many things.
    #[error("it is not an image to run but an artifact of the type {0:?}")]
    NotAnImage(String),
    /// A layer to be fetched from elsewhere.
    #[error(
        "its layer {digest} may not be distributed by registries ({media_type:?}): such images of Windows and the like are not supported"
    )]
    Foreign {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// A layer of an unknown kind.
    #[error("its layer {digest} is of the unknown type {media_type:?}")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// Too many layers.
    #[error("it has {0} layers, and at most {1} are taken")]
    TooManyLayers(usize, usize),
    /// A layer that is too large.
    #[error("its layer {digest} has {size}, and at most {max} are taken")]
    LayerTooLarge {
        /// The layer.
        digest: Digest,
        /// Its size.
        size: Bytes,
        /// The bound.
        max: Bytes,
    },
    /// All layers together.
    #[error("its layers have {size} together, and at most {max} are taken")]
    ImageTooLarge {
        /// Their size.
        size: Bytes,
        /// The bound.
        max: Bytes,
    },
    /// Manifest and config do not fit each other.
    #[error("it has {layers} layers, but its config has the digests of {diff_ids}")]
    LayersDisagree {
        /// Layers of the manifest.
        layers: usize,
        /// Digests in the config.
        diff_ids: usize,
    },
    /// The config is for another kind of machine.
    #[error("it is for {found}, and this host needs {wanted}")]
    WrongPlatform {
        /// What the config says.
        found: String,
        /// What is needed.
        wanted: String,
    },
}

/// What points to some content.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is said to be; some writers leave it out in an index.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What kind of machine it is for; in an index.
    #[serde(default)]
    pub platform: Option<platform::Spec>,
    /// Notes, such as the tag in a layout's index.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// One layer as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntry {
    /// Its name.
    pub digest: Digest,
    /// Its bytes, compressed.
    pub size: u64,
    /// How it is said to be compressed.
    pub compression: Compression,
}

/// The manifest of an image for one kind of machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Where its config is.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerEntry>,
}

/// What may be found where a manifest is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A choice of manifests.
    Index(Index),
    /// One manifest.
    Manifest(Manifest),
}

/// What is looked at first, to tell what the rest is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default, rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    #[serde(default)]
    artifact_type: Option<String>,
    config: Descriptor,
    #[serde(default, deserialize_with = "or_default")]
    layers: Vec<Descriptor>,
}

/// Reads a manifest or an index. `told` is the type that it was announced with; one that is no
/// type of a manifest says nothing.
///
/// # Errors
/// [`DocumentError`].
pub fn parse_document(
    bytes: &[u8],
    told: Option<&str>,
    limits: &Limits,
) -> Result<Document, DocumentError> {
    if bytes.len() as u64 > MAX_MANIFEST.get() {
        return Err(DocumentError::TooLarge(MAX_MANIFEST));
    }
    let shape: Shape = serde_json::from_slice(bytes)?;
    match document_type(&shape, told)? {
        ManifestType::SchemaOne => Err(DocumentError::SchemaOne),
        ManifestType::Index => Ok(Document::Index(serde_json::from_slice(bytes)?)),
        ManifestType::Manifest => {
            let raw: RawManifest = serde_json::from_slice(bytes)?;
            Ok(Document::Manifest(check_manifest(raw, limits)?))
        }
    }
}

fn document_type(shape: &Shape, told: Option<&str>) -> Result<ManifestType, DocumentError> {
    let inside = shape.media_type.as_deref().filter(|text| !text.is_empty());
    let told = told.filter(|text| ManifestType::of(text).is_some());
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Ok(ManifestType::SchemaOne);
    }
    if let (Some(told), Some(inside)) = (told, inside)
        && told != inside
    {
        return Err(DocumentError::TypesDisagree { told: told.to_owned(), inside: shown(inside) });
    }
    match shape.schema_version {
        Some(2) => {}
        Some(other) => return Err(DocumentError::Schema(other)),
        None => return Err(DocumentError::NotAManifest(shown(inside.unwrap_or_default()))),
    }
    let like_index = shape.manifests.is_some();
    let like_manifest = shape.layers.is_some() || shape.config.is_some();
    let looks = match (like_index, like_manifest) {
        (true, true) => return Err(DocumentError::Ambiguous),
        (true, false) => ManifestType::Index,
        (false, _) => ManifestType::Manifest,
    };
    match inside.or(told) {
        None => Ok(looks),
        Some(text) => match ManifestType::of(text) {
            Some(named) if named == looks => Ok(named),
            // Nothing of either kind is in it: let what is missing be named.
            Some(named) if !like_index && !like_manifest => Ok(named),
            Some(_) => Err(DocumentError::Ambiguous),
            None => Err(DocumentError::NotAManifest(shown(text))),
        },
    }
}

fn check_manifest(raw: RawManifest, limits: &Limits) -> Result<Manifest, DocumentError> {
    if !media::is_image_config(&raw.config.media_type) {
        let kind = raw.artifact_type.filter(|text| !text.is_empty());
        return Err(DocumentError::NotAnImage(shown(&kind.unwrap_or(raw.config.media_type))));
    }
    if raw.config.size > MAX_CONFIG.get() {
        return Err(DocumentError::TooLarge(MAX_CONFIG));
    }
    if raw.layers.len() > limits.max_layers {
        return Err(DocumentError::TooManyLayers(raw.layers.len(), limits.max_layers));
    }
    let layers: Vec<_> =
        raw.layers.into_iter().map(|layer| check_layer(layer, limits)).collect::<Result<_, _>>()?;
    let sum = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    let (size, max) = (Bytes::new(sum), limits.max_image);
    if size > max {
        return Err(DocumentError::ImageTooLarge { size, max });
    }
    Ok(Manifest { config: raw.config, layers })
}

fn check_layer(layer: Descriptor, limits: &Limits) -> Result<LayerEntry, DocumentError> {
    let Descriptor { digest, size, media_type, .. } = layer;
    let media_type = shown(&media_type);
    let compression = match LayerType::of(&media_type) {
        LayerType::Here(compression) => compression,
        LayerType::Foreign => return Err(DocumentError::Foreign { digest, media_type }),
        LayerType::Unknown => return Err(DocumentError::LayerType { digest, media_type }),
    };
    let (bytes, max) = (Bytes::new(size), limits.max_layer);
    if bytes > max {
        return Err(DocumentError::LayerTooLarge { digest, size: bytes, max });
    }
    Ok(LayerEntry { digest, size, compression })
}

/// The beginning of a foreign text.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// `null` where something may also be left out, as Go writes what is empty.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
