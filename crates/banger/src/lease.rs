//! A lease: a sandbox that was made with one goes when this process does.

use anyhow::Result;
use banger_host::fs::{ensure_private_dir, remove_all};
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::random;
use banger_model::LeaseId;

/// A locked file that names this process's right to a sandbox.
#[derive(Debug)]
pub(crate) struct Lease {
    id: LeaseId,
    home: Home,
    _lock: FileLock,
}

impl Lease {
    /// A new one.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn take(home: &Home) -> Result<Self> {
        ensure_private_dir(&home.leases())?;
        let id = LeaseId::from_random(random::bytes()?);
        let lock = FileLock::acquire(&home.lease(&id))?;
        Ok(Self { id, home: home.clone(), _lock: lock })
    }

    /// What the daemon is to watch.
    pub(crate) fn id(&self) -> LeaseId {
        self.id.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The daemon does it, too; without a sandbox nobody else would before its next start.
        let _ = remove_all(&self.home.lease(&self.id));
    }
}
