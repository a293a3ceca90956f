//! One sandbox's machine: made, booted, taken over and ended. Everything about it is found from
//! its directory, so whoever knows that can take it over.

mod ask;
pub(crate) mod base;
pub(crate) mod fill;
mod furnish;
mod host;
pub(crate) mod memory;
mod network;
mod space;
pub(crate) mod still;
pub(crate) mod time;
mod volumes;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use banger_host::fs::ensure_private_dir;
use banger_host::{clock, random};
use banger_link::{Identity, Request};
use banger_model::{Accelerator, GuestNet, InitMode, SandboxId, SandboxName, SandboxSpec};
use banger_net::UserNet;
use banger_vmm::{EndReason, RunState, Running, Vmm, VolumeFiles, reap};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::assets::Assets;
use crate::checkpoint::Checkpoints;
use crate::link::{Link, LinkFailed};
use crate::origin::Origin;
use crate::templates::{Template, Templates};

use furnish::{Furnished, NEW_DISK, machine_id, read_notes};

pub(crate) use ask::{ask, ask_for_long};
pub(crate) use furnish::{furnish, origin_of, template_of};
pub(crate) use host::HostSize;
pub use memory::Remembered;
pub use network::{Network, network_end, wait_for_network_end};
pub use space::{MIN_FREE, check_space, resume_when_there_is_space};
pub(crate) use volumes::VolumeNotMounted;

/// How long a guest may take from its first instruction to its agent's first word: 3 s where it
/// was measured, under emulation, times what else the host may have to do.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a guest that was restored may take to its agent's first word: it has been up, so it
/// answers in milliseconds unless its memory is damaged or the host is overwhelmed.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a guest that ran before may take to answer whoever takes it over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a guest may take to write everything to its disk and power off.
pub const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(30);
/// The sandbox's writable disk.
pub const DISK: &str = "disk.ext4";

/// A program of ours that runs beside a machine: usually this very executable.
#[derive(Clone, Debug)]
pub struct HelperProgram {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

/// Whose machine it is, and what it is to be.
#[derive(Debug)]
pub struct Blueprint<'a> {
    /// The sandbox.
    pub id: &'a SandboxId,
    /// Its name, which becomes its hostname.
    pub name: &'a SandboxName,
    /// Its own directory.
    pub dir: &'a Path,
    /// What it is made of.
    pub spec: &'a SandboxSpec,
    /// What many are made of.
    pub assets: &'a Arc<Assets>,
    /// Runs [`banger_net::user::relay_inherited`] with the arguments that are added.
    pub relay: &'a HelperProgram,
    /// The files of its volumes.
    pub volumes: VolumeFiles,
    /// What it begins with.
    pub source: Source,
}

impl Blueprint<'_> {
    /// What its machine is, now and for as long as its memory lasts.
    fn origin(&self) -> Origin {
        match &self.source {
            Source::Memory(memory) | Source::Copy(memory) => memory.origin.clone(),
            Source::Kernel | Source::Template(_) => Origin::of(self.assets, self.spec),
        }
    }
}

/// What a machine begins with.
#[derive(Clone, Debug)]
pub enum Source {
    /// A kernel.
    Kernel,
    /// A template, if it has no disk yet; else a kernel.
    Template(Arc<Template>),
    /// Its own memory.
    Memory(Remembered),
    /// The memory of another.
    Copy(Remembered),
}

/// A machine whose agent has answered. Its copies are the same machine; dropped, it runs on.
#[derive(Clone, Debug)]
pub struct Live {
    /// The machine.
    pub machine: Arc<dyn Running>,
    /// The link to its agent.
    pub link: Link,
    /// How it was connected when it was ready.
    pub network: Network,
    /// What executes it.
    pub accelerator: Accelerator,
    /// Its address, if it is connected.
    pub address: Option<std::net::Ipv4Addr>,
    /// What it was made from, and shares memory with.
    pub template: Option<Arc<Template>>,
    /// How long it took to bring it up; nothing for one that was taken over.
    pub phases: Phases,
    /// Whether its guest has taken its identity when it was last told.
    pub told: Told,
}

