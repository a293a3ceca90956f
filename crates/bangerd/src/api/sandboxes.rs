//! Sandboxes: made, shown, started, stopped, deleted.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use banger_api::types::{
    CreateSandbox, Created, GuestProcess, Operation, Problem, ProblemCode, PruneRequest, Pruned,
    Sandbox, SandboxDetail,
};
use banger_link::Request;
use banger_model::policy::Action;
use banger_model::{DiskSize, KernelName, LabelFilter, OperationId, SandboxRecord};
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::App;
use super::error::{Failure, Json, Query};
use super::processes::guest_process;
use crate::driver::View;
use crate::machine::base::base_of;
use crate::operations::new_id;
use crate::registry::Registry;
use crate::stats;

/// Most labels that a query filters by.
const MAX_FILTERS: usize = 16;

/// All sandboxes, oldest first
#[utoipa::path(get, path = "/v1/sandboxes", params(("label" = Option<Vec<String>>, Query, description = "Only those with this label: `KEY` or `KEY=VALUE`; may be repeated")), responses((status = 200, body = Vec<Sandbox>), (status = "default", body = Problem)))]
pub(super) async fn list(
    State(registry): App,
    RawQuery(query): RawQuery,
) -> Result<Answer<Vec<Sandbox>>, Failure> {
    let pairs = form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let labels: Vec<String> =
        pairs.filter(|(key, _)| key == "label").map(|(_, value)| value.into_owned()).collect();
    let filters = filters(&labels)?;
    let views = registry.list();
    let meant = views.iter().filter(|view| matches(view, &filters));
    Ok(Answer(meant.map(|view| view.sandbox()).collect()))
}

/// Make a sandbox, and start it unless told otherwise
///
/// The answer comes when the sandbox is remembered, long before it runs. Asking again with the
/// same lease gives the same sandbox.
#[utoipa::path(post, path = "/v1/sandboxes", request_body = CreateSandbox, responses((status = 201, body = Created), (status = "default", body = Problem)))]
pub(super) async fn create(
    State(registry): App,
    Json(wanted): Json<CreateSandbox>,
) -> Result<(StatusCode, Answer<Created>), Failure> {
    let (view, operation) = registry.create(wanted).await?;
    Ok((StatusCode::CREATED, Answer(Created { sandbox: view.sandbox(), operation })))
}

/// One sandbox, with what is costly to find out
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}", params(("sandbox" = String, Path, description = "Its name, its id, or the beginning of its id")), responses((status = 200, body = Sandbox), (status = "default", body = Problem)))]
pub(super) async fn show(
    State(registry): App,
    Path(sandbox): Path<String>,
) -> Result<Answer<Sandbox>, Failure> {
    let view = registry.resolve(&sandbox)?.view();
    let detail = Some(detail(&registry, &view).await);
    Ok(Answer(Sandbox { detail, ..view.sandbox() }))
}

async fn detail(registry: &Registry, view: &View) -> SandboxDetail {
    let dir = registry.shared().dir(&view.record.id);
    let live = view.live.as_ref();
    let mut processes: Vec<GuestProcess> = Vec::new();
    let mut boot_id = None;
    if let Some(live) = live {
        let asked = async { (live.link.list().await, live.link.request(Request::Info).await) };
        let answers = tokio::time::timeout(stats::GUEST_PATIENCE, asked).await;
        if let Ok((list, info)) = answers {
            processes = list.unwrap_or_default().into_iter().map(guest_process).collect();
            if let Ok(banger_link::Reply::Info(info)) = info {
                boot_id = Some(info.boot_id);
            }
        }
    }
    let (kernel, disk_size) = of_image(registry, view).await;
    SandboxDetail {
        kernel,
        disk_size,
        disk: stats::disk(&dir),
        dir: dir.into_os_string().into(),
        vmm_pid: live.map(|live| live.machine.identity().pid),
        address: live.and_then(|live| live.address).map(|address| address.to_string()),
        accelerator: live.map(|live| live.accelerator.to_string()),
        boot_id,
        template: live.and_then(|live| live.template.as_ref()).map(|template| template.id.clone()),
        processes,
    }
}

/// The kernel that the sandbox boots and the size of its disk: what it wants itself, else what its image
/// wishes, unless that is gone or not here yet.
async fn of_image(registry: &Registry, view: &View) -> (Option<KernelName>, Option<DiskSize>) {
    let SandboxRecord { id, spec, .. } = &view.record;
    let own = (spec.kernel.clone(), spec.disk);
    let shared = registry.shared();
    let Ok(base) = base_of(&shared.dir(id), spec) else { return own };
    let (home, (kernel, disk)) = (shared.home.clone(), own.clone());
    let found = spawn_blocking(move || {
        let kernel = kernel.or_else(|| base.kernel(&home).ok());
        (kernel, disk.or_else(|| base.disk(&home).ok()))
    });
    found.await.unwrap_or(own)
}

/// How a sandbox is deleted.
#[derive(Debug, Deserialize)]
pub(super) struct Deletion {
    /// Whatever it does.
    #[serde(default)]
    force: bool,
    operation: Option<OperationId>,
}

/// How something is asked of a sandbox.
#[derive(Debug, Deserialize)]
pub(super) struct Asking {
    /// What the client calls the operation.
    pub(super) operation: Option<OperationId>,
}

