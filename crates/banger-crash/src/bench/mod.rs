//! How fast the daemon answers and how little it takes, beside what the same host's disk needs
//! for one write. No machine runs: the monitor is made up, so all that is measured is ours.

mod asks;
mod figures;
mod subject;
mod usage;

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

pub use figures::{Amount, Distribution, Report, Times, Unit, Wanted};

use crate::book::Wish;
use crate::burst;
use crate::daemon::Daemon;
use crate::place::{Ground, Place, Tools};
use subject::{Subject, floor, until};
use usage::{Activity, Memory};

/// Bursts when nothing is said: a thousand requests, of which p99 leaves out ten.
pub const BURSTS: usize = 20;
/// Requests of one burst.
const BURST: usize = 50;
/// Writes to the disk for each burst, to compare with.
const FLOORS: usize = 10;
/// Sandboxes that a daemon remembers where there are many.
const MANY: usize = 1000;
/// Sandboxes that run where some do.
const SOME: usize = 8;
/// How often the many are asked for.
const LISTS: usize = 50;
/// How often the command line asks for them.
const COMMANDS: usize = 20;
/// Commands that run in a sandbox.
const EXECS: usize = 100;
/// What went before may echo so long: threads that nobody needs any more end after ten seconds.
const SETTLING: Duration = Duration::from_secs(12);
/// How long it is watched doing nothing.
const IDLE: Duration = Duration::from_secs(10);

/// Longest that ninety-nine in a hundred may wait to be told that their sandbox is theirs, in
/// milliseconds: nobody notices that.
const RESERVED: Wanted = Wanted::P99(10.0);
/// Longest that half of the lists may take, in milliseconds.
const LISTED: Wanted = Wanted::P50(20.0);
/// Most memory of a daemon that has nothing to do, in KiB: it runs on a laptop all day.
const MAX_EMPTY: u64 = 20 * 1024;
/// Most memory of one that remembers many, in KiB.
const MAX_MANY: u64 = 60 * 1024;

/// One run.
struct Bench {
    subject: Subject,
    report: Report,
}

/// Measures everything; `tell` hears what is measured next.
///
/// # Errors
/// When anything of it fails.
pub async fn run(tools: &Tools, bursts: usize, tell: impl Fn(&str)) -> Result<Report> {
    let subject = Subject { place: Place::make(tools, Ground::Host)? };
    let mut bench = Bench { subject, report: Report::default() };
    let daemon = Daemon::start(&bench.subject.place, "bench").await?;
    tell("doing nothing");
    bench.idle(&daemon, EMPTY_WORK).await?;
    bench.memory(&daemon, EMPTY_MEMORY, Some(MAX_EMPTY))?;
    tell("some running");
    bench.some(&daemon).await?;
    tell("many made at once");
    bench.bursts(&daemon, bursts).await?;
    bench.memory(&daemon, USED_MEMORY, None)?;
    tell("many remembered");
    bench.fill(&daemon).await?;
    daemon.stop().await?;
    bench.many().await?;
    Ok(bench.report)
}

/// What a figure is called, for programs and for people.
type Name = (&'static str, &'static str);

const EMPTY_MEMORY: [Name; 2] = [
    ("empty_rss", "memory, no sandboxes: resident"),
    ("empty_pss", "memory, no sandboxes: proportional"),
];
const EMPTY_WORK: [Name; 2] = [
    ("empty_ticks", "CPU in 10 s, no sandboxes"),
    ("empty_wakes", "wake-ups in 10 s, no sandboxes"),
];
const RUNNING_MEMORY: [Name; 2] = [
    ("running_rss", "memory, 8 running: resident"),
    ("running_pss", "memory, 8 running: proportional"),
];
const RUNNING_WORK: [Name; 2] =
    [("running_ticks", "CPU in 10 s, 8 running"), ("running_wakes", "wake-ups in 10 s, 8 running")];
const USED_MEMORY: [Name; 2] = [
    ("used_rss", "memory, none left of all bursts: resident"),
    ("used_pss", "memory, none left of all bursts: prop."),
];
const MANY_MEMORY: [Name; 2] = [
    ("many_rss", "memory, 1,000 stored: resident"),
    ("many_pss", "memory, 1,000 stored: proportional"),
];
const MANY_WORK: [Name; 2] =
    [("many_ticks", "CPU in 10 s, 1,000 stored"), ("many_wakes", "wake-ups in 10 s, 1,000 stored")];

