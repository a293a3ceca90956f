//! The HTTP API: what each path does. What is behind it knows no HTTP.

mod attach;
mod error;
mod events;
pub(crate) mod images;
mod kernels;
mod meta;
mod operations;
mod processes;
mod sandboxes;
mod snapshots;
mod templates;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use banger_api::types::{Problem, ProblemCode};
use utoipa::OpenApi;

use crate::registry::Registry;
use error::Failure;

/// Longest body of a request: arguments and environment of a command may take 2 MiB, twice that
/// as JSON.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// How long a request may take to arrive and be answered. What takes longer is an operation or a
/// stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "banger",
        version = "1",
        description = "Disposable sandboxes as virtual machines on this host. Long work is an \
                       operation; progress, logs and statistics are server-sent events; the \
                       streams of a process are frames on a connection upgraded to \
                       `banger-streams/1`."
    ),
    paths(
        images::list,
        images::pull,
        images::show,
        images::delete,
        images::cache,
        images::prune_cache,
        kernels::list,
        kernels::import,
        kernels::pull,
        kernels::show,
        kernels::delete,
        meta::version,
        meta::openapi,
        sandboxes::list,
        sandboxes::create,
        sandboxes::show,
        sandboxes::delete,
        sandboxes::start,
        sandboxes::stop,
        sandboxes::kill,
        sandboxes::restart,
        sandboxes::pause,
        sandboxes::resume,
        sandboxes::prune,
        events::logs,
        events::stats,
        events::operation,
        processes::look,
        processes::list,
        processes::start,
        processes::release,
        attach::attach,
        operations::list,
        operations::show,
        operations::cancel,
        snapshots::take,
        snapshots::fork,
        snapshots::list,
        snapshots::delete,
        templates::list,
        templates::delete,
        templates::prune,
        volumes::list,
        volumes::create,
        volumes::show,
        volumes::resize,
        volumes::delete
    )
)]
struct Document;

/// What the handlers work on.
pub(crate) type App = axum::extract::State<Arc<Registry>>;

/// What is counted is not of the document: its form is that of Prometheus.
const METRICS: &str = "/metrics";

/// Every path of [`Document`] with its methods, and no other; tests compare them.
fn routes() -> [(&'static str, MethodRouter<Arc<Registry>>); 38] {
    [
        ("/v1/version", get(meta::version)),
        ("/v1/openapi.json", get(meta::openapi)),
        ("/v1/sandboxes", get(sandboxes::list).post(sandboxes::create)),
        ("/v1/sandboxes/{sandbox}", get(sandboxes::show).delete(sandboxes::delete)),
        ("/v1/sandboxes/{sandbox}/start", post(sandboxes::start)),
        ("/v1/sandboxes/{sandbox}/stop", post(sandboxes::stop)),
        ("/v1/sandboxes/{sandbox}/kill", post(sandboxes::kill)),
        ("/v1/sandboxes/{sandbox}/restart", post(sandboxes::restart)),
        ("/v1/sandboxes/{sandbox}/pause", post(sandboxes::pause)),
        ("/v1/sandboxes/{sandbox}/resume", post(sandboxes::resume)),
        ("/v1/sandboxes/{sandbox}/snapshot", post(snapshots::take)),
        ("/v1/sandboxes/{sandbox}/fork", post(snapshots::fork)),
        ("/v1/snapshots", get(snapshots::list)),
        ("/v1/snapshots/{snapshot}", delete(snapshots::delete)),
        ("/v1/prune", post(sandboxes::prune)),
        ("/v1/sandboxes/{sandbox}/logs", get(events::logs)),
        ("/v1/sandboxes/{sandbox}/stats", get(events::stats)),
        ("/v1/sandboxes/{sandbox}/path", get(processes::look)),
        ("/v1/sandboxes/{sandbox}/processes", get(processes::list)),
        (
            "/v1/sandboxes/{sandbox}/processes/{process}",
            put(processes::start).delete(processes::release),
        ),
        ("/v1/sandboxes/{sandbox}/processes/{process}/attach", get(attach::attach)),
        ("/v1/images", get(images::list).post(images::pull)),
        ("/v1/images/{image}", get(images::show).delete(images::delete)),
        ("/v1/image-cache", get(images::cache)),
        ("/v1/image-cache/prune", post(images::prune_cache)),
        ("/v1/operations", get(operations::list)),
        ("/v1/operations/{operation}", get(operations::show)),
        ("/v1/operations/{operation}/cancel", post(operations::cancel)),
        ("/v1/operations/{operation}/events", get(events::operation)),
        ("/v1/templates", get(templates::list)),
        ("/v1/templates/{template}", delete(templates::delete)),
        ("/v1/templates/prune", post(templates::prune)),
        ("/v1/kernels", get(kernels::list).post(kernels::import)),
        ("/v1/kernels/{kernel}", get(kernels::show).delete(kernels::delete)),
        ("/v1/kernels/{kernel}/pull", post(kernels::pull)),
        ("/v1/volumes", get(volumes::list).post(volumes::create)),
        ("/v1/volumes/{volume}", get(volumes::show).delete(volumes::delete)),
        ("/v1/volumes/{volume}/resize", post(volumes::resize)),
    ]
}

/// The OpenAPI document, as JSON. Its version is that of the API, not of the program.
pub fn openapi() -> String {
    let mut document = Document::openapi();
    document.info.license = None;
    document.info.contact = None;
    document.to_pretty_json().unwrap_or_default()
}

/// Everything that is served.
pub(crate) fn router(registry: Arc<Registry>) -> Router {
    let add = |router: Router<_>, (path, methods)| router.route(path, methods);
    routes()
        .into_iter()
        .fold(Router::new(), add)
        .route(METRICS, get(meta::metrics))
        .fallback(async || {
            Failure::from(Problem::new(ProblemCode::NotFound, "there is nothing at this path"))
        })
        .method_not_allowed_fallback(async || {
            Failure::from(Problem::new(ProblemCode::Invalid, "this path has no such method"))
        })
        .layer(middleware::from_fn(in_time))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(registry)
}

/// Ends requests that take too long to arrive: a body that trickles holds nothing for ever.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request took longer than {} s", REQUEST_TIMEOUT.as_secs());
            Failure::from(Problem::new(ProblemCode::TooSlow, detail)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_is_in_the_document_and_none_besides() {
        let document = Document::openapi();
        let documented: BTreeSet<_> = document.paths.paths.keys().map(String::as_str).collect();
        let served: BTreeSet<_> = routes().into_iter().map(|(path, _)| path).collect();
        assert_eq!(served, documented);
        assert!(!documented.contains(METRICS));
    }
}
