//! Server-sent events: how an operation goes on, what a log says, what a sandbox uses.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use banger_api::types::{LogChunk, LogSource, Operation, Problem, ProblemCode, Stats, Text};
use banger_model::Timestamp;
use banger_model::lifecycle::State as SandboxState;
use futures_core::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::App;
use super::error::{Failure, Query};
use super::operations::parse;
use super::processes::live;
use crate::driver::Handle;
use crate::logs::{From, Teller};
use crate::shared::Shared;
use crate::stats;

/// Events that wait for a client that reads slowly. Whoever makes them waits with them.
const QUEUE: usize = 16;
/// A comment is sent so often when there is nothing to tell, so that a client that is gone is
/// noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Between two statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// Most lines that can be asked for from a log's end.
const MAX_TAIL: usize = 1_000_000;

/// Events from a task, which ends when nobody reads them.
struct Events(mpsc::Receiver<Event>);

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|event| event.map(Ok))
    }
}

/// Whoever reads events, for the task that tells them.
struct Listener(mpsc::Sender<Event>);

/// Nobody reads any more.
struct Unread;

impl Listener {
    async fn tell(&self, id: Option<String>, value: &impl Serialize) -> Result<(), Unread> {
        let event = Event::default().json_data(value).map_err(|_| Unread)?;
        let event = id.map_or(event.clone(), |id| event.id(id));
        self.0.send(event).await.map_err(|_| Unread)
    }

    async fn fail(&self, problem: Problem) {
        if let Ok(event) = Event::default().event("problem").json_data(problem) {
            let _ = self.0.send(event).await;
        }
    }

    async fn unread(&self) {
        self.0.closed().await;
    }
}

