//! Snapshots and forks: taken of sandboxes that run, shown and removed.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::types::{
    Created, ForkSandbox, Forked, Operation, Problem, ProblemCode, Snapshot as Shown,
};
use banger_model::policy::Action;
use banger_model::{
    Accelerator, CpuCount, DiskSize, MemorySize, OperationId, SandboxRecord, SnapshotId,
    SnapshotName, SnapshotTag, Timestamp, WantedImage,
};
use serde::Deserialize;

use super::App;
use super::error::{Failure, Json, Query};
use super::sandboxes::{Asking, chosen, known, operation};
use crate::driver::{View, Wanted};
use crate::registry::Registry;
use crate::snapshots::{About, Damaged, Removed, Snapshot};

/// How a snapshot is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Taking {
    /// What the client calls the operation.
    operation: Option<OperationId>,
    tag: Option<SnapshotTag>,
}

/// Take a snapshot of a sandbox that runs, and let it run on
///
/// The operation tells the tag, which is the next number where none is given. When it has
/// succeeded the snapshot is there.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/snapshot", params(("sandbox" = String, Path), ("tag" = Option<String>, Query, description = "What tells it apart from other snapshots of this sandbox"), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn take(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Taking { operation: id, tag }): Query<Taking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    if let Some(known) = known(&registry, id.as_ref(), Action::Snapshot) {
        return Ok((StatusCode::ACCEPTED, Answer(known)));
    }
    let handle = registry.resolve(&sandbox)?;
    let id = chosen(id)?;
    let name = handle.view().record.name.clone();
    can_be_copied(&handle.view())?;
    let wanted = Wanted { action: Action::Snapshot, id: id.clone(), tag, with: Vec::new() };
    handle.ask_for(wanted).await.map_err(|error| {
        Failure::from(error).about(&format!("cannot take a snapshot of {name}"))
    })?;
    Ok((StatusCode::ACCEPTED, Answer(operation(&registry, &id)?)))
}

/// Make copies of a sandbox that runs, in which its processes go on
///
/// The answer comes when the copies are remembered, long before they run: each has an operation
/// that tells. Asked again with the same operation, it is the same fork.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/fork", request_body = ForkSandbox, params(("sandbox" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 201, body = Forked), (status = "default", body = Problem)))]
pub(super) async fn fork(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Asking { operation: id }): Query<Asking>,
    Json(wanted): Json<ForkSandbox>,
) -> Result<(StatusCode, Answer<Forked>), Failure> {
    let id = chosen(id)?;
    let views = match known(&registry, Some(&id), Action::Fork) {
        // Its source may be gone by now.
        Some(_) => registry.forked(&SnapshotId::of(&id)),
        None => {
            let source = registry.resolve(&sandbox)?;
            can_be_copied(&source.view())?;
            registry.fork(source, id.clone(), wanted).await
        }
    };
    let views =
        views.map_err(|error| Failure::from(error).about(&format!("cannot fork {sandbox}")))?;
    let copies = views.iter().map(|view| copy(&registry, view)).collect();
    let forked = Forked { operation: operation(&registry, &id)?, copies };
    Ok((StatusCode::CREATED, Answer(forked)))
}

/// What a machine knows of a volume in its memory is true for one machine only.
fn can_be_copied(view: &View) -> Result<(), Failure> {
    let SandboxRecord { name, spec, .. } = &view.record;
    if spec.volumes.is_empty() {
        return Ok(());
    }
    let detail =
        format!("{name} has volumes, and those cannot be in two machines: it cannot be copied");
    let hint = "a copy of the files can: `banger vm cp`; and `banger vm pause` works";
    Err(Problem::new(ProblemCode::Denied, detail).hint(hint).into())
}

fn copy(registry: &Registry, view: &Arc<View>) -> Created {
    let operation = registry.shared().operations.last_of(&view.record.id);
    Created { sandbox: view.sandbox(), operation }
}

/// All snapshots, oldest first
///
/// Those that were damaged when the daemon started, too, with the reason why nothing is made from them.
#[utoipa::path(get, path = "/v1/snapshots", responses((status = 200, body = Vec<Shown>), (status = "default", body = Problem)))]
pub(super) async fn list(State(registry): App) -> Answer<Vec<Shown>> {
    let snapshots = &registry.shared().snapshots;
    let whole = snapshots.list();
    let mut all: Vec<_> = whole.iter().filter_map(|snapshot| shown(snapshot)).collect();
    all.extend(snapshots.damaged().iter().map(|damaged| shown_damaged(damaged)));
    all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Answer(all)
}

/// Remove a snapshot
///
/// Answers with it as it was. Sandboxes that were made from it and have been up stay as they are. A
/// damaged one goes whoever may wait for it.
#[utoipa::path(delete, path = "/v1/snapshots/{snapshot}", params(("snapshot" = String, Path, description = "Its name, `NAME@TAG`")), responses((status = 200, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn delete(
    State(registry): App,
    Path(snapshot): Path<String>,
) -> Result<Answer<Shown>, Failure> {
    let name: SnapshotName =
        snapshot.parse().map_err(|error: banger_model::SnapshotNameError| {
            Problem::new(ProblemCode::Invalid, error.to_string())
        })?;
    let shared = registry.shared();
    let gone = || Problem::new(ProblemCode::NotFound, format!("there is no snapshot {name}"));
    Ok(Answer(match shared.snapshots.remove(&name, &shared.operations).await? {
        Removed::Whole(snapshot) => shown(&snapshot).ok_or_else(gone)?,
        Removed::Damaged(damaged) => shown_damaged(&damaged),
    }))
}

fn shown(snapshot: &Snapshot) -> Option<Shown> {
    let (size, apparent) = (snapshot.size.get(), snapshot.apparent.get());
    let shown = unknown(snapshot.id.clone(), snapshot.name()?);
    Some(described(Shown { size, apparent, ..shown }, &snapshot.about))
}

fn shown_damaged(damaged: &Damaged) -> Shown {
    let shown = Shown {
        size: damaged.size.get(),
        damaged: Some(damaged.why.clone()),
        ..unknown(damaged.id.clone(), damaged.name())
    };
    match &damaged.about {
        Some(about) => described(shown, about),
        None => shown,
    }
}

/// A snapshot of which nothing else is known.
fn unknown(id: SnapshotId, name: SnapshotName) -> Shown {
    Shown {
        id,
        name,
        image: WantedImage::unknown(),
        kernel: None,
        cpus: CpuCount::ONE,
        memory: MemorySize::DEFAULT,
        disk: DiskSize::DEFAULT,
        accelerator: Accelerator::Tcg,
        size: 0,
        apparent: 0,
        created: Timestamp(0),
        damaged: None,
    }
}

fn described(shown: Shown, about: &About) -> Shown {
    Shown {
        image: about.spec.image.clone(),
        kernel: about.spec.kernel.clone(),
        cpus: about.shape.cpus,
        memory: about.shape.memory,
        disk: about.shape.disk,
        accelerator: about.accelerator,
        created: about.created,
        ..shown
    }
}
