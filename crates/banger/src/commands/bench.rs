//! `banger bench start`: cold starts beside their floor.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context as _, Result};
use banger_model::{
    BootMode, DiskSize, ExitCode, ImageName, KernelName, MemorySize, NetworkMode, SandboxSpec,
};
use bangerd::assets::{Assets, discover_vmm};
use bangerd::bench::{ColdStart, cold_start, floor};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::context::{self, Context};
use crate::error::CommandError;
use crate::output::{self, Format};
use crate::progress;

/// Measure the time from nothing to a command's end, beside the least that the host allows
///
/// The floor is the same machine with the same kernel, loading the same modules and mounting the
/// same disks, and powering off: what no sandbox on this host can do without. Rounds of both are
/// run in turns.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger bench start\n  banger bench start --rounds 30 -o json")]
pub(crate) struct Args {
    /// How often each is measured
    #[arg(long, default_value = "10")]
    rounds: NonZeroU32,
    /// The image of the sandboxes
    #[arg(long, default_value = "debian-bookworm")]
    image: ImageName,
    /// The kernel of the sandboxes
    #[arg(long, default_value = "debian-cloud")]
    kernel: KernelName,
    /// Memory of the sandboxes
    #[arg(long, default_value_t = MemorySize::DEFAULT)]
    memory: MemorySize,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What was measured. Field names are stable; times are in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    accelerator: String,
    vmm: String,
    rounds: u32,
    floor: Distribution,
    ready: Distribution,
    answered: Distribution,
    gone: Distribution,
    /// The median of `answered` over the median of `floor`.
    ratio: f64,
}

/// How a time varies.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Distribution {
    min: f64,
    p50: f64,
    p90: f64,
    max: f64,
}

impl Distribution {
    /// Of these times, of which there is one at least.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        // The nearest rank: the smallest time that so many per cent do not exceed.
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { min: at(0), p50: at(50), p90: at(90), max: at(100) }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let runtime = context::runtime()?;
    let report = runtime.block_on(measure(args))?;
    match args.output {
        Format::Json => output::json(&report)?,
        Format::Text => print(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &Args) -> Result<Report> {
    let context = Context::from_process()?;
    let progress = progress::to_stderr();
    let sources = context.sources()?;
    let vmm = discover_vmm(&sources).await?;
    let (image, kernel) = (&args.image, &args.kernel);
    let assets = Assets::prepare(&sources, vmm, image, kernel, progress.clone()).await?;
    let program = context.guest_program("banger-floor")?;
    let initramfs = spawn_blocking({
        let (home, kernel) = (context.home.clone(), assets.kernel.clone());
        move || kernel.initramfs(&home, &program)
    })
    .await?
    .context("cannot make the floor's initramfs")?;
    let spec = SandboxSpec {
        image: args.image.clone(),
        kernel: args.kernel.clone(),
        cpus: None,
        memory: args.memory,
        disk: DiskSize::DEFAULT,
        network: NetworkMode::User,
        boot: BootMode::Cold,
    };
    let relay = context.relay();
    let (mut floors, mut starts) = (Vec::new(), Vec::<ColdStart>::new());
    for round in 1..=args.rounds.get() {
        progress.stage(&format!("round {round} of {}", args.rounds));
        floors.push(floor(&context.home, &assets, &initramfs, &spec, &relay).await?);
        starts.push(cold_start(&context.home, &assets, &spec, &relay).await?);
    }
    let of = |part: fn(&ColdStart) -> Duration| Distribution::of(starts.iter().map(part).collect());
    let (floor, answered) = (Distribution::of(floors), of(|start| start.answered));
    Ok(Report {
        accelerator: assets.accelerator.to_string(),
        vmm: assets.vmm.name().to_owned(),
        rounds: args.rounds.get(),
        ratio: answered.p50 / floor.p50,
        floor,
        ready: of(|start| start.ready),
        answered,
        gone: of(|start| start.gone),
    })
}

fn print(report: &Report) -> Result<(), CommandError> {
    output::line(format!(
        "{} rounds, {}, {}; milliseconds",
        report.rounds, report.vmm, report.accelerator
    ))?;
    output::line(format!("{:<34}{:>8}{:>8}{:>8}{:>8}", "", "min", "p50", "p90", "max"))?;
    for (name, times) in [
        ("floor", &report.floor),
        ("cold start → sandbox ready", &report.ready),
        ("cold start → first exec answered", &report.answered),
        ("cold start → nothing left", &report.gone),
    ] {
        let Distribution { min, p50, p90, max } = times;
        output::line(format!("{name:<34}{min:>8.0}{p50:>8.0}{p90:>8.0}{max:>8.0}"))?;
    }
    output::line(format!("first exec answered / floor, medians: {:.2}", report.ratio))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times = (1..=10).rev().map(Duration::from_millis).collect();
        let expected = Distribution { min: 1.0, p50: 5.0, p90: 9.0, max: 10.0 };
        assert_eq!(Distribution::of(times), expected);
        let one = Distribution::of(vec![Duration::from_millis(7)]);
        assert_eq!((one.min, one.max), (7.0, 7.0));
    }
}