/// Answers with the events that a task tells, until it ends, nobody reads or the daemon ends.
fn events<F>(shared: &Arc<Shared>, task: impl FnOnce(Arc<Listener>) -> F) -> Response
where
    F: Future<Output = Result<(), Unread>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let listener = Arc::new(Listener(sender));
    let (task, ending) = (task(listener.clone()), shared.clone().ending());
    tokio::spawn(async move {
        tokio::select! {
            _ = task => {}
            () = listener.unread() => {}
            // A stream that just ends has told everything; this one goes on elsewhere.
            () = ending => {
                let detail = "the daemon is ending: ask the next one";
                listener.fail(Problem::new(ProblemCode::ShuttingDown, detail)).await;
            }
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(Events(receiver)).keep_alive(keep_alive).into_response()
}

/// How an operation goes on
///
/// Each event is the whole operation; the last one is final.
#[utoipa::path(get, path = "/v1/operations/{operation}/events", params(("operation" = String, Path)), responses((status = 200, body = Operation, content_type = "text/event-stream"), (status = "default", body = Problem)))]
pub(super) async fn operation(
    State(registry): App,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let id = parse(&id)?;
    let tracked = registry.shared().operations.find(&id).ok_or_else(|| {
        Problem::new(ProblemCode::NotFound, format!("there is no operation {id}"))
    })?;
    let mut watch = tracked.watch();
    Ok(events(registry.shared(), |teller| async move {
        loop {
            let operation = watch.borrow_and_update().clone();
            teller.tell(None, &*operation).await?;
            if operation.status.is_final() || watch.changed().await.is_err() {
                return Ok(());
            }
        }
    }))
}

/// Which part of which log.
#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    #[serde(default)]
    source: LogSource,
    #[serde(default)]
    follow: bool,
    since: Option<u64>,
    tail: Option<usize>,
}

/// What a log says
///
/// The id of an event is a cursor: with it as `Last-Event-ID` the log goes on behind that event.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/logs", params(("sandbox" = String, Path), ("source" = Option<LogSource>, Query), ("follow" = Option<bool>, Query, description = "Until the sandbox has no machine any more"), ("since" = Option<u64>, Query, description = "Milliseconds since 1970"), ("tail" = Option<u64>, Query, description = "So many lines before the end")), responses((status = 200, body = LogChunk, content_type = "text/event-stream"), (status = "default", body = Problem)))]
pub(super) async fn logs(
    State(registry): App,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
    Query(query): Query<LogQuery>,
) -> Result<Response, Failure> {
    let handle = registry.resolve(&sandbox)?;
    let dir = registry.shared().dir(&handle.view().record.id);
    let from = begin(&headers, &query)?;
    Ok(events(registry.shared(), |teller| async move {
        let told = tell_log(&teller, dir, &query, from, &handle).await;
        if let Err(Some(error)) = &told {
            teller.fail(Problem::new(ProblemCode::Failed, format!("{error:#}"))).await;
        }
        Ok(())
    }))
}

fn begin(headers: &HeaderMap, query: &LogQuery) -> Result<From, Failure> {
    if let Some(cursor) = headers.get("last-event-id") {
        let offset = cursor.to_str().ok().and_then(|text| text.parse().ok());
        let offset = offset.ok_or_else(|| {
            Problem::new(ProblemCode::Invalid, "the last event's id is no place in a log")
        })?;
        return Ok(From::Byte(offset));
    }
    Ok(match (query.since, query.tail) {
        (Some(since), _) => From::Time(Timestamp(since)),
        (None, Some(lines)) => From::LastLines(lines.min(MAX_TAIL)),
        (None, None) => From::Oldest,
    })
}

/// Tells a log to its end, or as long as it may grow. Fails without a reason when nobody reads.
async fn tell_log(
    events: &Listener,
    dir: PathBuf,
    query: &LogQuery,
    from: From,
    handle: &Handle,
) -> Result<(), Option<anyhow::Error>> {
    let mut log = Teller::new(&dir, query.source, from);
    let mut views = handle.watch();
    loop {
        // Looked at before the log is read: what is written later is told in the next turn.
        let watch = log.watch().map_err(Some)?;
        let grows = query.follow && may_grow(&views.borrow_and_update().record.state);
        while let Some(piece) = log.next().map_err(Some)? {
            let chunk = LogChunk { at: piece.at, text: Text(piece.text) };
            events.tell(Some(piece.cursor.to_string()), &chunk).await.map_err(|_| None)?;
        }
        if !grows {
            return Ok(());
        }
        let written = async {
            match &watch {
                Some(watch) => watch.readable().await.map(drop),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            written = written => written.map_err(|error| Some(error.into()))?,
            // A sandbox that is gone has a log that ends.
            changed = views.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn may_grow(state: &SandboxState) -> bool {
    state.has_machine() || *state == SandboxState::Created
}

/// Once or again and again.
#[derive(Debug, Deserialize)]
pub(super) struct StatsQuery {
    #[serde(default)]
    watch: bool,
}

/// What a sandbox uses
///
/// Once as JSON, or with `watch=true` each second as an event, until it has no machine any more.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/stats", params(("sandbox" = String, Path), ("watch" = Option<bool>, Query)), responses((status = 200, body = Stats), (status = "default", body = Problem)))]
pub(super) async fn stats(
    State(registry): App,
    Path(sandbox): Path<String>,
    Query(StatsQuery { watch }): Query<StatsQuery>,
) -> Result<Response, Failure> {
    let handle = registry.resolve(&sandbox)?;
    let (live, view) = live(&handle).await?;
    let dir = registry.shared().dir(&view.record.id);
    if !watch {
        return Ok(Json(stats::take(&live, &dir).await?).into_response());
    }
    Ok(events(registry.shared(), |teller| async move {
        let mut interval = tokio::time::interval(STATS_INTERVAL);
        loop {
            interval.tick().await;
            // With its machine the statistics end.
            let Ok(stats) = stats::take(&live, &dir).await else { return Ok(()) };
            teller.tell(None, &stats).await?;
        }
    }))
}
