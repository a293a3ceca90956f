//! What a daemon does when it starts: everything that an earlier one remembered goes on, and
//! everything that belongs to nobody goes. This is the normal start; there is no other.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use banger_host::fs::{ensure_private_dir, list_dir, remove_all};
use banger_host::{owned, scratch};
use banger_image::Kernel;
use banger_model::lifecycle::State;
use banger_model::policy::Goal;
use banger_model::{OperationRecord, OperationStatus, SandboxId, SandboxRecord, SnapshotId};
use banger_store::{DamagedRow, Remembered, Write};
use banger_vmm::{RECORD_FILE, Reaped, reap};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::driver::Beginning;
use crate::leases;
use crate::machine;
use crate::operations::now;
use crate::registry::Registry;
use crate::shared::Shared;
use crate::snapshots;

/// Takes up what is remembered, and settles what is not.
///
/// # Errors
/// When the directories of sandboxes cannot be looked at.
pub(crate) async fn recover(registry: &Arc<Registry>, remembered: Remembered) -> Result<()> {
    let shared = registry.shared();
    let Remembered { sandboxes, operations, damaged } = remembered;
    let mut kept: BTreeSet<SandboxId> = sandboxes.iter().map(|record| record.id.clone()).collect();
    for row in &damaged {
        error!(%row, "a row of the database cannot be read; what belongs to it is left alone");
        if let DamagedRow::Sandbox(Some(id)) = &row.row {
            kept.insert(id.clone());
        }
    }
    let (root, templates) = (shared.home.sandboxes(), shared.home.templates());
    let (snapshots, volumes) = (shared.home.snapshots(), shared.home.volumes());
    let whole = !damaged.iter().any(|row| row.row == DamagedRow::Sandbox(None));
    let home = shared.home.clone();
    let (found, snapshots) = spawn_blocking(move || {
        if let Err(error) = banger_vmm::probe::settle(&home) {
            warn!(%error, "what a probe of KVM has left remains");
        }
        if let Err(error) = scratch::sweep(&home.imports()) {
            warn!(%error, "what a killed client has put aside remains");
        }
        if let Err(error) = Kernel::sweep(&home) {
            warn!(%error, "what a killed maker of a kernel has left remains");
        }
        crate::templates::settle(&templates)?;
        let snapshots = crate::snapshots::settle(&snapshots)?;
        crate::volumes::settle(&volumes)?;
        ensure_private_dir(&root)?;
        let root =
            root.canonicalize().with_context(|| format!("cannot resolve {}", root.display()))?;
        let found = Found::look(&root)?;
        found.clear_traces(&root);
        // With a row that nobody can name, any directory could be its.
        if whole {
            found.settle_orphans(&root, &kept);
        }
        Ok::<_, anyhow::Error>((found, snapshots))
    })
    .await??;
    let mut unfinished = settle_operations(registry, operations, &sandboxes).await;
    settle_snapshots(shared, snapshots, &sandboxes, &unfinished);
    // All, before any of them starts.
    sandboxes.iter().for_each(|record| shared.volumes.recall(record));
    for record in sandboxes {
        let operations = unfinished.remove(&record.id).unwrap_or_default();
        forget_memory(shared, &record);
        let beginning = found.beginning(shared, &record).await;
        registry.drive(record, operations, beginning);
    }
    shared.snapshots.sweep();
    crate::images::removal::settle(registry).await;
    settle_leases(registry)
}

/// What there is on the host.
struct Found {
    /// Directories of sandboxes.
    dirs: BTreeSet<OsString>,
    /// Directories that processes belong to, there or not.
    alive: BTreeSet<OsString>,
    /// Directories with the record of a machine in them.
    recorded: BTreeSet<OsString>,
}

impl Found {
    fn look(root: &Path) -> Result<Self> {
        let dirs: BTreeSet<_> =
            list_dir(root)?.into_iter().filter(|name| root.join(name).is_dir()).collect();
        let alive = owned::directories_below(root)?;
        let has_record = |name: &&OsString| root.join(name).join(RECORD_FILE).exists();
        let recorded = dirs.iter().filter(has_record).cloned().collect();
        Ok(Self { dirs, alive, recorded })
    }

    /// Removes the sockets of machines that are gone with their record: a daemon that was killed
    /// while it cleared up came so far, and nothing else tells of them.
    fn clear_traces(&self, root: &Path) {
        for name in self.dirs.iter().filter(|name| !self.may_run(name)) {
            let is_sandbox = name.to_str().is_some_and(|name| name.parse::<SandboxId>().is_ok());
            if is_sandbox && let Err(error) = banger_vmm::clear_sockets(&root.join(name)) {
                warn!(dir = %root.join(name).display(), %error, "sockets of a machine that is gone remain");
            }
        }
    }

    /// Whether there may be processes of the sandbox with this directory.
    fn may_run(&self, name: &OsStr) -> bool {
        self.alive.contains(name) || self.recorded.contains(name)
    }

    /// Ends the processes and removes the directories of sandboxes that nobody remembers.
    fn settle_orphans(&self, root: &Path, kept: &BTreeSet<SandboxId>) {
        for name in self.dirs.union(&self.alive) {
            let id = name.to_str().and_then(|name| name.parse::<SandboxId>().ok());
            // What does not look like a sandbox is not ours.
            let Some(id) = id.filter(|id| !kept.contains(id)) else { continue };
            let dir = root.join(name);
            let settled = reap(&dir).map_err(anyhow::Error::from).and_then(|reaped| {
                remove_all(&dir)?;
                Ok(reaped)
            });
            match settled {
                Ok(Reaped::Nothing) => {
                    info!(sandbox = %id, "removed a directory that nobody remembers")
                }
                Ok(Reaped::Processes(count)) => {
                    info!(sandbox = %id, count, "ended the processes of a sandbox that nobody remembers");
                }
                Err(error) => {
                    error!(sandbox = %id, error = format!("{error:#}"), "what nobody remembers remains");
                }
            }
        }
    }

