//! Named points in the daemon's work at which a test may hold it or kill it.
//!
//! A daemon is given checkpoints on its command line; without them each is passed at the cost of
//! a comparison.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// Every checkpoint in the life of a sandbox, in its order.
pub const CHECKPOINTS: [&str; 33] = [
    "create.reserved",
    "start.decided",
    "start.assets",
    "template.prepared",
    "template.settled",
    "template.saved",
    "start.directory",
    "start.furnished",
    "start.prepared",
    "start.answered",
    "start.recorded",
    "pause.decided",
    "pause.saved",
    "pause.recorded",
    "resume.used",
    "resume.answered",
    "snapshot.decided",
    "snapshot.frozen",
    "snapshot.paused",
    "snapshot.saved",
    "snapshot.resumed",
    "snapshot.kept",
    "snapshot.recorded",
    "restore.filled",
    "end.seen",
    "stop.decided",
    "stop.off",
    "stop.cleared",
    "stop.recorded",
    "delete.decided",
    "delete.cleared",
    "delete.removed",
    "delete.recorded",
];

/// Those in the life of an image.
pub const IMAGE_CHECKPOINTS: [&str; 7] = [
    "promote.copied",
    "promote.read",
    "promote.named",
    "image.unnamed",
    "image.aside",
    "image.removed",
    "image.forgotten",
];

/// What happens at a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The daemon is killed, as by SIGKILL from outside.
    Kill,
    /// Whoever gets there first never goes on.
    HoldFirst,
    /// The daemon stands still as by SIGSTOP from outside, the first time that anybody gets there.
    StandStill,
}

fn all() -> impl Iterator<Item = &'static str> {
    CHECKPOINTS.into_iter().chain(IMAGE_CHECKPOINTS)
}

/// One checkpoint at which something happens, written `NAME=kill`, `NAME=hold` or `NAME=stop`.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    name: &'static str,
    stop: Stop,
    passed: Arc<AtomicBool>,
}

impl FromStr for Checkpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, stop) = text.split_once('=').unwrap_or((text, "kill"));
        let name = all().find(|known| *known == name);
        let name = name.ok_or_else(|| format!("no checkpoint is called {text:?}"))?;
        let stop = match stop {
            "kill" => Stop::Kill,
            "hold" => Stop::HoldFirst,
            "stop" => Stop::StandStill,
            other => return Err(format!("{other:?} is none of kill, hold and stop")),
        };
        Ok(Self { name, stop, passed: Arc::default() })
    }
}

/// Returns when the process goes on. The signal that stops it reaches this thread later than the call
/// that sends it returns.
async fn stand_still() {
    let goes_on = signal(SignalKind::from_raw(Signal::CONT.as_raw()));
    let _ = kill_process(getpid(), Signal::STOP);
    if let Ok(mut goes_on) = goes_on {
        goes_on.recv().await;
    }
}

/// The checkpoints of a daemon.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints(Arc<[Checkpoint]>);

impl Checkpoints {
    /// These.
    pub fn new(checkpoints: Vec<Checkpoint>) -> Self {
        Self(checkpoints.into())
    }

    /// The daemon's work has come here.
    pub async fn reach(&self, name: &'static str) {
        debug_assert!(all().any(|known| known == name), "{name} is not in the list");
        for checkpoint in self.0.iter().filter(|checkpoint| checkpoint.name == name) {
            match checkpoint.stop {
                Stop::Kill => {
                    let _ = kill_process(getpid(), Signal::KILL);
                    std::future::pending::<()>().await;
                }
                Stop::StandStill if checkpoint.passed.swap(true, Ordering::Relaxed) => {}
                Stop::StandStill => stand_still().await,
                Stop::HoldFirst if checkpoint.passed.swap(true, Ordering::Relaxed) => {}
                Stop::HoldFirst => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_checkpoints_are_taken() {
        for good in ["start.prepared=hold", "start.prepared=stop", "start.prepared", "image.aside"]
        {
            assert!(good.parse::<Checkpoint>().is_ok(), "{good}");
        }
        for bad in ["nowhere", "start.prepared=wait", ""] {
            assert!(bad.parse::<Checkpoint>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_first_is_held_and_the_others_pass() {
        let held = Checkpoints::new(vec!["stop.off=hold".parse().unwrap()]);
        let first = tokio::spawn({
            let held = held.clone();
            async move { held.reach("stop.off").await }
        });
        while !held.0[0].passed.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        held.reach("stop.off").await;
        held.reach("stop.cleared").await;
        assert!(!first.is_finished());
        first.abort();
    }
}
