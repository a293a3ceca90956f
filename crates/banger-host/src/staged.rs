//! Directories that are either whole or not there.
//!
//! An entry is built aside, under a lock that lasts exactly as long as its builder lives, and
//! renamed into place when everything in it is on the disk. What a killed builder left aside is
//! removed by the next one, never mistaken for an entry. An entry is removed the other way round.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{AtPath as _, Result};
use crate::fs::{create_private_dir, is_there, list_dir, remove_all, sync_parent};
use crate::inplace::{sync_dir, sync_file};
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
        let target = self.target.clone();
        self.sync()?.publish()?;
        sync_parent(&target)
    }

    /// Waits until all files in it have reached the disk, which may take long.
    ///
    /// # Errors
    /// When syncing fails.
    pub fn sync(self) -> Result<Synced> {
        for name in list_dir(&self.path)? {
            sync_file(&self.path.join(name))?;
        }
        sync_dir(&self.path)?;
        Ok(Synced(self))
    }
}

/// A directory that only lacks its place. Dropped before [`Synced::publish`], it is gone.
#[derive(Debug)]
pub struct Synced(Staged);

impl Synced {
    /// Puts the directory into its place, replacing what stood there. That is a rename and nothing
    /// more: it survives a power cut after [`sync_parent`].
    ///
    /// # Errors
    /// When renaming fails; what stood there before then still stands.
    pub fn publish(self) -> Result<()> {
        let Staged { path, target, .. } = &self.0;
        match renameat_with(CWD, path, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => fs::rename(path, target).at("rename into place", target),
            Err(error) => Err(error).at("rename into place", target),
        }
    }
}

/// Removes an entry, so that it is there whole or not at all whenever this is killed; none there is
/// no error.
///
/// # Errors
/// When it cannot be set aside, or something of it remains there.
pub fn remove(target: &Path) -> Result<()> {
    SetAside::take(target)?.map_or(Ok(()), SetAside::remove)
}

/// What was an entry and is to be removed. Dropped before that, it is gone as well as that can be.
#[derive(Debug)]
pub struct SetAside(Staged);

impl SetAside {
    /// Takes an entry, whatever it is, out of its place, which is a rename; `None` when there is
    /// none. Whoever builds it is waited for.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn take(target: &Path) -> Result<Option<Self>> {
        if !is_there(target) {
            return Ok(None);
        }
        let staged = Staged::begin(target)?;
        remove_all(&staged.path)?;
        match fs::rename(target, &staged.path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("set aside", target),
        }
        Ok(Some(Self(staged)))
    }

    /// Removes it.
    ///
    /// # Errors
    /// When something of it remains.
    pub fn remove(self) -> Result<()> {
        sync_parent(&self.0.target)?;
        remove_all(&self.0.path)
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
    fn what_is_synced_has_no_place_before_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("entry");
        let synced = build(&target, b"first").sync().unwrap();
        assert!(!target.exists());
        synced.publish().unwrap();
        assert_eq!(read_bounded(&target.join("file"), 10).unwrap(), b"first");
        drop(build(&target, b"second").sync().unwrap());
        assert_eq!(read_bounded(&target.join("file"), 10).unwrap(), b"first");
        assert_eq!(list_dir(dir.path()).unwrap(), [".entry.lock", "entry"]);
    }

    #[test]
    fn an_entry_goes_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("entry");
        remove(&target).unwrap();
        build(&target, b"first").commit().unwrap();
        let aside = SetAside::take(&target).unwrap().unwrap();
        assert!(!target.exists());
        assert_eq!(sweep(dir.path(), |_| Ok(())).unwrap(), 0, "somebody removes it");
        // As if killed here.
        let left = aside.0.path.clone();
        let kept = dir.path().join("kept");
        fs::rename(&left, &kept).unwrap();
        drop(aside);
        fs::rename(&kept, &left).unwrap();
        assert_eq!(sweep(dir.path(), |_| Ok(())).unwrap(), 1);
        assert_eq!(list_dir(dir.path()).unwrap(), [".entry.lock"]);
        // Whatever it is.
        write_atomic(&target, b"a file").unwrap();
        remove(&target).unwrap();
        std::os::unix::fs::symlink("nowhere", &target).unwrap();
        remove(&target).unwrap();
        assert_eq!(list_dir(dir.path()).unwrap(), [".entry.lock"]);
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
