//! What happens to a sandbox: from one state to the next, and what has to be done about it.

use std::time::Duration;

use banger_model::RestartPolicy;
use banger_model::lifecycle::{Afterwards, Effect, EndCause, Event, State, StopKind};
use banger_model::policy::{Recovery, Seen, recover};
use banger_store::Write;
use banger_vmm::RunState;
use tracing::{error, info, warn};

use super::minder::{Minder, News};
use super::requests::status;
use super::work::{self, Done, Work};
use super::{Driver, Left, TRY_AGAIN};
use crate::machine::Live;
use crate::machine::memory::{self, Saved};
use crate::operations::now;
use crate::store::NotStored;

impl Driver {
    /// Something has happened that nobody can take back: it counts even if it cannot be written
    /// down yet.
    pub(super) async fn happen(&mut self, event: Event, with: Vec<Write>) {
        let Some(step) = self.record.state.step(&event) else { return };
        self.enter(&step.state);
        self.save(with).await;
        self.shared.volumes.follow(&self.record);
        self.carry_out(step.effect).await;
    }

    /// Something is to happen: it does once it is written down, or not at all.
    pub(super) async fn change(
        &mut self,
        event: &Event,
        mut with: Vec<Write>,
    ) -> Result<(), NotStored> {
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
        self.shared.volumes.follow(&self.record);
        self.publish();
        self.carry_out(step.effect).await;
        Ok(())
    }

    pub(super) fn enter(&mut self, state: &State) {
        info!(sandbox = %self.record.id, name = %self.record.name, from = %self.record.state, to = %state, "state");
        if matches!(state, State::Starting { .. }) {
            self.record.boots += 1;
        }
        // One that waits to be started again waits at rest.
        if state.has_machine() || *state == State::Deleting {
            self.record.restart_at = None;
        }
        self.record.state = state.clone();
    }

    pub(super) async fn save(&mut self, mut with: Vec<Write>) {
        with.insert(0, Write::Update(self.record.clone()));
        match self.shared.store.write(with).await {
            Ok(()) => {
                self.unsaved = false;
                self.let_snapshot_go();
                self.clear_behind_pause();
            }
            Err(error) => {
                error!(sandbox = %self.record.id, %error, "its state cannot be stored; trying again");
                if !self.unsaved {
                    let waits = format!("it waits until the daemon can store how it is: {error}");
                    self.asked.audience().log(&waits);
                }
                self.unsaved = true;
                self.again_at = Some(tokio::time::Instant::now() + TRY_AGAIN);
            }
        }
        self.publish();
    }

    pub(super) async fn carry_out(&mut self, effect: Option<Effect>) {
        let Some(effect) = effect else { return };
        self.shared.checkpoints.reach(work::decided(effect)).await;
        let needs_machine =
            matches!(effect, Effect::End(StopKind::PowerOff) | Effect::Save | Effect::Snapshot);
        if !needs_machine {
            self.lose_machine();
        }
        let audience = self.asked.audience();
        let given = work::Given { live: self.live.clone(), spare: self.spare.take(), audience };
        self.begin(work::effect(&self.shared, &self.record, effect, given));
        self.publish();
    }

    pub(super) fn begin(&mut self, work: work::Begin) {
        self.work = Some(Work::begin(work, self.work.take()));
    }

    pub(super) fn lose_machine(&mut self) {
        self.live = None;
        self.minder = None;
    }

