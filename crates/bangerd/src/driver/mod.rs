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
mod idle;
mod minder;
mod view;
mod work;

use std::sync::Arc;
use std::time::Duration;

use banger_host::random;
use banger_model::lifecycle::{Effect, EndCause, Event, State, StopKind};
use banger_model::policy::{Action, Decision, Denial, Goal, Recovery, Seen, decide, recover};
use banger_model::{
    Disposal, OperationId, OperationRecord, OperationStatus, RestartPolicy, SandboxRecord,
    Timestamp,
};
use banger_store::Write;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::machine::Live;
use crate::operations::{Tracked, now};
use crate::shared::Shared;
use crate::store::NotStored;

use asked::Asked;
use minder::{Minder, News};
use work::{Done, Work};

pub(crate) use view::{Activity, View};

/// Orders that may wait for one sandbox.
const QUEUE: usize = 64;
/// Requests that may wait until a sandbox has done what it is in the midst of.
const MAX_ASKED: usize = 64;
/// Between two attempts at what failed for a reason that may pass.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Longest sleep: a clock that was set, or a host that slept, is noticed after that.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why a sandbox does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It may not.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// Too much waits for it.
    #[error("too many requests wait for it already")]
    Busy,
    /// It is gone.
    #[error("it is gone")]
    Gone,
    /// It could not be written down.
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// The operation is over, or is one that cannot be called off.
    #[error("only an operation that starts a sandbox and still runs can be cancelled")]
    NotCancellable,
    /// The system has no random numbers for an id.
    #[error("cannot name the operation: {0}")]
    NoId(Arc<str>),
}

/// What a driver is told.
enum Order {
    Ask { action: Action, reply: oneshot::Sender<Result<OperationId, AskError>> },
    Cancel { operation: OperationId, reply: oneshot::Sender<Result<(), AskError>> },
    LeaseFell,
}

/// The way to a sandbox's driver. Its copies lead to the same one.
#[derive(Clone)]
pub(crate) struct Handle {
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<Arc<View>>,
}

impl Handle {
    /// How the sandbox is.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// How the sandbox is, now and from now on; closed when it is gone.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Asks it for something; returns the operation that this is, once that is remembered.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) async fn ask(&self, action: Action) -> Result<OperationId, AskError> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(Order::Ask { action, reply }).map_err(refused)?;
        answer.await.unwrap_or(Err(AskError::Gone))
    }

    /// Calls an operation off.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) async fn cancel(&self, operation: OperationId) -> Result<(), AskError> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(Order::Cancel { operation, reply }).map_err(refused)?;
        answer.await.unwrap_or(Err(AskError::Gone))
    }

    /// Tells it that its client is gone.
    pub(crate) fn lease_fell(&self) {
        // A queue that is full is of a sandbox that looks at its lease again after a restart.
        let _ = self.orders.try_send(Order::LeaseFell);
    }
}

fn refused(error: mpsc::error::TrySendError<Order>) -> AskError {
    match error {
        mpsc::error::TrySendError::Full(_) => AskError::Busy,
        mpsc::error::TrySendError::Closed(_) => AskError::Gone,
    }
}

/// What a driver begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// The sandbox was just created.
    New,
    /// It is remembered from an earlier daemon, and there may be processes of it.
    Remembered,
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
        live: None,
        activity: activity.clone(),
    };
    let (publish, view) = watch::channel(Arc::new(first));
    let mut driver = Driver::new(shared, record, publish, activity);
    driver.asked.adopt(&driver.shared, &driver.record, operations);
    tokio::spawn(async move {
        driver.run(queue, beginning).await;
        gone();
    });
    Handle { orders, view }
}

