//! `banger bench fork`: from a sandbox that is warm to several.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use banger_api::client::{Client, Force};
use banger_api::types::{Created, ForkSandbox};
use banger_model::{Bytes, ExitCode, Limits, MemorySize, NetworkMode, OperationId, Silent};
use clap::value_parser;
use serde::Serialize;
use tokio::task::JoinSet;

use super::subject::{exec, memory, start, succeeded, wanted};
use super::{Distribution, Shown, heading};
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::lease::Lease;
use crate::output;
use crate::progress;

/// A process that answers from its memory.
const WARM: &str = "
    mkfifo /root/ask /root/answer
    cat > /root/keeper <<'EOF'
while read line < /root/ask; do echo warm > /root/answer; done
EOF
    setsid sh /root/keeper </dev/null >/dev/null 2>&1 &";
/// One in Python that has so many MiB of objects of 1 KiB.
const WARM_PYTHON: &str = "
    mkfifo /root/ask /root/answer
    cat > /root/keeper <<'EOF'
import sys
objects = [bytes([i % 256]) * 991 for i in range(int(sys.argv[1]) * 1024)]
while True:
    open('/root/ask').readline()
    open('/root/answer', 'w').write(f'{sum(map(len, objects))}')
EOF
    setsid python3 /root/keeper \"$0\" </dev/null >/dev/null 2>&1 &";
const ASK: &str = "echo > /root/ask; cat /root/answer";

/// Measure the time from one sandbox to several copies of it in which its process answers
///
/// A process is started in a sandbox and asked once. Then the sandbox is forked, and the process is
/// asked in each copy at once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  banger bench fork\n  banger bench fork -n 8 --rounds 10 -o json"
)]
pub(crate) struct Args {
    /// How many copies
    #[arg(
        long,
        short = 'n',
        default_value_t = 4,
        value_parser = value_parser!(u16).range(1..=i64::from(Limits::MAX_FORKS))
    )]
    count: u16,
    /// How often it is measured
    #[arg(long, default_value = "5")]
    rounds: NonZeroU32,
    /// Memory of the sandbox
    #[arg(long, default_value_t = MemorySize::DEFAULT)]
    memory: MemorySize,
    /// Have the process be one in Python with so many MiB of objects, over all of which it goes
    #[arg(long, value_name = "MIB")]
    python: Option<u16>,
    /// How the sandbox is connected
    #[arg(long, default_value_t = NetworkMode::None)]
    network: NetworkMode,
    #[command(flatten)]
    shown: Shown,
}

/// What was measured. Field names are stable; times are in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    accelerator: String,
    rounds: u32,
    copies: u16,
    /// How long the source stood still.
    stood_still: Distribution,
    /// From the request until all copies run.
    running: Distribution,
    /// From the request until the process has answered in all copies.
    answered: Distribution,
    /// Bytes of memory that each copy adds to what its host uses, in the mean: the last round.
    memory_per_copy: u64,
}

struct Round {
    stood_still: Duration,
    running: Duration,
    answered: Duration,
    memory_per_copy: Bytes,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let runtime = context::runtime()?;
    let report = runtime.block_on(measure(args))?;
    args.shown.show(&report, print)
}

async fn measure(args: &Args) -> Result<Report> {
    let context = Context::from_process()?;
    let progress = progress::to_stderr();
    let client = context.client(0);
    // Held to the end: whatever becomes of this, the source goes with it.
    let lease = Lease::take(&context.home)?;
    progress.stage("starting a sandbox");
    let source = start(&client, &wanted(args.memory, args.network, &lease)?).await?;
    match args.python {
        Some(mib) => {
            let mib = mib.to_string();
            exec(&context.program, &source, &["sh", "-c", WARM_PYTHON, &mib]).await?;
        }
        None => drop(exec(&context.program, &source, &["sh", "-c", WARM]).await?),
    }
    exec(&context.program, &source, &["sh", "-c", ASK]).await?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds.get() {
        progress.stage(&format!("round {round} of {}", args.rounds));
        rounds.push(fork(&client, &context.program, &source, args.count).await?);
    }
    let shown = client.show(&source).await?;
    client.delete(&source, Force::Yes).await?;
    let times = |time: fn(&Round) -> Duration| Distribution::of(rounds.iter().map(time).collect());
    Ok(Report {
        accelerator: shown.detail.and_then(|detail| detail.accelerator).unwrap_or_default(),
        rounds: args.rounds.get(),
        copies: args.count,
        stood_still: times(|round| round.stood_still),
        running: times(|round| round.running),
        answered: times(|round| round.answered),
        memory_per_copy: rounds.last().map_or(0, |round| round.memory_per_copy.get()),
    })
}

/// One fork, of which nothing is left afterwards.
async fn fork(client: &Client, program: &Path, source: &str, count: u16) -> Result<Round> {
    let before = memory(client, source).await?;
    let begin = Instant::now();
    let forked = client.fork(source, &ForkSandbox { count, name: None }).await?;
    let copies = &forked.copies;
    let measured = async {
        let (stood_still, up) = follow(client, program, &forked.operation.id, copies).await?;
        let answered = begin.elapsed();
        let mut after = memory(client, source).await?.get();
        for copy in copies {
            after += memory(client, copy.sandbox.id.as_str()).await?.get();
        }
        let added = after.saturating_sub(before.get()) / u64::from(count);
        let memory_per_copy = Bytes::new(added);
        Ok(Round { stood_still, running: up - begin, answered, memory_per_copy })
    };
    let measured = measured.await;
    for copy in copies {
        let gone = client.delete(copy.sandbox.id.as_str(), Force::Yes).await?;
        progress::follow(client, &gone.id, &Silent).await?;
    }
    measured
}

/// Waits until the process has answered in each copy; returns how long the source stood still, and
/// when all copies ran.
async fn follow(
    client: &Client,
    program: &Path,
    taking: &OperationId,
    copies: &[Created],
) -> Result<(Duration, Instant)> {
    let stood_still = succeeded(client, taking).await?;
    for copy in copies {
        let operation = copy.operation.as_ref().context("the daemon does not start a copy")?;
        succeeded(client, operation).await?;
    }
    let running = Instant::now();
    let mut asked = JoinSet::new();
    for copy in copies {
        let (program, copy): (PathBuf, _) = (program.to_owned(), copy.sandbox.id.to_string());
        asked.spawn(async move { exec(&program, &copy, &["sh", "-c", ASK]).await });
    }
    while let Some(answered) = asked.join_next().await {
        answered??;
    }
    Ok((stood_still.unwrap_or_default(), running))
}

fn print(report: &Report) -> Result<(), CommandError> {
    let Report { rounds, copies, accelerator, .. } = report;
    output::line(format!("{rounds} rounds of {copies} copies, {accelerator}; milliseconds"))?;
    output::line(heading())?;
    output::line(report.stood_still.line("the source stands still"))?;
    output::line(report.running.line("fork → all copies run"))?;
    output::line(report.answered.line("fork → its process answers in all"))?;
    let memory = Bytes::new(report.memory_per_copy);
    output::line(format!("memory that each copy adds: {memory}"))
}
