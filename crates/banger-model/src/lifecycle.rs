//! The life of a sandbox as one pure state machine.
//!
//! [`State::step`] is the whole of it: what has happened in, the next state and at most one thing
//! to do out. Who asked for what, and whether that may be, is [`crate::policy`]; doing it is the
//! driver's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::SnapshotId;
use crate::time::Timestamp;

/// How a sandbox is, with what is known only then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It has a name and a place, and was never started.
    Created,
    /// Its machine is being made and booted, or taken up from its saved memory.
    Starting {
        /// Where its machine comes from.
        from: Origin,
    },
    /// Its agent answers.
    Running {
        /// Since then.
        since: Timestamp,
    },
    /// Its machine is about to end, as was asked.
    Stopping {
        /// In this way.
        how: StopKind,
    },
    /// It has no machine. Its disk is in order.
    Stopped {
        /// Since then.
        since: Timestamp,
        /// For this reason.
        cause: EndCause,
    },
    /// Its memory is being saved.
    Pausing {
        /// What comes afterwards; a daemon that knew of one thing only has not written it down.
        #[serde(default)]
        then: Afterwards,
    },
    /// Its memory is on disk; it has no machine.
    Paused {
        /// Since then.
        since: Timestamp,
    },
    /// It has no machine, and should have one.
    Failed {
        /// Since then.
        since: Timestamp,
        /// What went wrong.
        reason: String,
    },
    /// Everything of it is being removed.
    Deleting,
}

/// Where a starting machine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// From its disk, as a computer that is switched on.
    Disk,
    /// From its memory, as it was saved.
    Memory,
}

/// What becomes of a machine whose memory was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Afterwards {
    /// It ends.
    #[default]
    Stay,
    /// It goes on.
    GoOn {
        /// What is saved is this snapshot.
        snapshot: SnapshotId,
        /// It has run since then.
        since: Timestamp,
    },
}

/// How a machine is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopKind {
    /// Everything is written to its disk first.
    PowerOff,
    /// As pulling the plug does.
    Kill,
}

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", content = "reason", rename_all = "snake_case")]
pub enum EndCause {
    /// Somebody asked for it.
    Asked,
    /// The guest powered itself off.
    PoweredOff,
    /// Anything else, in a sentence.
    Failed(String),
}

/// What happens to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is to run.
    Start,
    /// Its agent answered.
    Booted(Timestamp),
    /// It is to stop.
    Stop(StopKind),
    /// Its machine has ended or could not be made.
    Ended(Timestamp, EndCause),
    /// Its memory is to be saved.
    Pause,
    /// This snapshot of it is to be taken.
    Snapshot(SnapshotId),
    /// The snapshot is taken; it runs on.
    Taken,
    /// Its memory is saved; its machine stands still, and is of no use any more.
    Saved(Timestamp),
    /// Its memory could not be taken up, and is as it was.
    NotResumed(Timestamp),
    /// Its memory could not be saved; it runs on.
    NotSaved(Timestamp),
    /// Everything of it is to go.
    Delete,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a machine and wait for its agent.
    Boot(Origin),
    /// End the machine; then tell [`Event::Ended`].
    End(StopKind),
    /// Save the machine's memory and end it.
    Save,
    /// Save the machine as a snapshot and let it go on.
    Snapshot,
    /// Throw the saved memory away.
    DropMemory,
    /// Remove everything; afterwards the sandbox is no more.
    Remove,
}

/// What an event leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The next state.
    pub state: State,
    /// What is to be done in it, if anything.
    pub effect: Option<Effect>,
}