struct Driver {
    shared: Arc<Shared>,
    record: SandboxRecord,
    view: watch::Sender<Arc<View>>,
    live: Option<Live>,
    minder: Option<Minder>,
    asked: Asked,
    work: Option<Work>,
    /// Whether what is known of it has not reached the store.
    unsaved: bool,
    /// When it is to start again by its restart policy.
    restart_at: Option<Timestamp>,
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
            asked: Asked::default(),
            work: None,
            unsaved: false,
            restart_at: None,
            again_at: None,
            idle,
            activity,
            left: Left::Sandbox,
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>, beginning: Beginning) {
        match beginning {
            Beginning::New => {}
            Beginning::Remembered => self.begin(work::observe(&self.shared, &self.record)),
            Beginning::RememberedAtRest => self.recovered(Recovery::Clear, None).await,
        }
        let shutdown = self.shared.clone().ending();
        tokio::pin!(shutdown);
        loop {
            if self.settle().await == Left::Nothing {
                return;
            }
            let observing = self.work.as_ref().is_some_and(|work| work.observes());
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                done = work::finished(&mut self.work) => self.work_done(done).await,
                news = minder::news(&mut self.minder) => self.hear(news).await,
                order = orders.recv(), if !observing => match order {
                    Some(order) => self.obey(order).await,
                    // The registry holds a handle for as long as the daemon runs.
                    None => return,
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
        }
        if self.work.as_ref().is_some_and(|work| work.observes()) {
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
            let decision = decide(operation.action, &self.record.state);
            if let Decision::Deny(denial) = decision {
                self.finish(&tracked, Err(denial.to_string())).await;
                continue;
            }
            if let Err(not_stored) = self.act(decision, &tracked).await {
                self.finish(&tracked, Err(not_stored.to_string())).await;
            }
        }
        self.finish_reached(|_| true).await;
        let settled = matches!(self.record.state, State::Stopped { .. } | State::Failed { .. });
        if settled && self.restart_at.is_none() && self.record.lifetime.disposal == Disposal::Remove
        {
            self.happen(Event::Delete, Vec::new()).await;
        }
        self.left
    }

    /// Finishes the requests that have come to an end of this kind.
    async fn finish_reached(&mut self, meant: impl Fn(&Result<(), String>) -> bool) {
        for (tracked, outcome) in self.asked.reached(Some(&self.record.state), self.record.boots) {
            if meant(&outcome) {
                self.finish(&tracked, outcome).await;
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Ask { action, reply } => {
                let answer = self.ask(action).await;
                let _ = reply.send(answer);
            }
            Order::Cancel { operation, reply } => {
                let answer = self.cancel(&operation).await;
                let _ = reply.send(answer);
            }
            Order::LeaseFell => {
                info!(sandbox = %self.record.id, "its client is gone: it goes, too");
                self.happen(Event::Delete, Vec::new()).await;
            }
        }
    }

    async fn ask(&mut self, action: Action) -> Result<OperationId, AskError> {
        let decision = decide(action, &self.record.state);
        if let Decision::Deny(denial) = decision {
            return Err(denial.into());
        }
        if self.asked.len() >= MAX_ASKED {
            return Err(AskError::Busy);
        }
        let id = random::bytes().map_err(|error| AskError::NoId(error.to_string().into()))?;
        let record = OperationRecord {
            id: OperationId::from_random(id),
            sandbox: self.record.id.clone(),
            action,
            goal: Goal::of(action, &self.record.state, self.record.boots),
            started: now(),
            status: OperationStatus::Running,
        };
        let tracked = self.shared.operations.track(record, &self.record.name);
        if let Err(not_stored) = self.act(decision, &tracked).await {
            let status = OperationStatus::Failed { at: now(), error: not_stored.to_string() };
            tracked.finish(tracked.ended(status));
            return Err(not_stored.into());
        }
        Ok(tracked.id())
    }

    /// Does about a request what was decided, and remembers the request in the same breath.
    async fn act(&mut self, decision: Decision, tracked: &Tracked) -> Result<(), NotStored> {
        let remember = Write::PutOperation(tracked.record());
        match decision {
            Decision::Act(event) => {
                self.restart_at = None;
                self.asked.join(tracked);
                self.change(&event, vec![remember]).await
            }
            Decision::ActAndAskAgain(event) => {
                self.restart_at = None;
                self.asked.wait(tracked);
                self.change(&event, vec![remember]).await
            }
            Decision::AlreadySo => {
                // Who stops what is down already means it to stay down.
                if matches!(tracked.record().goal, Goal::Down) {
                    self.restart_at = None;
                }
                self.asked.join(tracked);
                self.shared.store.write(vec![remember]).await
            }
            Decision::Queue => {
                self.asked.wait(tracked);
                self.shared.store.write(vec![remember]).await
            }
            Decision::Deny(_) => Ok(()),
        }
        .inspect_err(|_| self.asked.forget(tracked))
    }

    /// Calls an operation off: one that waits is simply dropped, one that starts the sandbox
    /// alone stops it.
    async fn cancel(&mut self, id: &OperationId) -> Result<(), AskError> {
        let tracked = self.asked.find(id).ok_or(AskError::NotCancellable)?;
        let starts = matches!(tracked.record().action, Action::Start | Action::Restart);
        if !starts {
            return Err(AskError::NotCancellable);
        }
        let record = tracked.ended(OperationStatus::Cancelled { at: now() });
        let remember = vec![Write::PutOperation(record.clone())];
        let starting = matches!(self.record.state, State::Starting { .. });
        if starting && self.asked.starters() == 1 {
            self.change(&Event::Stop(StopKind::Kill), remember).await?;
        } else {
            self.shared.store.write(remember).await?;
        }
        self.asked.forget(&tracked);
        self.shared.metrics.operation_ended(&record);
        tracked.finish(record);
        Ok(())
    }

    /// Something has happened that nobody can take back: it counts even if it cannot be written
    /// down yet.
    async fn happen(&mut self, event: Event, with: Vec<Write>) {
        let Some(step) = self.record.state.step(&event) else { return };
        self.enter(&step.state);
        self.save(with).await;
        self.carry_out(step.effect).await;
    }

    /// Something is to happen: it does once it is written down, or not at all.
    async fn change(&mut self, event: &Event, mut with: Vec<Write>) -> Result<(), NotStored> {
        let Some(step) = self.record.state.step(event) else {
            return self.shared.store.write(with).await;
        };
        let before = self.record.clone();
        self.enter(&step.state);
        with.insert(0, Write::Update(self.record.clone()));
        if let Err(error) = self.shared.store.write(with).await {
            self.record = before;
            return Err(error);
        }
        self.publish();
        self.carry_out(step.effect).await;
        Ok(())
    }

    fn enter(&mut self, state: &State) {
        info!(sandbox = %self.record.id, name = %self.record.name, from = %self.record.state, to = %state, "state");
        if matches!(state, State::Starting { .. }) {
            self.record.boots += 1;
        }
        self.record.state = state.clone();
    }

    async fn save(&mut self, mut with: Vec<Write>) {
        with.insert(0, Write::Update(self.record.clone()));
        match self.shared.store.write(with).await {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                error!(sandbox = %self.record.id, %error, "its state cannot be stored; trying again");
                self.unsaved = true;
                self.again_at = Some(tokio::time::Instant::now() + TRY_AGAIN);
            }
        }
        self.publish();
    }

    async fn carry_out(&mut self, effect: Option<Effect>) {
        let Some(effect) = effect else { return };
        self.shared.checkpoints.reach(work::decided(effect)).await;
        if !matches!(effect, Effect::End(StopKind::PowerOff)) {
            self.lose_machine();
        }
        let audience = self.asked.audience();
        self.begin(work::effect(&self.shared, &self.record, effect, self.live.as_ref(), audience));
        self.publish();
    }

    fn begin(&mut self, work: work::Begin) {
        self.work = Some(Work::begin(work, self.work.take()));
    }

    fn lose_machine(&mut self) {
        self.live = None;
        self.minder = None;
    }

    async fn work_done(&mut self, done: Done) {
        match done {
            Done::Seen(live) => {
                let seen = if live.is_some() { Seen::Alive } else { Seen::Dead };
                self.recovered(recover(&self.record.state, seen), live).await;
            }
            Done::Silent(reason) => self.not_adopted(&reason),
            Done::Booted(live, took) => {
                self.shared.metrics.started(took);
                self.take_machine(live);
                for condition in self.minder.as_ref().map(Minder::conditions).unwrap_or_default() {
                    self.asked.audience().log(&condition.message);
                }
                self.happen(Event::Booted(now()), Vec::new()).await;
                self.shared.checkpoints.reach("start.recorded").await;
            }
            Done::Ended(cause) => {
                self.lose_machine();
                self.ended(cause).await;
                self.shared.checkpoints.reach("stop.recorded").await;
            }
            Done::Removed => self.removed().await,
            Done::Again(reason) => {
                warn!(sandbox = %self.record.id, reason, "not done; trying again");
                self.again_at = Some(tokio::time::Instant::now() + TRY_AGAIN);
            }
            Done::Cleared | Done::Superseded => {}
        }
    }

    /// A daemon before this one has left the sandbox so.
    async fn recovered(&mut self, recovery: Recovery, live: Option<Live>) {
        if self.record.state.has_machine() || live.is_some() {
            info!(sandbox = %self.record.id, state = %self.record.state, ?recovery, "found");
        }
        match recovery {
            Recovery::Adopt | Recovery::AdoptAndGoOn => {
                if let Some(live) = live {
                    self.take_machine(live);
                }
                if recovery == Recovery::AdoptAndGoOn {
                    self.carry_out(self.record.state.pending()).await;
                }
            }
            Recovery::BeginAgain => self.carry_out(self.record.state.pending()).await,
            Recovery::Ended => {
                let gone = "its virtual machine monitor was gone when the daemon came back";
                self.begin(work::clear(&self.shared, &self.record));
                self.ended(EndCause::Failed(gone.to_owned())).await;
            }
            Recovery::Clear => {
                if live.is_some() {
                    self.begin(work::clear(&self.shared, &self.record));
                }
            }
        }
        self.publish();
    }

    /// There is a machine that cannot be talked to. It is let be, and tried again.
    fn not_adopted(&mut self, reason: &str) {
        warn!(sandbox = %self.record.id, reason, "its machine cannot be taken over yet");
        self.begin(work::observe_later(&self.shared, &self.record, TRY_AGAIN));
    }

    fn take_machine(&mut self, live: Live) {
        self.minder = Some(Minder::of(&self.shared, &self.record.id, &live));
        self.live = Some(live);
        self.publish();
    }

    /// Its machine is no more.
    async fn ended(&mut self, cause: EndCause) {
        let at = now();
        let asked = matches!(self.record.state, State::Stopping { .. });
        let cause = if asked { EndCause::Asked } else { cause };
        let ran = match &self.record.state {
            State::Running { since } => at.since(*since),
            _ => banger_model::Span::default(),
        };
        let wanted = matches!(self.record.state, State::Running { .. });
        self.record.restarts = RestartPolicy::failed_in_row(self.record.restarts, ran);
        let again = self.record.lifetime.restart.restart_after(&cause, self.record.restarts);
        // What never came up is not tried again by itself, unless it had run before.
        if let Some(wait) = again.filter(|_| wanted || self.record.restarts > 0) {
            self.restart_at = Some(at.after(wait));
            self.record.restarts = self.record.restarts.saturating_add(1);
            info!(sandbox = %self.record.id, %cause, in_ms = wait.as_millis(), "starts again");
        }
        self.happen(Event::Ended(at, cause), Vec::new()).await;
    }

    /// Nothing of it is left but what is remembered.
    async fn removed(&mut self) {
        let mut writes = vec![Write::Remove(self.record.id.clone())];
        let outcomes = self.asked.reached(None, self.record.boots);
        let mut ended = Vec::new();
        for (tracked, outcome) in &outcomes {
            let record = tracked.ended(status(outcome.clone()));
            writes.push(Write::PutOperation(record.clone()));
            ended.push((tracked, record));
        }
        while let Err(error) = self.shared.store.write(writes.clone()).await {
            error!(sandbox = %self.record.id, %error, "its removal cannot be stored; trying again");
            tokio::time::sleep(TRY_AGAIN).await;
        }
        self.shared.checkpoints.reach("delete.recorded").await;
        for (tracked, record) in ended {
            self.shared.metrics.operation_ended(&record);
            tracked.finish(record);
        }
        info!(sandbox = %self.record.id, name = %self.record.name, "gone");
        self.left = Left::Nothing;
    }

    async fn finish(&mut self, tracked: &Tracked, outcome: Result<(), String>) {
        let record = tracked.ended(status(outcome));
        if let Err(error) = self.shared.store.write(vec![Write::PutOperation(record.clone())]).await
        {
            // The next daemon will find it unfinished, and come to the same end.
            warn!(operation = %record.id, %error, "its end cannot be stored");
        }
        self.asked.forget(tracked);
        self.shared.metrics.operation_ended(&record);
        tracked.finish(record);
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Ended(reason) if self.work.is_none() => {
                self.lose_machine();
                self.begin(work::ended_by_itself(&self.shared, &self.record, reason));
            }
            // Whoever ends it tells.
            News::Ended(_) => {}
            News::Conditions => self.publish(),
        }
    }

    async fn woken(&mut self) {
        let now = now();
        if self.expires().is_some_and(|at| at <= now) && self.record.state != State::Deleting {
            info!(sandbox = %self.record.id, "its time is over");
            self.happen(Event::Delete, Vec::new()).await;
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
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
        [expires, self.restart_at]
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
        self.view.send_modify(|view| {
            let activity = view.activity.clone();
            let record = self.record.clone();
            *view = Arc::new(View { record, conditions, live: self.live.clone(), activity });
        });
    }
}

fn status(outcome: Result<(), String>) -> OperationStatus {
    let at = now();
    match outcome {
        Ok(()) => OperationStatus::Succeeded { at },
        Err(error) => OperationStatus::Failed { at, error },
    }
}