    /// How the driver of a sandbox begins: 1,000 that rest cost nothing.
    async fn beginning(&self, shared: &Shared, record: &SandboxRecord) -> Beginning {
        let may_run = self.may_run(OsStr::new(record.id.as_str()));
        // What was begun is gone on with, and what should run is looked for.
        let rests = !record.state.has_machine() && record.state.pending().is_none();
        if rests && !may_run {
            return Beginning::RememberedAtRest;
        }
        // Its memory is the template's: nobody may remove that before the machine is taken over.
        let template = match machine::template_of(&shared.dir(&record.id)) {
            Some(id) if may_run => shared.templates.held_by_machine(&id).await,
            _ => None,
        };
        Beginning::Remembered(template)
    }
}

/// A daemon that died may have left memory that fits no disk any more, or half of one that it was
/// about to put in its place, or had just taken out of it.
fn forget_memory(shared: &Shared, record: &SandboxRecord) {
    let (state, dir) = (&record.state, shared.dir(&record.id));
    let forgotten = if state.has_machine() || matches!(state, State::Paused { .. }) {
        machine::memory::forget_new(&dir)
    } else {
        machine::memory::forget(&dir)
    };
    if let Err(error) = forgotten {
        warn!(sandbox = %record.id, error = format!("{error:#}"), "saved memory remains");
    }
}

/// Takes in the snapshots that are there, with who needs them and who takes one, before anybody
/// goes on who may look for one.
fn settle_snapshots(
    shared: &Shared,
    found: snapshots::Found,
    sandboxes: &[SandboxRecord],
    unfinished: &BTreeMap<SandboxId, Vec<OperationRecord>>,
) {
    for record in sandboxes {
        if let Some(from) = record.begins_with() {
            shared.snapshots.need(&from.snapshot, &record.id).keep();
        }
        for operation in unfinished.get(&record.id).into_iter().flatten() {
            shared.operations.track(operation.clone(), &record.name);
        }
    }
    // Its daemon died between the word that it is not taken and its removal.
    let goes = |id: &SnapshotId| {
        let taken = shared.operations.find(&id.operation());
        let status = taken.map(|taken| taken.operation().status.clone());
        let given_up = matches!(
            status,
            Some(OperationStatus::Failed { .. } | OperationStatus::Cancelled { .. })
        );
        if given_up {
            info!(snapshot = %id, "removed a snapshot that was given up");
            shared.snapshots.discard(id.clone());
        }
        given_up
    };
    for snapshot in found.whole.into_iter().filter(|snapshot| !goes(&snapshot.id)) {
        // Nothing is given up yet.
        let _ = shared.snapshots.add(snapshot);
    }
    for damaged in found.damaged.into_iter().filter(|damaged| !goes(&damaged.id)) {
        shared.snapshots.add_damaged(damaged);
    }
}

/// Removes the leases of clients that died before they asked for a sandbox.
///
/// # Errors
/// When they cannot be looked at.
pub(crate) fn settle_leases(registry: &Registry) -> Result<()> {
    let home = &registry.shared().home;
    ensure_private_dir(&home.leases())?;
    let views = registry.list();
    let needed: Vec<_> =
        views.iter().filter_map(|view| view.record.lifetime.lease.as_ref()).collect();
    let swept = leases::sweep(home, |lease| needed.contains(&lease))?;
    if swept > 0 {
        info!(swept, "removed leases that nobody holds");
    }
    Ok(())
}

/// Ends the operations of sandboxes that are gone, and returns the others by sandbox.
async fn settle_operations(
    registry: &Registry,
    operations: Vec<OperationRecord>,
    sandboxes: &[SandboxRecord],
) -> BTreeMap<SandboxId, Vec<OperationRecord>> {
    let shared = registry.shared();
    let names: BTreeMap<_, _> = sandboxes.iter().map(|record| (&record.id, &record.name)).collect();
    let mut unfinished: BTreeMap<SandboxId, Vec<OperationRecord>> = BTreeMap::new();
    let at = now();
    let mut writes = Vec::new();
    for mut operation in operations {
        let name = names.get(&operation.sandbox);
        if !operation.status.is_final() {
            if name.is_some() {
                unfinished.entry(operation.sandbox.clone()).or_default().push(operation);
                continue;
            }
            operation.status = gone(operation.goal, at);
            writes.push(Write::PutOperation(operation.clone()));
        }
        // The name of what is gone is gone, too; its id is a name like any other.
        let name =
            name.map(|name| (*name).clone()).or_else(|| operation.sandbox.as_str().parse().ok());
        if let Some(name) = name {
            shared.operations.track(operation, &name);
        }
    }
    if !writes.is_empty()
        && let Err(error) = shared.store.write(writes).await
    {
        warn!(%error, "the operations of an earlier daemon cannot be brought to their end");
    }
    unfinished
}

fn gone(goal: Goal, at: banger_model::Timestamp) -> OperationStatus {
    match goal.outcome(None, 0) {
        Some(Ok(())) => OperationStatus::Succeeded { at },
        Some(Err(error)) => OperationStatus::Failed { at, error },
        None => OperationStatus::Cancelled { at },
    }
}
