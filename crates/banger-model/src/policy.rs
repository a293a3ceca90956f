//! What is done about a request, by the state a sandbox is in. Pure, and apart from the life
//! itself: the machine of [`crate::lifecycle`] says what is possible, this says what is allowed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{OperationId, SnapshotId};
use crate::lifecycle::{Afterwards, EndCause, Event, State, StopKind};

/// What somebody asks of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// To run.
    Start,
    /// To stop with its disk in order.
    Stop,
    /// To stop at once.
    Kill,
    /// To stop and start again.
    Restart,
    /// To save its memory and stop.
    Pause,
    /// To go on with its saved memory.
    Resume,
    /// To have a snapshot taken of it.
    Snapshot,
    /// To have copies made of it, by a snapshot that is theirs alone.
    Fork,
    /// To go, if it does not run.
    Delete,
    /// To go, whatever it does.
    DeleteForced,
}

impl Action {
    /// Whether it is to bring the sandbox up.
    pub fn starts(self) -> bool {
        matches!(self, Self::Start | Self::Restart | Self::Resume)
    }

    /// Everything that can be asked.
    pub const ALL: [Self; 10] = [
        Self::Start,
        Self::Stop,
        Self::Kill,
        Self::Restart,
        Self::Pause,
        Self::Resume,
        Self::Snapshot,
        Self::Fork,
        Self::Delete,
        Self::DeleteForced,
    ];
}

