//! Snapshots that are not as they were taken. Nothing is made from one. What is left of it stays until its
//! user removes it: it may be mended, and what another banger has written may be whole to that.

use std::path::Path;

use banger_host::fs::{file_size, list_dir, read_bounded};
use banger_model::{Bytes, SandboxName, SnapshotId, SnapshotName, SnapshotTag};
use serde::Deserialize;

use super::snapshot::{ABOUT, About, MAX_ABOUT_LEN};

/// A snapshot that is damaged.
#[derive(Debug)]
pub(crate) struct Damaged {
    /// Its id.
    pub id: SnapshotId,
    /// What is known about it, if that can be understood.
    pub about: Option<About>,
    /// What is wrong with it.
    pub why: String,
    /// What its files take on the disk.
    pub size: Bytes,
    called: Called,
}

/// As much of a description as tells what a snapshot is called.
#[derive(Debug, Default, Deserialize)]
struct Called {
    #[serde(default)]
    sandbox: Option<SandboxName>,
    #[serde(default)]
    tag: Option<SnapshotTag>,
}

impl Damaged {
    /// What there is of the snapshot of this id in a directory, which cannot be opened for this reason.
    pub(super) fn look(dir: &Path, id: SnapshotId, why: &anyhow::Error) -> Self {
        let json = read_bounded(&dir.join(ABOUT), MAX_ABOUT_LEN).unwrap_or_default();
        let files = list_dir(dir).unwrap_or_default();
        let sizes = files.iter().filter_map(|name| file_size(&dir.join(name)).ok());
        Self {
            id,
            about: serde_json::from_slice(&json).ok(),
            why: format!("{why:#}"),
            size: Bytes::new(sizes.map(|size| size.real.get()).sum()),
            called: serde_json::from_slice(&json).unwrap_or_default(),
        }
    }

    /// What its user calls it, or what stands for that.
    pub(crate) fn name(&self) -> SnapshotName {
        match (self.called.sandbox.clone(), self.called.tag.clone()) {
            (Some(sandbox), Some(tag)) => SnapshotName { sandbox, tag },
            (sandbox, _) => SnapshotName::standing_for(&self.id, sandbox),
        }
    }

    /// Its tag, if it is one of a sandbox of this name.
    pub(super) fn tag_of(&self, sandbox: &SandboxName) -> Option<&SnapshotTag> {
        let is_its = self.called.sandbox.as_ref() == Some(sandbox);
        self.called.tag.as_ref().filter(|_| is_its)
    }

    /// Whether it is certainly one of a fork, which nobody can name.
    pub(super) fn is_of_fork(&self) -> bool {
        self.about.as_ref().is_some_and(|about| about.tag.is_none())
    }
}
