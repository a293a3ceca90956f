//! The beginning of a blob: what one attempt left, the next goes on with.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use banger_host::HostError;
use banger_host::error::AtPath as _;
use banger_host::fs::{remove_all, rename};
use banger_host::lock::{FileLock, SharedFile};
use banger_model::Digest;
use tokio::sync::OwnedMutexGuard;

use super::super::hash::{Hasher, read_into};
use super::{Blob, Cache};

/// The right to fetch a blob: within this process, and among all. Given back in this order.
type Turn = (OwnedMutexGuard<()>, FileLock);

/// A blob in the making. Dropped, what there is of it stays for the next attempt.
#[derive(Debug)]
pub(in crate::oci) struct Partial {
    cache: Cache,
    path: PathBuf,
    file: File,
    hash: Hasher,
    digest: Digest,
    /// How long it will be.
    size: u64,
    /// How much of it there is.
    len: u64,
    _turn: Turn,
}

/// What became of bytes that should be the whole blob.
#[derive(Debug)]
pub(in crate::oci) enum Written {
    /// It has its name now.
    Whole(Blob),
    /// It is something else, and removed.
    Wrong {
        /// What it was instead.
        found: Digest,
        /// To begin anew with.
        empty: Box<Partial>,
    },
}

impl Partial {
    /// Goes on where the last attempt ended; reads what that left.
    pub(super) fn open(
        cache: &Cache,
        digest: Digest,
        size: u64,
        turn: Turn,
    ) -> Result<Self, HostError> {
        let path = cache.partial_path(&digest);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).at("open", &path)?;
        let hash = Hasher::new(digest.algorithm());
        let cache = cache.clone();
        let mut partial = Self { cache, path, file, hash, digest, size, len: 0, _turn: turn };
        partial.len = read_into(&mut partial.hash, &mut partial.file).at("read", &partial.path)?;
        if partial.len > size {
            partial.restart()?;
        }
        Ok(partial)
    }

    pub(in crate::oci) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How much of it there is.
    pub(in crate::oci) fn len(&self) -> u64 {
        self.len
    }

    /// How much of it there will be.
    pub(in crate::oci) fn size(&self) -> u64 {
        self.size
    }

    /// Forgets all of it.
    pub(in crate::oci) fn restart(&mut self) -> Result<(), HostError> {
        self.hash = Hasher::new(self.digest.algorithm());
        self.len = 0;
        self.file.set_len(0).at("empty", &self.path)?;
        self.file.seek(SeekFrom::Start(0)).map(drop).at("seek in", &self.path)
    }

    /// Adds bytes to its end.
    pub(in crate::oci) fn write(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        self.file.write_all(bytes).at("write", &self.path)?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Gives it its name, if it is what it should be.
    pub(in crate::oci) fn finish(mut self) -> Result<Written, HostError> {
        let found = self.hash.clone().finish();
        if found != self.digest || self.len != self.size {
            self.restart()?;
            return Ok(Written::Wrong { found, empty: Box::new(self) });
        }
        self.file.sync_all().at("sync", &self.path)?;
        // In use before it has its name: a prune at this moment must not remove it.
        let held = SharedFile::open(&self.path)?.ok_or_else(|| self.gone())?;
        rename(&self.path, &self.cache.blob_path(&self.digest))?;
        let _ = remove_all(&self.cache.lock_path(&self.digest));
        Ok(Written::Whole(Blob::new(self.digest.clone(), self.size, held)))
    }

    /// Somebody else has removed it, who has no business here.
    fn gone(&self) -> HostError {
        let source = std::io::ErrorKind::NotFound.into();
        HostError::Path { operation: "open", path: self.path.clone(), source }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Of nothing nothing needs to stay; what has its name by now is not here any more.
        if self.len == 0 {
            let _ = fs::remove_file(&self.path);
            let _ = remove_all(&self.cache.lock_path(&self.digest));
        }
    }
}
