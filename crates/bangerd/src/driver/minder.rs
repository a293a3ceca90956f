//! Looks after a running machine: its end, its network, the host's disk, its logs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use banger_api::types::{Condition, ConditionKind, Health};
use banger_host::home::Home;
use banger_host::process::Process;
use banger_model::SandboxId;
use banger_vmm::{EndReason, Record, RunState, pollable};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::health::{self, Check};
use crate::link::LinkState;
use crate::logs;
use crate::machine::{self, Live, Network};
use crate::shared::Shared;

/// News that may wait for the driver.
const QUEUE: usize = 16;
/// How long a machine may take to be seen ending after its network.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at a guest's clock: two that differ by 100 parts in a million are 30 ms apart
/// by then.
const CLOCK_PERIOD: Duration = Duration::from_secs(300);

/// What happens to a running machine.
#[derive(Debug)]
pub(super) enum News {
    /// It has ended.
    Ended(EndReason),
    /// Something is not as it should be, or is again.
    Conditions,
}

/// Looks after a machine for as long as it lives itself.
pub(super) struct Minder {
    news: mpsc::Receiver<News>,
    conditions: Conditions,
    health: Arc<Mutex<Option<Health>>>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Conditions(Arc<Mutex<BTreeMap<ConditionKind, String>>>);

#[derive(Clone)]
struct Reporter {
    news: mpsc::Sender<News>,
    conditions: Conditions,
    health: Arc<Mutex<Option<Health>>>,
    dir: PathBuf,
    live: Live,
}

/// The next news; none ever where nothing is minded.
pub(super) async fn news(minder: &mut Option<Minder>) -> News {
    if let Some(minder) = minder
        && let Some(news) = minder.news.recv().await
    {
        return news;
    }
    std::future::pending().await
}

impl Minder {
    pub(super) fn of(shared: &Shared, id: &SandboxId, live: &Live) -> Self {
        let (sender, news) = mpsc::channel(QUEUE);
        let (conditions, health) = (Conditions::default(), Arc::default());
        let reporter = Reporter {
            news: sender,
            conditions: conditions.clone(),
            health: Arc::clone(&health),
            dir: shared.dir(id),
            // It ends a moment after its machine, which the template need not wait for.
            live: Live { template: None, ..live.clone() },
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(reporter.clone().mind_machine());
        tasks.spawn(reporter.clone().mind_link());
        tasks.spawn(reporter.clone().mind_logs());
        tasks.spawn(reporter.clone().mind_clock());
        tasks.spawn(reporter.clone().mind_health(shared.home.clone()));
        match &live.network {
            Network::Connected => drop(tasks.spawn(reporter.clone().mind_network())),
            Network::Absent => {}
            Network::HostOffline => reporter.conditions.set(
                ConditionKind::NetworkOffline,
                "the sandbox has no network: this host has no default route".to_owned(),
            ),
            Network::Failed(ended) => reporter
                .conditions
                .set(ConditionKind::NetworkFailed, format!("the sandbox has no network: {ended}")),
        }
        Self { news, conditions, health, _tasks: tasks }
    }

    /// What the image's own check says, if it has one.
    pub(super) fn health(&self) -> Option<Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn conditions(&self) -> Vec<Condition> {
        let map = self.conditions.0.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = |(kind, message): (&ConditionKind, &String)| Condition {
            kind: *kind,
            message: message.clone(),
        };
        map.iter().map(condition).collect()
    }
}

impl Conditions {
    fn set(&self, kind: ConditionKind, message: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, message);
    }

    fn clear(&self, kind: ConditionKind) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&kind);
    }
}

impl Reporter {
    async fn set(&self, kind: ConditionKind, message: String) {
        warn!(dir = %self.dir.display(), message, "condition");
        self.conditions.set(kind, message);
        let _ = self.news.send(News::Conditions).await;
    }

    async fn clear(&self, kind: ConditionKind) {
        self.conditions.clear(kind);
        let _ = self.news.send(News::Conditions).await;
    }

    /// Tells of the machine's end, and lets it go on when it stands still for want of space.
    async fn mind_machine(self) {
        let mut states = self.live.machine.watch();
        loop {
            let standing =
                |state: &RunState| !matches!(state, RunState::Running | RunState::Paused);
            let state = states.wait_for(standing).await.map(|state| state.clone());
            match state.unwrap_or(RunState::Ended(EndReason::Unseen)) {
                RunState::Ended(reason) => {
                    let _ = self.news.send(News::Ended(reason)).await;
                    return;
                }
                RunState::OutOfSpace => self.wait_for_space().await,
                _ => {
                    let message = "the sandbox's processors cannot go on".to_owned();
                    self.set(ConditionKind::Broken, message).await;
                    let ended = self.live.machine.ended().await;
                    let _ = self.news.send(News::Ended(ended)).await;
                    return;
                }
            }
            let moved = |state: &RunState| *state != RunState::OutOfSpace;
            // When that fails the machine is gone, which the next turn tells.
            let _ = states.wait_for(moved).await;
        }
    }

