//! `banger bench start`: starts inside the daemon, cold and from a template, beside their floor.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use banger_model::{ExitCode, KernelName, MemorySize, NetworkMode, SandboxSpec, WantedImage};
use bangerd::assets::{Assets, Base, discover_vmm};
use bangerd::bench::{Started, floor, start, template};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{Distribution, Shown, heading};
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::output;
use crate::progress;

/// Measure the time from nothing to a command's end, beside the least that the host allows
///
/// The floor is the same machine with the same kernel, loading the same modules and mounting the
/// same disks, and powering off: what no boot on this host can do without. Then the same sandbox
/// is booted, and restored from a template. Rounds of all three are run in turns.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger bench start\n  banger bench start --phases\n  \
                        banger bench start --rounds 30 -o json")]
pub(crate) struct Args {
    /// How often each is measured
    #[arg(long, default_value = "10")]
    rounds: NonZeroU32,
    /// The image of the sandboxes
    #[arg(long, default_value = "debian-bookworm")]
    image: WantedImage,
    /// The kernel of the sandboxes [default: the image's]
    #[arg(long)]
    kernel: Option<KernelName>,
    /// Memory of the sandboxes
    #[arg(long, default_value_t = MemorySize::DEFAULT)]
    memory: MemorySize,
    /// How the sandboxes are connected
    #[arg(long, default_value_t)]
    network: NetworkMode,
    /// Show what each part of a start takes
    #[arg(long)]
    phases: bool,
    #[command(flatten)]
    shown: Shown,
}

/// What was measured. Field names are stable; times are in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    accelerator: String,
    vmm: String,
    rounds: u32,
    floor: Distribution,
    cold: Starts,
    restored: Starts,
    /// From nothing to a template on the disk.
    template_made: f64,
    /// The median of `cold.answered` over the median of `floor`.
    cold_ratio: f64,
}

/// Starts of one kind. The first four are parts of the fifth.
#[derive(Debug, Serialize)]
struct Starts {
    furnished: Distribution,
    prepared: Distribution,
    agent: Distribution,
    identified: Distribution,
    ready: Distribution,
    answered: Distribution,
    gone: Distribution,
}

impl Starts {
    fn of(starts: &[Started]) -> Self {
        let of =
            |part: fn(&Started) -> Duration| Distribution::of(starts.iter().map(part).collect());
        Self {
            furnished: of(|start| start.phases.furnished),
            prepared: of(|start| start.phases.prepared),
            agent: of(|start| start.phases.answered),
            identified: of(|start| start.phases.identified),
            ready: of(|start| start.ready),
            answered: of(|start| start.answered),
            gone: of(|start| start.gone),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let runtime = context::runtime()?;
    let report = runtime.block_on(measure(args))?;
    args.shown.show(&report, |report| print(report, args.phases))
}

async fn measure(args: &Args) -> Result<Report> {
    let context = Context::from_process()?;
    let progress = progress::to_stderr();
    let sources = context.sources()?;
    let vmm = discover_vmm(&sources).await?;
    let (base, kernel) = (Base::Wanted(args.image.clone()), args.kernel.as_ref());
    let assets = Assets::prepare(&sources, vmm, &base, kernel, progress.clone()).await?;
    let assets = Arc::new(assets);
    let program = context.guest_program("banger-floor")?;
    let initramfs = spawn_blocking({
        let (home, kernel) = (context.home.clone(), assets.kernel.clone());
        move || kernel.initramfs(&home, &program)
    })
    .await?
    .context("cannot make the floor's initramfs")?;
    let spec = SandboxSpec {
        kernel: args.kernel.clone(),
        memory: args.memory,
        network: args.network,
        ..SandboxSpec::of(args.image.clone())
    };
    let (home, relay) = (&context.home, context.relay());
    progress.stage("making a template");
    let (template, made) = template(home, &assets, &spec).await?;
    let (mut floors, mut cold, mut restored) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds.get() {
        progress.stage(&format!("round {round} of {}", args.rounds));
        floors.push(floor(home, &assets, &initramfs, &spec, &relay).await?);
        cold.push(start(home, &assets, None, &spec, &relay).await?);
        restored.push(start(home, &assets, Some(&template), &spec, &relay).await?);
    }
    let (floor, cold) = (Distribution::of(floors), Starts::of(&cold));
    Ok(Report {
        accelerator: assets.accelerator.to_string(),
        vmm: assets.vmm.name().to_owned(),
        rounds: args.rounds.get(),
        cold_ratio: cold.answered.p50 / floor.p50,
        template_made: made.as_secs_f64() * 1e3,
        restored: Starts::of(&restored),
        floor,
        cold,
    })
}

fn print(report: &Report, phases: bool) -> Result<(), CommandError> {
    output::line(format!(
        "{} rounds, {}, {}; milliseconds",
        report.rounds, report.vmm, report.accelerator
    ))?;
    output::line(heading())?;
    output::line(report.floor.line("floor"))?;
    for (kind, starts) in [("cold", &report.cold), ("restored", &report.restored)] {
        if phases {
            output::line(starts.furnished.line(&format!("{kind}: disk and network")))?;
            output::line(starts.prepared.line(&format!("{kind}: monitor")))?;
            output::line(starts.agent.line(&format!("{kind}: the agent's first word")))?;
            output::line(starts.identified.line(&format!("{kind}: identity")))?;
        }
        output::line(starts.ready.line(&format!("{kind} → sandbox ready")))?;
        output::line(starts.answered.line(&format!("{kind} → first exec answered")))?;
        output::line(starts.gone.line(&format!("{kind} → nothing left")))?;
    }
    output::line(format!("template made in {:.0}", report.template_made))?;
    output::line(format!("cold, first exec answered / floor, medians: {:.2}", report.cold_ratio))
}
