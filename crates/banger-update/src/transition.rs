//! How an update may go: a state, what happens, and what follows. Pure.
//!
//! What follows is a list of effects, each of which can be repeated. The new state is written down
//! *before* its effects are carried out, so that whoever comes next knows what was meant.
//!
//! ```text
//!   Idle, Committed, RolledBack, Blocked, Failed
//!     ├ Check ─► Checking ─ Found ─► Available ─ Fetch ─► Downloading ─ Received ─► Verifying
//!     │                                                                                │
//!     │  RolledBack ◄─ FellBack, Unhealthy ─ Trial ◄─ Activate ─ Staged ◄─ Placed ─ Staging
//!     │                                        └ Healthy ─► Committed
//!     └ GoBack ─► Returning ─ Healthy ─► RolledBack
//!                     └ FellBack, Unhealthy ─► Failed: what ran goes on
//! ```

use banger_trust::{Sha256Digest, Version};
use thiserror::Error;

use crate::slot::Slot;
use crate::state::{Attempt, Failure, Phase, ReleaseId, Return, State, Trial};

impl State {
    /// What becomes of it, and what has to be done.
    ///
    /// # Errors
    /// When that cannot happen now. Nothing has changed then.
    pub fn apply(self, event: Event) -> Result<Next, Denied> {
        let denied = Denied { state: self.name(), event: event.name() };
        let next = match (self, event) {
            (Self::Trial(trial), event) => trial.end(event),
            (Self::Returning(back), event) => back.end(event),
            (_, Event::Check) => Some((Self::Checking, vec![])),
            (state, Event::Error { error, retryable }) => {
                let failed = |phase| Self::Failed(Failure { phase, error, retryable });
                state.phase().map(|phase| (failed(phase), vec![]))
            }
            (Self::Checking, event) => Self::found(event),
            (state, event) => state.go_on(event),
        };
        next.ok_or(denied)
    }

    /// What the server's answer leads to.
    fn found(event: Event) -> Option<Next> {
        let next = match event {
            Event::UpToDate => Self::Idle,
            Event::Found(release) => Self::Available(release),
            Event::Needs { offered, needs } => Self::Blocked { offered, needs },
            // What lies there is what is wanted: nothing has to be fetched again.
            Event::FoundStaged(release, slot) => Self::Staged(release, slot),
            Event::Kept(state) if state.is_at_rest() => *state,
            _ => return None,
        };
        Some((next, vec![]))
    }

    /// One step on the way to a trial, or on the way back from what runs.
    fn go_on(self, event: Event) -> Option<Next> {
        use Event as E;
        Some(match (self, event) {
            (Self::Available(release), E::Fetch { into }) => {
                (Self::Downloading(release), vec![Effect::Close(into), Effect::Download(into)])
            }
            (Self::Downloading(release), E::Received { into }) => {
                (Self::Verifying(release), vec![Effect::ReadBack(into)])
            }
            (Self::Verifying(release), E::Same { into }) => {
                (Self::Staging(release), vec![Effect::Place(into)])
            }
            (Self::Staging(release), E::Placed { into }) => (Self::Staged(release, into), vec![]),
            (Self::Staged(release, slot), E::Activate { nonce, boot_id }) => {
                let attempt = Attempt { slot, nonce, boot_id };
                let tell = attempt.tell();
                (Self::Trial(Trial { release, attempt }), vec![tell])
            }
            (Self::Staged(..), E::Discard) => (Self::Idle, vec![]),
            (
                Self::Idle
                | Self::Available(_)
                | Self::Committed(..)
                | Self::RolledBack { .. }
                | Self::Blocked { .. }
                | Self::Failed(_),
                E::GoBack(back),
            ) => {
                // What runs is what is started if the other one does not prove itself.
                let effects = vec![Effect::Commit(!back.attempt.slot), back.attempt.tell()];
                (Self::Returning(back), effects)
            }
            _ => return None,
        })
    }
}

/// A state, and what has to be done.
pub type Next = (State, Vec<Effect>);

impl Trial {
    /// It ends by a verdict, and not by an error of whoever looks at it. Until then nothing else
    /// begins.
    fn end(self, verdict: Event) -> Option<Next> {
        let Self { release, attempt: Attempt { slot, .. } } = self;
        Some(match verdict {
            // It was decided, but the loader was never told.
            Event::NeverTold => (State::Staged(release, slot), vec![]),
            Event::Healthy => (State::Committed(release, slot), vec![Effect::Commit(slot)]),
            Event::Unhealthy(reason) => back(release, slot, reason, Some(Effect::Reboot)),
            Event::FellBack(reason) => back(release, slot, reason, None),
            _ => return None,
        })
    }
}

