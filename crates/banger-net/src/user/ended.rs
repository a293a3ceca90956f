//! Which program of a sandbox's network has ended, and what it said.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::fs::read_bounded;
use banger_host::process::{Process, ProcessIdentity};

use super::launch::{PASST_ERRORS, PASST_LOG, PASST_LOG_LEN, RELAY_LOG};

/// Longest log that is looked at: what `passt` bounds its own to, and as much again.
const MAX_LOG_LEN: u64 = 2 * PASST_LOG_LEN;
/// Most characters of a log's line that are passed on.
const MAX_LINE_LEN: usize = 300;

/// A program of a sandbox's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `passt`.
    Passt,
    /// The relay before it.
    Relay,
}

/// That a sandbox has no network any more, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The program that ended, or that caused the other's end.
    pub program: Program,
    /// The last line of its log, without control characters.
    pub reason: Option<String>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = match self.program {
            Program::Passt => "passt",
            Program::Relay => "the network relay",
        };
        match &self.reason {
            Some(reason) => write!(f, "{program} has ended: {reason}"),
            None => write!(f, "{program} has ended"),
        }
    }
}

/// Tells whether the network in the sandbox's directory `dir` has ended. `programs` are the
/// identities of [`super::NetBackend::processes`], in that order. It reads a few small files.
///
/// Each program ends when the other does, and both when the VMM hangs up: ask before it is told
/// to. Whoever said why it ended is named; a program that cannot be looked at counts as running.
pub fn ended(programs: &[ProcessIdentity], dir: &Path) -> Option<Ended> {
    let gone: Vec<_> = [Program::Passt, Program::Relay]
        .into_iter()
        .zip(programs)
        .filter(|(_, identity)| is_gone(identity))
        .map(|(program, _)| program)
        .collect();
    let said =
        [(Program::Passt, PASST_ERRORS), (Program::Relay, RELAY_LOG), (Program::Passt, PASST_LOG)];
    let named = said.into_iter().filter(|(program, _)| gone.contains(program)).find_map(
        |(program, log)| {
            let reason = last_line(&read_bounded(&dir.join(log), MAX_LOG_LEN).ok()?)?;
            Some(Ended { program, reason: Some(reason) })
        },
    );
    named.or_else(|| gone.first().map(|program| Ended { program: *program, reason: None }))
}

/// A child that nobody has waited for is found, but has ended all the same.
fn is_gone(identity: &ProcessIdentity) -> bool {
    match Process::find(identity) {
        Ok(Some(process)) => process.ended(Deadline::after(Duration::ZERO)).unwrap_or(false),
        Ok(None) => true,
        Err(_) => false,
    }
}

fn last_line(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(MAX_LINE_LEN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::fs::write_atomic;
    use banger_host::process::Launch;

    #[test]
    fn who_ended_is_named_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let start = || Launch::new("sleep", dir.path()).args(["1000"]).start().unwrap();
        let (passt, relay) = (start(), start());
        let programs = [passt.identity().clone(), relay.identity().clone()];
        let look = || ended(&programs, dir.path()).map(|ended| ended.to_string());
        write_atomic(&dir.path().join(RELAY_LOG), b"Error: a\n\x1b[31mError: b\n\n").unwrap();
        assert_eq!(look(), None);
        passt.kill(Duration::from_secs(10)).unwrap();
        assert_eq!(look().unwrap(), "passt has ended");
        relay.kill(Duration::from_secs(10)).unwrap();
        assert_eq!(look().unwrap(), "the network relay has ended: [31mError: b");
        write_atomic(&dir.path().join(PASST_ERRORS), b"no route\n").unwrap();
        assert_eq!(look().unwrap(), "passt has ended: no route");
    }
}
