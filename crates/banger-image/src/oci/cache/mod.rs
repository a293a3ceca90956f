//! Content by its digest in a directory: whole, or in the making beside it.
//!
//! ```text
//! blobs/sha256/HEX      whole and verified; the time of its last use is its file's
//! partial/sha256-HEX    the beginning of one; who fetches it holds …
//! partial/sha256-HEX.lock
//! tags/HEX.json         what a tag meant when it was last asked for
//! ```
//!
//! A blob gets its name only when all of it is on the disk and has that digest, so whatever has a
//! name is right. Whoever uses a blob has a shared lock on its file, and is left alone by
//! [`Cache::prune`]. Everything here may be removed at any time; it is fetched again.

mod partial;
mod prune;
mod tags;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::UNIX_EPOCH;

use banger_host::error::AtPath as _;
use banger_host::fs::{create_private_dir, ensure_private_dir, remove_all};
use banger_host::lock::{FileLock, SharedFile};
use banger_host::{HostError, clock};
use banger_model::{Bytes, Digest, DigestAlgorithm};

use super::hash::{Hasher, read_into};
pub(super) use partial::{Partial, Written};
pub use prune::{CacheEntry, Extent, Pruned};

/// Where the blobs of each algorithm are.
const ALGORITHMS: [DigestAlgorithm; 2] = [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512];

/// The directory. Clones share what they know of each other; other processes are kept out by
/// locks.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Who fetches what in this process: waiting for a file's lock would take a thread each.
    turns: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// A blob that is here, and stays as long as this value does.
#[derive(Clone, Debug)]
pub struct Blob {
    digest: Digest,
    size: u64,
    file: Arc<SharedFile>,
}

/// What there is of a blob that somebody wants.
#[derive(Debug)]
pub(super) enum Claim {
    /// All.
    Here(Blob),
    /// A part or nothing; nobody else fetches it.
    ToFetch(Box<Partial>),
}

impl Cache {
    /// The cache in this directory, which is made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or others may write to it.
    pub fn open(root: &Path) -> Result<Self, HostError> {
        ensure_private_dir(root)?;
        for algorithm in ALGORITHMS {
            create_private_dir(&root.join("blobs").join(algorithm.as_str()))?;
        }
        create_private_dir(&root.join("partial"))?;
        create_private_dir(&root.join("tags"))?;
        let turns = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { root: root.to_owned(), turns }) })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// A blob that is here whole; this is a use of it.
    ///
    /// # Errors
    /// When it is there but cannot be opened.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>, HostError> {
        let path = self.blob_path(digest);
        let Some(file) = SharedFile::open(&path)? else { return Ok(None) };
        let size = file.file().metadata().at("look at", &path)?.len();
        // That it was used now is worth no failure.
        let _ = file.file().set_modified(UNIX_EPOCH + clock::wall());
        Ok(Some(Blob::new(digest.clone(), size, file)))
    }

    /// Waits until nobody else fetches this blob, and tells what there is of it then.
    pub(super) async fn claim(&self, digest: &Digest, size: u64) -> Result<Claim, HostError> {
        if let Some(blob) = self.blob(digest)? {
            return Ok(Claim::Here(blob));
        }
        let turn = self.turn(digest).lock_owned().await;
        let (cache, digest) = (self.clone(), digest.clone());
        in_thread(move || {
            let lock = FileLock::acquire(&cache.lock_path(&digest))?;
            // Whoever had it before may have fetched it.
            if let Some(blob) = cache.blob(&digest)? {
                let _ = remove_all(&cache.lock_path(&digest));
                return Ok(Claim::Here(blob));
            }
            let partial = Partial::open(&cache, digest, size, (turn, lock))?;
            Ok(Claim::ToFetch(Box::new(partial)))
        })
        .await
    }

    fn turn(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(digest.clone(), Arc::downgrade(&turn));
        turn
    }

    /// Keeps bytes that have this digest.
    pub(super) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<Blob, HostError> {
        let path = self.blob_path(digest);
        loop {
            if let Some(blob) = self.blob(digest)? {
                return Ok(blob);
            }
            // Only a prune at this very moment removes it again.
            banger_host::fs::write_atomic(&path, bytes)?;
        }
    }

    /// Removes a blob whose content is not what its name says.
    pub(crate) fn discard(&self, digest: &Digest) -> Result<(), HostError> {
        remove_all(&self.blob_path(digest))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
        self.inner.root.join("partial").join(name)
    }

    fn lock_path(&self, digest: &Digest) -> PathBuf {
        self.partial_path(digest).with_extension("lock")
    }
}

impl Blob {
    fn new(digest: Digest, size: u64, file: SharedFile) -> Self {
        Self { digest, size, file: Arc::new(file) }
    }

    /// Its name.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its bytes.
    pub fn size(&self) -> Bytes {
        Bytes::new(self.size)
    }

    /// Its file. The place in it is shared: read at places of your own, or by [`Blob::reader`].
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// Reads it from its begin, whoever else reads it.
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), at: 0 }
    }

    /// Whether it still is what its name says. One that cannot be read is not.
    pub(crate) fn is_intact(&self) -> bool {
        let mut hash = Hasher::new(self.digest.algorithm());
        read_into(&mut hash, &mut self.reader()).is_ok() && hash.finish() == self.digest
    }

    /// All of a small one.
    pub(super) fn bytes(&self, limit: Bytes) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader().take(limit.get().saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A reader with a place of its own.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    at: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.blob.file().read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Runs what waits for the disk where waiting does no harm.
pub(super) async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(HostError::system("finish work on the cache", io::Error::other(error))),
    }
}
