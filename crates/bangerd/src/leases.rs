//! Leases of clients: a sandbox with one goes when its client does, however that ends.
//!
//! A client makes a file, locks it, and names it when it asks for a sandbox. The lock falls with
//! the client's process, and the kernel tells whoever waits for it. The file is there before the
//! sandbox is, so there is no moment at which nobody holds it. It goes with the sandbox: a lease
//! makes one, ever, and who asks again after somebody has deleted it is told so.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use anyhow::{Result, bail};
use banger_host::fs::{is_there, list_dir, remove_all};
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_model::LeaseId;
use tokio::sync::{Mutex, MutexGuard};

/// Room for what waiting for a lock calls, in bytes.
const STACK: usize = 64 * 1024;

/// One lease makes one sandbox, even when it is asked for twice at once: who makes it has the
/// turn. Leases share turns, so there are always as many; few enough wait for each other.
#[derive(Debug)]
pub(crate) struct Turns([Mutex<()>; TURNS]);

/// As many as a byte can tell apart.
const TURNS: usize = 256;

impl Default for Turns {
    fn default() -> Self {
        Self([const { Mutex::const_new(()) }; TURNS])
    }
}

impl Turns {
    /// Waits until nobody else makes a sandbox of this lease.
    pub(crate) async fn take(&self, lease: &LeaseId) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        lease.hash(&mut hasher);
        let [turn, ..] = hasher.finish().to_le_bytes();
        self.0[usize::from(turn)].lock().await
    }
}

/// Whether a client holds this lease, and it has made no sandbox yet.
///
/// # Errors
/// When nobody does, its sandbox was deleted, or it cannot be looked at.
pub(crate) fn check(home: &Home, lease: &LeaseId) -> Result<()> {
    let path = home.lease(lease);
    if !is_there(&path) {
        bail!(
            "the lease {lease} is over: its sandbox was deleted, or there never was such a lease"
        );
    }
    if FileLock::try_acquire(&path)?.is_some() {
        bail!("nobody holds the lease {lease}");
    }
    Ok(())
}

/// Calls `fallen` once nobody holds the lease any more; removes its file then. The thread that
/// waits for it sleeps in the kernel, and ends with the daemon.
///
/// # Errors
/// When there is no thread for it.
pub(crate) fn watch(
    home: &Home,
    lease: &LeaseId,
    fallen: impl FnOnce() + Send + 'static,
) -> std::io::Result<()> {
    let path = home.lease(lease);
    let wait = move || {
        wait_and_remove(&path);
        fallen();
    };
    std::thread::Builder::new().name("lease".to_owned()).stack_size(STACK).spawn(wait).map(drop)
}

fn wait_and_remove(path: &Path) {
    if !is_there(path) {
        return;
    }
    // A lock that cannot be waited for protects nobody.
    let lock = FileLock::acquire(path);
    let _ = remove_all(path);
    drop(lock);
}

/// Removes leases that nobody holds and `needed` does not name; returns how many.
///
/// # Errors
/// When they cannot be looked at.
pub(crate) fn sweep(home: &Home, needed: impl Fn(&LeaseId) -> bool) -> Result<usize> {
    let mut swept = 0;
    for name in list_dir(&home.leases())? {
        let Some(name) = name.to_str() else { continue };
        let lease = LeaseId::try_from(name.to_owned());
        let Ok(lease) = lease else { continue };
        if needed(&lease) {
            continue;
        }
        let path = home.lease(&lease);
        if FileLock::try_acquire(&path)?.is_some() {
            remove_all(&path)?;
            swept += 1;
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::fs::ensure_private_dir;

    fn lease(byte: u8) -> LeaseId {
        LeaseId::from_random([byte; 16])
    }

    #[test]
    fn a_lease_is_held_until_its_holder_lets_go() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::under(root.path());
        ensure_private_dir(&home.leases()).unwrap();
        assert!(check(&home, &lease(1)).is_err(), "there is no such lease");
        assert!(!home.lease(&lease(1)).exists(), "looking makes none");
        let held = FileLock::acquire(&home.lease(&lease(1))).unwrap();
        check(&home, &lease(1)).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        watch(&home, &lease(1), move || tell.send(()).unwrap()).unwrap();
        assert!(told.try_recv().is_err());
        drop(held);
        told.recv().unwrap();
        assert!(!home.lease(&lease(1)).exists());
    }

    #[test]
    fn what_nobody_holds_or_needs_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::under(root.path());
        assert_eq!(sweep(&home, |_| false).unwrap(), 0);
        ensure_private_dir(&home.leases()).unwrap();
        let _held = FileLock::acquire(&home.lease(&lease(1))).unwrap();
        for byte in [2, 3] {
            drop(FileLock::acquire(&home.lease(&lease(byte))).unwrap());
        }
        assert_eq!(sweep(&home, |id| *id == lease(2)).unwrap(), 1);
        let left: Vec<_> = [1, 2, 3].map(|byte| home.lease(&lease(byte)).exists()).into();
        assert_eq!(left, [true, true, false]);
    }
}
