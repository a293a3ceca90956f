//! `banger bench exec`: one command in a sandbox that runs.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use banger_api::client::Client;
use banger_model::{ExitCode, MemorySize, NetworkMode};
use serde::Serialize;

use super::subject::{exec, run as run_command, start, wanted};
use super::{Distribution, Shown, heading};
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::lease::Lease;
use crate::output;
use crate::progress;

/// Runs `true` so often, and says in nanoseconds how long that took.
const FLOOR_SCRIPT: &str = "
    begin=$(date +%s%N); i=0
    while [ $i -lt 20 ]; do /bin/true; i=$((i+1)); done
    end=$(date +%s%N); echo $((end - begin))";
const FLOOR_RUNS: u32 = 20;

/// Measure the time of `true` in a sandbox that runs, beside what it takes the guest alone
///
/// The floor is what a shell in the sandbox needs to start `true` and wait for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger bench exec\n  banger bench exec --rounds 200 -o json")]
pub(crate) struct Args {
    /// How often each is measured
    #[arg(long, default_value = "50")]
    rounds: NonZeroU32,
    #[command(flatten)]
    shown: Shown,
}

/// What was measured. Field names are stable; times are in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    rounds: u32,
    /// In the guest alone, from fork to wait.
    floor: Distribution,
    /// From the request to the daemon until the status is here.
    daemon: Distribution,
    /// `banger vm exec NAME -- true`.
    command: Distribution,
    /// The daemon's median beyond the floor's.
    beyond: f64,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let report = context::runtime()?.block_on(measure(args))?;
    args.shown.show(&report, print)
}

async fn measure(args: &Args) -> Result<Report> {
    let context = Context::from_process()?;
    let progress = progress::to_stderr();
    let client = context.client(0);
    // Held to the end: whatever becomes of this, the sandbox goes with it.
    let lease = Lease::take(&context.home)?;
    progress.stage("starting a sandbox");
    let wanted = wanted(MemorySize::DEFAULT, NetworkMode::None, &lease)?;
    let sandbox = start(&client, &wanted).await?;
    exec(&context.program, &sandbox, &["true"]).await?;
    let (mut floor, mut daemon, mut command) = (Vec::new(), Vec::new(), Vec::new());
    progress.stage("measuring");
    for _ in 0..args.rounds.get() {
        floor.push(in_the_guest(&client, &sandbox).await?);
        let begin = Instant::now();
        run_command(&client, &sandbox, &["true"]).await?;
        daemon.push(begin.elapsed());
        let begin = Instant::now();
        exec(&context.program, &sandbox, &["true"]).await?;
        command.push(begin.elapsed());
    }
    let (floor, daemon) = (Distribution::of(floor), Distribution::of(daemon));
    let beyond = daemon.p50 - floor.p50;
    let command = Distribution::of(command);
    Ok(Report { rounds: args.rounds.get(), floor, daemon, command, beyond })
}

async fn in_the_guest(client: &Client, sandbox: &str) -> Result<Duration> {
    let said = run_command(client, sandbox, &["sh", "-c", FLOOR_SCRIPT]).await?;
    let said = String::from_utf8_lossy(&said);
    let took = said.trim().parse().with_context(|| format!("it took {said:?}"))?;
    Ok(Duration::from_nanos(took) / FLOOR_RUNS)
}

fn print(report: &Report) -> Result<(), CommandError> {
    output::line(format!("{} rounds; milliseconds", report.rounds))?;
    output::line(heading())?;
    output::line(report.floor.line("fork, exec and wait in the guest"))?;
    output::line(report.daemon.line("request to the daemon → status"))?;
    output::line(report.command.line("banger vm exec"))?;
    output::line(format!("beyond the floor, medians: {:.1}", report.beyond))
}