/// Remove a sandbox and everything in it
#[utoipa::path(delete, path = "/v1/sandboxes/{sandbox}", params(("sandbox" = String, Path), ("force" = Option<bool>, Query, description = "Even if it runs"), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn delete(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Deletion { force, operation }): Query<Deletion>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    let action = if force { Action::DeleteForced } else { Action::Delete };
    act(&registry, &sandbox, (action, operation)).await
}

/// Start a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/start", params(("sandbox" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn start(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Asking { operation }): Query<Asking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    act(&registry, &sandbox, (Action::Start, operation)).await
}

/// Stop a sandbox with its disk in order
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/stop", params(("sandbox" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn stop(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Asking { operation }): Query<Asking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    act(&registry, &sandbox, (Action::Stop, operation)).await
}

/// Stop a sandbox at once, as pulling the plug does
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/kill", params(("sandbox" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn kill(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Asking { operation }): Query<Asking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    act(&registry, &sandbox, (Action::Kill, operation)).await
}

/// Stop a sandbox and start it again
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/restart", params(("sandbox" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn restart(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Asking { operation }): Query<Asking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    act(&registry, &sandbox, (Action::Restart, operation)).await
}

/// Save a sandbox's memory to the disk and end its machine
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/pause", params(("sandbox" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn pause(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Asking { operation }): Query<Asking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    act(&registry, &sandbox, (Action::Pause, operation)).await
}

/// Take a sandbox up where it was paused
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/resume", params(("sandbox" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits. Asked again with it, it is the same operation")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn resume(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Asking { operation }): Query<Asking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    act(&registry, &sandbox, (Action::Resume, operation)).await
}

async fn act(
    registry: &Arc<Registry>,
    sandbox: &str,
    (action, id): (Action, Option<OperationId>),
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    if let Some(known) = known(registry, id.as_ref(), action) {
        return Ok((StatusCode::ACCEPTED, Answer(known)));
    }
    let handle = registry.resolve(sandbox)?;
    let name = handle.view().record.name.clone();
    let id = handle
        .ask(action, chosen(id)?)
        .await
        .map_err(|error| Failure::from(error).about(&format!("cannot {} {name}", word(action))))?;
    Ok((StatusCode::ACCEPTED, Answer(operation(registry, &id)?)))
}

/// What an operation is called: as the client says, or else anything.
pub(super) fn chosen(id: Option<OperationId>) -> Result<OperationId, Failure> {
    Ok(match id {
        Some(id) => id,
        None => new_id()?,
    })
}

/// The operation of this id, if this was asked before. Its sandbox may be gone by now, and that may
/// be what was asked for.
pub(super) fn known(
    registry: &Registry,
    id: Option<&OperationId>,
    action: Action,
) -> Option<Operation> {
    let known = registry.shared().operations.find(id?)?.operation();
    (known.action == action).then(|| known.as_ref().clone())
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Start => "start",
        Action::Stop => "stop",
        Action::Kill => "kill",
        Action::Restart => "restart",
        Action::Pause => "pause",
        Action::Resume => "resume",
        Action::Snapshot => "snapshot",
        Action::Fork => "fork",
        Action::Delete | Action::DeleteForced => "delete",
    }
}

/// An operation as it is now.
pub(super) fn operation(registry: &Registry, id: &OperationId) -> Result<Operation, Failure> {
    let tracked = registry.shared().operations.find(id).ok_or_else(|| {
        Problem::new(ProblemCode::NotFound, format!("there is no operation {id}"))
    })?;
    Ok(tracked.operation().as_ref().clone())
}

/// Remove all sandboxes that have no machine
#[utoipa::path(post, path = "/v1/prune", request_body = PruneRequest, responses((status = 200, body = Pruned), (status = "default", body = Problem)))]
pub(super) async fn prune(
    State(registry): App,
    Json(request): Json<PruneRequest>,
) -> Result<Answer<Pruned>, Failure> {
    let filters = filters(&request.labels)?;
    let mut pruned = Pruned { sandboxes: Vec::new(), operations: Vec::new(), space: 0 };
    for view in registry.list() {
        let rests = !view.record.state.has_machine() && view.record.state.pending().is_none();
        if !rests || !matches(&view, &filters) {
            continue;
        }
        let space =
            stats::disk(&registry.shared().dir(&view.record.id)).map_or(0, |disk| disk.real);
        if !request.dry_run {
            let Some(handle) = registry.get(&view.record.id) else { continue };
            // One that has been started meanwhile is not meant any more.
            let Ok(operation) = handle.ask(Action::Delete, new_id()?).await else { continue };
            pruned.operations.push(operation);
        }
        pruned.space += space;
        pruned.sandboxes.push(view.sandbox());
    }
    Ok(Answer(pruned))
}

fn filters(labels: &[String]) -> Result<Vec<LabelFilter>, Failure> {
    if labels.len() > MAX_FILTERS {
        let detail =
            format!("{} labels are more than the {MAX_FILTERS} to filter by", labels.len());
        return Err(Problem::new(ProblemCode::Invalid, detail).into());
    }
    let parse = |text: &String| {
        text.parse::<LabelFilter>()
            .map_err(|error| Failure::from(Problem::new(ProblemCode::Invalid, error.to_string())))
    };
    labels.iter().map(parse).collect()
}

fn matches(view: &View, filters: &[LabelFilter]) -> bool {
    filters.iter().all(|filter| filter.matches(&view.record.labels))
}
