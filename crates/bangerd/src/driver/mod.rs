//! One task for each sandbox, the only one that changes it.
//!
//! ```text
//!   orders (API, lease) ─┐
//!   work done (boot, …) ─┼─▶ policy ─▶ State::step ─▶ store ─▶ view ─▶ next piece of work
//!   news of the machine ─┤
//!   timers ──────────────┘
//! ```
//!
//! The task itself never waits for a guest: what takes long is a piece of [`work`], and at most
//! one is under way. What is decided is remembered by the store before anything is done about it
//! or anybody is told, so a daemon that dies here is followed by one that goes on from there.

mod asked;
mod handle;
mod health;
mod idle;
mod life;
mod minder;
mod pause;
mod requests;
mod restore;
mod snapshot;
mod start;
mod view;
mod work;

use std::sync::Arc;
use std::time::Duration;

use banger_model::lifecycle::{EndCause, Event, State, StopKind};
use banger_model::policy::{Decision, decide};
use banger_model::{Disposal, OperationRecord, SandboxRecord, Timestamp};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::machine::Live;
use crate::operations::now;
use crate::shared::Shared;
use crate::spares::Spare;
use crate::templates::Template;

use asked::Asked;
use handle::Order;
use minder::Minder;
use work::Work;

pub(crate) use handle::{AskError, Asked as WasAsked, Handle, Wanted};
pub(crate) use view::{Activity, View};

/// Orders that may wait for one sandbox.
const QUEUE: usize = 64;
/// Requests that may wait until a sandbox has done what it is in the midst of.
const MAX_ASKED: usize = 64;
/// Between two attempts at what failed for a reason that may pass.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Longest sleep: a clock that was set, or a host that slept, is noticed after that.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What a driver begins with.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// The sandbox was just created, and this machine waits for it.
    New(Option<Spare>),
    /// It is remembered from an earlier daemon, and there may be processes of it, made from this
    /// template.
    Remembered(Option<Arc<Template>>),
    /// It is remembered, and nothing runs.
    RememberedAtRest,
}

/// Starts the driver of a sandbox that the store remembers, with the operations that were not
/// finished. `gone` is called when the sandbox is no more.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    record: SandboxRecord,
    operations: Vec<OperationRecord>,
    beginning: Beginning,
    gone: impl FnOnce() + Send + 'static,
) -> Handle {
    let (orders, queue) = mpsc::channel(QUEUE);
    let activity = Arc::new(Activity::new(now()));
    let first = View {
        record: record.clone(),
        conditions: Vec::new(),
        health: None,
        live: None,
        ended: None,
        activity: activity.clone(),
    };
    let (publish, view) = watch::channel(Arc::new(first));
    let mut driver = Driver::new(shared, record, publish, activity);
    driver.asked.adopt(&driver.shared, &driver.record, operations);
    let (shared, id) = (driver.shared.clone(), driver.record.id.clone());
    tokio::spawn(async move {
        // A daemon that ends leaves machines behind, with their volumes.
        if driver.run(queue, beginning).await == Left::Nothing {
            shared.volumes.release(&id);
        }
        gone();
    });
    Handle::new(orders, view)
}

struct Driver {
    shared: Arc<Shared>,
    record: SandboxRecord,
    view: watch::Sender<Arc<View>>,
    live: Option<Live>,
    minder: Option<Minder>,
    /// Why its last machine ended.
    last_end: Option<EndCause>,
    asked: Asked,
    work: Option<Work>,
    /// A machine that waits for its first start.
    spare: Option<Spare>,
    /// What its machine was made from, until that is known to run or not.
    claimed: Option<Arc<Template>>,
    /// Whether what is known of it has not reached the store.
    unsaved: bool,
    /// When what failed is tried again.
    again_at: Option<tokio::time::Instant>,
    /// When it is looked at for idleness.
    idle: idle::Watch,
    activity: Arc<Activity>,
    left: Left,
}

/// Whether there is anything left to drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Sandbox,
    Nothing,
}

