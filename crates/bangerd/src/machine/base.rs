//! Which image the disk of a sandbox belongs to: what was written over one makes no sense over
//! another, whatever a name comes to mean.

use std::path::Path;

use anyhow::{Context as _, Result};
use banger_host::fs::{is_there, read_text, write_atomic};
use banger_model::{ImageId, SandboxSpec};

use super::DISK;
use crate::assets::Base;

/// The file with the image's id, beside the disk.
const BASE: &str = "base";
/// Longest content that makes sense, in bytes.
const MAX_LEN: u64 = 64;

/// Writes down which image the disk of the sandbox in `dir` belongs to: before there is a disk.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn belongs_to(dir: &Path, image: &ImageId) -> Result<()> {
    Ok(write_atomic(&dir.join(BASE), image.as_str().as_bytes())?)
}

/// What the sandbox in `dir` is made of: the image of its disk, or while it has none the one that
/// is wanted.
///
/// # Errors
/// When there is a disk, and not what it belongs to.
pub(crate) fn base_of(dir: &Path, spec: &SandboxSpec) -> Result<Base> {
    if !is_there(&dir.join(DISK)) {
        return Ok(Base::Wanted(spec.image.clone()));
    }
    let image = image_of(dir)?;
    let missing = || format!("nothing tells which image the disk in {} belongs to", dir.display());
    image.map(Base::Stored).with_context(missing)
}

/// The image that the disk in `dir` belongs to, if it is written down.
///
/// # Errors
/// When it is, and cannot be read.
pub(crate) fn image_of(dir: &Path) -> Result<Option<ImageId>> {
    let text = match read_text(&dir.join(BASE), MAX_LEN) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let id = text.parse();
    id.map(Some).with_context(|| format!("cannot understand {}", dir.join(BASE).display()))
}
