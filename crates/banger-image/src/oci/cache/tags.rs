//! What tags meant when they were last asked for: their registries may be out of reach later.

use std::path::PathBuf;
use std::time::Duration;

use banger_host::fs::{is_there, list_dir, read_bounded, remove_all, write_atomic};
use banger_host::{HostError, clock};
use banger_model::{Digest, DigestAlgorithm, ImageReference};
use serde::{Deserialize, Serialize};

use super::super::hash::digest_of;
use super::Cache;

/// Most bytes of a record: a reference, a digest and a number.
const MAX_RECORD: u64 = 4096;

/// What a tag meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::oci) struct TagRecord {
    pub(in crate::oci) reference: ImageReference,
    pub(in crate::oci) digest: Digest,
    /// Seconds since 1970.
    seen: u64,
}

impl TagRecord {
    /// When that was, since 1970.
    pub(in crate::oci) fn seen(&self) -> Duration {
        Duration::from_secs(self.seen)
    }
}

impl Cache {
    /// What this tag meant; `None` when that is not known.
    pub(in crate::oci) fn remembered(&self, reference: &ImageReference) -> Option<TagRecord> {
        // A record that cannot be read is as good as none.
        let bytes = read_bounded(&self.tag_path(reference), MAX_RECORD).ok()?;
        let record: TagRecord = serde_json::from_slice(&bytes).ok()?;
        (record.reference == *reference).then_some(record)
    }

    /// Remembers what this tag means now.
    pub(in crate::oci) fn remember(
        &self,
        reference: &ImageReference,
        digest: &Digest,
    ) -> Result<(), HostError> {
        let (reference, digest) = (reference.clone(), digest.clone());
        let record = TagRecord { reference, digest, seen: clock::wall().as_secs() };
        let path = self.tag_path(&record.reference);
        let json = serde_json::to_vec(&record)
            .map_err(|error| HostError::system("write down a tag", std::io::Error::other(error)))?;
        write_atomic(&path, &json)
    }

    /// Forgets the tags whose manifests are gone: they tell nothing any more.
    pub(super) fn forget_tags(&self) -> Result<(), HostError> {
        let dir = self.inner.root.join("tags");
        for name in list_dir(&dir)? {
            let path = dir.join(name);
            let record = read_bounded(&path, MAX_RECORD).ok();
            let record = record.and_then(|json| serde_json::from_slice::<TagRecord>(&json).ok());
            if record.is_some_and(|record| !is_there(&self.blob_path(&record.digest))) {
                remove_all(&path)?;
            }
        }
        Ok(())
    }

    fn tag_path(&self, reference: &ImageReference) -> PathBuf {
        let name = digest_of(DigestAlgorithm::Sha256, reference.to_string().as_bytes());
        self.inner.root.join("tags").join(format!("{}.json", name.hex()))
    }
}