/// What became of an identity that a guest was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is that.
    Taken,
    /// It refuses, for this reason; it is what it was before.
    Refused(String),
}

impl Live {
    /// Whether it was this daemon that brought it up.
    pub(crate) fn came_up(&self) -> bool {
        self.phases != Phases::default()
    }
}

/// How long the parts of a start take, each from the end of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Disk and network.
    pub furnished: Duration,
    /// The monitor, with everything loaded.
    pub prepared: Duration,
    /// The agent's first word.
    pub answered: Duration,
    /// It is this sandbox and no other.
    pub identified: Duration,
}

/// A machine with all its devices that has not executed anything. Dropped, it is ended.
#[derive(Debug)]
pub struct Prepared {
    machine: Box<dyn banger_vmm::Prepared>,
    plan: UserNet,
    network: Network,
    accelerator: Accelerator,
    source: Source,
    phases: Phases,
}

impl Prepared {
    /// Whether it is made from a template.
    pub(crate) fn is_of_template(&self) -> bool {
        matches!(self.source, Source::Template(_))
    }
}

/// Makes a machine's disk, where it has none yet, its network, and the machine itself. What was
/// begun remains when it fails: the caller reaps the directory.
///
/// # Errors
/// When any part fails.
pub async fn prepare(blueprint: &Blueprint<'_>, checkpoints: &Checkpoints) -> Result<Prepared> {
    let mut phases = Phases::default();
    let mut clock = Stopwatch::start();
    let Furnished { machine, plan, network, source } = furnish(blueprint).await?;
    phases.furnished = clock.lap();
    checkpoints.reach("start.furnished").await;
    let accelerator = machine.accelerator;
    let machine = blueprint.assets.vmm.prepare(machine).await?;
    phases.prepared = clock.lap();
    Ok(Prepared { machine, plan, network, accelerator, source, phases })
}

/// Boots a machine and gives it its identity; returns when its agent has answered and it is this
/// sandbox and no other.
///
/// # Errors
/// When the guest does not come up.
pub async fn boot(blueprint: &Blueprint<'_>, prepared: Prepared) -> Result<Live> {
    become_sandbox(blueprint, raise(blueprint.dir, prepared).await?).await
}

/// A machine whose agent has answered, and that is nobody's yet.
#[derive(Debug)]
pub(crate) struct Raised {
    pub(crate) machine: Arc<dyn Running>,
    pub(crate) link: Link,
    /// What it was made from, and shares memory with.
    pub(crate) template: Option<Arc<Template>>,
    /// How long that took.
    pub(crate) phases: Phases,
    plan: UserNet,
    network: Network,
    accelerator: Accelerator,
    was: Was,
}

/// What a guest was before it becomes the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    /// Nobody: it has not mounted its volumes.
    Nobody,
    /// Another sandbox, whose processes live in it.
    Another,
    Itself,
}

/// Lets a machine run that has its directory here, and waits until its agent has answered.
///
/// # Errors
/// When the guest does not come up.
pub(crate) async fn raise(dir: &Path, prepared: Prepared) -> Result<Raised> {
    let Prepared { machine, plan, network, accelerator, source, mut phases } = prepared;
    let mut clock = Stopwatch::start();
    let (patience, template, was) = match source {
        Source::Kernel => (BOOT_TIMEOUT, None, Was::Nobody),
        Source::Template(template) => (RESTORE_TIMEOUT, Some(template), Was::Nobody),
        // There is no other way to what is in it.
        Source::Copy(_) => (BOOT_TIMEOUT, None, Was::Another),
        Source::Memory(_) => (BOOT_TIMEOUT, None, Was::Itself),
    };
    let (machine, link) = run(machine, dir, patience).await?;
    phases.answered = clock.lap();
    Ok(Raised { machine, link, template, phases, plan, network, accelerator, was })
}

