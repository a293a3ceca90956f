//! What is in the cache, and making it smaller.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use banger_host::error::AtPath as _;
use banger_host::fs::{list_dir, remove_all};
use banger_host::lock::{FileLock, Removal, remove_unused};
use banger_host::{HostError, clock};
use banger_model::{Bytes, Digest, DigestAlgorithm};

use super::{ALGORITHMS, Cache};

/// What is aside for longer than this is not being written any more: only small files are
/// written so.
const LEFT_OVER: Duration = Duration::from_secs(60 * 60);

/// Whether all of a blob is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All.
    Whole,
    /// Its beginning.
    Partial,
}

/// One thing in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its name.
    pub digest: Digest,
    /// Its bytes, as far as they are here.
    pub size: Bytes,
    /// When it was used last, since 1970.
    pub last_use: Duration,
    /// Whether all of it is there.
    pub extent: Extent,
}

/// What a prune did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// What is gone, in this order.
    pub removed: Vec<Digest>,
    /// The bytes of that.
    pub freed: Bytes,
    /// What is still there.
    pub left: Bytes,
}

impl Cache {
    /// What is here, the least recently used first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<CacheEntry>, HostError> {
        let mut entries = Vec::new();
        for algorithm in ALGORITHMS {
            let dir = self.inner.root.join("blobs").join(algorithm.as_str());
            let name = |name: &str| parse(algorithm, name);
            collect(&dir, Extent::Whole, name, &mut entries)?;
        }
        let name = |name: &str| {
            let (algorithm, hex) = name.split_once('-')?;
            format!("{algorithm}:{hex}").parse().ok()
        };
        collect(&self.inner.root.join("partial"), Extent::Partial, name, &mut entries)?;
        let order = |entry: &CacheEntry| (entry.last_use, entry.digest.clone());
        entries.sort_by_key(order);
        Ok(entries)
    }

    /// Removes the least recently used of what nobody uses, until no more than `keep` is left or
    /// the rest is in use.
    ///
    /// # Errors
    /// When the directory cannot be read, or something cannot be removed.
    pub fn prune(&self, keep: Bytes) -> Result<Pruned, HostError> {
        let entries = self.list()?;
        let sum = entries.iter().fold(0u64, |sum, e| sum.saturating_add(e.size.get()));
        let (mut left, mut removed) = (sum, Vec::new());
        for entry in entries {
            if left <= keep.get() {
                break;
            }
            if self.remove(&entry)? != Removal::InUse {
                left = left.saturating_sub(entry.size.get());
                removed.push(entry.digest);
            }
        }
        self.sweep()?;
        self.forget_tags()?;
        Ok(Pruned { removed, freed: Bytes::new(sum - left), left: Bytes::new(left) })
    }

    /// Removes what killed writers left aside long ago.
    fn sweep(&self) -> Result<(), HostError> {
        let algorithms = ALGORITHMS.map(|a| self.inner.root.join("blobs").join(a.as_str()));
        for dir in algorithms.into_iter().chain([self.inner.root.join("tags")]) {
            for name in list_dir(&dir)? {
                let path = dir.join(&name);
                let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                let age =
                    meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let age = clock::wall().saturating_sub(age.unwrap_or_default());
                if name.to_str().is_some_and(is_left_over) && age > LEFT_OVER {
                    remove_all(&path)?;
                }
            }
        }
        Ok(())
    }

    fn remove(&self, entry: &CacheEntry) -> Result<Removal, HostError> {
        match entry.extent {
            Extent::Whole => remove_unused(&self.blob_path(&entry.digest)),
            Extent::Partial => {
                let lock_path = self.lock_path(&entry.digest);
                let Some(_lock) = FileLock::try_acquire(&lock_path)? else {
                    return Ok(Removal::InUse);
                };
                remove_all(&self.partial_path(&entry.digest))?;
                remove_all(&lock_path)?;
                Ok(Removal::Removed)
            }
        }
    }
}

/// Whether this is what a killed writer left aside, before it had its name.
fn is_left_over(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".new")
}

fn parse(algorithm: DigestAlgorithm, hex: &str) -> Option<Digest> {
    format!("{}:{hex}", algorithm.as_str()).parse().ok()
}

fn collect(
    dir: &Path,
    extent: Extent,
    parse: impl Fn(&str) -> Option<Digest>,
    entries: &mut Vec<CacheEntry>,
) -> Result<(), HostError> {
    for name in list_dir(dir)? {
        let Some(digest) = name.to_str().and_then(&parse) else { continue };
        let path: PathBuf = dir.join(&name);
        let meta = match fs::symlink_metadata(&path) {
            // It went meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.at("look at", &path)?,
        };
        let modified = meta.modified().at("look at", &path)?;
        let last_use = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        entries.push(CacheEntry { digest, size: Bytes::new(meta.len()), last_use, extent });
    }
    Ok(())
}