impl Driver {
    fn new(
        shared: Arc<Shared>,
        record: SandboxRecord,
        view: watch::Sender<Arc<View>>,
        activity: Arc<Activity>,
    ) -> Self {
        let idle = idle::Watch::new(record.lifetime.idle_timeout);
        Self {
            shared,
            record,
            view,
            live: None,
            minder: None,
            last_end: None,
            asked: Asked::default(),
            work: None,
            spare: None,
            claimed: None,
            unsaved: false,
            again_at: None,
            idle,
            activity,
            left: Left::Sandbox,
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>, beginning: Beginning) -> Left {
        match beginning {
            Beginning::New(spare) => self.spare = spare,
            Beginning::Remembered(template) => {
                self.claimed = template;
                self.begin(work::observe(&self.shared, &self.record));
            }
            Beginning::RememberedAtRest => {}
        }
        let shutdown = self.shared.clone().ending();
        tokio::pin!(shutdown);
        loop {
            if self.settle().await == Left::Nothing {
                return Left::Nothing;
            }
            let observing = self.work.as_ref().is_some_and(|work| work.observes());
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = &mut shutdown => return Left::Sandbox,
                done = work::finished(&mut self.work) => self.work_done(done).await,
                news = minder::news(&mut self.minder) => self.hear(news).await,
                () = restore::never_taken(&self.shared, &self.record), if self.work.is_none() => {
                    info!(sandbox = %self.record.id, "its fork came to nothing");
                    self.happen(Event::Delete, Vec::new()).await;
                }
                order = orders.recv(), if !observing => match order {
                    Some(order) => self.obey(order).await,
                    // The registry holds a handle for as long as the daemon runs.
                    None => return Left::Sandbox,
                },
                () = tokio::time::sleep(wake) => self.woken().await,
            }
        }
    }

    /// Everything that follows from how things are now: requests that waited, goals reached,
    /// deletion of what is not to be kept.
    async fn settle(&mut self) -> Left {
        if self.unsaved {
            self.save(Vec::new()).await;
            // What nobody would remember is nothing that anybody may count on.
            if self.unsaved {
                return Left::Sandbox;
            }
        }
        if self.work.as_ref().is_some_and(|work| work.observes() || work.clears()) {
            return Left::Sandbox;
        }
        loop {
            // What is so now was reached, even if what waits leads away from it at once.
            self.finish_reached(Result::is_ok).await;
            let Some(tracked) = self.asked.next_waiting(&self.record.state) else { break };
            let operation = tracked.record();
            // Found so by a daemon whose predecessor came just so far.
            if operation.goal.outcome(Some(&self.record.state), self.record.boots) == Some(Ok(())) {
                self.finish(&tracked, Ok(())).await;
                continue;
            }
            let decision = decide(operation.action, &operation.id, &self.record.state);
            if let Decision::Deny(denial) = decision {
                self.finish(&tracked, Err(denial.to_string())).await;
                continue;
            }
            if let Err(not_stored) = self.act(decision, &tracked, Vec::new()).await {
                self.finish(&tracked, Err(not_stored.to_string())).await;
            }
        }
        self.finish_reached(|_| true).await;
        let settled = matches!(self.record.state, State::Stopped { .. } | State::Failed { .. });
        if settled
            && self.record.restart_at.is_none()
            && self.record.lifetime.disposal == Disposal::Remove
        {
            self.happen(Event::Delete, Vec::new()).await;
        }
        self.left
    }

    async fn woken(&mut self) {
        let now = now();
        if self.expires().is_some_and(|at| at <= now) && self.record.state != State::Deleting {
            info!(sandbox = %self.record.id, "its time is over");
            self.happen(Event::Delete, Vec::new()).await;
        }
        if self.record.restart_at.is_some_and(|at| at <= now) {
            self.happen(Event::Start, Vec::new()).await;
        }
        if self.again_at.is_some_and(|at| at <= tokio::time::Instant::now()) {
            self.again_at = None;
            if self.work.is_none() {
                let pending = self.record.state.pending();
                self.carry_out(pending).await;
            }
        }
        if let Some(live) = &self.live
            && self.work.is_none()
            && self.idle.is_over(now, live, &self.activity).await
        {
            info!(sandbox = %self.record.id, "idle for too long");
            self.happen(Event::Stop(StopKind::PowerOff), Vec::new()).await;
        }
    }

    fn expires(&self) -> Option<Timestamp> {
        self.record.lifetime.ttl.map(|ttl| self.record.created.after(ttl))
    }

    fn next_wake(&self) -> Duration {
        let now = now();
        let in_time = |at: Timestamp| at.since(now).as_duration();
        let idle = self.live.as_ref().and_then(|_| self.idle.next(now));
        let deleting = self.record.state == State::Deleting;
        let expires = self.expires().filter(|_| !deleting);
        [expires, self.record.restart_at]
            .into_iter()
            .flatten()
            .map(in_time)
            .chain(idle)
            .chain(
                self.again_at.map(|at| at.saturating_duration_since(tokio::time::Instant::now())),
            )
            .fold(LONGEST_SLEEP, Duration::min)
    }

    fn publish(&self) {
        let conditions = self.minder.as_ref().map(Minder::conditions).unwrap_or_default();
        let health = self.minder.as_ref().and_then(Minder::health);
        self.view.send_modify(|view| {
            let activity = view.activity.clone();
            let record = self.record.clone();
            let (live, ended) = (self.live.clone(), self.last_end.clone());
            *view = Arc::new(View { record, conditions, health, live, ended, activity });
        });
    }
}
