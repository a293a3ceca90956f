//! Directories for what one process needs for a while: they go with it, however it ends.
//!
//! Each has a lock beside it that lasts exactly as long as its owner lives. What a killed owner has
//! left is removed by whoever makes the next one, and by [`sweep`].

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::fs::{create_private_dir, ensure_private_dir, list_dir, remove_all};
use crate::lock::FileLock;
use crate::random;

/// Ends the names of locks.
const LOCK: &str = ".lock";

/// A directory of this process's own. Dropped, it is gone.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock_path: PathBuf,
    // Dropped last: only when nothing is left may another look here.
    _lock: FileLock,
}

impl Scratch {
    /// Makes one in `parent`, which is this user's alone and for nothing else. What is there that
    /// belongs to nobody is removed first, as far as it can be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(parent: &Path) -> Result<Self> {
        ensure_private_dir(parent)?;
        // What somebody else left in a state that nobody can remove harms nobody here.
        let _ = sweep(parent);
        let name = format!("{:016x}", u64::from_ne_bytes(random::bytes()?));
        let lock_path = lock_of(parent, &name);
        let lock = FileLock::acquire(&lock_path)?;
        let scratch = Self { path: parent.join(name), lock_path, _lock: lock };
        create_private_dir(&scratch.path)?;
        Ok(scratch)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What remains is swept.
        let _ = remove_all(&self.path).and_then(|()| remove_all(&self.lock_path));
    }
}

/// Removes what is in `parent` and belongs to no process that lives; tells how many owners that
/// had. What cannot be removed keeps nothing else.
///
/// # Errors
/// When something cannot be looked at or removed: the first.
pub fn sweep(parent: &Path) -> Result<usize> {
    let (mut swept, mut failed) = (0, None);
    for entry in list_dir(parent)? {
        let Some(entry) = entry.to_str() else { continue };
        // A lock is made before its directory and removed after it.
        let lock = entry.strip_prefix('.').and_then(|entry| entry.strip_suffix(LOCK));
        match sweep_one(parent, lock.unwrap_or(entry)) {
            Ok(Some(())) => swept += 1,
            Ok(None) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(swept), Err)
}

/// `None` where it has an owner.
fn sweep_one(parent: &Path, name: &str) -> Result<Option<()>> {
    let lock_path = lock_of(parent, name);
    let Some(_lock) = FileLock::try_acquire(&lock_path)? else { return Ok(None) };
    remove_all(&parent.join(name))?;
    remove_all(&lock_path)?;
    Ok(Some(()))
}

fn lock_of(parent: &Path, name: &str) -> PathBuf {
    parent.join(format!(".{name}{LOCK}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::write_atomic;

    #[test]
    fn what_nobody_owns_any_more_goes_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("imports");
        let mine = Scratch::begin(&parent).unwrap();
        write_atomic(&mine.path().join("archive"), b"bytes").unwrap();
        // As killed owners leave them: before anything, after the lock, and with all of it.
        create_private_dir(&parent.join("0000000000000001")).unwrap();
        write_atomic(&lock_of(&parent, "0000000000000002"), b"").unwrap();
        create_private_dir(&parent.join("0000000000000003")).unwrap();
        write_atomic(&lock_of(&parent, "0000000000000003"), b"").unwrap();
        write_atomic(&parent.join("0000000000000003/archive"), b"bytes").unwrap();
        let other = Scratch::begin(&parent).unwrap();
        assert_eq!(list_dir(&parent).unwrap().len(), 4, "two, with their locks");
        assert_eq!(sweep(&parent).unwrap(), 0);
        assert!(mine.path().join("archive").exists() && other.path().exists());
        drop((mine, other));
        assert!(list_dir(&parent).unwrap().is_empty());
        assert_eq!(sweep(&root.path().join("none")).unwrap(), 0);
    }
}
