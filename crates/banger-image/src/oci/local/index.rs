//! What archives and layouts say is in them: pure functions over their two kinds of index.

use banger_model::ImageReference;
use serde::Deserialize;

use super::LocalError;
use crate::oci::document::{Descriptor, Index, MAX_MANIFEST, Platform};
use crate::oci::settings::Limits;

/// Most images in one archive.
const MAX_IMAGES: usize = 10_000;
/// Most names that an error message lists.
const MAX_LISTED: usize = 16;

/// One image of `docker save`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SavedImage {
    /// Name of the file with its config.
    pub config: String,
    /// What it is called.
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    /// Names of the files with its layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<String>,
}

impl SavedImage {
    /// What it is called, as far as that makes sense.
    pub fn references(&self) -> impl Iterator<Item = ImageReference> {
        self.repo_tags.iter().flatten().filter_map(|tag| tag.parse().ok())
    }
}

/// Reads the `manifest.json` of `docker save`, and takes the one image that is meant.
///
/// # Errors
/// [`LocalError`] when it cannot be read, or nothing or more than one thing is meant.
pub fn choose_saved(
    json: &[u8],
    wanted: Option<&ImageReference>,
    limits: &Limits,
) -> Result<SavedImage, LocalError> {
    let saved: Vec<SavedImage> = serde_json::from_slice(json).map_err(LocalError::Json)?;
    if saved.len() > MAX_IMAGES {
        return Err(LocalError::TooManyImages(saved.len()));
    }
    let names: Vec<_> = saved.iter().flat_map(SavedImage::references).collect();
    let is_meant = |image: &SavedImage| {
        wanted.is_none_or(|wanted| image.references().any(|name| name == *wanted))
    };
    let mut meant = saved.into_iter().filter(is_meant);
    let list = || names.iter().take(MAX_LISTED).map(ImageReference::familiar).collect();
    match (meant.next(), meant.next(), wanted) {
        (None, ..) => Err(LocalError::NoImage { has: list() }),
        (Some(_), Some(_), None) => Err(LocalError::Several { has: list() }),
        (Some(image), ..) if image.layers.len() > limits.max_layers => {
            Err(LocalError::TooManyLayers(image.layers.len(), limits.max_layers))
        }
        (Some(image), ..) => Ok(image),
    }
}

/// Reads the `index.json` of a layout, and takes the one manifest or index that is meant.
///
/// # Errors
/// [`LocalError`] when it cannot be read, or nothing or more than one thing is meant.
pub fn choose_laid_out(
    json: &[u8],
    tag: Option<&str>,
    platform: &Platform,
) -> Result<Descriptor, LocalError> {
    if json.len() as u64 > MAX_MANIFEST.get() {
        return Err(LocalError::TooLarge(MAX_MANIFEST));
    }
    let index: Index = serde_json::from_slice(json).map_err(LocalError::Json)?;
    let mut has: Vec<_> = index.names().into_iter().take(MAX_LISTED).map(str::to_owned).collect();
    has.dedup();
    let mut meant = match tag {
        Some(tag) => index.named(tag),
        None if has.len() > 1 => return Err(LocalError::Several { has }),
        None => index,
    };
    match meant.manifests.len() {
        0 => Err(LocalError::NoImage { has }),
        1 => Ok(meant.manifests.remove(0)),
        _ => Ok(meant.select(platform).map_err(LocalError::Platform)?.clone()),
    }
}