impl Bench {
    fn times(&mut self, (name, what): Name, took: Vec<Duration>, bound: Option<Wanted>) {
        let took = Distribution::of(took);
        self.report.times.push(Times { name, what, took, bound });
    }

    fn amount(&mut self, (name, what): Name, amount: u64, unit: Unit, most: Option<u64>) {
        self.report.amounts.push(Amount { name, what, amount, unit, most });
    }

    fn memory(&mut self, daemon: &Daemon, names: [Name; 2], most: Option<u64>) -> Result<()> {
        let [resident, proportional] = names;
        let memory = Memory::of(daemon.pid())?;
        self.amount(resident, memory.resident, Unit::Kib, most);
        self.amount(proportional, memory.proportional, Unit::Kib, None);
        Ok(())
    }

    /// What it does when nobody asks for anything.
    async fn idle(&mut self, daemon: &Daemon, [ticks, wakes]: [Name; 2]) -> Result<()> {
        tokio::time::sleep(SETTLING).await;
        let before = Activity::of(daemon.pid())?;
        tokio::time::sleep(IDLE).await;
        let used = Activity::of(daemon.pid())?.since(&before);
        self.amount(ticks, used.ticks, Unit::Ticks, Some(0));
        self.amount(wakes, used.wakes, Unit::Times, None);
        Ok(())
    }

    /// Some that run, and commands in them.
    async fn some(&mut self, daemon: &Daemon) -> Result<()> {
        let names: Vec<_> = (0..SOME).map(|number| format!("some-{number}")).collect();
        self.subject.create(&names, Wish::CreateAndStart)?;
        until(daemon, |states| states.iter().all(|state| state == "running")).await?;
        let mut took = Vec::with_capacity(EXECS);
        for name in names.iter().cycle().take(EXECS) {
            let begun = Instant::now();
            let ran = burst::run(daemon.client(), name, &["true"], &[]).await;
            ran.map_err(|error| anyhow!("a command in {name}: {error:?}"))?;
            took.push(begun.elapsed());
        }
        self.times(("exec", "a command started, followed, released"), took, None);
        self.idle(daemon, RUNNING_WORK).await?;
        self.memory(daemon, RUNNING_MEMORY, None)?;
        self.subject.delete(daemon, &names).await
    }

    /// Bursts of both kinds and writes to the disk, in turns: what else the host does meets all.
    async fn bursts(&mut self, daemon: &Daemon, bursts: usize) -> Result<()> {
        let (mut floors, mut made, mut started) = (Vec::new(), Vec::new(), Vec::new());
        for burst in 0..bursts {
            let names: Vec<_> = (0..BURST).map(|number| format!("b{burst}-{number}")).collect();
            floors.extend(floor(&self.subject.place.root().join("floor"), FLOORS)?);
            made.extend(self.subject.create(&names, Wish::Create)?);
            self.subject.delete(daemon, &names).await?;
            started.extend(self.subject.create(&names, Wish::CreateAndStart)?);
            self.subject.delete(daemon, &names).await?;
        }
        self.times(("floor", "the floor: 4 KiB appended and synced"), floors, None);
        self.times(("create", "50 at once made"), made, Some(RESERVED));
        self.times(("create_start", "50 at once made and started"), started, Some(RESERVED));
        Ok(())
    }

    async fn fill(&self, daemon: &Daemon) -> Result<()> {
        for batch in 0..MANY / BURST {
            let names: Vec<_> = (0..BURST).map(|number| format!("m{batch}-{number}")).collect();
            self.subject.create(&names, Wish::Create)?;
        }
        until(daemon, |states| states.len() == MANY).await
    }

    /// A daemon that finds many sandboxes when it starts.
    async fn many(&mut self) -> Result<()> {
        let begun = Instant::now();
        let daemon = Daemon::start(&self.subject.place, "bench-many").await?;
        let took = vec![begun.elapsed()];
        self.times(("recover_many", "a daemon's start, 1,000 stored"), took, None);
        let (mut lists, mut commands) = (Vec::new(), Vec::new());
        for _ in 0..LISTS {
            lists.push(self.subject.list()?);
        }
        for _ in 0..COMMANDS {
            commands.push(self.subject.list_by_command(MANY)?);
        }
        self.times(("list_many", "GET /v1/sandboxes, 1,000 stored"), lists, Some(LISTED));
        let name = ("vm_list_many", "banger vm list, 1,000 stored");
        self.times(name, commands, Some(LISTED));
        self.idle(&daemon, MANY_WORK).await?;
        self.memory(&daemon, MANY_MEMORY, Some(MAX_MANY))?;
        daemon.stop().await
    }
}
