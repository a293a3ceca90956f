//! Processes in sandboxes: started, listed, forgotten.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::types::{
    GuestProcess, PathKind, Problem, ProblemCode, ProcessId, StartProcess, StartedProcess,
};
use banger_link::{ProcessInfo, Refusal, Request};
use banger_model::Disposal;
use banger_model::lifecycle::{Afterwards, State as SandboxState};
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

/// How long a sandbox may take to be talked to, of which a snapshot is taken: its processes stand
/// still for moments, but its state is on its way to the disk for as long as that takes.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(600);

/// Whether nobody is to wait until a sandbox in this state can be talked to: nothing is asked of it
/// while a snapshot is taken, for its processes stand still then, and who is started would not.
fn is_talked_to(state: &SandboxState) -> bool {
    !matches!(state, SandboxState::Pausing { then: Afterwards::GoOn { .. } })
}

/// The machine of a sandbox that runs. One that is just being taken over is waited for, and one of
/// which a snapshot is taken.
pub(super) async fn live(handle: &Handle) -> Result<(Live, Arc<View>), Failure> {
    let mut watch = handle.watch();
    let goes_on = |view: &Arc<View>| is_talked_to(&view.record.state);
    // Whoever takes too long, or is gone, is told below how it is.
    let _ = tokio::time::timeout(SNAPSHOT_PATIENCE, watch.wait_for(goes_on)).await;
    let settled = |view: &Arc<View>| match &view.record.state {
        SandboxState::Running { .. } => view.live.is_some(),
        state => is_talked_to(state),
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
            let mut detail = format!("sandbox {name} is {state}, not running");
            if let Some(reason) = view.sandbox().reason {
                detail = format!("{detail}: {reason}");
            }
            let problem = Problem::new(ProblemCode::Denied, detail);
            let goes = match state {
                SandboxState::Deleting => true,
                // In a moment.
                SandboxState::Stopped { .. } | SandboxState::Failed { .. } => {
                    view.record.lifetime.disposal == Disposal::Remove
                }
                _ => false,
            };
            Err(match goes {
                true => problem,
                false => problem.hint(format!("start it with `banger vm start {name}`")),
            }
            .into())
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
    let config = shared.arsenal.image_config(&base, spec.kernel.as_ref()).await?;
    let stop_signal = exec::stop_signal(&wanted, &config);
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
    if let Some(signal) = stop_signal {
        match live.link.request(Request::EndWith { process: id, signal }).await {
            // An agent that is too old sends SIGTERM, and one that has ended needs none.
            Ok(_) | Err(LinkFailed::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use banger_model::lifecycle::every_state;

    #[test]
    fn whoever_asks_something_of_a_sandbox_waits_for_its_snapshot_and_for_nothing_else() {
        let waits: Vec<_> =
            every_state().into_iter().filter(|state| !is_talked_to(state)).collect();
        assert!(matches!(waits.as_slice(), [state] if state.runs_since().is_some()), "{waits:?}");
    }
}