/// Gives a machine its identity: from now on it is this sandbox and no other.
///
/// # Errors
/// When the guest does not take it.
pub(crate) async fn become_sandbox(blueprint: &Blueprint<'_>, raised: Raised) -> Result<Live> {
    let Raised { machine, link, template, mut phases, plan, network, accelerator, was } = raised;
    let mut clock = Stopwatch::start();
    let guest_net = (network == Network::Connected).then(|| plan.guest.clone());
    let address = guest_net.as_ref().map(|net| net.address);
    let told = identify(blueprint, &link, &plan, guest_net).await?;
    if let (Told::Refused(reason), Was::Nobody | Was::Another) = (&told, was) {
        bail!("{reason}");
    }
    match (blueprint.assets.init(blueprint.spec), was) {
        (InitMode::Systemd, _) => {
            // They stood still when the template was saved, and must not go on as nobody's.
            ask(&link, Request::Thaw).await.context("its processes do not go on")?;
        }
        (InitMode::Agent, Was::Nobody) => {
            volumes::mount(&link, &blueprint.spec.volumes).await?;
        }
        (InitMode::Agent, Was::Another | Was::Itself) => {}
    }
    phases.identified = clock.lap();
    // passt may have ended as soon as it began, when nobody was listening yet.
    let network = match (network, network_end(blueprint.dir)) {
        (Network::Connected, Some(ended)) => Network::Failed(ended),
        (network, _) => network,
    };
    Ok(Live { machine, link, network, accelerator, address, template, phases, told })
}

/// Tells how long one thing after the other took.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// Tells the guest which sandbox it is.
async fn identify(
    blueprint: &Blueprint<'_>,
    link: &Link,
    plan: &UserNet,
    net: Option<GuestNet>,
) -> Result<Told> {
    let identity = identity(blueprint, plan, net)?;
    let told = ask(link, Request::Configure(identity)).await.map(drop);
    match told.context("the guest does not take its identity") {
        Ok(()) => Ok(Told::Taken),
        Err(error) => match error.downcast_ref() {
            Some(LinkFailed::Refused(_)) => Ok(Told::Refused(format!("{error:#}"))),
            _ => Err(error),
        },
    }
}

/// Has a machine that an earlier daemon set going with its saved memory become its sandbox.
///
/// # Errors
/// When its agent does not answer.
pub(crate) async fn identify_again(blueprint: &Blueprint<'_>, live: &Live) -> Result<Told> {
    answers(live).await?;
    let plan = UserNet::plan(blueprint.id);
    let net = (live.network == Network::Connected).then(|| plan.guest.clone());
    identify(blueprint, &live.link, &plan, net).await
}

/// Lets a machine run and waits until its agent has answered.
///
/// # Errors
/// When it does not, or the machine ends.
pub(crate) async fn run(
    prepared: Box<dyn banger_vmm::Prepared>,
    dir: &Path,
    patience: Duration,
) -> Result<(Arc<dyn Running>, Link)> {
    let machine: Arc<dyn Running> = Arc::from(prepared.boot().await?);
    let link = begin_link(&machine)?;
    match timeout(patience, answer(&*machine, &link)).await {
        Ok(answered) => answered?,
        Err(_) => bail!(
            "the guest did not answer within {} s of its start; its console's last words: {}",
            patience.as_secs(),
            banger_vmm::console::last_words(dir)
        ),
    }
    Ok((machine, link))
}

