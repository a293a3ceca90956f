//! Who owns a sandbox, said by a lock that dies with its owner.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use banger_host::fs::{create_private_dir, ensure_private_dir};
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_model::SandboxId;

/// Name of the lock file in a sandbox's directory.
const LEASE_FILE: &str = "lease";

/// The right to a sandbox: an flock on a file in its directory, which no program started for the
/// sandbox inherits. While it is held, the directory and everything in it is its holder's.
#[derive(Debug)]
pub struct Lease {
    dir: PathBuf,
    _lock: FileLock,
}

impl Lease {
    /// Makes the directory of a new sandbox and takes its lease in one step: nobody ever sees the
    /// one without the other.
    ///
    /// # Errors
    /// When the directory cannot be made or exists already.
    pub fn create(home: &Home, id: &SandboxId) -> Result<Self> {
        let _guard = guard(home)?;
        let dir = home.sandbox(id);
        create_private_dir(&dir)?;
        // QEMU is told relative names and a tag of the path: both want the real one.
        let dir =
            dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))?;
        let lock = FileLock::try_acquire(&dir.join(LEASE_FILE))?
            .with_context(|| format!("the new sandbox {id} has an owner already"))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Takes the lease of a sandbox whose owner is gone; `None` while it has one.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn take_over(home: &Home, dir: &Path) -> Result<Option<Self>> {
        let _guard = guard(home)?;
        if !dir.is_dir() {
            return Ok(None);
        }
        let lock = FileLock::try_acquire(&dir.join(LEASE_FILE))?;
        Ok(lock.map(|lock| Self { dir: dir.to_owned(), _lock: lock }))
    }

    /// Waits until the sandbox's owner is gone and takes its lease; `None` when the sandbox is
    /// gone, too.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn wait(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(LEASE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let lock = FileLock::acquire(&path)?;
        // The file may have been removed while this process waited for it.
        Ok(path.exists().then(|| Self { dir: dir.to_owned(), _lock: lock }))
    }

    /// The sandbox's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Held while a directory without a held lease may be a sandbox in the making.
fn guard(home: &Home) -> Result<FileLock> {
    ensure_private_dir(&home.sandboxes())?;
    Ok(FileLock::acquire(&home.sandboxes().join(".lock"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SandboxId {
        SandboxId::from_random([1, 2, 3, 4, 5, 6])
    }

    #[test]
    fn a_lease_has_one_holder_and_falls_with_it() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::under(root.path());
        let lease = Lease::create(&home, &id()).unwrap();
        let dir = lease.dir().to_owned();
        assert!(Lease::take_over(&home, &dir).unwrap().is_none());
        drop(lease);
        assert!(Lease::take_over(&home, &dir).unwrap().is_some());
    }

    #[test]
    fn a_sandbox_that_is_gone_has_no_lease() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::under(root.path());
        let lease = Lease::create(&home, &id()).unwrap();
        let dir = lease.dir().to_owned();
        let waiting = std::thread::spawn({
            let dir = dir.clone();
            move || Lease::wait(&dir).map(|lease| lease.is_some())
        });
        std::fs::remove_dir_all(&dir).unwrap();
        drop(lease);
        assert!(!waiting.join().unwrap().unwrap());
        assert!(Lease::take_over(&home, &dir).unwrap().is_none());
    }
}