    pub(super) async fn work_done(&mut self, done: Done) {
        match done {
            Done::Seen(live) => {
                let seen = self.seen(live.as_ref());
                self.recovered(recover(&self.record.state, seen), live).await;
            }
            Done::Silent(reason) => self.not_adopted(&reason),
            Done::Booted(live, took) => {
                self.shared.metrics.started(took);
                self.take_machine(live);
                if let Some(from) = &mut self.record.from {
                    from.up.get_or_insert_with(now);
                }
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
            Done::Saved => {
                self.lose_machine();
                self.happen(Event::Saved(now()), Vec::new()).await;
                self.shared.checkpoints.reach("pause.recorded").await;
            }
            Done::NotSaved(reason) if self.record.state.runs_since().is_some() => {
                self.snapshot_over(Event::NotSaved(now()), Err(reason)).await;
                self.notice_end();
            }
            Done::NotSaved(reason) => {
                self.give_up(&reason, Event::NotSaved(now())).await;
                self.notice_end();
            }
            Done::Taken(stood_still) => {
                self.snapshot_over(Event::Taken, Ok(stood_still)).await;
                self.shared.checkpoints.reach("snapshot.recorded").await;
                self.notice_end();
            }
            Done::NeverBegun(reason) => self.give_up(&reason, Event::Delete).await,
            Done::NotResumed(reason) => self.give_up(&reason, Event::NotResumed(now())).await,
            Done::Removed => self.removed().await,
            Done::Again(reason) => {
                warn!(sandbox = %self.record.id, reason, "not done; trying again");
                self.again_at = Some(tokio::time::Instant::now() + TRY_AGAIN);
            }
            Done::Cleared | Done::Superseded => {}
        }
    }

    /// A snapshot is taken, or cannot be. That and that the sandbox goes on is remembered at once:
    /// a daemon that comes after this one does not do it again.
    async fn snapshot_over(&mut self, event: Event, outcome: Result<Duration, String>) {
        let State::Pausing { then: Afterwards::GoOn { snapshot, .. } } = &self.record.state else {
            return;
        };
        let tracked = self.asked.find(&snapshot.operation());
        let over = status(outcome.clone().map(drop));
        let ended = tracked.map(|tracked| (tracked.ended(over), tracked));
        let writes = ended.iter().map(|(record, _)| Write::PutOperation(record.clone())).collect();
        self.happen(event, writes).await;
        if let Some((record, tracked)) = ended {
            self.asked.forget(&tracked);
            self.shared.metrics.operation_ended(&record);
            if let Ok(time) = outcome {
                tracked.stood_still(time);
            }
            tracked.finish(record);
        }
    }

    /// A machine may have ended while something was done about it, and whoever did that was told.
    fn notice_end(&mut self) {
        let Some(live) = &self.live else { return };
        let RunState::Ended(reason) = live.machine.watch().borrow().clone() else { return };
        if self.work.is_none() {
            self.lose_machine();
            self.begin(work::ended_by_itself(&self.shared, &self.record, reason));
        }
    }

    /// Once it is remembered that it was up, it begins with its snapshot no more.
    fn let_snapshot_go(&self) {
        if let Some(from) = self.record.from.as_ref().filter(|from| from.up.is_some()) {
            self.shared.snapshots.need_no_more(&from.snapshot, &self.record.id);
        }
    }

    /// Once it is remembered that it is paused, whatever still stands there is of no use any more. Who
    /// waits is told behind that.
    fn clear_behind_pause(&mut self) {
        if self.work.is_none() && matches!(self.record.state, State::Paused { .. }) {
            self.begin(work::clear(&self.shared, &self.record));
        }
    }

    /// What was asked for and is being done comes to nothing: that happens, and who waits is told.
    async fn give_up(&mut self, reason: &str, event: Event) {
        let asked = self.asked.take_joined();
        self.happen(event, Vec::new()).await;
        for tracked in asked {
            self.finish(&tracked, Err(reason.to_owned())).await;
        }
    }

    fn seen(&self, live: Option<&Live>) -> Seen {
        match (live, memory::look(&self.shared.dir(&self.record.id))) {
            (Some(_), _) => Seen::Alive,
            (None, Saved::Whole(_)) => Seen::Saved,
            (None, Saved::Nothing | Saved::Used) => Seen::Dead,
        }
    }

    /// A daemon before this one has left the sandbox so.
    pub(super) async fn recovered(&mut self, recovery: Recovery, live: Option<Live>) {
        self.claimed = None;
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
                self.begin(work::clear_with_memory(&self.shared, &self.record));
                self.ended(EndCause::Failed(gone.to_owned())).await;
            }
            Recovery::Paused => self.happen(Event::Saved(now()), Vec::new()).await,
            // A daemon that was killed while it cleared up leaves what tells of a machine.
            Recovery::Clear => self.begin(work::clear(&self.shared, &self.record)),
        }
        self.publish();
    }

    /// There is a machine that cannot be talked to. It is let be, and tried again.
    pub(super) fn not_adopted(&mut self, reason: &str) {
        warn!(sandbox = %self.record.id, reason, "its machine cannot be taken over yet");
        self.begin(work::observe_later(&self.shared, &self.record, TRY_AGAIN));
    }

    pub(super) fn take_machine(&mut self, live: Live) {
        self.minder = Some(Minder::of(&self.shared, &self.record.id, &live));
        self.live = Some(live);
        self.publish();
    }

    /// Its machine is no more.
    pub(super) async fn ended(&mut self, cause: EndCause) {
        let at = now();
        let asked = matches!(self.record.state, State::Stopping { .. });
        let cause = if asked { EndCause::Asked } else { cause };
        let runs_since = self.record.state.runs_since();
        let ran = runs_since.map(|since| at.since(since)).unwrap_or_default();
        let wanted = runs_since.is_some();
        self.last_end = Some(cause.clone());
        self.record.restarts = RestartPolicy::failed_in_row(self.record.restarts, ran);
        let again = self.record.lifetime.restart.restart_after(&cause, self.record.restarts);
        // What never came up is not tried again by itself, unless it had run before.
        if let Some(wait) = again.filter(|_| wanted || self.record.restarts > 0) {
            self.record.restart_at = Some(at.after(wait));
            self.record.restarts = self.record.restarts.saturating_add(1);
            info!(sandbox = %self.record.id, %cause, in_ms = wait.as_millis(), "starts again");
        }
        self.happen(Event::Ended(at, cause), Vec::new()).await;
    }

    /// Nothing of it is left but what is remembered.
    pub(super) async fn removed(&mut self) {
        let mut writes = vec![Write::Remove(self.record.id.clone())];
        let outcomes = self.asked.reached(None, self.record.boots);
        let mut ended = Vec::new();
        for (tracked, outcome) in &outcomes {
            let record = tracked.ended(status(self.as_it_is(tracked, outcome.clone())));
            writes.push(Write::PutOperation(record.clone()));
            ended.push((tracked, record));
        }
        while let Err(error) = self.shared.store.write(writes.clone()).await {
            error!(sandbox = %self.record.id, %error, "its removal cannot be stored; trying again");
            tokio::time::sleep(TRY_AGAIN).await;
        }
        if let Some(from) = &self.record.from {
            self.shared.snapshots.need_no_more(&from.snapshot, &self.record.id);
        }
        self.shared.checkpoints.reach("delete.recorded").await;
        for (tracked, record) in ended {
            self.shared.metrics.operation_ended(&record);
            tracked.finish(record);
        }
        info!(sandbox = %self.record.id, name = %self.record.name, "gone");
        self.left = Left::Nothing;
    }

    pub(super) async fn hear(&mut self, news: News) {
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
}
