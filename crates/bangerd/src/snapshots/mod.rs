//! Snapshots: what sandboxes were at one moment, from which others are made.
//!
//! A snapshot is whole or not there, and never changes. One with a tag stays until its user
//! removes it. One without is of a fork, and goes when the last sandbox that is made from it has
//! come up: from then on each has all that it needs in its own directory.

mod holds;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use banger_host::HostError;
use banger_host::fs::{ensure_private_dir, list_dir, remove_all, rename};
use banger_host::staged;
use banger_model::{SandboxId, SandboxName, SnapshotId, SnapshotName, SnapshotTag};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::operations::Operations;

pub(crate) use holds::Holds;
pub(crate) use snapshot::{About, Snapshot};

/// Every snapshot there is, and who needs it.
#[derive(Debug)]
pub(crate) struct Snapshots {
    root: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    whole: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// Sandboxes that begin with a snapshot and were never up; it may not be there yet.
    needs: BTreeMap<SnapshotId, BTreeSet<SandboxId>>,
    /// What is taken no more, by whoever may still be about to: the last of them.
    given_up: VecDeque<SnapshotId>,
}

/// Most that are given up and remembered: each of them for as long as it takes who takes it to hear
/// of that.
const MAX_GIVEN_UP: usize = 1024;

/// Whether a snapshot that was just made is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Added {
    /// It is.
    Yes,
    /// Nobody waits for it any more: it goes.
    GivenUp,
}

/// Whether a snapshot that is being taken can still be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum GivenUp {
    /// It will not be taken in.
    Yes,
    /// It is there.
    TooLate,
}

/// Why a snapshot is not removed.
#[derive(Debug, Error)]
pub(crate) enum NotRemoved {
    /// A sandbox would never come up.
    #[error("snapshot {0} is in use: sandbox {1} was made from it, and was never up")]
    InUse(SnapshotName, SandboxId),
    /// A daemon that dies now is followed by one that takes it again.
    #[error("snapshot {0} is being taken still; try again when that is done")]
    BeingTaken(SnapshotName),
    /// There is none.
    #[error("there is no snapshot {0}")]
    Missing(SnapshotName),
    /// Its files cannot be removed.
    #[error("{0:#}")]
    Host(#[from] anyhow::Error),
}

impl Inner {
    /// Takes out a snapshot that nobody can name, once nobody needs it.
    fn take_unneeded(&mut self, id: &SnapshotId) -> Option<Arc<Snapshot>> {
        let named = self.whole.get(id)?.about.tag.is_some();
        if named || self.needs.contains_key(id) {
            return None;
        }
        self.whole.remove(id)
    }
}

impl Snapshots {
    /// Those below this directory, of which none is known yet.
    pub(crate) fn below(root: PathBuf) -> Arc<Self> {
        Arc::new(Self { root, inner: Mutex::default() })
    }

