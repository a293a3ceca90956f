//! The first start of a sandbox that is made from a snapshot. Until it has been up, each start
//! begins here anew: what an earlier one left is of no use to anybody.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use banger_model::lifecycle::{EndCause, State};
use banger_model::policy::Action;
use banger_model::{FromSnapshot, OperationStatus, Progress as _, SandboxRecord, SnapshotPart};
use banger_vmm::PrepareError;
use tokio::task::spawn_blocking;

use super::pause::take_up;
use super::start::{assets, blueprint, start};
use super::work::{Done, Superseded, clear_up, forget_memory};
use crate::assets::{Assets, Base};
use crate::machine::memory::{self, Saved};
use crate::machine::{self, Live, Source, fill};
use crate::operations::Audience;
use crate::origin::Misfit;
use crate::shared::Shared;
use crate::snapshots::Snapshot;

/// Where an attempt to begin with a snapshot has led.
enum Begun {
    /// It runs.
    Up(Live),
    /// It has the snapshot's disk, and is to boot.
    Disk,
    /// Something else was asked for meanwhile.
    Superseded,
    /// The snapshot was to be its alone and was never taken, for this reason.
    NoSnapshot(String),
}

/// Brings a sandbox up from the snapshot that it is made from.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    from: &FromSnapshot,
    superseded: Superseded,
    audience: Audience,
) -> Done {
    let begin = Instant::now();
    match try_begin(shared, record, from, superseded.clone(), &audience).await {
        Ok(Begun::Up(live)) => {
            shared.checkpoints.reach("start.answered").await;
            Done::Booted(live, begin.elapsed())
        }
        Ok(Begun::Disk) => start(shared, record, None, superseded, audience).await,
        Ok(Begun::Superseded) => Done::Superseded,
        Ok(Begun::NoSnapshot(reason)) => Done::NeverBegun(reason),
        Err(error) => {
            clear_up(shared, record).await;
            forget_memory(shared, record);
            Done::Ended(EndCause::Failed(format!("{error:#}")))
        }
    }
}

async fn try_begin(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    from: &FromSnapshot,
    mut superseded: Superseded,
    audience: &Audience,
) -> Result<Begun> {
    let dir = shared.dir(&record.id);
    machine::clear(&dir).await?;
    let snapshot = tokio::select! {
        () = superseded.wait() => return Ok(Begun::Superseded),
        found = find(shared, from, audience) => found?,
    };
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(never_taken) => return Ok(Begun::NoSnapshot(never_taken)),
    };
    let base = Base::Stored(snapshot.about.image.clone());
    let Some(assets) = assets(shared, (record, base), &mut superseded, audience).await? else {
        return Ok(Begun::Superseded);
    };
    judge(&snapshot, record, &assets, from.part)?;
    machine::check_space(&shared.home.sandboxes())?;
    let _turn = tokio::select! {
        () = superseded.wait() => return Ok(Begun::Superseded),
        turn = shared.boots.acquire() => turn?,
    };
    audience.stage("restoring");
    let dir = machine::make_dir(&dir)?;
    let (from_snapshot, to, part) = (snapshot.clone(), dir.clone(), from.part);
    spawn_blocking(move || {
        from_snapshot.check()?;
        match part {
            SnapshotPart::Machine => fill::fill_machine(&from_snapshot, &to),
            SnapshotPart::Disk => fill::fill_disk(&from_snapshot, &to),
        }
    })
    .await??;
    shared.checkpoints.reach("restore.filled").await;
    if from.part == SnapshotPart::Disk {
        return Ok(Begun::Disk);
    }
    let Saved::Whole(saved) = memory::look(&dir) else { bail!("its memory is gone") };
    let saved = memory::whole(saved, &dir, (&assets, &record.spec)).await?;
    let blueprint = blueprint(shared, record, (&dir, &assets), Source::Copy(saved));
    let live = take_up(shared, &blueprint, &mut superseded).await;
    let live = live.map_err(|error| refused(error, &snapshot))?;
    Ok(live.map_or(Begun::Superseded, Begun::Up))
}

/// The snapshot, once it is taken; an error in words if it is that of a fork that came to nothing.
async fn find(
    shared: &Shared,
    from: &FromSnapshot,
    audience: &Audience,
) -> Result<Result<Arc<Snapshot>, String>> {
    let Some(taking) = shared.operations.find(&from.snapshot.operation()) else {
        let found = shared.snapshots.get(&from.snapshot);
        return found.map(Ok).ok_or_else(|| gone(from));
    };
    if !taking.operation().status.is_final() {
        audience.stage("waiting for the snapshot");
    }
    // The sender is in `taking`: there is no error.
    let _ = taking.watch().wait_for(|operation| operation.status.is_final()).await;
    if let Some(snapshot) = shared.snapshots.get(&from.snapshot) {
        return Ok(Ok(snapshot));
    }
    let operation = taking.operation();
    match &operation.status {
        OperationStatus::Failed { error, .. } if operation.action == Action::Fork => {
            Ok(Err(format!("no snapshot of {} could be taken: {error}", operation.name)))
        }
        _ => Err(gone(from)),
    }
}

/// Returns when it is certain that the snapshot is never taken that a copy at rest was to begin with: it
/// was stopped before it came so far, and the fork came to nothing.
pub(super) async fn never_taken(shared: &Shared, record: &SandboxRecord) {
    let at_rest = matches!(record.state, State::Stopped { .. } | State::Failed { .. });
    if let Some(from) = record.begins_with().filter(|_| at_rest)
        && let Some(taking) = shared.operations.find(&from.snapshot.operation())
    {
        // The sender is in `taking`: there is no error.
        let _ = taking.watch().wait_for(|operation| operation.status.is_final()).await;
        let operation = taking.operation();
        let failed = matches!(operation.status, OperationStatus::Failed { .. });
        let is_there = shared.snapshots.get(&from.snapshot).is_some();
        if failed && operation.action == Action::Fork && !is_there {
            return;
        }
    }
    std::future::pending().await
}

fn gone(from: &FromSnapshot) -> anyhow::Error {
    anyhow!("the snapshot that it is made from, {}, is gone or damaged", from.snapshot)
}

/// Whether a sandbox that is made here now can begin with a snapshot.
fn judge(
    snapshot: &Snapshot,
    record: &SandboxRecord,
    assets: &Assets,
    part: SnapshotPart,
) -> Result<()> {
    match (snapshot.about.origin().fits(assets, &record.spec), part) {
        (Err(Misfit::Image), _) => bail!(
            "the disk of snapshot {} belongs to another image than the one that is called {} now",
            snapshot.shown(),
            record.spec.image
        ),
        (Err(why), SnapshotPart::Machine) => Err(misfit(snapshot, why)),
        (Err(_), SnapshotPart::Disk) | (Ok(()), _) => Ok(()),
    }
}

fn misfit(snapshot: &Snapshot, why: impl Into<anyhow::Error>) -> anyhow::Error {
    why.into().context(format!(
        "the memory of snapshot {} does not fit this host or its virtual machine monitor any more; \
         `--disk-only` makes a sandbox of its disk alone",
        snapshot.shown()
    ))
}

/// What a monitor says that does not take the snapshot, with what that means.
fn refused(error: anyhow::Error, snapshot: &Snapshot) -> anyhow::Error {
    match error.downcast_ref::<PrepareError>() {
        Some(PrepareError::Load { .. }) => misfit(snapshot, error),
        _ => error,
    }
}
