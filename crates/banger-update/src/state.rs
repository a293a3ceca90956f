//! How far an update is: the state. What follows from it is in [`crate::transition`].

use std::fmt;

use banger_trust::{Sha256Digest, Version};

use crate::slot::Slot;

/// A release, as far as the state has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseId {
    /// Its version.
    pub version: Version,
    /// What tells its files from all others.
    pub fingerprint: Sha256Digest,
}

/// A slot that has to prove itself in a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The slot.
    pub slot: Slot,
    /// What the boot loader was told to pass on.
    pub nonce: String,
    /// The boot in which that was decided.
    pub boot_id: String,
}

/// A new release that is being tried, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What lies in the slot.
    pub release: ReleaseId,
    /// Where, and how it is known.
    pub attempt: Attempt,
}

/// The way back to the other system, as somebody wanted it. What ran goes on if that one does not
/// prove itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// What is not wanted any more: it lies in the slot beside the one that is tried.
    pub given_up: ReleaseId,
    /// Why.
    pub reason: String,
    /// Where the other system is, and how it is known.
    pub attempt: Attempt,
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
    /// Going back to the other system.
    Returning,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 7] = [
        Self::Checking,
        Self::Downloading,
        Self::Verifying,
        Self::Staging,
        Self::Activating,
        Self::Trial,
        Self::Returning,
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
            Self::Returning => "returning",
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
    /// The boot loader was told, or is about to be told, to try the other system again.
    Returning(Return),
    /// It was given up; this slot, the other one, runs again.
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
            Self::Returning(_) => "Returning",
            Self::RolledBack { .. } => "RolledBack",
            Self::Blocked { .. } => "Blocked",
            Self::Failed(_) => "Failed",
        }
    }

    /// All names, in the order in which an update goes.
    pub const NAMES: [&'static str; 13] = [
        "Idle",
        "Checking",
        "Available",
        "Downloading",
        "Verifying",
        "Staging",
        "Staged",
        "Trial",
        "Committed",
        "Returning",
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
            Self::Returning(back) => Some(&back.given_up),
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
            Self::Returning(_) => Some(Phase::Returning),
            _ => None,
        }
    }

    /// What has to prove itself in a boot, if anything.
    pub fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Trial(trial) => Some(&trial.attempt),
            Self::Returning(back) => Some(&back.attempt),
            _ => None,
        }
    }

    /// Whether it is how something has ended, and not something under way.
    pub(crate) fn is_at_rest(&self) -> bool {
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
                write!(f, "{} in slot {} is on trial", trial.release.version, trial.attempt.slot)
            }
            Self::Committed(release, slot) => {
                write!(f, "{} in slot {slot} has proved itself", release.version)
            }
            Self::Returning(back) => {
                let (slot, from) = (back.attempt.slot, &back.given_up.version);
                write!(f, "slot {slot} is tried again, and {from} goes on if it is not well")
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

/// One state of each kind.
pub(crate) fn samples() -> Vec<State> {
    let release =
        ReleaseId { version: Version::new(1, 0, 0), fingerprint: Sha256Digest::of(b"release") };
    let attempt = |slot| Attempt { slot, nonce: "nonce".to_owned(), boot_id: "boot".to_owned() };
    let trial = Trial { release: release.clone(), attempt: attempt(Slot::B) };
    let back =
        Return { given_up: release.clone(), reason: "x".to_owned(), attempt: attempt(Slot::A) };
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
        State::Returning(back),
        State::RolledBack { release, to: Slot::A, reason: "x".to_owned() },
        State::Blocked { offered: version.clone(), needs: version },
        State::Failed(failure),
    ]
}
