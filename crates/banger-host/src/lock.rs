//! Advisory locks on files (flock(2)): they end with the last holder, however it dies.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{AtPath as _, Result};
use crate::fs::open_file;

/// An exclusive lock, held as long as the value lives. Children do not inherit it.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock, waiting for whoever holds it. The file is created where it is missing, and
    /// is there when this returns: one that its last holder has removed is not worth a lock.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn acquire(path: &Path) -> Result<Self> {
        loop {
            let file = open(path)?;
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) if is_at(&file, path)? => return Ok(Self { file }),
                Ok(()) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).at("lock", path),
            }
        }
    }

    /// Takes the lock if it is free; `None` when another holds it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, path)? => return Ok(Some(Self { file })),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).at("lock", path),
            }
        }
    }
}

impl Drop for FileLock {
    /// Closing would do, were it not for children between fork and exec, which have it open, too.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// A file that is read, under a lock that any number of readers hold at once: nobody removes it
/// by [`remove_unused`] meanwhile. Children do not inherit it.
#[derive(Debug)]
pub struct SharedFile {
    file: File,
}

impl SharedFile {
    /// Opens the file at `path`; `None` when there is none.
    ///
    /// # Errors
    /// When it is no file, or cannot be opened or locked.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        loop {
            let file = match open_file(path) {
                Err(error) if error.is_not_found() => return Ok(None),
                other => other?,
            };
            match flock(&file, FlockOperation::LockShared) {
                Ok(()) if is_at(&file, path)? => return Ok(Some(Self { file })),
                Ok(()) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).at("lock", path),
            }
        }
    }

    /// The file. Its place is shared by all who read it: read at places of your own.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for SharedFile {
    /// Closing would do, were it not for children between fork and exec, which have it open, too.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// What became of a file that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// Somebody has it open as a [`SharedFile`].
    InUse,
    /// There was none.
    NotThere,
}

/// Removes a file unless somebody has it open as a [`SharedFile`].
///
/// # Errors
/// When it cannot be opened, locked or removed.
pub fn remove_unused(path: &Path) -> Result<Removal> {
    let file = match open_file(path) {
        Err(error) if error.is_not_found() => return Ok(Removal::NotThere),
        other => other?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(Removal::InUse),
        other => other.at("lock", path)?,
    }
    if !is_at(&file, path)? {
        return Ok(Removal::NotThere);
    }
    std::fs::remove_file(path).at("remove", path)?;
    Ok(Removal::Removed)
}

/// Whether this is the file at `path`, and not one that was there.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let ours = file.metadata().at("look at", path)?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("look at", path),
    }
}

fn open(path: &Path) -> Result<File> {
    // std opens with O_CLOEXEC, so no program started later holds the lock on.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .at("open", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_a_lock_and_dropping_frees_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::acquire(&path).unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_descriptor_that_somebody_inherited_holds_no_lock_that_was_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::acquire(&path).unwrap();
        let _inherited = held.file.try_clone().unwrap();
        drop(held);
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn what_is_read_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        assert!(SharedFile::open(&path).unwrap().is_none());
        assert_eq!(remove_unused(&path).unwrap(), Removal::NotThere);
        crate::fs::write_atomic(&path, b"content").unwrap();
        let one = SharedFile::open(&path).unwrap().unwrap();
        let other = SharedFile::open(&path).unwrap();
        drop(one);
        assert_eq!(remove_unused(&path).unwrap(), Removal::InUse);
        drop(other);
        assert_eq!(remove_unused(&path).unwrap(), Removal::Removed);
        assert!(SharedFile::open(&path).unwrap().is_none());
    }

    #[test]
    fn a_descriptor_that_somebody_inherited_keeps_no_file_that_was_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        crate::fs::write_atomic(&path, b"content").unwrap();
        let read = SharedFile::open(&path).unwrap().unwrap();
        let _inherited = read.file().try_clone().unwrap();
        drop(read);
        assert_eq!(remove_unused(&path).unwrap(), Removal::Removed);
    }

    #[test]
    fn who_waited_for_a_file_that_is_removed_locks_the_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::acquire(&path).unwrap();
        let removed = path.metadata().unwrap().ino();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || FileLock::acquire(&path).unwrap()
        });
        // Whoever waits has it open; nothing else tells that it does.
        let opened = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            links.filter_map(|link| link.path().metadata().ok()).filter(|m| m.ino() == removed)
        };
        while opened().count() < 2 {
            std::thread::yield_now();
        }
        std::fs::remove_file(&path).unwrap();
        drop(held);
        let _got = waiting.join().unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none(), "it is locked by its path");
    }
}
