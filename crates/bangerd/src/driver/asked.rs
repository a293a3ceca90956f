//! What was asked of one sandbox and is not finished: what is being done, and what waits.

use std::collections::VecDeque;

use banger_model::lifecycle::State;
use banger_model::policy::{Decision, decide};
use banger_model::{OperationId, OperationRecord, SandboxRecord, SnapshotTag};

use crate::operations::{Audience, Tracked};
use crate::shared::Shared;

/// How a request came out: with an error in a sentence, if it did not lead to its goal.
type Outcome = (Tracked, Result<(), String>);

/// Requests to one sandbox.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// They are being done, or are so already.
    joined: Vec<Tracked>,
    /// They wait for what the sandbox is in the midst of.
    waiting: VecDeque<Tracked>,
    audience: Audience,
}

impl Asked {
    /// Takes up what an earlier daemon has not finished, to be decided anew: what was begun is
    /// found to be so already.
    pub(super) fn adopt(
        &mut self,
        shared: &Shared,
        record: &SandboxRecord,
        operations: Vec<OperationRecord>,
    ) {
        for operation in operations {
            self.wait(&shared.operations.track(operation, &record.name));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.joined.len() + self.waiting.len()
    }

    pub(super) fn join(&mut self, tracked: &Tracked) {
        self.audience.join(tracked);
        self.joined.push(tracked.clone());
    }

    pub(super) fn wait(&mut self, tracked: &Tracked) {
        self.audience.join(tracked);
        self.waiting.push_back(tracked.clone());
    }

    pub(super) fn forget(&mut self, tracked: &Tracked) {
        let id = tracked.id();
        self.joined.retain(|other| other.id() != id);
        self.waiting.retain(|other| other.id() != id);
        if self.len() == 0 {
            self.audience.clear();
        }
    }

    /// What is being done.
    pub(super) fn take_joined(&self) -> Vec<Tracked> {
        self.joined.clone()
    }

    pub(super) fn find(&self, id: &OperationId) -> Option<Tracked> {
        self.joined.iter().chain(&self.waiting).find(|tracked| tracked.id() == *id).cloned()
    }

    /// The tags that are spoken for.
    pub(super) fn tags(&self) -> impl Iterator<Item = SnapshotTag> {
        self.joined.iter().chain(&self.waiting).filter_map(|tracked| tracked.record().tag)
    }

    /// How many want the sandbox to start.
    pub(super) fn starters(&self) -> usize {
        let starts = |tracked: &&Tracked| tracked.record().action.starts();
        self.joined.iter().chain(&self.waiting).filter(starts).count()
    }

    /// The first, taken out of those that wait, if it need not wait any more in this state.
    pub(super) fn next_waiting(&mut self, state: &State) -> Option<Tracked> {
        let first = self.waiting.front()?.record();
        match decide(first.action, &first.id, state) {
            Decision::Queue => None,
            _ => self.waiting.pop_front(),
        }
    }

    /// Those that have reached their goal, or cannot any more.
    pub(super) fn reached(&self, state: Option<&State>, boots: u64) -> Vec<Outcome> {
        let waiting = self.waiting.iter().filter(|_| state.is_none());
        let outcome = |tracked: &Tracked| {
            let outcome = tracked.record().goal.outcome(state, boots)?;
            Some((tracked.clone(), outcome))
        };
        self.joined.iter().chain(waiting).filter_map(outcome).collect()
    }

    /// Those who see how work goes on.
    pub(super) fn audience(&self) -> Audience {
        self.audience.clone()
    }
}
