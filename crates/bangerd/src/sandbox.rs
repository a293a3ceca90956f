//! One sandbox: its directory, its machine, its link.

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use banger_host::fs::{create_private_dir, free_space, remove_all, write_atomic};
use banger_host::home::Home;
use banger_host::process::Process;
use banger_host::readiness::{self, Interest};
use banger_host::{clock, facts, random};
use banger_image::ext4::create_disk;
use banger_link::{Identity, Request};
use banger_model::{Bytes, GuestNet, SandboxId, SandboxSpec};
use banger_net::user::{Ended, StartNetError};
use banger_net::{NetBackend, RelayCommand, UserNet};
use banger_vmm::{EndReason, Machine, Record, RunState, Running, reap};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::assets::Assets;
use crate::keeper;
use crate::lease::Lease;
use crate::link::Link;

/// How long a guest may take from its first instruction to its agent's first word: 3 s where it
/// was measured, under emulation, times what else the host may have to do.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a machine may take to be seen ending after its network.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How long a killed program of the network may take to be gone.
const NETWORK_KILL_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for space on a full file system.
const LOOK_FOR_SPACE: Duration = Duration::from_secs(1);
/// How long a guest may take to write everything to its disk and power off.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(30);
/// Space that must be free before a sandbox starts: less is gone before its first write reaches
/// the disk, and then it would only stand still.
const MIN_FREE: Bytes = Bytes::mib(64);
/// Present in the directory of a sandbox that is kept when its owner goes.
const KEEP_MARKER: &str = "keep";
/// The sandbox's writable disk.
const DISK: &str = "disk.ext4";

/// What happens to a sandbox when its owner goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// Nothing remains.
    Remove,
    /// Its directory remains, with its disk and its logs.
    Keep,
}

/// A program of ours that runs beside a sandbox: usually this very executable.
#[derive(Clone, Debug)]
pub struct HelperProgram {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

/// The programs of ours that a sandbox needs.
#[derive(Clone, Debug)]
pub struct Helpers {
    /// Runs [`keeper::run`] with the sandbox's directory as the argument that is added.
    pub keeper: HelperProgram,
    /// Runs [`banger_net::user::relay_inherited`] with the arguments that are added.
    pub relay: HelperProgram,
}

/// A running sandbox. Dropped, it goes as its keeper sees its lease fall.
#[derive(Debug)]
pub struct Sandbox {
    id: SandboxId,
    lease: Lease,
    machine: Arc<dyn Running>,
    link: Link,
    disposal: Disposal,
    network: Network,
}

/// How a sandbox is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// To its own network.
    Connected,
    /// Not at all: the host itself has no way out.
    HostOffline,
    /// Not any more.
    Failed(Ended),
}

impl Sandbox {
    /// Makes a sandbox and boots it; returns when its agent has answered and it is this sandbox
    /// and no other.
    ///
    /// # Errors
    /// When any part fails; nothing remains then.
    pub async fn start(
        home: &Home,
        assets: &Assets,
        spec: &SandboxSpec,
        disposal: Disposal,
        helpers: &Helpers,
    ) -> Result<Self> {
        let id = SandboxId::from_random(random::bytes()?);
        check_space(home)?;
        check_size(spec)?;
        let lease = Lease::create(home, &id)?;
        match boot(&id, &lease, assets, spec, helpers).await {
            Ok(Booted { machine, link, network }) => {
                if disposal == Disposal::Keep {
                    write_atomic(&lease.dir().join(KEEP_MARKER), b"")?;
                }
                Ok(Self { id, lease, machine, link, disposal, network })
            }
            Err(error) => {
                let removed = spawn_blocking(move || discard(&lease)).await?;
                Err(match removed {
                    Ok(()) => error,
                    Err(left) => error.context(format!("and {left:#}")),
                })
            }
        }
    }

    /// Its id.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Its directory on the host.
    pub fn dir(&self) -> &Path {
        self.lease.dir()
    }

    /// Its link.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// How it was connected when it was ready.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Waits until its network has ended while its machine has not; tells why.
    pub async fn network_ended(&self) -> Ended {
        let dir = self.dir().to_owned();
        if self.network == Network::Connected
            && let Ok(Some(ended)) = spawn_blocking(move || wait_for_network_end(&dir)).await
            // With its machine a network ends, too, and that is not worth telling.
            && timeout(END_PATIENCE, self.machine.ended()).await.is_err()
        {
            return ended;
        }
        std::future::pending().await
    }

