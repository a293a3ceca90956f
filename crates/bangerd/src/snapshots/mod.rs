//! Snapshots: what sandboxes were at one moment, from which others are made.
//!
//! A snapshot is whole or not there, and never changes. One with a tag stays until its user
//! removes it. One without is of a fork, and goes when the last sandbox that is made from it has
//! come up: from then on each has all that it needs in its own directory.

mod damaged;
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

pub(crate) use damaged::Damaged;
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
    /// Those that this daemon has found and cannot use.
    damaged: BTreeMap<SnapshotId, Arc<Damaged>>,
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

/// A snapshot as it was before it was removed.
#[derive(Debug)]
pub(crate) enum Removed {
    /// It was whole.
    Whole(Arc<Snapshot>),
    /// It was not.
    Damaged(Arc<Damaged>),
}

impl Inner {
    /// Takes out a snapshot that nobody can name, once nobody needs it.
    fn take_unneeded(&mut self, id: &SnapshotId) -> Option<SnapshotId> {
        let whole = self.whole.get(id).is_some_and(|snapshot| snapshot.about.tag.is_none());
        let nameless = whole || self.damaged.get(id).is_some_and(|damaged| damaged.is_of_fork());
        if !nameless || self.needs.contains_key(id) {
            return None;
        }
        self.whole.remove(id);
        self.damaged.remove(id);
        Some(id.clone())
    }

    /// Takes out the snapshot that its user calls so. Of two, the one of less use goes.
    fn take_named(
        &mut self,
        name: &SnapshotName,
        operations: &Operations,
    ) -> Result<(SnapshotId, Removed), NotRemoved> {
        let damaged = self.damaged.values().find(|damaged| damaged.name() == *name);
        let whole = || self.whole.values().find(|snapshot| snapshot.has_name(name));
        let id = damaged.map(|found| &found.id).or_else(|| whole().map(|found| &found.id));
        let id = id.ok_or_else(|| NotRemoved::Missing(name.clone()))?.clone();
        let taking = operations.find(&id.operation());
        if taking.is_some_and(|taking| !taking.operation().status.is_final()) {
            return Err(NotRemoved::BeingTaken(name.clone()));
        }
        // A damaged one serves nobody.
        if let Some(damaged) = self.damaged.remove(&id) {
            return Ok((id, Removed::Damaged(damaged)));
        }
        if let Some(sandbox) = self.needs.get(&id).and_then(BTreeSet::first) {
            return Err(NotRemoved::InUse(name.clone(), sandbox.clone()));
        }
        let whole = self.whole.remove(&id).ok_or_else(|| NotRemoved::Missing(name.clone()))?;
        Ok((id, Removed::Whole(whole)))
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
            self.remove_soon(Some(id));
            return Added::GivenUp;
        }
        inner.damaged.remove(&id);
        inner.whole.insert(id.clone(), Arc::new(snapshot));
        let unneeded = inner.take_unneeded(&id);
        drop(inner);
        self.remove_soon(unneeded);
        Added::Yes
    }

    /// Takes in one that is there and damaged.
    pub(crate) fn add_damaged(&self, damaged: Damaged) {
        self.lock().damaged.insert(damaged.id.clone(), Arc::new(damaged));
    }

    /// Those that are damaged and not a fork's.
    pub(crate) fn damaged(&self) -> Vec<Arc<Damaged>> {
        let inner = self.lock();
        inner.damaged.values().filter(|damaged| !damaged.is_of_fork()).cloned().collect()
    }

    /// How a message calls the snapshot of this id.
    pub(crate) fn shown(&self, id: &SnapshotId) -> String {
        let inner = self.lock();
        let whole = inner.whole.get(id).map(|snapshot| snapshot.shown());
        let shown = whole.or_else(|| Some(inner.damaged.get(id)?.name().to_string()));
        shown.unwrap_or_else(|| id.to_string())
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
    pub(crate) fn discard(&self, id: SnapshotId) {
        self.remove_soon(Some(id));
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

    /// The tags that snapshots of sandboxes of this name have, damaged ones, too.
    pub(crate) fn tags_of(&self, sandbox: &SandboxName) -> BTreeSet<SnapshotTag> {
        let inner = self.lock();
        let its = inner.whole.values().filter(|snapshot| snapshot.about.sandbox == *sandbox);
        let tags = its.filter_map(|snapshot| snapshot.about.tag.as_ref());
        let damaged = inner.damaged.values().filter_map(|damaged| damaged.tag_of(sandbox));
        tags.chain(damaged).cloned().collect()
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
        let ids: Vec<_> = {
            let inner = self.lock();
            inner.whole.keys().chain(inner.damaged.keys()).cloned().collect()
        };
        for id in ids {
            let unneeded = self.lock().take_unneeded(&id);
            self.remove_soon(unneeded);
        }
    }

    /// Nobody waits until what nobody needs is gone; a daemon that dies meanwhile is followed by
    /// one that removes it.
    fn remove_soon(&self, unneeded: Option<SnapshotId>) {
        let Some(id) = unneeded else { return };
        let root = self.root.clone();
        spawn_blocking(move || {
            if let Err(error) = remove_files(&root, &id) {
                warn!(snapshot = %id, error = format!("{error:#}"), "a snapshot that nobody needs remains");
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
    ) -> Result<Removed, NotRemoved> {
        let (id, was) = self.lock().take_named(name, operations)?;
        let root = self.root.clone();
        let removed = spawn_blocking(move || remove_files(&root, &id)).await;
        removed.map_err(anyhow::Error::from)??;
        info!(snapshot = %name, "removed a snapshot");
        Ok(was)
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
    match rename(&root.join(id.as_str()), &aside) {
        // Somebody else has done that.
        Err(error) if error.is_not_found() => {}
        renamed => renamed?,
    }
    remove_all(&aside)?;
    // An id is used once: nobody waits for this lock.
    Ok(remove_all(&lock_of(root, id))?)
}

/// What a daemon finds of snapshots when it starts.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that are whole.
    pub whole: Vec<Snapshot>,
    /// Those that are not.
    pub damaged: Vec<Damaged>,
}

/// Removes what was not finished when its daemon died, and returns the snapshots that are there.
///
/// # Errors
/// When the directory of snapshots cannot be looked at.
pub(crate) fn settle(root: &Path) -> Result<Found> {
    ensure_private_dir(root)?;
    let swept = staged::sweep(root, |_| Ok(()))?;
    if swept > 0 {
        info!(swept, "removed snapshots that were not finished");
    }
    let mut found = Found::default();
    for name in list_dir(root)? {
        let Some(name) = name.to_str() else { continue };
        let locked = name.strip_prefix('.').and_then(|name| name.strip_suffix(".lock"));
        if locked.is_some_and(|id| id.parse::<SnapshotId>().is_ok()) {
            // Nobody makes one now: this daemon is alone, and has not begun.
            remove_all(&root.join(name))?;
        }
        let Ok(id) = name.parse::<SnapshotId>() else { continue };
        let dir = root.join(name);
        match Snapshot::open(&dir) {
            Ok(snapshot) => found.whole.push(snapshot),
            // Somebody may still want what is left of it.
            Err(error) => {
                let damaged = Damaged::look(&dir, id, &error);
                let (name, error) = (damaged.name(), &damaged.why);
                warn!(snapshot = %damaged.id, %name, error, "a snapshot is not whole, and not used");
                found.damaged.push(damaged);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
