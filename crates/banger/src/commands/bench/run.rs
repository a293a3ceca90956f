//! `banger bench run`: a whole command, beside a container that does the same.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use banger_host::command::{Tool, find_program};
use banger_host::facts;
use banger_model::{ExitCode, NetworkMode};
use serde::Serialize;

use super::{Distribution, Shown, heading};
use crate::context::Context;
use crate::error::CommandError;
use crate::output;
use crate::progress;

/// Longest time for one command.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measure `banger vm run -- true` from the shell's view, beside `podman run` if it is here
///
/// Both run in turns. The processor's time is that of the whole host while a command ran, so let
/// nothing else run beside.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger bench run\n  \
                        banger bench run --podman-rootfs /srv/debian --rounds 20 -o json")]
pub(crate) struct Args {
    /// How often each is measured
    #[arg(long, default_value = "20")]
    rounds: NonZeroU32,
    /// How the sandboxes are connected
    #[arg(long, default_value_t = NetworkMode::None)]
    network: NetworkMode,
    /// A directory with the same root file system, for podman
    #[arg(long, value_name = "DIR")]
    podman_rootfs: Option<PathBuf>,
    #[command(flatten)]
    shown: Shown,
}

/// What was measured. Field names are stable; times are in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    rounds: u32,
    banger: Commands,
    podman: Option<Commands>,
    /// The median of banger's time over the median of podman's.
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Commands {
    wall: Distribution,
    cpu: Distribution,
}

impl Commands {
    fn of(times: Vec<(Duration, Duration)>) -> Self {
        let (wall, cpu) = times.into_iter().unzip();
        Self { wall: Distribution::of(wall), cpu: Distribution::of(cpu) }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let report = measure(args)?;
    args.shown.show(&report, print)
}

fn measure(args: &Args) -> Result<Report> {
    let context = Context::from_process()?;
    let progress = progress::to_stderr();
    let network = args.network.to_string();
    let banger = || {
        Tool::new(&context.program).args(["vm", "run", "--network", network.as_str(), "--", "true"])
    };
    let podman = find_program("podman", &context.path).zip(args.podman_rootfs.clone());
    let podman = podman.map(|(program, rootfs)| {
        move || {
            let tool = Tool::new(&program).args(["--runtime", "runc", "--cgroup-manager=cgroupfs"]);
            // Its own limits may be above those of whoever measures.
            let tool = tool.args(["run", "--rm", "--network=none"]);
            let tool = tool.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
            tool.arg("--rootfs").arg(&rootfs).arg("/bin/true")
        }
    });
    progress.stage("warming up");
    // The first makes what all others find: a daemon, a template, caches.
    banger().capture(PATIENCE)?;
    if let Some(podman) = &podman {
        podman().capture(PATIENCE)?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds.get() {
        progress.stage(&format!("round {round} of {}", args.rounds));
        ours.push(time(banger())?);
        if let Some(podman) = &podman {
            theirs.push(time(podman())?);
        }
    }
    let banger = Commands::of(ours);
    let podman = podman.map(|_| Commands::of(theirs));
    let ratio = podman.as_ref().map(|podman| banger.wall.p50 / podman.wall.p50);
    Ok(Report { rounds: args.rounds.get(), banger, podman, ratio })
}

/// How long a command takes, and how long processors were busy meanwhile.
fn time(tool: Tool) -> Result<(Duration, Duration)> {
    let (busy, begin) = (facts::busy()?, Instant::now());
    tool.capture(PATIENCE)?;
    Ok((begin.elapsed(), facts::busy()?.saturating_sub(busy)))
}

fn print(report: &Report) -> Result<(), CommandError> {
    output::line(format!("{} rounds; milliseconds", report.rounds))?;
    output::line(heading())?;
    let podman = report.podman.iter().map(|podman| ("podman run", podman));
    for (name, commands) in std::iter::once(("banger vm run", &report.banger)).chain(podman) {
        output::line(commands.wall.line(name))?;
        output::line(commands.cpu.line(&format!("{name}, processors")))?;
    }
    match report.ratio {
        Some(ratio) => output::line(format!("banger / podman, medians: {ratio:.2}")),
        None => Ok(()),
    }
}
