//! `banger bench pull`: an image from a registry until it can be run, beside skopeo and umoci.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use banger_host::command::{Tool, find_program};
use banger_host::home::Home;
use banger_host::{facts, fs};
use banger_model::{Bytes, ExitCode, ImageReference};
use bangerd::bench::have_image;
use bangerd::config::Config;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{Distribution, Shown, heading};
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::output;
use crate::progress;

/// Longest time for one command.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Measure the time until an image of a registry can be run, with nothing of it in a cache
///
/// Beside it, in turns, if they are here and you are root: `skopeo copy` and `umoci unpack` of the
/// same image. Both end when what they made has reached the disk. Nothing of yours is touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger bench pull registry.example:5000/team/app:1")]
pub(crate) struct Args {
    /// The image; best in a registry on this host
    image: ImageReference,
    /// How often each is measured
    #[arg(long, default_value = "5")]
    rounds: NonZeroU32,
    #[command(flatten)]
    shown: Shown,
}

/// What was measured. Field names are stable; times are in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    image: String,
    rounds: u32,
    /// Bytes of the compressed layers.
    compressed: u64,
    /// Bytes of the files in the image.
    content: u64,
    /// Most memory that this process took, in bytes.
    peak_memory: u64,
    banger: Distribution,
    skopeo_umoci: Option<Distribution>,
    /// The median of skopeo and umoci over the median of banger.
    speed: Option<f64>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let runtime = context::runtime()?;
    let report = runtime.block_on(measure(args))?;
    args.shown.show(&report, print)
}

async fn measure(args: &Args) -> Result<Report> {
    let context = Context::from_process()?;
    let dir = context.home.bench().join("pull");
    let settings = Config::read(&context.home.config())?.fetching()?.settings;
    let insecure = settings.insecure.contains(args.image.registry());
    let tools = ["skopeo", "umoci"].map(|name| find_program(name, &context.path));
    let theirs = match tools {
        [Some(skopeo), Some(umoci)] if facts::user_id() == 0 => Some((skopeo, umoci)),
        _ => None,
    };
    let progress = progress::to_stderr();
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    let (mut compressed, mut content) = (Bytes::ZERO, Bytes::ZERO);
    for round in 1..=args.rounds.get() {
        progress.stage(&format!("round {round} of {}", args.rounds));
        fs::remove_all(&dir)?;
        let begin = Instant::now();
        (compressed, content) =
            have_image(&Home::under(&dir.join("home")), &args.image, &settings).await?;
        our_times.push(begin.elapsed());
        if let Some((skopeo, umoci)) = &theirs {
            let (dir, image) = (dir.join("theirs"), args.image.to_string());
            let tools = (skopeo.clone(), umoci.clone());
            let work = move || unpack((&tools.0, &tools.1), &image, insecure, &dir);
            their_times.push(spawn_blocking(work).await??);
        }
    }
    fs::remove_all(&dir)?;
    let banger = Distribution::of(our_times);
    let skopeo_umoci = theirs.map(|_| Distribution::of(their_times));
    Ok(Report {
        image: args.image.familiar(),
        rounds: args.rounds.get(),
        compressed: compressed.get(),
        content: content.get(),
        peak_memory: peak_memory()?.get(),
        speed: skopeo_umoci.as_ref().map(|theirs| theirs.p50 / banger.p50),
        banger,
        skopeo_umoci,
    })
}

/// Does the same with the usual tools; how long that took.
fn unpack(
    (skopeo, umoci): (&Path, &Path),
    image: &str,
    insecure: bool,
    dir: &Path,
) -> Result<Duration> {
    fs::create_private_dir(dir)?;
    let (layout, bundle) = (dir.join("layout"), dir.join("bundle"));
    let tag = format!("{}:v1", layout.display());
    let begin = Instant::now();
    let mut copy = Tool::new(skopeo).args(["--insecure-policy", "copy", "--quiet"]);
    if insecure {
        copy = copy.arg("--src-tls-verify=false");
    }
    copy.arg(format!("docker://{image}")).arg(format!("oci:{tag}")).capture(PATIENCE)?;
    Tool::new(umoci).args(["unpack", "--image", &tag]).arg(&bundle).capture(PATIENCE)?;
    Tool::new("sync").arg("-f").arg(&bundle).capture(PATIENCE)?;
    Ok(begin.elapsed())
}

/// Most memory that this process ever took.
fn peak_memory() -> Result<Bytes> {
    let status = fs::read_text(Path::new("/proc/self/status"), 64 * 1024)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmHWM")?;
    Ok(Bytes::new(kib.trim().parse::<u64>().context("VmHWM is no number")? * 1024))
}

fn print(report: &Report) -> Result<(), CommandError> {
    let sizes = [report.compressed, report.content, report.peak_memory].map(Bytes::new);
    let [compressed, content, peak] = sizes;
    output::line(format!("{}: {compressed} compressed, {content} as an image", report.image))?;
    output::line(format!("{} rounds; milliseconds; at most {peak} of memory", report.rounds))?;
    output::line(heading())?;
    output::line(report.banger.line("banger"))?;
    if let (Some(theirs), Some(speed)) = (&report.skopeo_umoci, report.speed) {
        output::line(theirs.line("skopeo, umoci"))?;
        output::line(format!("banger is {speed:.2} times as fast, medians"))?;
    }
    Ok(())
}
