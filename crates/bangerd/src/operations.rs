//! What was asked and takes its time: who asked may go, and look again later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_api::types::{Asked, ImageAction, Operation, Stage, StageProgress};
use banger_host::clock;
use banger_model::{
    OperationId, OperationRecord, OperationStatus, Progress, SandboxId, SandboxName, Timestamp,
};
use tokio::sync::watch;

/// Most stages that one operation tells of.
const MAX_STAGES: usize = 64;
/// Most lines of an operation's log; the oldest go first.
const MAX_LOG_LINES: usize = 64;
/// How many finished operations are remembered.
pub(crate) const MAX_FINISHED: usize = 1000;

/// The wall clock's time.
pub(crate) fn now() -> Timestamp {
    Timestamp(u64::try_from(clock::wall().as_millis()).unwrap_or(u64::MAX))
}

/// An id for an operation whose asker has chosen none.
///
/// # Errors
/// When the system has no random numbers.
pub(crate) fn new_id() -> Result<OperationId, banger_host::HostError> {
    Ok(OperationId::from_random(banger_host::random::bytes()?))
}

/// Every operation that is remembered.
#[derive(Debug, Default)]
pub(crate) struct Operations(Mutex<BTreeMap<OperationId, Shown>>);

/// One operation as everybody sees it. Its copies are the same operation.
#[derive(Clone, Debug)]
pub(crate) struct Shown(Arc<watch::Sender<Arc<Operation>>>);

/// One that is about a sandbox and is remembered, for whoever carries it out.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    record: Arc<Mutex<OperationRecord>>,
    shown: Shown,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operations {
    /// Takes an operation in that is about a sandbox. Others may wait for it already.
    pub(crate) fn track(&self, record: OperationRecord, name: &SandboxName) -> Tracked {
        if let Some(shown) = self.find(&record.id) {
            return Tracked { record: Arc::new(Mutex::new(record)), shown };
        }
        let shown = self.show(Operation {
            id: record.id.clone(),
            action: Asked::Sandbox(record.action),
            sandbox: Some(record.sandbox.clone()),
            name: name.to_string(),
            started: record.started,
            status: record.status.clone(),
            stages: Vec::new(),
            log: Vec::new(),
            tag: record.tag.clone(),
            stood_still_ms: None,
        });
        Tracked { record: Arc::new(Mutex::new(record)), shown }
    }

    /// Takes an operation in that is about an image. It is forgotten with the daemon: who asks again
    /// has it go on from where it was.
    pub(crate) fn of_image(&self, id: OperationId, action: ImageAction, name: &str) -> Shown {
        self.show(Operation {
            id,
            action: Asked::Image(action),
            sandbox: None,
            name: name.to_owned(),
            started: now(),
            status: OperationStatus::Running,
            stages: Vec::new(),
            log: Vec::new(),
            tag: None,
            stood_still_ms: None,
        })
    }

    fn show(&self, operation: Operation) -> Shown {
        let id = operation.id.clone();
        let shown = Shown(Arc::new(watch::Sender::new(Arc::new(operation))));
        let mut all = lock(&self.0);
        all.insert(id, shown.clone());
        forget_old(&mut all);
        shown
    }

    /// One operation.
    pub(crate) fn find(&self, id: &OperationId) -> Option<Shown> {
        lock(&self.0).get(id).cloned()
    }

    /// An operation that never came to be.
    pub(crate) fn forget(&self, id: &OperationId) {
        lock(&self.0).remove(id);
    }

    /// The last that was asked of a sandbox.
    pub(crate) fn last_of(&self, sandbox: &SandboxId) -> Option<OperationId> {
        let all = self.list();
        let mut its =
            all.iter().rev().filter(|operation| operation.sandbox.as_ref() == Some(sandbox));
        its.next().map(|operation| operation.id.clone())
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Operation>> {
        let mut all: Vec<_> = lock(&self.0).values().map(Shown::operation).collect();
        all.sort_by_key(|operation| operation.started);
        all
    }
}

/// Keeps what is bounded by what runs, and the newest of what is over.
fn forget_old(all: &mut BTreeMap<OperationId, Shown>) {
    if all.len() <= 2 * MAX_FINISHED {
        return;
    }
    let over = |shown: &Shown| shown.operation().status.is_final();
    let mut finished: Vec<_> = all
        .iter()
        .filter(|(_, shown)| over(shown))
        .map(|(id, shown)| (shown.operation().started, id.clone()))
        .collect();
    finished.sort();
    let surplus = finished.len().saturating_sub(MAX_FINISHED);
    for (_, id) in finished.drain(..surplus) {
        all.remove(&id);
    }
}

impl Shown {
    /// Its id.
    pub(crate) fn id(&self) -> OperationId {
        self.operation().id.clone()
    }

    /// How it is now.
    pub(crate) fn operation(&self) -> Arc<Operation> {
        self.0.borrow().clone()
    }

    /// How it is, now and from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Operation>> {
        self.0.subscribe()
    }

    /// What it is about turned out to be called so.
    pub(crate) fn is_about(&self, name: &str) {
        self.change(|operation| operation.name = name.to_owned());
    }

    /// It has ended.
    pub(crate) fn finish(&self, status: OperationStatus) {
        self.change(|operation| operation.status = status);
    }

    /// Adds a line to its log.
    pub(crate) fn log(&self, line: &str) {
        self.change(|operation| {
            if operation.log.len() >= MAX_LOG_LINES {
                operation.log.remove(0);
            }
            operation.log.push(line.to_owned());
        });
    }

    fn change(&self, change: impl FnOnce(&mut Operation)) {
        self.0.send_modify(|operation| change(Arc::make_mut(operation)));
    }
}

