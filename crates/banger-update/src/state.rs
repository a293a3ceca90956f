//! How an update may go: a state, what happens, and what follows. Pure.
//!
//! What follows is a list of effects, each of which can be repeated. The new state is written down
//! *before* its effects are carried out, so that whoever comes next knows what was meant.
//!
//! ```text
//!   Idle, Committed, RolledBack, Blocked, Failed
//!     └ Check ─► Checking ─ Found ─► Available ─ Fetch ─► Downloading ─ Received ─► Verifying
//!                                                                                      │
//!        RolledBack ◄─ FellBack, Unhealthy ─ Trial ◄─ Activate ─ Staged ◄─ Placed ─ Staging
//!                                              └ Healthy ─► Committed
//! ```

use std::fmt;

use banger_trust::{Sha256Digest, Version};
use thiserror::Error;

use crate::slot::Slot;

/// A release, as far as the state has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseId {
    /// Its version.
    pub version: Version,
    /// What tells its files from all others.
    pub fingerprint: Sha256Digest,
}

/// A slot that is being tried, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What lies in it.
    pub release: ReleaseId,
    /// Where.
    pub slot: Slot,
    /// What the boot loader was told to pass on.
    pub nonce: String,
    /// The boot in which that was decided.
    pub boot_id: String,
}

/// What an update was about when something happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Asking the server.
    Checking,
    /// Fetching the files.
    Downloading,
    /// Reading them back.
    Verifying,
    /// Putting them in their place.
    Staging,
    /// Making the boot loader try them.
    Activating,
    /// Trying them.
    Trial,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 6] = [
        Self::Checking,
        Self::Downloading,
        Self::Verifying,
        Self::Staging,
        Self::Activating,
        Self::Trial,
    ];

    /// Its name, as the state file and JSON have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Staging => "staging",
            Self::Activating => "activating",
            Self::Trial => "trial",
        }
    }
}

/// Why an update ended without a verdict on the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub phase: Phase,
    /// What, in one sentence.
    pub error: String,
    /// Whether trying again without a change may help.
    pub retryable: bool,
}

/// What is going on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing, and nothing is known.
    #[default]
    Idle,
    /// The server is being asked.
    Checking,
    /// There is a release that may be installed.
    Available(ReleaseId),
    /// It is being fetched into the passive slot, which is closed.
    Downloading(ReleaseId),
    /// It is all there, and is being read back.
    Verifying(ReleaseId),
    /// It is being put in its place.
    Staging(ReleaseId),
    /// It lies in this slot, whole. The slot is still closed.
    Staged(ReleaseId, Slot),
    /// The boot loader was told, or is about to be told, to try it.
    Trial(Trial),
    /// It runs and has proved itself.
    Committed(ReleaseId, Slot),
    /// It was tried and given up; this slot, the other one, runs again.
    RolledBack {
        /// What was given up.
        release: ReleaseId,
        /// Where the old one is.
        to: Slot,
        /// Why.
        reason: String,
    },
    /// There is a release that needs another one first.
    Blocked {
        /// It.
        offered: Version,
        /// What has to run, at least.
        needs: Version,
    },
    /// Something failed; nothing that runs has changed.
    Failed(Failure),
}

impl State {
    /// Its name, as JSON and metrics have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Checking => "Checking",
            Self::Available(_) => "Available",
            Self::Downloading(_) => "Downloading",
            Self::Verifying(_) => "Verifying",
            Self::Staging(_) => "Staging",
            Self::Staged(..) => "Staged",
            Self::Trial(_) => "Trial",
            Self::Committed(..) => "Committed",
            Self::RolledBack { .. } => "RolledBack",
            Self::Blocked { .. } => "Blocked",
            Self::Failed(_) => "Failed",
        }
    }

    /// All names, in the order in which an update goes.
    pub const NAMES: [&'static str; 12] = [
        "Idle",
        "Checking",
        "Available",
        "Downloading",
        "Verifying",
        "Staging",
        "Staged",
        "Trial",
        "Committed",
        "RolledBack",
        "Blocked",
        "Failed",
    ];

    /// The release that it is about.
    pub fn release(&self) -> Option<&ReleaseId> {
        match self {
            Self::Available(release)
            | Self::Downloading(release)
            | Self::Verifying(release)
            | Self::Staging(release)
            | Self::Staged(release, _)
            | Self::Committed(release, _)
            | Self::RolledBack { release, .. } => Some(release),
            Self::Trial(trial) => Some(&trial.release),
            Self::Idle | Self::Checking | Self::Blocked { .. } | Self::Failed(_) => None,
        }
    }

    /// The phase that an error now would belong to; `None` when nothing is under way.
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Self::Checking => Some(Phase::Checking),
            Self::Available(_) | Self::Downloading(_) => Some(Phase::Downloading),
            Self::Verifying(_) => Some(Phase::Verifying),
            Self::Staging(_) => Some(Phase::Staging),
            Self::Staged(..) => Some(Phase::Activating),
            Self::Trial(_) => Some(Phase::Trial),
            _ => None,
        }
    }

    /// What becomes of it, and what has to be done.
    ///
    /// # Errors
    /// When that cannot happen now. Nothing has changed then.
    pub fn apply(self, event: Event) -> Result<Next, Denied> {
        let denied = Denied { state: self.name(), event: event.name() };
        let next = match (self, event) {
            (Self::Trial(trial), event) => trial.end(event),
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

    /// One step on the way to a trial, or the way back from what runs.
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
                let tell = Effect::Try { slot, nonce: nonce.clone() };
                (Self::Trial(Trial { release, slot, nonce, boot_id }), vec![tell])
            }
            (Self::Staged(..), E::GiveUp(_)) => (Self::Idle, vec![]),
            (Self::Committed(release, slot), E::GiveUp(reason))
            // What runs has long proved itself, and is not wanted any more.
            | (
                Self::Idle | Self::Available(_) | Self::Blocked { .. } | Self::Failed(_),
                E::Abandon { release, slot, reason },
            ) => {
                // The one that runs is well: it stays what is started if the other one is not.
                let to = !slot;
                let effects = vec![Effect::Commit(to), Effect::Reboot];
                (Self::RolledBack { release, to, reason }, effects)
            }
            _ => return None,
        })
    }

    /// Whether it is how something has ended, and not something under way.
    fn is_at_rest(&self) -> bool {
        matches!(
            self,
            Self::Idle
                | Self::Staged(..)
                | Self::Committed(..)
                | Self::RolledBack { .. }
                | Self::Blocked { .. }
                | Self::Failed(_)
        )
    }
}