/// Takes over the machine that runs in `dir`; `None` when none does. Its agent may not have
/// answered yet: see [`answers`].
///
/// # Errors
/// When something runs there that cannot be talked to.
pub(crate) async fn adopt(
    vmm: &dyn Vmm,
    templates: &Templates,
    (id, dir): (&SandboxId, &Path),
) -> Result<Option<Live>> {
    let Some(machine) = vmm.adopt(dir).await? else { return Ok(None) };
    let machine: Arc<dyn Running> = Arc::from(machine);
    let notes = read_notes(dir)?;
    let link = begin_link(&machine)?;
    let network = match (notes.connected, network_end(dir)) {
        (true, Some(ended)) => Network::Failed(ended),
        (true, None) => Network::Connected,
        (false, _) => Network::Absent,
    };
    let address = notes.connected.then(|| UserNet::plan(id).guest.address);
    let template = match &notes.template {
        Some(id) => templates.held_by_machine(id).await,
        None => None,
    };
    let accelerator = notes.accelerator;
    let (phases, told) = (Phases::default(), Told::Taken);
    Ok(Some(Live { machine, link, network, accelerator, address, template, phases, told }))
}

/// Waits until the agent of a machine that was taken over has answered.
///
/// # Errors
/// When it does not, or its machine ends.
pub async fn answers(live: &Live) -> Result<()> {
    timeout(ANSWER_TIMEOUT, answer(&*live.machine, &live.link))
        .await
        .map_err(|_| anyhow!("its agent has not answered within {} s", ANSWER_TIMEOUT.as_secs()))?
}

/// Asks a guest to write everything to its disk and power off, and waits for it.
///
/// # Errors
/// When it ends otherwise, or not in time.
pub async fn power_off(live: &Live) -> Result<()> {
    match live.machine.watch().borrow().clone() {
        RunState::Running => {}
        RunState::Ended(EndReason::PoweredOff) => return Ok(()),
        RunState::Ended(reason) => bail!("it had ended already: {reason}"),
        _ => bail!("it stood still: its last writes may be missing"),
    }
    let off = async {
        // The agent's last word may be lost with its machine; the machine's end counts.
        let _ = live.link.request(Request::PowerOff).await;
        live.machine.ended().await
    };
    match timeout(POWER_OFF_TIMEOUT, off).await {
        Ok(EndReason::PoweredOff) => Ok(()),
        Ok(reason) => bail!("it ended otherwise than asked: {reason}"),
        Err(_) => {
            bail!("it did not power off within {} s and was killed", POWER_OFF_TIMEOUT.as_secs())
        }
    }
}

/// Ends every process that belongs to the machine in `dir`, and removes what only a running one
/// needs.
///
/// # Errors
/// When something remains.
pub async fn clear(dir: &Path) -> Result<()> {
    let dir = dir.to_owned();
    spawn_blocking(move || {
        if !dir.exists() {
            return Ok(());
        }
        reap(&dir)?;
        banger_vmm::clear_sockets(&dir)?;
        Ok(())
    })
    .await?
}

/// Makes the sandbox's own directory; it may be there.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(dir: &Path) -> Result<PathBuf> {
    ensure_private_dir(dir)?;
    // QEMU is told relative names and a tag of the path: both want the real one.
    dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))
}

fn begin_link(machine: &Arc<dyn Running>) -> Result<Link> {
    let machine = machine.clone();
    Ok(Link::begin(Arc::new(move || {
        let machine = machine.clone();
        Box::pin(async move { machine.connect_link().await })
    }))?)
}

/// Waits for the agent's first word, or the machine's end if that comes first.
async fn answer(machine: &dyn Running, link: &Link) -> Result<()> {
    tokio::select! {
        up = link.up() => up.map(drop).context("the guest's agent cannot be talked to"),
        reason = machine.ended() => Err(anyhow!("the guest ended while it started: {reason}")),
    }
}

fn identity(blueprint: &Blueprint<'_>, plan: &UserNet, net: Option<GuestNet>) -> Result<Identity> {
    Ok(Identity {
        hostname: blueprint.name.to_string(),
        machine_id: machine_id(blueprint.dir)?,
        entropy: random::bytes()?,
        wall_clock_ns: clock::wall_ns(),
        mac: plan.mac,
        net,
    })
}
