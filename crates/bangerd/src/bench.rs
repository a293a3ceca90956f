//! How long a cold start takes, beside the least that the same machine can take.
//!
//! The **floor** is the time from starting the VMM to its end when the same kernel on the same
//! machine loads the same modules, mounts the same disks and powers off. Nothing of ours is in
//! it: what a cold start takes beyond is our own doing. Both are measured in turns, so that
//! whatever else the host does meets both alike.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use banger_host::home::Home;
use banger_host::random;
use banger_link::Command;
use banger_model::{EnvVar, SandboxId, SandboxSpec};
use banger_vmm::EndReason;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::assets::Assets;
use crate::lease::Lease;
use crate::link::ProcessEvent;
use crate::sandbox::{self, Disposal, Helpers, Sandbox, discard};

/// How long a floor's machine may take, which does next to nothing.
const FLOOR_TIMEOUT: Duration = Duration::from_secs(120);

/// One cold start, in stages that each begin with the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdStart {
    /// Until the sandbox is ready: its agent has answered and it has its identity.
    pub ready: Duration,
    /// Until the first command's exit status is here.
    pub answered: Duration,
    /// Until nothing of the sandbox is left.
    pub gone: Duration,
}

/// Starts a sandbox, runs `true` in it, and throws it away.
///
/// # Errors
/// When any of that fails.
pub async fn cold_start(
    home: &Home,
    assets: &Assets,
    spec: &SandboxSpec,
    helpers: &Helpers,
) -> Result<ColdStart> {
    let begin = Instant::now();
    let sandbox = Sandbox::start(home, assets, spec, Disposal::Remove, helpers).await?;
    let ready = begin.elapsed();
    let ran = run_true(&sandbox).await;
    let answered = begin.elapsed();
    sandbox.end().await?;
    ran?;
    Ok(ColdStart { ready, answered, gone: begin.elapsed() })
}

async fn run_true(sandbox: &Sandbox) -> Result<()> {
    let path = EnvVar::parse(b"PATH=/usr/bin:/bin")?;
    let command = Command {
        argv: vec![b"true".to_vec()],
        env: vec![path],
        cwd: None,
        user: None,
        terminal: None,
    };
    let mut process = sandbox.link().start(command).await?;
    loop {
        match process.next().await? {
            ProcessEvent::Exited(_) => return Ok(()),
            ProcessEvent::Lost(refusal) => bail!("the command is gone: {refusal}"),
            ProcessEvent::Output(..) | ProcessEvent::OutputEnded(_) => {}
        }
    }
}

/// Boots the same machine with `initramfs`, which holds the floor's program, and waits for its
/// end; returns how long the VMM lived.
///
/// # Errors
/// When the machine does not power itself off.
pub async fn floor(
    home: &Home,
    assets: &Assets,
    initramfs: &Path,
    spec: &SandboxSpec,
    helpers: &Helpers,
) -> Result<Duration> {
    let id = SandboxId::from_random(random::bytes()?);
    let lease = Lease::create(home, &id)?;
    let measured = measure_floor(&id, &lease, assets, initramfs, spec, helpers).await;
    spawn_blocking(move || discard(&lease)).await??;
    measured
}

async fn measure_floor(
    id: &SandboxId,
    lease: &Lease,
    assets: &Assets,
    initramfs: &Path,
    spec: &SandboxSpec,
    helpers: &Helpers,
) -> Result<Duration> {
    let mut machine = sandbox::furnish(id, lease.dir(), assets, spec, helpers)?.machine;
    machine.initramfs = initramfs.to_owned();
    let begin = Instant::now();
    let running = assets.vmm.prepare(machine).await?.boot().await?;
    let reason = timeout(FLOOR_TIMEOUT, running.ended())
        .await
        .with_context(|| format!("the floor's machine ran for {} s", FLOOR_TIMEOUT.as_secs()))?;
    match reason {
        EndReason::PoweredOff => Ok(begin.elapsed()),
        other => bail!("the floor's machine ended otherwise than by powering off: {other}"),
    }
}