impl State {
    /// What comes of an event; `None` when it means nothing in this state, because it came too
    /// late or says what is so already.
    pub fn step(&self, event: &Event) -> Option<Step> {
        use State as S;
        let to = |state, effect| Some(Step { state, effect });
        let boot = |from| to(S::Starting { from }, Some(Effect::Boot(from)));
        let end = |how| to(S::Stopping { how }, Some(Effect::End(how)));
        match (self, event) {
            (S::Deleting, _) => None,
            (_, Event::Delete) => to(S::Deleting, Some(Effect::Remove)),

            (S::Created | S::Stopped { .. } | S::Failed { .. }, Event::Start) => boot(Origin::Disk),
            (S::Paused { .. }, Event::Start) => boot(Origin::Memory),

            (S::Starting { .. }, Event::Booted(at)) => to(S::Running { since: *at }, None),
            // A guest that has not come up has nothing to write: it is not asked to.
            (S::Starting { .. }, Event::Stop(_)) => end(StopKind::Kill),
            (S::Starting { .. }, Event::Ended(at, cause)) => to(failed(*at, cause), None),
            (S::Starting { from: Origin::Memory }, Event::NotResumed(at)) => {
                to(S::Paused { since: *at }, None)
            }

            (S::Running { .. }, Event::Stop(how)) => end(*how),
            (S::Running { .. }, Event::Pause) => {
                to(S::Pausing { then: Afterwards::Stay }, Some(Effect::Save))
            }
            (S::Running { since }, Event::Snapshot(snapshot)) => {
                let then = Afterwards::GoOn { snapshot: snapshot.clone(), since: *since };
                to(S::Pausing { then }, Some(Effect::Snapshot))
            }
            (S::Running { .. }, Event::Ended(at, cause)) => to(ended(*at, cause), None),

            (S::Stopping { how: StopKind::PowerOff }, Event::Stop(StopKind::Kill)) => {
                end(StopKind::Kill)
            }
            (S::Stopping { .. }, Event::Ended(at, _)) => {
                to(S::Stopped { since: *at, cause: EndCause::Asked }, None)
            }

            (S::Pausing { .. }, Event::Stop(StopKind::Kill)) => end(StopKind::Kill),
            (S::Pausing { then }, event) => {
                after_saving(then, event).map(|state| Step { state, effect: None })
            }

            (S::Paused { since }, Event::Stop(_)) => {
                let stopped = S::Stopped { since: *since, cause: EndCause::Asked };
                to(stopped, Some(Effect::DropMemory))
            }
            _ => None,
        }
    }

    /// The state's word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Stopping { .. } => "stopping",
            Self::Stopped { .. } => "stopped",
            Self::Pausing { .. } => "pausing",
            Self::Paused { .. } => "paused",
            Self::Failed { .. } => "failed",
            Self::Deleting => "deleting",
        }
    }

    /// Every state's word, in the order of a life.
    pub const NAMES: [&str; 9] = [
        "created", "starting", "running", "stopping", "stopped", "pausing", "paused", "failed",
        "deleting",
    ];

    /// Whether there may be a machine in this state.
    pub fn has_machine(&self) -> bool {
        use State as S;
        matches!(
            self,
            S::Starting { .. } | S::Running { .. } | S::Stopping { .. } | S::Pausing { .. }
        )
    }

    /// Since when it has run without an end in sight: while a snapshot is taken, too.
    pub fn runs_since(&self) -> Option<Timestamp> {
        match self {
            Self::Running { since } | Self::Pausing { then: Afterwards::GoOn { since, .. } } => {
                Some(*since)
            }
            _ => None,
        }
    }

    /// What is left to do in this state, when whoever did it has gone.
    pub fn pending(&self) -> Option<Effect> {
        match self {
            Self::Starting { from } => Some(Effect::Boot(*from)),
            Self::Stopping { how } => Some(Effect::End(*how)),
            Self::Pausing { then: Afterwards::Stay } => Some(Effect::Save),
            Self::Pausing { then: Afterwards::GoOn { .. } } => Some(Effect::Snapshot),
            Self::Deleting => Some(Effect::Remove),
            _ => None,
        }
    }
}