/// A state, and what has to be done.
pub type Next = (State, Vec<Effect>);

impl Trial {
    /// It ends by a verdict, and not by an error of whoever looks at it. Until then nothing else
    /// begins.
    fn end(self, verdict: Event) -> Option<Next> {
        let Self { release, slot, .. } = self;
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
    /// An operator wants the other one back.
    GiveUp(String),
    /// The same, when the state is not about what runs any more.
    Abandon {
        /// What runs.
        release: ReleaseId,
        /// Where.
        slot: Slot,
        /// Why.
        reason: String,
    },
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
            Self::GiveUp(_) => "GiveUp",
            Self::Abandon { .. } => "Abandon",
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

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("nothing is going on"),
            Self::Checking => f.write_str("asking the server"),
            Self::Available(release) => write!(f, "{} can be installed", release.version),
            Self::Downloading(release) => write!(f, "fetching {}", release.version),
            Self::Verifying(release) => write!(f, "reading {} back", release.version),
            Self::Staging(release) => write!(f, "putting {} in its place", release.version),
            Self::Staged(release, slot) => {
                write!(f, "{} lies in slot {slot}; `os-update activate` starts it", release.version)
            }
            Self::Trial(trial) => {
                write!(f, "{} in slot {} is on trial", trial.release.version, trial.slot)
            }
            Self::Committed(release, slot) => {
                write!(f, "{} in slot {slot} has proved itself", release.version)
            }
            Self::RolledBack { release, to, reason } => {
                write!(f, "{} was given up for slot {to}: {reason}", release.version)
            }
            Self::Blocked { offered, needs } => {
                write!(f, "blocked: {offered} needs {needs} or later first")
            }
            Self::Failed(failure) => {
                write!(f, "failed while {}: {}", failure.phase.as_str(), failure.error)
            }
        }
    }
}

/// Every change that there is, as (state, event, state): for documents and tests.
pub fn edges() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut edges = Vec::new();
    for state in samples() {
        for event in events() {
            if let Ok((next, _)) = state.clone().apply(event.clone()) {
                edges.push((state.name(), event.name(), next.name()));
            }
        }
    }
    edges
}

/// One state of each kind.
pub(crate) fn samples() -> Vec<State> {
    let release =
        ReleaseId { version: Version::new(1, 0, 0), fingerprint: Sha256Digest::of(b"release") };
    let trial = Trial {
        release: release.clone(),
        slot: Slot::B,
        nonce: "nonce".to_owned(),
        boot_id: "boot".to_owned(),
    };
    let failure = Failure { phase: Phase::Staging, error: "x".to_owned(), retryable: true };
    let version = Version::new(2, 0, 0);
    vec![
        State::Idle,
        State::Checking,
        State::Available(release.clone()),
        State::Downloading(release.clone()),
        State::Verifying(release.clone()),
        State::Staging(release.clone()),
        State::Staged(release.clone(), Slot::B),
        State::Trial(trial),
        State::Committed(release.clone(), Slot::B),
        State::RolledBack { release, to: Slot::A, reason: "x".to_owned() },
        State::Blocked { offered: version.clone(), needs: version },
        State::Failed(failure),
    ]
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
        Event::GiveUp(text()),
        Event::Abandon { release, slot: Slot::B, reason: text() },
        Event::Error { error: text(), retryable: true },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Idle Abandon RolledBack
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
        Available Abandon RolledBack
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
        Staged GiveUp Idle
        Staged Error Failed
        Trial NeverTold Staged
        Trial Healthy Committed
        Trial Unhealthy RolledBack
        Trial FellBack RolledBack
        Committed Check Checking
        Committed GiveUp RolledBack
        RolledBack Check Checking
        Blocked Check Checking
        Blocked Abandon RolledBack
        Failed Check Checking
        Failed Abandon RolledBack
    ";

    #[test]
    fn every_state_and_every_event_is_among_the_samples() {
        let names: Vec<_> = samples().iter().map(State::name).collect();
        assert_eq!(names, State::NAMES);
        let mut kinds: Vec<_> = events().iter().map(Event::name).collect();
        kinds.dedup();
        assert_eq!(kinds.len(), 18);
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
                            proptest::prop_assert!(done == staged || known, "{done:?}");
                        }
                        // What an operator goes back to was committed once, as the caller sees to.
                        Effect::Commit(slot) => {
                            let back = matches!(&next, State::RolledBack { to, .. } if *to == slot);
                            proptest::prop_assert!(back || matches!(state, State::Trial(_)));
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
