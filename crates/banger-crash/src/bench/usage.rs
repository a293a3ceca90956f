//! What a process uses: memory, and time of a CPU.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Memory, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// What is resident.
    pub(super) resident: u64,
    /// The same with what is shared divided among those who share it.
    pub(super) proportional: u64,
}

/// What a process has done since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Activity {
    ticks: u64,
    /// How often each of its threads was woken up.
    wakes: BTreeMap<OsString, u64>,
}

/// What a process has done in some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// Ticks of the CPU's clock, of which there are a hundred in a second.
    pub(super) ticks: u64,
    /// How often a thread of it was woken up.
    pub(super) wakes: u64,
}

impl Memory {
    pub(super) fn of(pid: i32) -> Result<Self> {
        let dir = of(pid);
        Ok(Self {
            resident: field(&dir.join("status"), "VmRSS:")?,
            proportional: field(&dir.join("smaps_rollup"), "Pss:")?,
        })
    }
}

impl Activity {
    pub(super) fn of(pid: i32) -> Result<Self> {
        let dir = of(pid);
        let stat = dir.join("stat");
        let ticks = ticks(&fs::read_to_string(&stat)?);
        let ticks = ticks.with_context(|| format!("{} makes no sense", stat.display()))?;
        let mut wakes = BTreeMap::new();
        for thread in fs::read_dir(dir.join("task"))?.flatten() {
            let count = field(&thread.path().join("status"), "voluntary_ctxt_switches:");
            // One that has just ended does nothing any more.
            wakes.extend(count.ok().map(|count| (thread.file_name(), count)));
        }
        Ok(Self { ticks, wakes })
    }

    /// What was done since an earlier look. The last of a thread that ended meanwhile is not
    /// known.
    pub(super) fn since(&self, earlier: &Self) -> Used {
        let more = |(thread, count): (&OsString, &u64)| {
            count.saturating_sub(earlier.wakes.get(thread).copied().unwrap_or(0))
        };
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        Used { ticks, wakes: self.wakes.iter().map(more).sum() }
    }
}

fn of(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The number behind a word at the beginning of a line.
fn field(file: &Path, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let number = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| {
        let word = rest.split_whitespace().next()?;
        word.parse().ok()
    });
    number.with_context(|| format!("{} has no {name}", file.display()))
}

/// Ticks in user and in kernel mode. The name before them may hold anything but ends with the
/// last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_behind_whatever_name() {
        let stat = "7 (a) b (c) S 1 2 3 0 -1 4194304 10 11 12 13 40 2 90 91 20 0 3 0 1";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn what_was_done_is_counted_for_each_thread_by_itself() {
        let activity = |ticks, wakes: &[(&str, u64)]| {
            let wakes = wakes.iter().map(|(thread, count)| (OsString::from(thread), *count));
            Activity { ticks, wakes: wakes.collect() }
        };
        let earlier = activity(5, &[("1", 10), ("2", 900)]);
        let later = activity(7, &[("1", 13), ("3", 4)]);
        assert_eq!(later.since(&earlier), Used { ticks: 2, wakes: 7 });
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!Activity::of(own).unwrap().wakes.is_empty());
    }

    #[test]
    fn every_process_uses_memory() {
        let own = i32::try_from(std::process::id()).unwrap();
        let memory = Memory::of(own).unwrap();
        assert!(memory.resident > 0 && memory.proportional <= memory.resident, "{memory:?}");
    }
}