    /// How its machine is, now and from now on.
    pub fn watch(&self) -> watch::Receiver<RunState> {
        self.machine.watch()
    }

    /// Waits until the file system that its disk is on has space again, and lets it go on.
    ///
    /// # Errors
    /// When the file system cannot be asked, or the machine does not go on.
    pub async fn resume_when_there_is_space(&self) -> Result<()> {
        // No event tells of space: this is the one place that has to look again and again, and
        // only while a sandbox stands still for want of it.
        let mut look = tokio::time::interval(LOOK_FOR_SPACE);
        loop {
            look.tick().await;
            if free_space(self.dir())? >= MIN_FREE {
                return Ok(self.machine.resume().await?);
            }
        }
    }

    /// Ends the sandbox as its disposal says: at once and without a trace, or powered off with
    /// its disk in order.
    ///
    /// # Errors
    /// When something of it remains that should not.
    pub async fn end(self) -> Result<()> {
        let off = match self.disposal {
            Disposal::Keep => self.power_off().await,
            Disposal::Remove => Ok(()),
        };
        let lease = self.lease;
        drop(self.link);
        spawn_blocking(move || discard(&lease)).await??;
        off
    }

    async fn power_off(&self) -> Result<()> {
        let state = self.machine.watch().borrow().clone();
        match state {
            RunState::Running => {}
            RunState::Ended(reason) => bail!("sandbox {} had ended already: {reason}", self.id),
            _ => bail!("sandbox {} stood still: its last writes may be missing", self.id),
        }
        let off = async {
            // The agent's last word may be lost with its machine; the machine's end counts.
            let _ = self.link.request(Request::PowerOff).await;
            self.machine.ended().await
        };
        match timeout(POWER_OFF_TIMEOUT, off).await {
            Ok(EndReason::PoweredOff) => Ok(()),
            Ok(reason) => bail!("sandbox {} ended otherwise than asked: {reason}", self.id),
            Err(_) => bail!(
                "sandbox {} did not power off within {} s and was killed",
                self.id,
                POWER_OFF_TIMEOUT.as_secs()
            ),
        }
    }
}

fn check_space(home: &Home) -> Result<()> {
    let dir = home.sandboxes();
    create_private_dir(&dir)?;
    let free = free_space(&dir)?;
    if free < MIN_FREE {
        bail!(
            "no space for a sandbox: {free} is free on the file system of {}, {MIN_FREE} is needed; \
             remove something or set BANGER_HOME to another file system",
            dir.display()
        );
    }
    Ok(())
}

/// A machine larger than its host starts and then stands still, which says nothing to anyone.
fn check_size(spec: &SandboxSpec) -> Result<()> {
    let (total, _) = facts::memory()?;
    let total = Bytes::new(total);
    if spec.memory.bytes() > total {
        bail!("{} of memory is more than the {total} that this host has", spec.memory);
    }
    let Some(cpus) = spec.cpus else { return Ok(()) };
    let (_, processors) = facts::processor()?;
    if usize::from(cpus.get()) > processors {
        bail!("{cpus} CPUs are more than the {processors} that this host has");
    }
    Ok(())
}

/// Ends every process of a sandbox and removes its directory, or what of it is not to be kept.
/// The caller holds its lease.
///
/// # Errors
/// When something remains.
pub fn discard(lease: &Lease) -> Result<()> {
    let dir = lease.dir();
    reap(dir)?;
    if dir.join(KEEP_MARKER).exists() {
        return Ok(());
    }
    Ok(remove_all(dir)?)
}

struct Booted {
    machine: Arc<dyn Running>,
    link: Link,
    network: Network,
}

