//! The daemon as a whole: one for each home, from its lock to its last answer.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use banger_host::fs::{ensure_private_dir, file_size, is_there, list_dir, remove_all};
use banger_host::home::Home;
use banger_model::{SandboxId, Span, Timestamp};
use banger_store::{Store, Write};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::arsenal::Arsenal;
use crate::assets::Sources;
use crate::checkpoint::Checkpoints;
use crate::config::Fetching;
use crate::images::Images;
use crate::machine::{HelperProgram, HostSize};
use crate::metrics::Metrics;
use crate::operations::{MAX_FINISHED, Operations, now};
use crate::recovery::{recover, settle_leases};
use crate::registry::{Registry, Reservations};
use crate::shared::{MAX_BOOTS, Shared};
use crate::snapshots::Snapshots;
use crate::spares::Spares;
use crate::store::{Memory, Reserve};
use crate::templates::Templates;
use crate::volumes::Volumes;
use crate::{api, seat, server, spares};

/// Between two times that old operations are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(600);
/// How long spare machines may take to end with the daemon.
const SPARES_PATIENCE: Duration = Duration::from_secs(5);
/// Finished operations are remembered for so long.
const REMEMBERED: Span = Span::from_secs(24 * 3600);

/// What a daemon is given.
#[derive(Debug)]
pub struct Settings {
    /// What sandboxes are made from, and whose they are.
    pub sources: Sources,
    /// How images are fetched.
    pub fetching: Fetching,
    /// The program that stands before a sandbox's network.
    pub relay: HelperProgram,
    /// A socket that listens already; without one it makes its own.
    pub socket: Option<OwnedFd>,
    /// Where one line is written when it serves.
    pub ready: Option<File>,
    /// How many machines may wait to become sandboxes.
    pub spares: usize,
    /// Where a test stops it.
    pub checkpoints: Checkpoints,
}

/// Runs a daemon until it is told to end by SIGTERM or SIGINT. Sandboxes go on without it.
///
/// # Errors
/// When it cannot begin.
pub async fn run(settings: Settings) -> Result<()> {
    let Settings { sources, fetching, relay, socket, ready, spares, checkpoints } = settings;
    let home = sources.home.clone();
    let mut ends = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let (listener, _lock) = seat::take(&home, socket).await?;
    raise_descriptors();
    let (database, sandboxes) = (home.database(), home.sandboxes());
    let reserve = Reserve::beside(&database);
    let (store, remembered) = spawn_blocking(move || open(&database, &sandboxes)).await??;
    let shared = Arc::new(Shared {
        templates: Templates::below(home.templates()),
        snapshots: Snapshots::below(home.snapshots()),
        volumes: Volumes::below(home.volumes()),
        images: Arc::new(Images::new(home.clone(), fetching)),
        home,
        host: HostSize::known().context("cannot tell how large this host is")?,
        arsenal: Arsenal::new(sources),
        relay,
        spares: Spares::new(spares),
        store: Memory::new(store, reserve)?,
        operations: Operations::default(),
        metrics: Metrics::default(),
        checkpoints,
        reservations: Reservations::default(),
        boots: Semaphore::new(MAX_BOOTS),
        shutdown: watch::Sender::new(false),
    });
    let registry = Registry::new(shared.clone());
    recover(&registry, remembered).await.context("cannot take up what is remembered")?;
    let spares = tokio::spawn(spares::keep(shared.clone()));
    let router = api::router(registry.clone());
    let served = server::serve(listener, router, shared.shutdown.subscribe());
    tokio::pin!(served);
    notify(&[NotifyState::Ready]);
    if let Some(mut ready) = ready {
        // Whoever started it may have gone meanwhile.
        let _ = ready.write_all(b"ready\n");
    }
    info!(pid = std::process::id(), home = %shared.home.sandboxes().display(), "ready");
    let [terminate, interrupt] = &mut ends;
    tokio::select! {
        () = &mut served => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = keep_house(&registry) => {}
    }
    info!("ending; sandboxes go on");
    shared.templates.remember_uses();
    notify(&[NotifyState::Stopping]);
    shared.shutdown.send_replace(true);
    // What is left of them by then is ended by the next daemon.
    let _ = timeout(SPARES_PATIENCE, spares).await;
    Ok(())
}

fn open(database: &Path, sandboxes: &Path) -> Result<(Store, banger_store::Remembered)> {
    refuse_to_forget(database, sandboxes)?;
    let store = Store::open(database)?;
    let remembered = store.load()?;
    Ok((store, remembered))
}

/// Without a database every sandbox would be one that nobody remembers, and would be removed.
fn refuse_to_forget(database: &Path, sandboxes: &Path) -> Result<()> {
    let is_empty = file_size(database).is_ok_and(|size| size.apparent.get() == 0);
    if (is_there(database) && !is_empty) || !is_there(sandboxes) {
        return Ok(());
    }
    let id =
        |name: &std::ffi::OsString| name.to_str().is_some_and(|n| n.parse::<SandboxId>().is_ok());
    let count = list_dir(sandboxes)?.iter().filter(|name| id(name)).count();
    if count == 0 {
        return Ok(());
    }
    bail!(
        "there are {count} sandboxes in {}, but the database that remembers them, {}, is missing or \
         empty: put a backup of it in its place, or move those directories away to begin anew",
        sandboxes.display(),
        database.display()
    )
}

/// As many descriptors as this user may have: each sandbox takes some, each connection one.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the number of descriptors cannot be raised");
    }
}

/// Forgets what is long over, from time to time.
async fn keep_house(registry: &Arc<Registry>) {
    let shared = registry.shared();
    let mut interval = tokio::time::interval(HOUSEKEEPING);
    loop {
        interval.tick().await;
        let finished_before = Timestamp(now().0.saturating_sub(REMEMBERED.as_millis()));
        let prune = Write::PruneOperations { finished_before, keep: MAX_FINISHED };
        if let Err(error) = shared.store.write(vec![prune]).await {
            warn!(%error, "old operations cannot be forgotten");
        }
        if let Err(error) = settle_leases(registry) {
            warn!(error = format!("{error:#}"), "leases that nobody holds cannot be removed");
        }
        crate::images::removal::settle(registry).await;
        crate::images::removal::settle_templates(registry).await;
        shared.templates.remember_uses();
        shared.store.reserve();
    }
}

/// Tells systemd, where it listens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd cannot be told");
    }
}

/// Checks what a migration of a home's database would do, on a copy.
///
/// # Errors
/// When the database could not be opened by this program.
pub fn check_migrations(home: &Home) -> Result<String> {
    let scratch: PathBuf = home.runtime().join("check");
    ensure_private_dir(&scratch)?;
    let checked = banger_store::check_migrations(&home.database(), &scratch);
    remove_all(&scratch)?;
    Ok(checked?.to_string())
}