    async fn wait_for_space(&self) {
        let message = format!(
            "the host's disk is full: the sandbox stands still until there is space on the file \
             system of {}",
            self.dir.display()
        );
        self.set(ConditionKind::HostDiskFull, message).await;
        match machine::resume_when_there_is_space(&self.dir, &*self.live.machine).await {
            Ok(()) => self.clear(ConditionKind::HostDiskFull).await,
            Err(error) => {
                self.set(ConditionKind::Broken, format!("the sandbox does not go on: {error:#}"))
                    .await;
            }
        }
    }

    async fn mind_link(self) {
        let mut state = self.live.link.watch();
        let down = state.wait_for(|state| matches!(state, LinkState::Down(_))).await;
        let Ok(LinkState::Down(reason)) = down.map(|state| state.clone()) else { return };
        // With its machine a link ends, too.
        if tokio::time::timeout(END_PATIENCE, self.live.machine.ended()).await.is_err() {
            let message = format!("the sandbox does not answer any more: {reason}");
            self.set(ConditionKind::Unreachable, message).await;
        }
    }

    async fn mind_network(self) {
        if let Err(error) = until_one_ends(&self.dir).await {
            warn!(dir = %self.dir.display(), error = format!("{error:#}"), "its network cannot be watched");
            return;
        }
        let dir = self.dir.clone();
        let ended = tokio::task::spawn_blocking(move || machine::wait_for_network_end(&dir)).await;
        // With its machine a network ends, too, and that is not worth telling.
        if let Ok(Some(ended)) = ended
            && tokio::time::timeout(END_PATIENCE, self.live.machine.ended()).await.is_err()
        {
            let message = format!("the sandbox has no network any more: {ended}");
            self.set(ConditionKind::NetworkFailed, message).await;
        }
    }

    /// Its clock is right when it comes up, and moves away from the host's as two clocks do; by
    /// hours, if the host has slept.
    async fn mind_clock(self) {
        if self.live.came_up() {
            tokio::time::sleep(CLOCK_PERIOD).await;
        }
        loop {
            match machine::time::correct(&self.live.link).await {
                Ok(Some(by_ns)) => debug!(dir = %self.dir.display(), by_ns, "moved its clock"),
                Ok(None) => {}
                // An agent that is older does not know the question.
                Err(error) => {
                    debug!(dir = %self.dir.display(), error = format!("{error:#}"), "its clock is its own")
                }
            }
            tokio::time::sleep(CLOCK_PERIOD).await;
        }
    }

    async fn mind_health(self, home: Home) {
        let dir = self.dir.clone();
        let found = spawn_blocking(move || Check::of(&home, &dir)).await;
        match found.map_err(anyhow::Error::from).flatten() {
            Ok(None) => {}
            Ok(Some(check)) => {
                let (begin, mut health) = (Instant::now(), health::unknown());
                self.set_health(health.clone()).await;
                while let Some(next) = check.next(&self.live.link, &health, begin).await {
                    health = next;
                    self.set_health(health.clone()).await;
                }
            }
            Err(error) => {
                debug!(dir = %self.dir.display(), error = format!("{error:#}"), "its health is unknown");
            }
        }
    }

    async fn set_health(&self, health: Health) {
        let old = {
            let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            known.replace(health.clone())
        };
        if old.is_some_and(|old| old.status != health.status) {
            info!(dir = %self.dir.display(), status = %health.status, "health");
        }
        let _ = self.news.send(News::Conditions).await;
    }

    async fn mind_logs(self) {
        if let Err(error) = logs::keep(&self.dir).await {
            warn!(dir = %self.dir.display(), error = format!("{error:#}"), "its logs are not kept within bounds");
        }
    }
}

/// Waits until a program of the network in `dir` has ended, without a thread for it.
async fn until_one_ends(dir: &Path) -> Result<()> {
    let Some(record) = Record::read(dir)? else { return Ok(()) };
    let mut ends = JoinSet::new();
    for identity in &record.network {
        let Some(process) = Process::find(identity)? else { return Ok(()) };
        let pidfd = pollable(&process)?;
        ends.spawn(async move { pidfd.readable().await.map(drop) });
    }
    if let Some(ended) = ends.join_next().await {
        ended??;
    }
    Ok(())
}