async fn boot(
    id: &SandboxId,
    lease: &Lease,
    assets: &Assets,
    spec: &SandboxSpec,
    helpers: &Helpers,
) -> Result<Booted> {
    let dir = lease.dir().to_owned();
    keeper::start(&helpers.keeper, &dir)?;
    let Furnished { machine, plan, network } = furnish(id, &dir, assets, spec, helpers)?;
    let guest_net = (network == Network::Connected).then(|| plan.guest.clone());
    let prepared = assets.vmm.prepare(machine).await?;
    let machine: Arc<dyn Running> = Arc::from(prepared.boot().await?);
    spawn_blocking({
        let dir = dir.clone();
        // A log that cannot be cut is no reason to end a sandbox.
        move || drop(keeper::keep_logs(&dir))
    });
    let link = begin_link(&machine)?;
    match timeout(BOOT_TIMEOUT, answer(&*machine, &link)).await {
        Ok(answered) => answered?,
        Err(_) => bail!(
            "the guest did not answer within {} s of its start; its console's last words: {}",
            BOOT_TIMEOUT.as_secs(),
            banger_vmm::console::last_words(&dir)
        ),
    }
    link.request(Request::Configure(identity(id, &plan, guest_net)?))
        .await
        .context("the guest does not take its identity")?;
    // passt may have ended as soon as it began, when nobody was listening yet.
    let network = match (network, network_end(&dir)) {
        (Network::Connected, Some(ended)) => Network::Failed(ended),
        (network, _) => network,
    };
    Ok(Booted { machine, link, network })
}

/// Why a running sandbox's network has ended, if it has.
fn network_end(dir: &Path) -> Option<Ended> {
    let record = Record::read(dir).ok().flatten()?;
    banger_net::user::ended(&record.network, dir)
}

/// Blocks until a program of the sandbox's network ends, and ends the other.
fn wait_for_network_end(dir: &Path) -> Option<Ended> {
    let record = Record::read(dir).ok().flatten()?;
    let found = record.network.iter().filter_map(|identity| Process::find(identity).ok()?);
    let programs: Vec<_> = found.collect();
    let ends: Vec<_> =
        programs.iter().map(|program| (program.as_fd(), Interest::Reading)).collect();
    readiness::wait(&ends, None).ok()?;
    let ended = banger_net::user::ended(&record.network, dir);
    for program in &programs {
        // passt alone may spin without noticing; a network in half is of no use.
        let _ = program.kill(NETWORK_KILL_PATIENCE);
    }
    ended
}

fn start_network(plan: &UserNet, dir: &Path, helpers: &Helpers) -> Result<Option<NetBackend>> {
    let HelperProgram { program, args } = helpers.relay.clone();
    match NetBackend::start(plan, dir, &RelayCommand { program, args }) {
        Ok(net) => Ok(Some(net)),
        Err(StartNetError::NoRoute) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A sandbox's machine with everything it is connected to, not yet there.
pub(crate) struct Furnished {
    pub(crate) machine: Machine,
    plan: UserNet,
    network: Network,
}

/// Makes a sandbox's disk and network, and describes its machine.
pub(crate) fn furnish(
    id: &SandboxId,
    dir: &Path,
    assets: &Assets,
    spec: &SandboxSpec,
    helpers: &Helpers,
) -> Result<Furnished> {
    let disk = dir.join(DISK);
    create_disk(&disk, spec.disk.bytes())?;
    let plan = UserNet::plan(id);
    let net = start_network(&plan, dir, helpers)?;
    let network = if net.is_some() { Network::Connected } else { Network::HostOffline };
    let machine = Machine {
        dir: dir.to_owned(),
        kernel: assets.kernel.vmlinux(),
        initramfs: assets.initramfs.clone(),
        kernel_args: Vec::new(),
        accelerator: assets.accelerator,
        cpus: spec.cpus.unwrap_or(assets.accelerator.default_cpus()),
        memory: spec.memory,
        disks: assets.disks(disk),
        mac: plan.mac,
        net,
        tsc_khz: assets.tsc_khz,
    };
    Ok(Furnished { machine, plan, network })
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

fn identity(id: &SandboxId, plan: &UserNet, net: Option<GuestNet>) -> Result<Identity> {
    let wall_clock_ns = u64::try_from(clock::wall().as_nanos()).unwrap_or(u64::MAX);
    Ok(Identity {
        hostname: id.to_string(),
        machine_id: random::bytes()?,
        entropy: random::bytes()?,
        wall_clock_ns,
        mac: plan.mac,
        net,
    })
}