impl Return {
    /// It ends as a trial does, but that nothing is lost if it fails: what ran goes on.
    fn end(self, verdict: Event) -> Option<Next> {
        let Self { given_up, reason, attempt: Attempt { slot, .. } } = self;
        let failed =
            |error, retryable| State::Failed(Failure { phase: Phase::Returning, error, retryable });
        let goes_on = |reason: String| {
            let error = format!(
                "slot {slot} did not prove itself: {reason}; {} in slot {} goes on",
                given_up.version, !slot
            );
            failed(error, false)
        };
        Some(match verdict {
            // It was decided, but the loader was never told.
            Event::NeverTold => (failed("it was interrupted".to_owned(), true), vec![]),
            // What was given up stays startable, should this one be lost.
            Event::Healthy => (
                State::RolledBack { release: given_up, to: slot, reason },
                vec![Effect::Commit(slot)],
            ),
            Event::Unhealthy(reason) => {
                (goes_on(reason), vec![Effect::Select(!slot), Effect::Reboot])
            }
            Event::FellBack(reason) => (goes_on(reason), vec![Effect::Select(!slot)]),
            _ => return None,
        })
    }
}

impl Attempt {
    /// What the boot loader is told.
    fn tell(&self) -> Effect {
        Effect::Try { slot: self.slot, nonce: self.nonce.clone() }
    }
}

/// The way back from a slot: the other one is selected, and then whatever else is due.
fn back(release: ReleaseId, from: Slot, reason: String, then: Option<Effect>) -> Next {
    let to = !from;
    let effects = [Effect::Select(to)].into_iter().chain(then).collect();
    (State::RolledBack { release, to, reason }, effects)
}

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server is to be asked.
    Check,
    /// It has nothing newer.
    UpToDate,
    /// It has a release that passed every gate.
    Found(ReleaseId),
    /// It has one that lies in this slot already.
    FoundStaged(ReleaseId, Slot),
    /// It did not say anything that changes what was before.
    Kept(Box<State>),
    /// It has one that needs another one first.
    Needs {
        /// It.
        offered: Version,
        /// What has to run.
        needs: Version,
    },
    /// The release is to be fetched into this slot, which is not the running one.
    Fetch {
        /// Where.
        into: Slot,
    },
    /// All of it came and was verified.
    Received {
        /// Where.
        into: Slot,
    },
    /// The disk gives back what was verified.
    Same {
        /// Where.
        into: Slot,
    },
    /// It has its names.
    Placed {
        /// Where.
        into: Slot,
    },
    /// It is to be tried.
    Activate {
        /// What the boot loader is to pass on.
        nonce: String,
        /// The boot in which this is decided.
        boot_id: String,
    },
    /// A trial was written down, and then the power went.
    NeverTold,
    /// What is being tried has proved itself.
    Healthy,
    /// What is being tried runs, and is not as it should be.
    Unhealthy(String),
    /// What was to be tried does not run: the other slot does.
    FellBack(String),
    /// What is staged is not wanted any more.
    Discard,
    /// The other system is wanted back.
    GoBack(Return),
    /// Something failed.
    Error {
        /// What, in one sentence.
        error: String,
        /// Whether trying again may help.
        retryable: bool,
    },
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Check => "Check",
            Self::UpToDate => "UpToDate",
            Self::Found(_) => "Found",
            Self::FoundStaged(..) => "FoundStaged",
            Self::Kept(_) => "Kept",
            Self::Needs { .. } => "Needs",
            Self::Fetch { .. } => "Fetch",
            Self::Received { .. } => "Received",
            Self::Same { .. } => "Same",
            Self::Placed { .. } => "Placed",
            Self::Activate { .. } => "Activate",
            Self::NeverTold => "NeverTold",
            Self::Healthy => "Healthy",
            Self::Unhealthy(_) => "Unhealthy",
            Self::FellBack(_) => "FellBack",
            Self::Discard => "Discard",
            Self::GoBack(_) => "GoBack",
            Self::Error { .. } => "Error",
        }
    }
}

/// What has to be done. Doing it twice is as good as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The loader never starts this slot.
    Close(Slot),
    /// The files are fetched into it.
    Download(Slot),
    /// They are read back from the disk.
    ReadBack(Slot),
    /// They get their names.
    Place(Slot),
    /// The loader tries it.
    Try {
        /// The slot.
        slot: Slot,
        /// What the loader passes on.
        nonce: String,
    },
    /// The loader starts it from now on.
    Commit(Slot),
    /// The loader starts it, and never the other one.
    Select(Slot),
    /// The machine starts again.
    Reboot,
}

/// What cannot happen in a state.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{event} makes no sense while the state is {state}")]
pub struct Denied {
    /// The state.
    pub state: &'static str,
    /// What was to happen.
    pub event: &'static str,
}

/// Every change that there is, as (state, event, state): for documents and tests.
pub fn edges() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut edges = Vec::new();
    for state in crate::state::samples() {
        for event in events() {
            if let Ok((next, _)) = state.clone().apply(event.clone()) {
                edges.push((state.name(), event.name(), next.name()));
            }
        }
    }
    edges
}

