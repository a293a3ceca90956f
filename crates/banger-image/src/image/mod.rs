//! Images: read-only root file systems with the wishes of what is in them.
//!
//! An image is an artifact of one file, `root.ext4`; its `meta.json` carries its config. All
//! sandboxes of an image share the file, and so its pages in the host's memory.

mod bootstrap;
mod config;

use std::path::PathBuf;

use banger_host::home::Home;
use banger_host::{HostError, fs};
use banger_model::{Bytes, ImageName, Progress};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use bootstrap::{MakeImageError, parse_stage};
pub use config::{ImageConfig, InitMode};

use crate::artifact::{Address, Artifact, ArtifactKind, Claim, ClaimError, OpenError, claim};

/// The one image that can be made.
pub const DEBIAN_BOOKWORM: &str = "debian-bookworm";

const ROOT: &str = "root.ext4";

/// What an image was made from, and how it wants to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Where it comes from, for people to read.
    pub source: String,
    /// How it wants to be run.
    pub config: ImageConfig,
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
    name: ImageName,
    artifact: Artifact<ImageInfo>,
}

impl Image {
    /// Opens an image that is here.
    ///
    /// # Errors
    /// [`OpenError`] when there is none, or it is not as it was made.
    pub fn open(home: &Home, name: &ImageName) -> Result<Self, OpenError> {
        let artifact = Artifact::open(address(home, name))?;
        Ok(Self { name: name.clone(), artifact })
    }

    /// Whether there is such an image, or it can be made: before anything else is made for it.
    ///
    /// # Errors
    /// [`OpenError`] when there is none and cannot be.
    pub fn check(home: &Home, name: &ImageName) -> Result<(), OpenError> {
        if name.as_str() == DEBIAN_BOOKWORM {
            return Ok(());
        }
        Self::open(home, name).map(drop)
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
        if name.as_str() != DEBIAN_BOOKWORM {
            return Ok(Self::open(home, name)?);
        }
        let failed = |source: MakeImageError| EnsureImageError::Make {
            name: name.clone(),
            source: source.into(),
        };
        let address = address(home, name);
        let artifact = match claim(&address, progress) {
            Ok(Claim::Here(artifact)) => artifact,
            Ok(Claim::ToMake(staged)) => {
                let work = home.cache().join("bootstrap").join(name.as_str());
                bootstrap::make(address, staged, &work, progress).map_err(failed)?
            }
            Err(ClaimError::Open(error)) => return Err(error.into()),
            Err(ClaimError::Stage(error)) => return Err(failed(MakeImageError::Keep(error))),
        };
        Ok(Self { name: name.clone(), artifact })
    }

    /// Names of the images that are here.
    ///
    /// # Errors
    /// When the directory of images cannot be read.
    pub fn list(home: &Home) -> Result<Vec<ImageName>, HostError> {
        let names = fs::list_dir(&home.images())?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Removes an image, also a damaged one; none there is no error.
    ///
    /// # Errors
    /// When something of it remains.
    pub fn remove(home: &Home, name: &ImageName) -> Result<(), HostError> {
        fs::remove_all(&home.image(name))
    }

    /// Reads all of it and compares it with what was made.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when a file has changed.
    pub fn verify(&self) -> Result<(), OpenError> {
        self.artifact.verify()
    }

    /// Its name.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// What it was made from.
    pub fn info(&self) -> &ImageInfo {
        self.artifact.info()
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

    /// Length of the root file system's file.
    pub fn size(&self) -> Bytes {
        Bytes::new(self.artifact.files().get(ROOT).map_or(0, |record| record.size))
    }
}

fn address(home: &Home, name: &ImageName) -> Address {
    Address {
        kind: ArtifactKind::Image,
        name: name.to_string(),
        dir: home.image(name),
        files: &[ROOT],
        can_be_made: &[DEBIAN_BOOKWORM],
    }
}