/// Where a machine whose memory is being saved comes to with this event.
fn after_saving(then: &Afterwards, event: &Event) -> Option<State> {
    match (then, event) {
        (Afterwards::Stay, Event::Saved(at)) => Some(State::Paused { since: *at }),
        (Afterwards::Stay, Event::NotSaved(at)) => Some(State::Running { since: *at }),
        (Afterwards::Stay, Event::Ended(at, cause)) => Some(failed(*at, cause)),
        (Afterwards::GoOn { since, .. }, Event::Taken | Event::NotSaved(_)) => {
            Some(State::Running { since: *since })
        }
        (Afterwards::GoOn { .. }, Event::Ended(at, cause)) => Some(ended(*at, cause)),
        _ => None,
    }
}

fn ended(at: Timestamp, cause: &EndCause) -> State {
    match cause {
        EndCause::Failed(reason) => State::Failed { since: at, reason: reason.clone() },
        cause => State::Stopped { since: at, cause: cause.clone() },
    }
}

/// A machine that ends before it was of use has failed, whatever it says.
fn failed(at: Timestamp, cause: &EndCause) -> State {
    let reason = match cause {
        EndCause::Failed(reason) => reason.clone(),
        other => other.to_string(),
    };
    State::Failed { since: at, reason }
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("as asked"),
            Self::PoweredOff => f.write_str("the guest powered itself off"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value of each state.
pub fn every_state() -> Vec<State> {
    let at = Timestamp(1);
    vec![
        State::Created,
        State::Starting { from: Origin::Disk },
        State::Starting { from: Origin::Memory },
        State::Running { since: at },
        State::Stopping { how: StopKind::PowerOff },
        State::Stopped { since: at, cause: EndCause::Asked },
        State::Pausing { then: Afterwards::Stay },
        State::Pausing { then: Afterwards::GoOn { snapshot: a_snapshot(), since: at } },
        State::Paused { since: at },
        State::Failed { since: at, reason: "x".to_owned() },
        State::Deleting,
    ]
}

fn a_snapshot() -> SnapshotId {
    SnapshotId::from_random([1; 8])
}

/// One value of each event, with its word.
pub fn every_event() -> Vec<(&'static str, Event)> {
    let at = Timestamp(2);
    vec![
        ("start", Event::Start),
        ("booted", Event::Booted(at)),
        ("stop", Event::Stop(StopKind::PowerOff)),
        ("kill", Event::Stop(StopKind::Kill)),
        ("powered off", Event::Ended(at, EndCause::PoweredOff)),
        ("crashed", Event::Ended(at, EndCause::Failed("x".to_owned()))),
        ("pause", Event::Pause),
        ("snapshot", Event::Snapshot(a_snapshot())),
        ("taken", Event::Taken),
        ("saved", Event::Saved(at)),
        ("not saved", Event::NotSaved(at)),
        ("not resumed", Event::NotResumed(at)),
        ("delete", Event::Delete),
    ]
}

/// The machine as a diagram in Mermaid's language, drawn from [`State::step`] itself.
pub fn diagram() -> String {
    let mut lines = vec!["stateDiagram-v2".to_owned(), "    [*] --> created".to_owned()];
    let mut arrows: Vec<(String, String, Vec<&str>)> = Vec::new();
    for state in every_state() {
        for (word, event) in every_event() {
            let Some(step) = state.step(&event) else { continue };
            // An arrow from everywhere to one place says more in a sentence.
            if event == Event::Delete {
                continue;
            }
            let (from, to) = (state.name().to_owned(), step.state.name().to_owned());
            match arrows.iter_mut().find(|(a, b, _)| *a == from && *b == to) {
                Some((_, _, words)) if words.contains(&word) => {}
                Some((_, _, words)) => words.push(word),
                None => arrows.push((from, to, vec![word])),
            }
        }
    }
    let arrows = arrows
        .iter()
        .map(|(from, to, words)| format!("    {from} --> {to}: {}", words.join(" / ")));
    lines.extend(arrows);
    lines.push("    deleting --> [*]".to_owned());
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests;
