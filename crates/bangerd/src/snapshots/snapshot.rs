//! One snapshot on the disk: the machine as it was saved, and what is known about it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use banger_host::fs::{file_size, read_bounded, write_atomic};
use banger_model::{
    Accelerator, Bytes, ImageId, SandboxName, SandboxSpec, SnapshotId, SnapshotName, SnapshotTag,
    Timestamp,
};
use banger_vmm::SavedMachine;
use serde::{Deserialize, Serialize};

use crate::origin::Origin;
use crate::saved;
use crate::templates::Shape;

pub(super) const ABOUT: &str = "snapshot.json";
/// Longest description that makes sense, in bytes.
pub(super) const MAX_ABOUT_LEN: u64 = 64 * 1024;

/// What is known about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// What the sandbox was called.
    pub sandbox: SandboxName,
    /// Which of its snapshots this is; none of a fork's.
    #[serde(default)]
    pub tag: Option<SnapshotTag>,
    /// What the sandbox was made of.
    pub spec: SandboxSpec,
    /// The image that its disk belongs to.
    pub image: ImageId,
    /// What its machine looked like.
    pub shape: Shape,
    /// What executed it.
    pub accelerator: Accelerator,
    /// What its memory belongs to; an older banger did not write all of that down.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// When it was taken.
    pub created: Timestamp,
    /// The digest of the devices' state.
    pub devices_sha256: String,
}

/// A snapshot that is whole.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What is known about it.
    pub about: About,
    /// What its files take on the disk.
    pub size: Bytes,
    /// How large they seem.
    pub apparent: Bytes,
    dir: PathBuf,
}

impl About {
    /// What its memory belongs to.
    pub(crate) fn origin(&self) -> Origin {
        self.origin.clone().unwrap_or_else(|| self.shape.origin(self.accelerator))
    }

    /// Writes it down beside the machine's files, which are there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        Ok(write_atomic(&dir.join(ABOUT), &serde_json::to_vec_pretty(self)?)?)
    }
}

impl Snapshot {
    /// The snapshot in a directory, checked.
    ///
    /// # Errors
    /// When it is not whole.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let id = name.parse().with_context(|| format!("{} is no snapshot", dir.display()))?;
        let json = read_bounded(&dir.join(ABOUT), MAX_ABOUT_LEN)?;
        let about: About = serde_json::from_slice(&json)
            .with_context(|| format!("cannot understand {}", dir.join(ABOUT).display()))?;
        let size = saved::check(dir, &about.shape, &about.devices_sha256)?;
        let devices = file_size(&saved::files(dir).devices)?.apparent;
        let apparent = [about.shape.memory.bytes(), about.shape.disk.bytes(), devices];
        let apparent = Bytes::new(apparent.map(Bytes::get).iter().sum());
        Ok(Self { id, about, size, apparent, dir: dir.to_owned() })
    }

    /// Checks again that it is whole: what is taken from it now is never looked at again.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn check(&self) -> Result<()> {
        let checked = saved::check(&self.dir, &self.about.shape, &self.about.devices_sha256);
        checked.map(drop).with_context(|| format!("snapshot {} is damaged", self.shown()))
    }

    /// Its memory and devices.
    pub(crate) fn saved(&self) -> SavedMachine {
        saved::files(&self.dir)
    }

    /// Its disk.
    pub(crate) fn disk(&self) -> PathBuf {
        saved::disk(&self.dir)
    }

    /// What its user calls it; nothing for a fork's.
    pub(crate) fn name(&self) -> Option<SnapshotName> {
        let tag = self.about.tag.clone()?;
        Some(SnapshotName { sandbox: self.about.sandbox.clone(), tag })
    }

    pub(super) fn has_name(&self, name: &SnapshotName) -> bool {
        self.about.sandbox == name.sandbox && self.about.tag.as_ref() == Some(&name.tag)
    }

    /// How a message calls it.
    pub(crate) fn shown(&self) -> String {
        match self.name() {
            Some(name) => name.to_string(),
            None => format!("of {}", self.about.sandbox),
        }
    }
}
