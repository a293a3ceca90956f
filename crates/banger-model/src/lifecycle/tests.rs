//! The machine against a small model of a world with one disk, one machine and one saved memory.

use proptest::prelude::*;

use super::*;

/// What there is of a sandbox, as a driver would make it.
#[derive(Debug, Default)]
struct World {
    machine: bool,
    memory: bool,
    removed: bool,
}

impl World {
    /// Carries an effect out as far as it goes before its outcome is known.
    fn perform(&mut self, effect: Effect) {
        assert!(!self.removed, "{effect:?} after the removal");
        match effect {
            Effect::Boot(origin) => {
                assert!(!self.machine, "a second machine on one disk");
                assert!(origin == Origin::Disk || self.memory, "no memory to take up");
                self.machine = true;
                self.memory = false;
            }
            Effect::End(_) => assert!(self.machine, "nothing to end"),
            Effect::Save | Effect::Snapshot => assert!(self.machine, "nothing to save"),
            Effect::DropMemory => {
                assert!(std::mem::take(&mut self.memory), "no memory to drop");
            }
            Effect::Remove => *self = Self { removed: true, ..Self::default() },
        }
    }

    /// Whether the world could say this now.
    fn could(&self, event: &Event) -> bool {
        match event {
            Event::Booted(_) | Event::Ended(..) | Event::NotSaved(_) => self.machine,
            Event::Saved(_) | Event::Taken | Event::NotResumed(_) => self.machine,
            _ => true,
        }
    }

    fn follow(&mut self, event: &Event) {
        match event {
            Event::Ended(..) => self.machine = false,
            Event::Saved(_) | Event::NotResumed(_) => {
                *self = Self { memory: true, ..Self::default() };
            }
            _ => {}
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop::sample::select(every_event()).prop_map(|(_, event)| event);
    prop::collection::vec(one, 0..60)
}

proptest! {
    #[test]
    fn no_sequence_of_events_makes_two_machines_or_touches_what_is_gone(events in events()) {
        let mut state = State::Created;
        let mut world = World::default();
        for event in events {
            let meaningful = world.could(&event);
            let Some(step) = state.step(&event) else { continue };
            // A driver tells only what it saw: the rest is not tried.
            if !meaningful {
                continue;
            }
            world.follow(&event);
            if let Some(effect) = step.effect {
                world.perform(effect);
            }
            state = step.state;
            prop_assert_eq!(state.has_machine(), world.machine, "{:?}", state);
            prop_assert_eq!(matches!(state, State::Paused { .. }), world.memory);
            prop_assert_eq!(state == State::Deleting, world.removed);
        }
    }

    #[test]
    fn a_state_comes_back_from_its_encoding(index in 0..every_state().len()) {
        let state = every_state().swap_remove(index);
        let json = serde_json::to_string(&state).unwrap();
        prop_assert!(json.contains(state.name()));
        prop_assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
    }
}

#[test]
fn every_state_can_be_deleted_once() {
    for state in every_state() {
        let step = state.step(&Event::Delete);
        match state {
            State::Deleting => assert_eq!(step, None),
            _ => assert_eq!(step.unwrap().effect, Some(Effect::Remove)),
        }
    }
}

#[test]
fn what_is_left_to_do_is_what_was_begun() {
    for state in every_state() {
        for (_, event) in every_event() {
            if let Some(Step { state, effect: Some(effect) }) = state.step(&event)
                && effect != Effect::DropMemory
            {
                assert_eq!(state.pending(), Some(effect), "{state:?}");
            }
        }
    }
}

#[test]
fn an_end_that_was_asked_for_is_no_failure_and_any_other_tells_why() {
    let at = Timestamp(3);
    let crash = Event::Ended(at, EndCause::Failed("boom".into()));
    let stopping = State::Stopping { how: StopKind::PowerOff };
    let stopped = State::Stopped { since: at, cause: EndCause::Asked };
    assert_eq!(stopping.step(&crash).unwrap().state, stopped);
    let running = State::Running { since: Timestamp(1) };
    let failed = State::Failed { since: at, reason: "boom".into() };
    assert_eq!(running.step(&crash).unwrap().state, failed);
    let off = Event::Ended(at, EndCause::PoweredOff);
    assert_eq!(running.step(&off).unwrap().state.name(), "stopped");
    assert_eq!(State::Starting { from: Origin::Disk }.step(&off).unwrap().state.name(), "failed");
}

#[test]
fn a_snapshot_leaves_a_sandbox_as_it_was() {
    let running = State::Running { since: Timestamp(1) };
    let snapshot = SnapshotId::from_random([7; 8]);
    let taking = running.step(&Event::Snapshot(snapshot)).unwrap();
    assert_eq!(taking.effect, Some(Effect::Snapshot));
    assert_eq!(taking.state.runs_since(), Some(Timestamp(1)));
    for event in [Event::Taken, Event::NotSaved(Timestamp(9))] {
        assert_eq!(taking.state.step(&event).unwrap().state, running, "{event:?}");
    }
    assert_eq!(taking.state.step(&Event::Saved(Timestamp(9))), None, "it does not stay paused");
    let off = Event::Ended(Timestamp(9), EndCause::PoweredOff);
    assert_eq!(taking.state.step(&off).unwrap().state.name(), "stopped");
}

#[test]
fn a_pause_that_an_older_daemon_has_begun_stays_one() {
    let old: State = serde_json::from_str(r#"{"state":"pausing"}"#).unwrap();
    assert_eq!(old, State::Pausing { then: Afterwards::Stay });
}

#[test]
fn every_state_has_its_name_in_the_list() {
    let mut names: Vec<_> = every_state().iter().map(State::name).collect();
    names.dedup();
    assert_eq!(names, State::NAMES);
}