    /// All that are whole, those of forks too.
    pub(crate) fn all(&self) -> Vec<Arc<Snapshot>> {
        self.lock().whole.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a snapshot is, or is to be.
    pub(crate) fn dir(&self, id: &SnapshotId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Takes in one that is there, or was just made. It goes again if nobody could ever use it, or
    /// if it was given up before.
    pub(crate) fn add(&self, snapshot: Snapshot) -> Added {
        let id = snapshot.id.clone();
        let mut inner = self.lock();
        if inner.given_up.contains(&id) {
            inner.given_up.retain(|other| *other != id);
            drop(inner);
            self.remove_soon(Some(Arc::new(snapshot)));
            return Added::GivenUp;
        }
        inner.whole.insert(id.clone(), Arc::new(snapshot));
        let unneeded = inner.take_unneeded(&id);
        drop(inner);
        self.remove_soon(unneeded);
        Added::Yes
    }

    /// Whoever had a snapshot taken is about to be told that it is not. From now on that is so,
    /// unless it is there already.
    pub(crate) fn give_up(&self, id: &SnapshotId) -> GivenUp {
        let mut inner = self.lock();
        if inner.whole.contains_key(id) {
            return GivenUp::TooLate;
        }
        if inner.given_up.len() >= MAX_GIVEN_UP {
            inner.given_up.pop_front();
        }
        inner.given_up.push_back(id.clone());
        GivenUp::Yes
    }

    /// Removes one that is there, and of which its user was told that it is not.
    pub(crate) fn discard(&self, snapshot: Snapshot) {
        self.remove_soon(Some(Arc::new(snapshot)));
    }

    /// What all of them hold, those that cannot be opened included.
    ///
    /// # Errors
    /// When that cannot be told of one.
    pub(crate) fn hold(&self) -> Result<Vec<(SnapshotId, Holds)>, HostError> {
        holds::all(&self.root)
    }

    /// The snapshot of this id, if it is there.
    pub(crate) fn get(&self, id: &SnapshotId) -> Option<Arc<Snapshot>> {
        self.lock().whole.get(id).cloned()
    }

    /// Those that have a tag.
    pub(crate) fn list(&self) -> Vec<Arc<Snapshot>> {
        let inner = self.lock();
        inner.whole.values().filter(|snapshot| snapshot.about.tag.is_some()).cloned().collect()
    }

    /// The tags that snapshots of sandboxes of this name have.
    pub(crate) fn tags_of(&self, sandbox: &SandboxName) -> BTreeSet<SnapshotTag> {
        let all = self.list();
        let its = all.iter().filter(|snapshot| snapshot.about.sandbox == *sandbox);
        its.filter_map(|snapshot| snapshot.about.tag.clone()).collect()
    }

    /// A sandbox is to be made from this snapshot: it stays until that was up.
    pub(crate) fn need(self: &Arc<Self>, id: &SnapshotId, sandbox: &SandboxId) -> Need {
        self.lock().needs.entry(id.clone()).or_default().insert(sandbox.clone());
        Need { snapshots: self.clone(), id: id.clone(), sandbox: Some(sandbox.clone()) }
    }

    /// A sandbox is to be made from the snapshot of this name; `None` when there is none.
    pub(crate) fn need_named(
        self: &Arc<Self>,
        name: &SnapshotName,
        sandbox: &SandboxId,
    ) -> Option<(Arc<Snapshot>, Need)> {
        let mut inner = self.lock();
        let snapshot = inner.whole.values().find(|snapshot| snapshot.has_name(name)).cloned()?;
        let id = snapshot.id.clone();
        inner.needs.entry(id.clone()).or_default().insert(sandbox.clone());
        drop(inner);
        Some((snapshot, Need { snapshots: self.clone(), id, sandbox: Some(sandbox.clone()) }))
    }

    /// A sandbox that was made from it was up, or is gone.
    pub(crate) fn need_no_more(&self, id: &SnapshotId, sandbox: &SandboxId) {
        let mut inner = self.lock();
        let Some(needs) = inner.needs.get_mut(id) else { return };
        needs.remove(sandbox);
        if needs.is_empty() {
            inner.needs.remove(id);
        }
        let unneeded = inner.take_unneeded(id);
        drop(inner);
        self.remove_soon(unneeded);
    }

    /// Removes what a fork left whose daemon died.
    pub(crate) fn sweep(&self) {
        let ids: Vec<_> = self.lock().whole.keys().cloned().collect();
        for id in ids {
            let unneeded = self.lock().take_unneeded(&id);
            self.remove_soon(unneeded);
        }
    }

    /// Nobody waits until what nobody needs is gone; a daemon that dies meanwhile is followed by
    /// one that removes it.
    fn remove_soon(&self, unneeded: Option<Arc<Snapshot>>) {
        let Some(snapshot) = unneeded else { return };
        let root = self.root.clone();
        spawn_blocking(move || {
            if let Err(error) = remove_files(&root, &snapshot.id) {
                warn!(snapshot = %snapshot.id, error = format!("{error:#}"), "a snapshot that nobody needs remains");
            }
        });
    }

    /// Removes a snapshot; returns how it was. What was made from it and was up stays as it is.
    ///
    /// # Errors
    /// [`NotRemoved`].
    pub(crate) async fn remove(
        &self,
        name: &SnapshotName,
        operations: &Operations,
    ) -> Result<Arc<Snapshot>, NotRemoved> {
        let snapshot = {
            let mut inner = self.lock();
            let found = inner.whole.values().find(|snapshot| snapshot.has_name(name));
            let id = found.ok_or_else(|| NotRemoved::Missing(name.clone()))?.id.clone();
            let taking = operations.find(&id.operation());
            if taking.is_some_and(|taking| !taking.operation().status.is_final()) {
                return Err(NotRemoved::BeingTaken(name.clone()));
            }
            if let Some(sandbox) = inner.needs.get(&id).and_then(BTreeSet::first) {
                return Err(NotRemoved::InUse(name.clone(), sandbox.clone()));
            }
            inner.whole.remove(&id).ok_or_else(|| NotRemoved::Missing(name.clone()))?
        };
        let (root, id) = (self.root.clone(), snapshot.id.clone());
        let removed = spawn_blocking(move || remove_files(&root, &id)).await;
        removed.map_err(anyhow::Error::from)??;
        info!(snapshot = %name, "removed a snapshot");
        Ok(snapshot)
    }
}

/// Says that a snapshot is needed for a sandbox that is about to be remembered. Dropped before
/// [`Need::keep`], it is not.
#[derive(Debug)]
pub(crate) struct Need {
    snapshots: Arc<Snapshots>,
    id: SnapshotId,
    sandbox: Option<SandboxId>,
}

impl Need {
    /// The sandbox is remembered: whoever drives it tells when it needs the snapshot no more.
    pub(crate) fn keep(mut self) {
        self.sandbox = None;
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            self.snapshots.need_no_more(&self.id, &sandbox);
        }
    }
}

/// What is half removed is not whole any more, and swept if this is killed.
fn aside(root: &Path, id: &SnapshotId) -> PathBuf {
    root.join(format!(".{id}.new"))
}

fn lock_of(root: &Path, id: &SnapshotId) -> PathBuf {
    root.join(format!(".{id}.lock"))
}

fn remove_files(root: &Path, id: &SnapshotId) -> Result<()> {
    let aside = aside(root, id);
    rename(&root.join(id.as_str()), &aside)?;
    remove_all(&aside)?;
    // An id is used once: nobody waits for this lock.
    Ok(remove_all(&lock_of(root, id))?)
}

/// Removes what was not finished when its daemon died, and returns the snapshots that are whole.
///
/// # Errors
/// When the directory of snapshots cannot be looked at.
pub(crate) fn settle(root: &Path) -> Result<Vec<Snapshot>> {
    ensure_private_dir(root)?;
    let swept = staged::sweep(root, |_| Ok(()))?;
    if swept > 0 {
        info!(swept, "removed snapshots that were not finished");
    }
    let mut whole = Vec::new();
    for name in list_dir(root)? {
        let Some(name) = name.to_str() else { continue };
        let locked = name.strip_prefix('.').and_then(|name| name.strip_suffix(".lock"));
        if locked.is_some_and(|id| id.parse::<SnapshotId>().is_ok()) {
            // Nobody makes one now: this daemon is alone, and has not begun.
            remove_all(&root.join(name))?;
        }
        if name.parse::<SnapshotId>().is_err() {
            continue;
        }
        match Snapshot::open(&root.join(name)) {
            Ok(snapshot) => whole.push(snapshot),
            // Somebody may still want what is left of it.
            Err(error) => {
                warn!(
                    snapshot = name,
                    error = format!("{error:#}"),
                    "a snapshot is not whole, and not used"
                );
            }
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests;
