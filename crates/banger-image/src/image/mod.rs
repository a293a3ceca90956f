//! Images: read-only root file systems with the wishes of what is in them.
//!
//! An image is an artifact of one file, `root.ext4`; its `meta.json` carries its config. All
//! sandboxes of an image share the file, and so its pages in the host's memory.

mod bootstrap;
mod config;
mod import;
mod layers;
mod remove;
mod rootfs;
mod store;
mod wishes;

use std::path::PathBuf;

use banger_host::HostError;
use banger_host::home::Home;
use banger_model::{
    Bytes, ImageId, ImageName, ImageReference, KernelName, OperationId, Progress, Timestamp,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use bootstrap::{MakeImageError, parse_stage};
pub use config::ImageConfig;
pub use import::{Import, ImportError, Naming};
pub use remove::Forgotten;
pub use rootfs::{FromRootfs, Rootfs, RootfsError, Whose};
pub use store::{Claim, NewImage};
pub use wishes::SandboxWishes;

use crate::artifact::{Artifact, FileRecord, OpenError};

/// The one image that can be made.
pub const DEBIAN_BOOKWORM: &str = "debian-bookworm";

/// The one file of an image.
pub(crate) const ROOT: &str = "root.ext4";

/// What an image was made from, and how it wants to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Where it comes from, for people to read.
    pub source: String,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Where in a registry it comes from, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Timestamp>,
    /// The kernel that it wants, if it wants a certain one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    /// What it is of in a catalog, if it comes as a bundle from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleOrigin>,
    /// The operation that has made it, where asking again would be refused: whoever has not heard that it
    /// came to its end asks again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<OperationId>,
}

/// Where in a catalog an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleOrigin {
    /// Its name there.
    pub name: ImageName,
    /// Digest of the bundle, such as `sha256:…`.
    pub digest: String,
}

/// Where in a registry an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// As it was asked for.
    pub reference: ImageReference,
    /// Digest of its manifest, such as `sha256:…`.
    pub manifest: String,
    /// Digest of the index that the manifest is in, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

impl Origin {
    /// Whether both mean the same tag of the same repository, whatever it leads to.
    pub(crate) fn is_tagged_as(&self, other: &ImageReference) -> bool {
        let place = |it: &ImageReference| {
            let tag = it.tag().map(str::to_owned);
            (it.registry().to_owned(), it.repository().to_owned(), tag)
        };
        place(&self.reference) == place(other)
    }

    /// Whether the image is what this reference means: it was asked for so, or has its digest.
    pub fn is_of(&self, reference: &ImageReference) -> bool {
        let same_place = (reference.registry(), reference.repository())
            == (self.reference.registry(), self.reference.repository());
        match reference.digest() {
            Some(digest) => {
                let digest = digest.to_string();
                same_place && (digest == self.manifest || Some(&digest) == self.index.as_ref())
            }
            None => *reference == self.reference,
        }
    }
}

/// Why there is no image to boot.
#[derive(Debug, Error)]
pub enum EnsureImageError {
    /// It cannot be used as it is, or cannot be made at all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be made.
    #[error("cannot make the image {name}")]
    Make {
        /// Its name.
        name: ImageName,
        /// Why not.
        source: Box<MakeImageError>,
    },
}

/// An image that is here, whole.
#[derive(Clone, Debug)]
pub struct Image {
    id: ImageId,
    /// Where it was looked for: by its name, or by its id.
    found: PathBuf,
    artifact: Artifact<ImageInfo>,
}

impl Image {
    /// Whether an image of this name can be made on this host.
    pub fn can_be_made(name: &ImageName) -> bool {
        name.as_str() == DEBIAN_BOOKWORM
    }

    /// Opens an image; makes it where it is missing and can be made, which takes half a minute.
    /// Of several that call this at once, one makes it and the others wait for that.
    ///
    /// # Errors
    /// [`EnsureImageError`]; nothing half-made remains.
    pub fn ensure(
        home: &Home,
        name: &ImageName,
        progress: &dyn Progress,
    ) -> Result<Self, EnsureImageError> {
        let missing = match Self::open(home, name) {
            Err(error) if error.is_missing() => error,
            found => return Ok(found?),
        };
        if !Self::can_be_made(name) {
            return Err(missing.into());
        }
        let failed = |source: MakeImageError| EnsureImageError::Make {
            name: name.clone(),
            source: source.into(),
        };
        progress.stage(&format!("preparing the image {name}"));
        let keep = |error: HostError| failed(MakeImageError::Keep(error));
        let _claim = Self::claim(home, name).map_err(keep)?;
        match Self::open(home, name) {
            Err(error) if error.is_missing() => {}
            found => return Ok(found?),
        }
        let new = NewImage::begin(home).map_err(keep)?;
        let work = home.cache().join("bootstrap").join(name.as_str());
        bootstrap::make((new, name), &work, progress).map_err(failed)
    }

    /// Reads all of it and compares it with what was made.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when a file has changed.
    pub fn verify(&self) -> Result<(), OpenError> {
        self.artifact.verify()
    }

    /// What it is called on this host whatever its names are.
    pub fn id(&self) -> &ImageId {
        &self.id
    }

    /// The name by which it was found, if it was by one.
    pub fn name(&self) -> Option<ImageName> {
        self.found.file_name()?.to_str()?.parse().ok()
    }

    /// What it was made from.
    pub fn info(&self) -> &ImageInfo {
        self.artifact.info()
    }

    /// The kernel that its sandboxes boot where nothing else is said.
    pub fn kernel(&self) -> KernelName {
        self.info().kernel.clone().unwrap_or_default()
    }

    /// How it wants to be run.
    pub fn config(&self) -> &ImageConfig {
        &self.artifact.info().config
    }

    /// A digest that no other image has.
    pub fn identity(&self) -> &str {
        &self.artifact.identity
    }

    /// The root file system: read-only ext4.
    pub fn root(&self) -> PathBuf {
        self.artifact.path(ROOT)
    }

    /// The same file as it was found: as long as this leads to [`Image::root`], so does the name.
    pub fn found(&self) -> PathBuf {
        self.found.join(ROOT)
    }

    /// What is known of the root file system's file, which has this length and digest.
    pub(crate) fn record(&self) -> Option<&FileRecord> {
        self.artifact.files().get(ROOT)
    }

    /// Length of the root file system's file.
    pub fn size(&self) -> Bytes {
        Bytes::new(self.artifact.files().get(ROOT).map_or(0, |record| record.size))
    }
}