impl Progress for Shown {
    fn stage(&self, what: &str) {
        let since = now();
        self.change(|operation| {
            if operation.stages.len() < MAX_STAGES {
                operation.stages.push(Stage { what: what.to_owned(), since, progress: None });
            }
        });
    }

    fn advance(&self, done: u64, whole: Option<u64>) {
        self.change(|operation| {
            if let Some(stage) = operation.stages.last_mut() {
                stage.progress = Some(StageProgress { done, whole });
            }
        });
    }
}

impl Tracked {
    /// Its id.
    pub(crate) fn id(&self) -> OperationId {
        self.shown.id()
    }

    /// What is remembered of it.
    pub(crate) fn record(&self) -> OperationRecord {
        lock(&self.record).clone()
    }

    /// What is to be remembered once it has ended so.
    pub(crate) fn ended(&self, status: OperationStatus) -> OperationRecord {
        OperationRecord { status, ..self.record() }
    }

    /// It has ended; that is remembered by now.
    pub(crate) fn finish(&self, record: OperationRecord) {
        let status = record.status.clone();
        *lock(&self.record) = record;
        self.shown.finish(status);
    }

    /// The sandbox stood still so long for it.
    pub(crate) fn stood_still(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.shown.change(|operation| operation.stood_still_ms = Some(ms));
    }
}

/// The operations that one piece of work is done for. More may join while it is under way: they
/// see the stage that it is in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audience(Arc<Mutex<(Vec<Shown>, Option<String>)>>);

impl Audience {
    /// One more listens.
    pub(crate) fn join(&self, tracked: &Tracked) {
        let mut inner = lock(&self.0);
        // One that has waited before it was its turn listens already.
        if inner.0.iter().any(|other| other.id() == tracked.id()) {
            return;
        }
        if let Some(stage) = &inner.1 {
            tracked.shown.stage(stage);
        }
        inner.0.push(tracked.shown.clone());
    }

    /// The work is over.
    pub(crate) fn clear(&self) {
        *lock(&self.0) = Default::default();
    }

    /// Something worth telling all of them.
    pub(crate) fn log(&self, line: &str) {
        for shown in &lock(&self.0).0 {
            shown.log(line);
        }
    }
}

impl Progress for Audience {
    fn stage(&self, what: &str) {
        let mut inner = lock(&self.0);
        inner.1 = Some(what.to_owned());
        for shown in &inner.0 {
            shown.stage(what);
        }
    }

    fn advance(&self, done: u64, whole: Option<u64>) {
        for shown in &lock(&self.0).0 {
            shown.advance(done, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_model::SandboxId;
    use banger_model::policy::{Action, Goal};

    fn record(n: u64, status: OperationStatus) -> OperationRecord {
        OperationRecord {
            id: OperationId::from_random(n.to_be_bytes()),
            sandbox: SandboxId::from_random([0; 6]),
            action: Action::Start,
            goal: Goal::Down,
            started: Timestamp(n),
            status,
            tag: None,
        }
    }

    #[test]
    fn what_runs_is_never_forgotten_and_the_newest_of_the_rest_stay() {
        let operations = Operations::default();
        let name = "x".parse().unwrap();
        operations.track(record(0, OperationStatus::Running), &name);
        for n in 1..=3000 {
            operations.track(record(n, OperationStatus::Succeeded { at: Timestamp(n) }), &name);
        }
        let left = operations.list();
        assert!(left.len() <= 2 * MAX_FINISHED + 1);
        assert_eq!(left[0].started, Timestamp(0));
        assert_eq!(left.last().unwrap().started, Timestamp(3000));
    }

    #[test]
    fn who_joins_late_sees_the_stage_and_the_log_is_bounded() {
        let operations = Operations::default();
        let tracked = operations.track(record(1, OperationStatus::Running), &"x".parse().unwrap());
        let audience = Audience::default();
        audience.stage("booting");
        audience.join(&tracked);
        audience.advance(1, Some(2));
        let seen = tracked.shown.operation();
        assert_eq!(seen.stages[0].what, "booting");
        assert_eq!(seen.stages[0].progress, Some(StageProgress { done: 1, whole: Some(2) }));
        for n in 0..200 {
            audience.log(&n.to_string());
        }
        let log = &tracked.shown.operation().log;
        assert_eq!((log.len(), log.last().unwrap().as_str()), (MAX_LOG_LINES, "199"));
    }
}
