//! What is asked of a sandbox: decided, remembered, and brought to its end.

use banger_model::lifecycle::{Event, Origin, State, StopKind};
use banger_model::policy::{Action, Decision, Goal, decide};
use banger_model::{OperationId, OperationRecord, OperationStatus};
use banger_store::Write;
use tracing::{info, warn};

use super::handle::{AskError, Order};
use super::{Driver, MAX_ASKED};
use crate::operations::{Tracked, now};
use crate::store::NotStored;

impl Driver {
    pub(super) async fn obey(&mut self, order: Order) {
        match order {
            Order::Ask { action, id, reply } => {
                let answer = self.ask(action, id).await;
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

    pub(super) async fn ask(
        &mut self,
        action: Action,
        id: OperationId,
    ) -> Result<OperationId, AskError> {
        if let Some(known) = self.shared.operations.find(&id) {
            let known = known.record();
            let same = known.sandbox == self.record.id && known.action == action;
            return if same { Ok(id) } else { Err(AskError::IdTaken) };
        }
        let decision = decide(action, &self.record.state);
        if let Decision::Deny(denial) = decision {
            return Err(denial.into());
        }
        if self.asked.len() >= MAX_ASKED {
            return Err(AskError::Busy);
        }
        let record = OperationRecord {
            id,
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
    pub(super) async fn act(
        &mut self,
        decision: Decision,
        tracked: &Tracked,
    ) -> Result<(), NotStored> {
        let remember = Write::PutOperation(tracked.record());
        match decision {
            Decision::Act(event) => {
                self.asked.join(tracked);
                self.change(&event, vec![remember]).await
            }
            Decision::ActAndAskAgain(event) => {
                self.asked.wait(tracked);
                self.change(&event, vec![remember]).await
            }
            Decision::AlreadySo => {
                self.asked.join(tracked);
                let mut writes = vec![remember];
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
                self.shared.store.write(vec![remember]).await
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
}

pub(super) fn status(outcome: Result<(), String>) -> OperationStatus {
    let at = now();
    match outcome {
        Ok(()) => OperationStatus::Succeeded { at },
        Err(error) => OperationStatus::Failed { at, error },
    }
}
