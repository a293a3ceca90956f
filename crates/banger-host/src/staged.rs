//! Directories that are either whole or not there.
//!
//! An entry is built aside, under a lock that lasts exactly as long as its builder lives, and
//! renamed into place when everything in it is on the disk. What a killed builder left aside is
//! removed by the next one, never mistaken for an entry.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{AtPath as _, Result};
use crate::fs::{create_private_dir, list_dir, remove_all, sync_parent};
use crate::lock::FileLock;

/// A directory in the making. Dropped before [`Staged::commit`], it is gone.
#[derive(Debug)]
pub struct Staged {
    target: PathBuf,
    path: PathBuf,
    // Dropped last: only when nothing is left aside may another builder begin.
    _lock: FileLock,
}

impl Staged {
    /// Begins to build the directory `target`, waiting for another that builds it already.
    ///
    /// The caller looks again whether `target` is there now: another may just have made it.
    ///
    /// # Errors
    /// When the parent cannot be made, locked or cleaned.
    pub fn begin(target: &Path) -> Result<Self> {
        let sibling = |suffix: &str| {
            let name = target.file_name().unwrap_or_default().to_string_lossy();
            target.with_file_name(format!(".{name}.{suffix}"))
        };
        create_private_dir(target.parent().unwrap_or(Path::new("/")))?;
        let lock = FileLock::acquire(&sibling("lock"))?;
        let path = sibling("new");
        remove_all(&path)?;
        create_private_dir(&path)?;
        Ok(Self { target: target.to_owned(), path, _lock: lock })
    }

    /// The directory to fill.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the directory into its place, replacing what stood there, once all files in it have
    /// reached the disk.
    ///
    /// # Errors
    /// When syncing or renaming fails; what stood there before then still stands.
    pub fn commit(self) -> Result<()> {
        for name in list_dir(&self.path)? {
            let file = self.path.join(name);
            File::open(&file).and_then(|f| f.sync_all()).at("sync", &file)?;
        }
        File::open(&self.path).and_then(|dir| dir.sync_all()).at("sync", &self.path)?;
        match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::NOENT) => {
                fs::rename(&self.path, &self.target).at("rename into place", &self.target)?;
            }
            Err(error) => return Err(error).at("rename into place", &self.target),
        }
        sync_parent(&self.target)
    }
}

/// What builders left aside in `parent` that are gone; `settled` is called with each before it is
/// removed. Those that are being built are not touched.
///
/// # Errors
/// When the parent cannot be looked at, or something cannot be settled or removed.
pub fn sweep(parent: &Path, mut settled: impl FnMut(&Path) -> Result<()>) -> Result<usize> {
    let mut swept = 0;
    for name in list_dir(parent)? {
        let Some(name) = name.to_str() else { continue };
        let Some(stem) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")) else {
            continue;
        };
        let lock = FileLock::try_acquire(&parent.join(format!(".{stem}.lock")))?;
        if lock.is_some() {
            let aside = parent.join(name);
            settled(&aside)?;
            remove_all(&aside)?;
            swept += 1;
        }
    }
    Ok(swept)
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit this is the replaced directory, or nothing.
        let _ = remove_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_builds_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let building = Staged::begin(&parent.path().join("a")).unwrap();
        create_private_dir(&parent.path().join(".b.new")).unwrap();
        let mut seen = Vec::new();
        let swept = sweep(parent.path(), |aside| {
            seen.push(aside.to_owned());
            Ok(())
        });
        assert_eq!(swept.unwrap(), 1);
        assert_eq!(seen, [parent.path().join(".b.new")]);
        assert!(building.path().exists() && !seen[0].exists());
    }
    use crate::fs::{read_bounded, write_atomic};

    fn build(target: &Path, content: &[u8]) -> Staged {
        let staged = Staged::begin(target).unwrap();
        write_atomic(&staged.path().join("file"), content).unwrap();
        staged
    }

    #[test]
    fn an_entry_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("entry");
        drop(build(&target, b"abandoned"));
        assert!(!target.exists());
        build(&target, b"first").commit().unwrap();
        build(&target, b"second").commit().unwrap();
        assert_eq!(read_bounded(&target.join("file"), 10).unwrap(), b"second");
        assert_eq!(list_dir(dir.path()).unwrap(), [".entry.lock", "entry"]);
    }

    #[test]
    fn what_a_killed_builder_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("entry");
        let killed = build(&target, b"half");
        let leftover = killed.path().to_owned();
        drop(killed);
        create_private_dir(&leftover.join("half-made")).unwrap();
        let staged = Staged::begin(&target).unwrap();
        assert!(list_dir(staged.path()).unwrap().is_empty());
    }
}
