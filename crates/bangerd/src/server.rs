//! The socket: who may connect, how many, how slowly.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

/// Connections at the same time: each costs some 30 kB at most, and descriptors.
pub(crate) const MAX_CONNECTIONS: usize = 4096;
/// How long the head of a request may take to arrive, and how long a connection may be idle
/// between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 32 * 1024;
/// How long after an error of `accept` the next attempt is made: errors here are those of the
/// whole system, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` becomes true. Connections that are open then are left to end.
pub(crate) async fn serve(
    listener: UnixListener,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            _ = shutdown.wait_for(|down| *down) => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(why) = may_connect(&stream) {
            warn!(why, "refused a connection");
            continue;
        }
        // Whoever is one too many is hung up on: waiting would make all others wait, too.
        let Ok(turn) = connections.clone().try_acquire_owned() else {
            warn!("refused a connection: there are {MAX_CONNECTIONS}");
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, router).await;
            drop(turn);
        });
    }
}

/// Only the owner's processes, and root's, which could do anything anyway. The socket's mode says
/// so already: this is the second wall.
fn may_connect(stream: &UnixStream) -> Result<(), String> {
    let peer = stream.peer_cred().map_err(|error| format!("cannot tell who connects: {error}"))?;
    let owner = rustix::process::geteuid().as_raw();
    match peer.uid() {
        uid if uid == owner || uid == 0 => Ok(()),
        uid => Err(format!("user {uid} is not the owner, {owner}")),
    }
}

async fn connection(stream: UnixStream, router: Router) {
    let service = tower_service(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended otherwise than well");
    }
}

fn tower_service(
    router: Router,
) -> impl tower_service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send,
> + Clone {
    use tower::ServiceExt as _;
    router.map_request(|request: Request<Incoming>| request.map(Body::new))
}
