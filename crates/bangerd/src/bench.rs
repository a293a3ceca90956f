//! How long a start takes, cold and from a template, beside the least that the same machine can take.
//!
//! The **floor** is the time from starting the VMM to its end when the same kernel on the same
//! machine loads the same modules, mounts the same disks and powers off. Nothing of ours is in
//! it: what a cold start takes beyond is our own doing. Both are measured in turns, so that
//! whatever else the host does meets both alike.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use banger_host::fs::{create_private_dir, file_size, remove_all};
use banger_host::home::Home;
use banger_host::{heap, random};
use banger_image::image::{Import, Naming, SandboxWishes};
use banger_image::oci;
use banger_model::{
    Bytes, ImageReference, SandboxId, SandboxName, SandboxSpec, Silent, Timestamp, generate_name,
};
use banger_vmm::{EndReason, Start};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::assets::Assets;
use crate::checkpoint::Checkpoints;
use crate::machine::{self, Blueprint, HelperProgram, Live, Phases, Source};
use crate::templates::{self, Template, Templates, run_to_end};

/// How long a floor's machine may take, which does next to nothing.
const FLOOR_TIMEOUT: Duration = Duration::from_secs(120);

/// One start, in stages that each begin with the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// How long its parts took.
    pub phases: Phases,
    /// Until the sandbox is ready: its agent has answered and it has its identity.
    pub ready: Duration,
    /// Until the first command's exit status is here.
    pub answered: Duration,
    /// Until nothing of the sandbox is left.
    pub gone: Duration,
}

/// A machine that is measured and thrown away. It is apart from the sandboxes that are used.
struct Subject<'a> {
    id: SandboxId,
    name: SandboxName,
    dir: PathBuf,
    assets: &'a Arc<Assets>,
    spec: &'a SandboxSpec,
    relay: &'a HelperProgram,
}

impl<'a> Subject<'a> {
    fn new(
        home: &Home,
        assets: &'a Arc<Assets>,
        spec: &'a SandboxSpec,
        relay: &'a HelperProgram,
    ) -> Result<Self> {
        let id = SandboxId::from_random(random::bytes()?);
        let name = generate_name(random::bytes()?, 0);
        let dir = machine::make_dir(&home.bench().join(id.as_str()))?;
        Ok(Self { id, name, dir, assets, spec, relay })
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let Self { id, name, dir, assets, spec, relay } = self;
        let (volumes, source) = (Default::default(), Source::Kernel);
        Blueprint { id, name, dir, spec, assets, relay, volumes, source }
    }

    async fn remove(self) -> Result<()> {
        machine::clear(&self.dir).await?;
        Ok(spawn_blocking(move || remove_all(&self.dir)).await??)
    }
}

/// Starts a sandbox, from the template if there is one, runs `true` in it, and throws it away.
///
/// # Errors
/// When any of that fails.
pub async fn start(
    home: &Home,
    assets: &Arc<Assets>,
    template: Option<&Arc<Template>>,
    spec: &SandboxSpec,
    relay: &HelperProgram,
) -> Result<Started> {
    let begin = Instant::now();
    let subject = Subject::new(home, assets, spec, relay)?;
    let started = bring_up(&subject, template).await;
    let ready = begin.elapsed();
    let ran = match &started {
        Ok(live) => run_to_end(&live.link, &["true"]).await,
        Err(_) => Ok(()),
    };
    let answered = begin.elapsed();
    subject.remove().await?;
    let live = started?;
    ran?;
    Ok(Started { phases: live.phases, ready, answered, gone: begin.elapsed() })
}

async fn bring_up(subject: &Subject<'_>, template: Option<&Arc<Template>>) -> Result<Live> {
    let source = template.cloned().map_or(Source::Kernel, Source::Template);
    let blueprint = Blueprint { source, ..subject.blueprint() };
    let prepared = machine::prepare(&blueprint, &Checkpoints::default()).await?;
    machine::boot(&blueprint, prepared).await
}

/// Makes a template that nobody else uses; returns how long that took, too.
///
/// # Errors
/// When it cannot be made.
pub async fn template(
    home: &Home,
    assets: &Arc<Assets>,
    spec: &SandboxSpec,
) -> Result<(Arc<Template>, Duration)> {
    let root = home.bench().join("templates");
    // What a bench left that was killed.
    let swept = root.clone();
    spawn_blocking(move || templates::settle(&swept).and_then(|()| Ok(remove_all(&swept)?)))
        .await??;
    let begin = Instant::now();
    let shape = templates::shape(assets, spec)?;
    let (id, assets, spec) = (shape.template()?, assets.clone(), spec.clone());
    let make = |dir| async move {
        templates::make(dir, (shape, spec), &assets, &Checkpoints::default()).await
    };
    let made = Templates::below(root).get(&id, make).await?;
    Ok((made.context("the template is of no use")?, begin.elapsed()))
}

/// Boots the same machine with `initramfs`, which holds the floor's program, and waits for its
/// end; returns how long the VMM lived.
///
/// # Errors
/// When the machine does not power itself off.
pub async fn floor(
    home: &Home,
    assets: &Arc<Assets>,
    initramfs: &Path,
    spec: &SandboxSpec,
    relay: &HelperProgram,
) -> Result<Duration> {
    let subject = Subject::new(home, assets, spec, relay)?;
    let measured = measure_floor(&subject, initramfs).await;
    subject.remove().await?;
    measured
}

async fn measure_floor(subject: &Subject<'_>, initramfs: &Path) -> Result<Duration> {
    let mut machine = machine::furnish(&subject.blueprint()).await?.machine;
    if let Start::Kernel(start) = &mut machine.start {
        start.initramfs = initramfs.to_owned();
    }
    let begin = Instant::now();
    let running = subject.assets.vmm.prepare(machine).await?.boot().await?;
    let reason = timeout(FLOOR_TIMEOUT, running.ended())
        .await
        .with_context(|| format!("the floor's machine ran for {} s", FLOOR_TIMEOUT.as_secs()))?;
    match reason {
        EndReason::PoweredOff => Ok(begin.elapsed()),
        other => bail!("the floor's machine ended otherwise than by powering off: {other}"),
    }
}

/// Pulls an image into an empty home and makes it one that sandboxes can be made of; its size as
/// compressed layers, and on the disk.
///
/// # Errors
/// When it cannot be had.
pub async fn have_image(
    home: &Home,
    image: &ImageReference,
    settings: &oci::Settings,
) -> Result<(Bytes, Bytes)> {
    create_private_dir(home.cache())?;
    let cache = oci::Cache::open(&home.cache().join("oci"))?;
    let pulled = oci::pull(oci::Source::Registry(image.clone()), &cache, settings, &Silent).await?;
    let compressed = pulled.layers.iter().map(|layer| layer.size().get()).sum();
    let (home, name) = (home.clone(), image.default_name());
    spawn_blocking(move || {
        let import = Import {
            home: &home,
            pulled: &pulled,
            source: "a measurement",
            wishes: &SandboxWishes::default(),
            now: Timestamp(0),
            called_off: &AtomicBool::new(false),
        };
        let made = import.run(&Naming::Exactly(name), &Silent)?;
        // As the daemon does: the next round begins as the first.
        heap::give_back();
        Ok((Bytes::new(compressed), file_size(&made.root())?.real))
    })
    .await?
}