/// One event of each kind.
fn events() -> Vec<Event> {
    let release = ReleaseId {
        version: Version::new(1, 1, 0),
        fingerprint: Sha256Digest::of(b"another release"),
    };
    let version = Version::new(2, 0, 0);
    let text = || "x".to_owned();
    vec![
        Event::Check,
        Event::UpToDate,
        Event::Found(release.clone()),
        Event::FoundStaged(release.clone(), Slot::B),
        Event::Kept(Box::new(State::Committed(release.clone(), Slot::A))),
        Event::Needs { offered: version.clone(), needs: version },
        Event::Fetch { into: Slot::B },
        Event::Received { into: Slot::B },
        Event::Same { into: Slot::B },
        Event::Placed { into: Slot::B },
        Event::Activate { nonce: text(), boot_id: text() },
        Event::NeverTold,
        Event::Healthy,
        Event::Unhealthy(text()),
        Event::FellBack(text()),
        Event::Discard,
        Event::GoBack(Return {
            given_up: release,
            reason: text(),
            attempt: Attempt { slot: Slot::A, nonce: text(), boot_id: text() },
        }),
        Event::Error { error: text(), retryable: true },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::samples;

    #[test]
    fn the_edges_are_these_and_no_others() {
        let text: Vec<String> =
            edges().into_iter().map(|(from, by, to)| format!("{from} {by} {to}")).collect();
        let mut expected: Vec<&str> =
            EDGES.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let mut found: Vec<&str> = text.iter().map(String::as_str).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    const EDGES: &str = "
        Idle Check Checking
        Idle GoBack Returning
        Checking Check Checking
        Checking UpToDate Idle
        Checking Found Available
        Checking FoundStaged Staged
        Checking Kept Committed
        Checking Needs Blocked
        Checking Error Failed
        Available Check Checking
        Available Fetch Downloading
        Available Error Failed
        Available GoBack Returning
        Downloading Check Checking
        Downloading Received Verifying
        Downloading Error Failed
        Verifying Check Checking
        Verifying Same Staging
        Verifying Error Failed
        Staging Check Checking
        Staging Placed Staged
        Staging Error Failed
        Staged Check Checking
        Staged Activate Trial
        Staged Discard Idle
        Staged Error Failed
        Trial NeverTold Staged
        Trial Healthy Committed
        Trial Unhealthy RolledBack
        Trial FellBack RolledBack
        Committed Check Checking
        Committed GoBack Returning
        Returning NeverTold Failed
        Returning Healthy RolledBack
        Returning Unhealthy Failed
        Returning FellBack Failed
        RolledBack Check Checking
        RolledBack GoBack Returning
        Blocked Check Checking
        Blocked GoBack Returning
        Failed Check Checking
        Failed GoBack Returning
    ";

    #[test]
    fn every_state_and_every_event_is_among_the_samples() {
        let names: Vec<_> = samples().iter().map(State::name).collect();
        assert_eq!(names, State::NAMES);
        let mut kinds: Vec<_> = events().iter().map(Event::name).collect();
        kinds.dedup();
        assert_eq!(kinds.len(), 18, "the property below picks by number");
    }

    proptest::proptest! {
        /// Whatever happens in whatever order: the loader is told to try a slot only after that
        /// slot was closed, filled, read back and placed, in this order and without a check in
        /// between; and only a slot on trial is committed.
        #[test]
        fn no_order_of_events_tries_what_was_not_staged(
            picks in proptest::collection::vec(0_usize..18, 0..200)
        ) {
            let mut state = State::Idle;
            let mut done: Vec<&str> = Vec::new();
            for pick in picks {
                let event = events()[pick].clone();
                let checks = event == Event::Check;
                let Ok((next, effects)) = state.clone().apply(event) else { continue };
                for effect in effects {
                    match effect {
                        Effect::Close(_) => done = vec!["closed"],
                        Effect::Download(_) => done.push("filled"),
                        Effect::ReadBack(_) => done.push("read"),
                        Effect::Place(_) => done.push("placed"),
                        Effect::Try { .. } => {
                            let staged = ["closed", "filled", "read", "placed"];
                            let known = next_is_found_staged(&done);
                            // What somebody goes back to was committed once, as the caller sees to.
                            let back = matches!(next, State::Returning(_));
                            proptest::prop_assert!(done == staged || known || back, "{done:?}");
                        }
                        // What was proven, or what runs while the other one is tried again.
                        Effect::Commit(slot) => {
                            let proven = state.attempt().is_some_and(|at| at.slot == slot);
                            let runs = next.attempt().is_some_and(|at| at.slot != slot);
                            proptest::prop_assert!(proven || runs, "{state:?} {next:?}");
                        }
                        Effect::Select(_) | Effect::Reboot => {}
                    }
                }
                if matches!(next, State::Staged(..)) && matches!(state, State::Checking) {
                    done = vec!["found"];
                } else if checks {
                    done.clear();
                }
                state = next;
            }
        }
    }

    /// Whoever says `FoundStaged` has looked at the slot.
    fn next_is_found_staged(done: &[&str]) -> bool {
        done == ["found"]
    }
}