/// What is done about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This happens now.
    Act(Event),
    /// This happens now; once it has, the request is looked at again.
    ActAndAskAgain(Event),
    /// Nothing: it is so already, or about to be.
    AlreadySo,
    /// The request waits for what the sandbox is in the midst of.
    Queue,
    /// Nothing, for this reason.
    Deny(Denial),
}

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denial {
    /// Nothing can be done with it any more.
    #[error("it is being deleted")]
    BeingDeleted,
    /// Deletion would end something that runs.
    #[error("it is {0}; stop it first, or delete it with --force")]
    Active(&'static str),
    /// There is nothing to save.
    #[error("it is {0}, and only what runs can be paused")]
    NotRunning(&'static str),
    /// There is nothing to take a snapshot of.
    #[error("it is {0}, and a snapshot is taken only of what runs")]
    NoSnapshot(&'static str),
    /// There is no memory to take up.
    #[error("it is {0}, and only what is paused can be resumed; start it")]
    NotPaused(&'static str),
}

/// What is done about `action`, asked for as `operation`, in `state`.
pub fn decide(action: Action, operation: &OperationId, state: &State) -> Decision {
    use Decision::{Act, ActAndAskAgain, AlreadySo, Deny, Queue};
    use State as S;
    let deletes = matches!(action, Action::Delete | Action::DeleteForced);
    match (action, state) {
        (_, S::Deleting) if deletes => AlreadySo,
        (_, S::Deleting) => Deny(Denial::BeingDeleted),

        (Action::Start, S::Running { .. } | S::Starting { .. }) => AlreadySo,
        (Action::Start | Action::Resume, S::Pausing { then: Afterwards::GoOn { .. } }) => AlreadySo,
        (Action::Start, S::Stopping { .. } | S::Pausing { .. }) => Queue,
        (Action::Start, _) => Act(Event::Start),

        (Action::Stop | Action::Kill, S::Created | S::Stopped { .. } | S::Failed { .. }) => {
            AlreadySo
        }
        (Action::Stop, S::Stopping { .. }) => AlreadySo,
        (Action::Kill, S::Stopping { how: StopKind::Kill }) => AlreadySo,
        (Action::Stop, S::Pausing { .. }) => Queue,
        (Action::Stop, _) => Act(Event::Stop(StopKind::PowerOff)),
        (Action::Kill, _) => Act(Event::Stop(StopKind::Kill)),

        (Action::Restart, S::Running { .. } | S::Starting { .. }) => {
            ActAndAskAgain(Event::Stop(StopKind::PowerOff))
        }
        (Action::Restart, S::Stopping { .. } | S::Pausing { .. }) => Queue,
        (Action::Restart, _) => Act(Event::Start),

        (Action::Pause, S::Running { .. }) => Act(Event::Pause),
        (Action::Pause, S::Starting { .. } | S::Pausing { then: Afterwards::GoOn { .. } }) => Queue,
        (Action::Pause, S::Pausing { .. } | S::Paused { .. }) => AlreadySo,
        (Action::Pause, _) => Deny(Denial::NotRunning(state.name())),

        (Action::Resume, S::Paused { .. }) => Act(Event::Start),
        (Action::Resume, S::Pausing { .. }) => Queue,
        (Action::Resume, S::Running { .. } | S::Starting { .. }) => AlreadySo,
        (Action::Resume, _) => Deny(Denial::NotPaused(state.name())),

        (Action::Snapshot | Action::Fork, _) => decide_snapshot(&SnapshotId::of(operation), state),

        (Action::Delete, S::Created | S::Stopped { .. } | S::Failed { .. }) => Act(Event::Delete),
        (Action::Delete, _) => Deny(Denial::Active(state.name())),
        (Action::DeleteForced, _) => Act(Event::Delete),
    }
}

/// One snapshot is taken after the other.
fn decide_snapshot(wanted: &SnapshotId, state: &State) -> Decision {
    match state {
        State::Running { .. } => Decision::Act(Event::Snapshot(wanted.clone())),
        State::Pausing { then: Afterwards::GoOn { snapshot, .. } } if snapshot == wanted => {
            Decision::AlreadySo
        }
        State::Starting { .. } | State::Pausing { then: Afterwards::GoOn { .. } } => {
            Decision::Queue
        }
        _ => Decision::Deny(Denial::NoSnapshot(state.name())),
    }
}

/// What a request is to lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "goal", rename_all = "snake_case")]
pub enum Goal {
    /// It runs, in a boot after this many.
    Running {
        /// Boots before.
        after: u64,
    },
    /// It has no machine.
    Down,
    /// Its memory is saved.
    Paused,
    /// A snapshot of it is taken. Whoever takes it says so: nothing else shows in its state.
    Taken,
    /// It is no more.
    Gone,
}

impl Goal {
    /// What `action` is to lead to, for a sandbox in `state` that has begun to start `boots`
    /// times.
    pub fn of(action: Action, state: &State, boots: u64) -> Self {
        // What is being paused may come to run on, which is as good.
        let up =
            matches!(state, State::Starting { .. } | State::Running { .. } | State::Pausing { .. });
        match action {
            Action::Start | Action::Resume if up => {
                Self::Running { after: boots.saturating_sub(1) }
            }
            Action::Start | Action::Resume | Action::Restart => Self::Running { after: boots },
            Action::Stop | Action::Kill => Self::Down,
            Action::Pause => Self::Paused,
            Action::Snapshot | Action::Fork => Self::Taken,
            Action::Delete | Action::DeleteForced => Self::Gone,
        }
    }

    /// Whether the goal is reached, or cannot be any more, in `state` after `boots` boots; `None`
    /// while it may still be. `None` as the state means that the sandbox is gone.
    pub fn outcome(self, state: Option<&State>, boots: u64) -> Option<Result<(), String>> {
        use State as S;
        let Some(state) = state else {
            return Some(match self {
                Self::Gone => Ok(()),
                _ => Err("the sandbox was deleted meanwhile".to_owned()),
            });
        };
        match (self, state) {
            (Self::Gone, _) => None,
            (_, S::Deleting) => Some(Err("the sandbox is being deleted".to_owned())),
            (Self::Running { after }, S::Running { .. }) => (boots > after).then_some(Ok(())),
            (Self::Running { after }, _) if boots <= after => None,
            (Self::Running { .. }, S::Failed { reason, .. }) => Some(Err(reason.clone())),
            (Self::Running { .. }, S::Paused { .. }) => {
                Some(Err("its memory could not be taken up; it is paused still".to_owned()))
            }
            (Self::Running { .. }, S::Stopped { cause, .. }) => Some(match cause {
                EndCause::Asked => Err("it was stopped meanwhile".to_owned()),
                cause => Err(format!("it ran, and has ended: {cause}")),
            }),
            (Self::Taken, S::Failed { reason, .. }) => Some(Err(reason.clone())),
            (Self::Taken | Self::Paused, S::Stopping { .. } | S::Stopped { .. }) => {
                Some(Err("it was stopped meanwhile".to_owned()))
            }
            (Self::Down, S::Created | S::Stopped { .. } | S::Failed { .. }) => Some(Ok(())),
            (Self::Paused, S::Paused { .. }) => Some(Ok(())),
            (Self::Paused, S::Failed { reason, .. }) => Some(Err(reason.clone())),
            (Self::Paused, S::Running { .. }) => {
                Some(Err("its memory could not be saved".to_owned()))
            }
            _ => None,
        }
    }
}

/// What is seen of a sandbox's machine by a daemon that has just started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A machine that has booted runs.
    Alive,
    /// There is none, or one that never booted.
    Dead,
    /// There is none, and all of its memory is saved.
    Saved,
}

/// What a daemon that has just started does about a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Take its machine over.
    Adopt,
    /// Take its machine over, and do what was begun.
    AdoptAndGoOn,
    /// End whatever runs, and do what was begun from its beginning.
    BeginAgain,
    /// End whatever runs, and say that its machine has ended.
    Ended,
    /// End whatever runs, and say that it is paused.
    Paused,
    /// End whatever runs: there should be nothing.
    Clear,
}

/// What to do about a sandbox of this state whose machine is seen so.
pub fn recover(state: &State, seen: Seen) -> Recovery {
    use State as S;
    match (state, seen) {
        (S::Running { .. }, Seen::Alive) => Recovery::Adopt,
        // That was all there was to do.
        (S::Pausing { then: Afterwards::Stay }, Seen::Saved) => Recovery::Paused,
        (S::Running { .. } | S::Stopping { .. } | S::Pausing { .. }, Seen::Dead | Seen::Saved) => {
            Recovery::Ended
        }
        (S::Stopping { .. } | S::Pausing { .. }, Seen::Alive) => Recovery::AdoptAndGoOn,
        // Nobody was told that it runs: half a boot is not worth taking over.
        (S::Starting { .. } | S::Deleting, _) => Recovery::BeginAgain,
        (S::Created | S::Stopped { .. } | S::Paused { .. } | S::Failed { .. }, _) => {
            Recovery::Clear
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::every_state;
    use crate::time::Timestamp;

    fn asked() -> OperationId {
        OperationId::from_random([7; 8])
    }

    #[test]
    fn whatever_is_allowed_is_possible() {
        for state in every_state() {
            for action in Action::ALL {
                if let Decision::Act(event) | Decision::ActAndAskAgain(event) =
                    decide(action, &asked(), &state)
                {
                    assert!(state.step(&event).is_some(), "{action:?} in {state:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_so_already_reaches_its_goal_without_anyone_asking_again() {
        for state in every_state() {
            for action in Action::ALL {
                if decide(action, &asked(), &state) != Decision::AlreadySo {
                    continue;
                }
                let under_way = state.pending().is_some();
                let reached = Goal::of(action, &state, 1).outcome(Some(&state), 1) == Some(Ok(()));
                assert!(under_way || reached, "{action:?} in {state:?}");
            }
        }
    }

    #[test]
    fn what_waits_waits_for_something_that_ends() {
        for state in every_state() {
            for action in Action::ALL {
                if decide(action, &asked(), &state) == Decision::Queue {
                    assert!(state.pending().is_some(), "{action:?} in {state:?}");
                }
            }
        }
    }

    #[test]
    fn what_runs_is_deleted_only_by_force() {
        let running = State::Running { since: Timestamp(1) };
        assert_eq!(
            decide(Action::Delete, &asked(), &running),
            Decision::Deny(Denial::Active("running"))
        );
        assert_eq!(decide(Action::DeleteForced, &asked(), &running), Decision::Act(Event::Delete));
        for action in Action::ALL {
            let decision = decide(action, &asked(), &State::Deleting);
            assert!(matches!(decision, Decision::AlreadySo | Decision::Deny(_)));
        }
    }

    #[test]
    fn a_restart_wants_a_boot_that_was_not_there_before() {
        let running = State::Running { since: Timestamp(1) };
        let goal = Goal::of(Action::Restart, &running, 3);
        assert_eq!(goal.outcome(Some(&running), 3), None);
        assert_eq!(goal.outcome(Some(&running), 4), Some(Ok(())));
        assert!(goal.outcome(None, 4).unwrap().is_err());
        assert_eq!(Goal::Gone.outcome(None, 0), Some(Ok(())));
    }

    /// Everything that can happen to a sandbox.
    fn every_event() -> Vec<Event> {
        let at = Timestamp(2);
        vec![
            Event::Start,
            Event::Booted(at),
            Event::Stop(StopKind::PowerOff),
            Event::Stop(StopKind::Kill),
            Event::Ended(at, EndCause::Asked),
            Event::Ended(at, EndCause::PoweredOff),
            Event::Ended(at, EndCause::Failed("x".to_owned())),
            Event::Pause,
            Event::Snapshot(SnapshotId::of(&OperationId::from_random([9; 8]))),
            Event::Taken,
            Event::Saved(at),
            Event::NotResumed(at),
            Event::NotSaved(at),
            Event::Delete,
        ]
    }

    #[test]
    fn what_was_begun_for_somebody_comes_to_an_end_whatever_happens_meanwhile() {
        for begin in every_state() {
            for action in Action::ALL {
                let first = match decide(action, &asked(), &begin) {
                    Decision::Act(event) => begin.step(&event).unwrap().state,
                    Decision::AlreadySo => begin.clone(),
                    _ => continue,
                };
                let goal = Goal::of(action, &begin, 1);
                let boots = |state: &State, boots| match state {
                    State::Starting { .. } => boots + 1,
                    _ => boots,
                };
                let begun = if first == begin { 1 } else { boots(&first, 1) };
                let mut seen = vec![(first, begun)];
                let mut next = 0;
                while let Some((state, booted)) = seen.get(next).cloned() {
                    next += 1;
                    if goal.outcome(Some(&state), booted).is_some() {
                        continue;
                    }
                    // Whoever takes a snapshot says so itself.
                    let told = goal == Goal::Taken && matches!(state, State::Running { .. });
                    assert!(
                        state.pending().is_some() || told,
                        "{action:?} in {begin:?}: {state:?}"
                    );
                    for step in every_event().iter().filter_map(|event| state.step(event)) {
                        let reached = (step.state.clone(), boots(&step.state, booted));
                        if !told && reached.1 < 4 && !seen.contains(&reached) {
                            seen.push(reached);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn one_snapshot_is_taken_after_the_other_and_only_of_what_runs() {
        let running = State::Running { since: Timestamp(1) };
        let other = OperationId::from_random([8; 8]);
        for action in [Action::Snapshot, Action::Fork] {
            let Decision::Act(event) = decide(action, &asked(), &running) else {
                panic!("{action:?}")
            };
            let taking = running.step(&event).unwrap().state;
            assert_eq!(decide(action, &asked(), &taking), Decision::AlreadySo);
            assert_eq!(decide(action, &other, &taking), Decision::Queue);
            assert_eq!(Goal::of(action, &running, 1).outcome(Some(&taking), 1), None);
            let stopped = State::Stopped { since: Timestamp(1), cause: EndCause::Asked };
            let denial = Denial::NoSnapshot("stopped");
            assert_eq!(decide(action, &asked(), &stopped), Decision::Deny(denial));
            assert!(Goal::Taken.outcome(Some(&stopped), 1).unwrap().is_err());
        }
    }

    #[test]
    fn who_wants_it_to_run_while_it_is_paused_gets_that_when_the_pause_fails() {
        let pausing = State::Pausing { then: Afterwards::Stay };
        let goal = Goal::of(Action::Start, &pausing, 3);
        let running = State::Running { since: Timestamp(1) };
        assert_eq!(goal.outcome(Some(&running), 3), Some(Ok(())));
    }

    #[test]
    fn after_a_crash_every_state_leads_somewhere() {
        for state in every_state() {
            for seen in [Seen::Alive, Seen::Dead, Seen::Saved] {
                let recovery = recover(&state, seen);
                let goes_on = matches!(recovery, Recovery::BeginAgain | Recovery::AdoptAndGoOn);
                assert!(!goes_on || state.pending().is_some(), "{state:?}");
                let happened = match recovery {
                    Recovery::Ended => Event::Ended(Timestamp(1), EndCause::PoweredOff),
                    Recovery::Paused => Event::Saved(Timestamp(1)),
                    _ => continue,
                };
                assert!(state.step(&happened).is_some(), "{state:?}");
            }
        }
    }
}
