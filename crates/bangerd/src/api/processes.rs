//! Processes in sandboxes: started, listed, forgotten.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::types::{
    GuestProcess, PathKind, Problem, ProblemCode, ProcessId, StartProcess, StartedProcess,
};
use banger_link::{ProcessInfo, Refusal, Request};
use banger_model::lifecycle::State as SandboxState;
use serde::Deserialize;

use super::App;
use super::error::{Failure, Json, Query};
use crate::driver::{Handle, View};
use crate::exec;
use crate::link::{Link, LinkFailed};
use crate::machine::Live;
use crate::machine::base::base_of;
use std::sync::Arc;

/// How long a sandbox that runs may take to be talked to, when the daemon has only just started.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(30);

/// The machine of a sandbox that runs. One that is just being taken over is waited for.
pub(super) async fn live(handle: &Handle) -> Result<(Live, Arc<View>), Failure> {
    let mut watch = handle.watch();
    let settled = |view: &Arc<View>| {
        view.live.is_some() || !matches!(view.record.state, SandboxState::Running { .. })
    };
    let view = match tokio::time::timeout(ADOPTION_PATIENCE, watch.wait_for(settled)).await {
        Ok(Ok(view)) => view.clone(),
        _ => handle.view(),
    };
    let name = &view.record.name;
    match (&view.live, &view.record.state) {
        (Some(live), SandboxState::Running { .. }) => Ok((live.clone(), view.clone())),
        (None, SandboxState::Running { .. }) => {
            let detail = format!("sandbox {name} does not answer");
            Err(Problem::new(ProblemCode::Unreachable, detail).into())
        }
        (_, state) => {
            let problem = Problem::new(
                ProblemCode::Denied,
                format!("sandbox {name} is {state}, not running"),
            );
            Err(problem.hint(format!("start it with `banger vm start {name}`")).into())
        }
    }
}

/// A process as it is shown.
pub(super) fn guest_process(info: ProcessInfo) -> GuestProcess {
    GuestProcess {
        process: ProcessId(info.process.0),
        pid: info.pid,
        // It is the guest's word: what could steer a terminal is taken out.
        program: String::from_utf8_lossy(&info.program).escape_debug().to_string(),
        status: info.end.map(|end| end.exit_code().0),
    }
}

/// What was started in a sandbox from outside
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/processes", params(("sandbox" = String, Path)), responses((status = 200, body = Vec<GuestProcess>), (status = "default", body = Problem)))]
pub(super) async fn list(
    State(registry): App,
    Path(sandbox): Path<String>,
) -> Result<Answer<Vec<GuestProcess>>, Failure> {
    let (live, _) = live(&registry.resolve(&sandbox)?).await?;
    Ok(Answer(live.link.list().await?.into_iter().map(guest_process).collect()))
}

/// Start a process in a sandbox
///
/// The client chooses its id at random; asking again with the same id starts nothing new. Its
/// streams are to be attached.
#[utoipa::path(put, path = "/v1/sandboxes/{sandbox}/processes/{process}", params(("sandbox" = String, Path), ("process" = String, Path, description = "16 lowercase hex digits")), request_body = StartProcess, responses((status = 201, body = StartedProcess), (status = "default", body = Problem)))]
pub(super) async fn start(
    State(registry): App,
    Path((sandbox, process)): Path<(String, String)>,
    Json(wanted): Json<StartProcess>,
) -> Result<(StatusCode, Answer<StartedProcess>), Failure> {
    let process = parse(&process)?;
    let (live, view) = live(&registry.resolve(&sandbox)?).await?;
    let spec = &view.record.spec;
    let shared = registry.shared();
    let base = base_of(&shared.dir(&view.record.id), spec)?;
    let config = shared.arsenal.image_config(&base, &spec.kernel).await?;
    let program = exec::program(wanted, &config)?;
    view.activity.touch();
    let id = banger_link::ProcessId(process.0);
    let mut started = live.link.start_as(id, program.clone()).await;
    if let Err(LinkFailed::Refused(Refusal::TooManyProcesses(_))) = &started {
        release_ended(&live.link).await?;
        started = live.link.start_as(id, program).await;
    }
    match started {
        Ok(_) => {}
        // It was started by this very request, the first time that it came.
        Err(LinkFailed::Refused(Refusal::WrongState(_))) => {}
        Err(error) => return Err(error.into()),
    }
    Ok((StatusCode::CREATED, Answer(StartedProcess { process })))
}

/// Forgets processes that have ended, and whose clients never said that they know.
async fn release_ended(link: &Link) -> Result<(), LinkFailed> {
    for info in link.list().await? {
        if info.end.is_some() {
            link.request(Request::Release { process: info.process }).await?;
        }
    }
    Ok(())
}

/// Forget a process that has ended
#[utoipa::path(delete, path = "/v1/sandboxes/{sandbox}/processes/{process}", params(("sandbox" = String, Path), ("process" = String, Path)), responses((status = 204), (status = "default", body = Problem)))]
pub(super) async fn release(
    State(registry): App,
    Path((sandbox, process)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    let process = banger_link::ProcessId(parse(&process)?.0);
    let (live, _) = live(&registry.resolve(&sandbox)?).await?;
    live.link.request(Request::Release { process }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The id of a process in a path.
pub(super) fn parse(text: &str) -> Result<ProcessId, Failure> {
    text.parse().map_err(|error: banger_api::types::ParseProcessIdError| {
        Problem::new(ProblemCode::Invalid, error.to_string()).into()
    })
}

/// Which path in a sandbox.
#[derive(Debug, Deserialize)]
pub(super) struct Where {
    #[serde(default)]
    path: String,
}

/// What a path in a sandbox is
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/path", params(("sandbox" = String, Path), ("path" = String, Query)), responses((status = 200, body = PathKind), (status = "default", body = Problem)))]
pub(super) async fn look(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(Where { path }): Query<Where>,
) -> Result<Answer<PathKind>, Failure> {
    let (live, _) = live(&registry.resolve(&sandbox)?).await?;
    let kind = live.link.look(path.into_bytes()).await?;
    Ok(Answer(match kind {
        banger_link::PathKind::Directory => PathKind::Directory,
        banger_link::PathKind::File => PathKind::File,
        banger_link::PathKind::Other => PathKind::Other,
        banger_link::PathKind::Missing => PathKind::Missing,
    }))
}
