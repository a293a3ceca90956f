//! `banger bench burst`: many sandboxes at once.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use banger_api::client::{Client, Force};
use banger_api::types::CreateSandbox;
use banger_model::{Bytes, ExitCode, MemorySize, NetworkMode, Silent, Span};
use serde::Serialize;
use tokio::task::JoinSet;

use super::subject::{memory, run as run_command, start, wanted};
use super::{Distribution, Shown, heading};
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::lease::Lease;
use crate::output;
use crate::progress;

/// What no two machines have in common.
const WHO: &[&str] =
    &["cat", "/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/etc/hostname"];

/// Measure the time until so many sandboxes run that were asked for at once
///
/// All are made from one template. Each has to answer who it is, and each differently.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger bench burst\n  banger bench burst -n 50 --rounds 1")]
pub(crate) struct Args {
    /// How many sandboxes
    #[arg(long, short = 'n', default_value = "20")]
    count: NonZeroU32,
    /// How often it is measured
    #[arg(long, default_value = "5")]
    rounds: NonZeroU32,
    /// How long to wait before each round: the daemon makes machines ahead meanwhile
    #[arg(long, value_name = "SPAN")]
    rest: Option<Span>,
    /// Memory of each sandbox
    #[arg(long, default_value_t = MemorySize::DEFAULT)]
    memory: MemorySize,
    /// How they are connected
    #[arg(long, default_value_t = NetworkMode::None)]
    network: NetworkMode,
    #[command(flatten)]
    shown: Shown,
}

/// What was measured. Field names are stable; times are in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    sandboxes: u32,
    rounds: u32,
    /// From the first request until one of them has answered, over all rounds.
    each: Distribution,
    /// From the first request until all have answered.
    all: Distribution,
    /// Bytes of memory that a sandbox takes in the mean, shared parts divided: the last round.
    memory_of_each: u64,
}

struct Round {
    each: Vec<Duration>,
    all: Duration,
    memory_of_each: Bytes,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let report = context::runtime()?.block_on(measure(args))?;
    args.shown.show(&report, print)
}

async fn measure(args: &Args) -> Result<Report> {
    let context = Context::from_process()?;
    let progress = progress::to_stderr();
    let client = context.client(0);
    progress.stage("warming up");
    burst(&context, &client, args, 1).await?;
    let (mut each, mut all, mut last) = (Vec::new(), Vec::new(), Bytes::new(0));
    for round in 1..=args.rounds.get() {
        progress.stage(&format!("round {round} of {}", args.rounds));
        if let Some(rest) = args.rest {
            tokio::time::sleep(rest.as_duration()).await;
        }
        let round = burst(&context, &client, args, args.count.get()).await?;
        each.extend(round.each);
        all.push(round.all);
        last = round.memory_of_each;
    }
    Ok(Report {
        sandboxes: args.count.get(),
        rounds: args.rounds.get(),
        each: Distribution::of(each),
        all: Distribution::of(all),
        memory_of_each: last.get(),
    })
}

/// So many sandboxes at once, of which nothing is left afterwards.
async fn burst(context: &Context, client: &Client, args: &Args, count: u32) -> Result<Round> {
    let leases: Vec<Lease> =
        (0..count).map(|_| Lease::take(&context.home)).collect::<Result<_>>()?;
    let wanted: Vec<CreateSandbox> = leases
        .iter()
        .map(|lease| wanted(args.memory, args.network, lease))
        .collect::<Result<_>>()?;
    let begin = Instant::now();
    let mut asked = JoinSet::new();
    for wanted in wanted {
        let client = client.clone();
        asked.spawn(async move {
            let sandbox = start(&client, &wanted).await?;
            let who = run_command(&client, &sandbox, WHO).await?;
            Ok::<_, anyhow::Error>((sandbox, who, begin.elapsed()))
        });
    }
    let (mut sandboxes, mut who, mut each) = (Vec::new(), BTreeSet::new(), Vec::new());
    while let Some(answered) = asked.join_next().await {
        let (sandbox, said, took) = answered??;
        sandboxes.push(sandbox);
        who.insert(said);
        each.push(took);
    }
    let all = begin.elapsed();
    ensure!(who.len() == sandboxes.len(), "{} sandboxes, {} answers", sandboxes.len(), who.len());
    let mut total = 0;
    for sandbox in &sandboxes {
        total += memory(client, sandbox).await?.get();
    }
    for sandbox in &sandboxes {
        let gone = client.delete(sandbox, Force::Yes).await?;
        progress::follow(client, &gone.id, &Silent).await?;
    }
    Ok(Round { each, all, memory_of_each: Bytes::new(total / u64::from(count)) })
}

fn print(report: &Report) -> Result<(), CommandError> {
    let Report { sandboxes, rounds, .. } = report;
    output::line(format!("{rounds} rounds of {sandboxes} sandboxes; milliseconds"))?;
    output::line(heading())?;
    output::line(report.each.line("asked → one has answered"))?;
    output::line(report.all.line("asked → all have answered"))?;
    output::line(format!("memory of each: {}", Bytes::new(report.memory_of_each)))
}
