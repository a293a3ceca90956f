//! What is asked of a sandbox: decided, remembered, and brought to its end.

use banger_model::lifecycle::{Event, Origin, State, StopKind};
use banger_model::policy::{Action, Decision, Goal, decide};
use banger_model::{
    OperationId, OperationRecord, OperationStatus, SnapshotId, SnapshotName, SnapshotTag,
};
use banger_store::Write;
use tracing::{info, warn};

use super::handle::{AskError, Asked, Order, Wanted};
use super::{Driver, MAX_ASKED};
use crate::operations::{Tracked, now};
use crate::snapshots::GivenUp;
use crate::store::NotStored;

/// Larger tags that are numbers are somebody's own.
const MAX_NUMBER: u64 = 1 << 32;

impl Driver {
    pub(super) async fn obey(&mut self, order: Order) {
        match order {
            Order::Ask { wanted, reply } => {
                let answer = self.ask(wanted).await;
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

    pub(super) async fn ask(&mut self, wanted: Wanted) -> Result<Asked, AskError> {
        let Wanted { action, id, tag, with } = wanted;
        if let Some(known) = self.shared.operations.find(&id) {
            let known = known.operation();
            let same = known.sandbox.as_ref() == Some(&self.record.id) && known.action == action;
            return if same { Ok(Asked::Before) } else { Err(AskError::IdTaken) };
        }
        let decision = decide(action, &id, &self.record.state);
        if let Decision::Deny(denial) = decision {
            return Err(denial.into());
        }
        if self.asked.len() >= MAX_ASKED {
            return Err(AskError::Busy);
        }
        let tag = match action {
            Action::Snapshot => Some(self.free_tag(tag)?),
            _ => None,
        };
        let record = OperationRecord {
            id,
            sandbox: self.record.id.clone(),
            action,
            goal: Goal::of(action, &self.record.state, self.record.boots),
            started: now(),
            status: OperationStatus::Running,
            tag,
        };
        let tracked = self.shared.operations.track(record, &self.record.name);
        if let Err(not_stored) = self.act(decision, &tracked, with).await {
            let status = OperationStatus::Failed { at: now(), error: not_stored.to_string() };
            tracked.finish(tracked.ended(status));
            // Nothing of it is remembered: who asks again asks for the first time.
            self.shared.operations.forget(&tracked.id());
            return Err(not_stored.into());
        }
        Ok(Asked::Anew)
    }

    /// The tag that a new snapshot gets: this one, or the next number. Nobody else takes one of a
    /// sandbox of this name meanwhile, for there is no other.
    fn free_tag(&self, wanted: Option<SnapshotTag>) -> Result<SnapshotTag, AskError> {
        let mut taken = self.shared.snapshots.tags_of(&self.record.name);
        taken.extend(self.asked.tags());
        let Some(tag) = wanted else {
            let numbers = taken.iter().filter_map(|tag| tag.as_str().parse::<u64>().ok());
            let last = numbers.filter(|n| *n < MAX_NUMBER).max().unwrap_or(0);
            return Ok(SnapshotTag::numbered(last + 1));
        };
        if taken.contains(&tag) {
            let sandbox = self.record.name.clone();
            return Err(AskError::TagTaken(SnapshotName { sandbox, tag }));
        }
        Ok(tag)
    }

    /// Does about a request what was decided, and remembers the request in the same breath.
    pub(super) async fn act(
        &mut self,
        decision: Decision,
        tracked: &Tracked,
        with: Vec<Write>,
    ) -> Result<(), NotStored> {
        let mut writes = with;
        writes.push(Write::PutOperation(tracked.record()));
        match decision {
            Decision::Act(event) => {
                self.asked.join(tracked);
                self.change(&event, writes).await
            }
            Decision::ActAndAskAgain(event) => {
                self.asked.wait(tracked);
                self.change(&event, writes).await
            }
            Decision::AlreadySo => {
                self.asked.join(tracked);
                let mut record = self.record.clone();
                // Who stops what is down already means it to stay down.
                if matches!(tracked.record().goal, Goal::Down) && record.restart_at.take().is_some()
                {
                    writes.push(Write::Update(record.clone()));
                }
                self.shared.store.write(writes).await.map(|()| self.record = record)
            }
            Decision::Queue => {
                self.asked.wait(tracked);
                self.shared.store.write(writes).await
            }
            Decision::Deny(_) => Ok(()),
        }
        .inspect_err(|_| self.asked.forget(tracked))
    }

    /// Calls an operation off: one that waits is simply dropped, one that starts the sandbox
    /// alone stops it.
    pub(super) async fn cancel(&mut self, id: &OperationId) -> Result<(), AskError> {
        let tracked = self.asked.find(id).ok_or(AskError::NotCancellable)?;
        // A resume that is called off half-way would lose the memory.
        let resuming = matches!(self.record.state, State::Starting { from: Origin::Memory });
        if !tracked.record().action.starts() || resuming {
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

    /// Finishes the requests that have come to an end of this kind.
    pub(super) async fn finish_reached(&mut self, meant: impl Fn(&Result<(), String>) -> bool) {
        for (tracked, outcome) in self.asked.reached(Some(&self.record.state), self.record.boots) {
            if meant(&outcome) {
                self.finish(&tracked, outcome).await;
            }
        }
    }

    pub(super) async fn finish(&mut self, tracked: &Tracked, outcome: Result<(), String>) {
        let record = tracked.ended(status(self.as_it_is(tracked, outcome)));
        if let Err(error) = self.shared.store.write(vec![Write::PutOperation(record.clone())]).await
        {
            // The next daemon will find it unfinished, and come to the same end.
            warn!(operation = %record.id, %error, "its end cannot be stored");
        }
        self.asked.forget(tracked);
        self.shared.metrics.operation_ended(&record);
        tracked.finish(record);
    }
}

impl Driver {
    /// What a request came to, beside what came of it in fact: whoever takes a snapshot may have
    /// been done with it when something else was asked for, and else is not done any more.
    pub(super) fn as_it_is(
        &self,
        tracked: &Tracked,
        outcome: Result<(), String>,
    ) -> Result<(), String> {
        let record = tracked.record();
        if record.goal != Goal::Taken || outcome.is_ok() {
            return outcome;
        }
        match self.shared.snapshots.give_up(&SnapshotId::of(&record.id)) {
            GivenUp::Yes => outcome,
            GivenUp::TooLate => Ok(()),
        }
    }
}

pub(super) fn status(outcome: Result<(), String>) -> OperationStatus {
    let at = now();
    match outcome {
        Ok(()) => OperationStatus::Succeeded { at },
        Err(error) => OperationStatus::Failed { at, error },
    }
}
