//! Sandboxes that are measured, made through the daemon as any other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use banger_api::client::{Client, ProcessSession, SessionEvent};
use banger_api::types::{Command, CreateSandbox, ProcessId, StartProcess};
use banger_host::command::Tool;
use banger_host::memory::proportional;
use banger_host::random;
use banger_model::{
    Bytes, Labels, Lifetime, MemorySize, NetworkMode, OperationId, OperationStatus, ProcessEnd,
    SandboxSpec, Silent, WantedImage,
};
use tokio::task::spawn_blocking;

use crate::lease::Lease;
use crate::progress;

/// Longest time for one command in a sandbox.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to ask for: a sandbox of the default image that goes with the lease.
pub(super) fn wanted(
    memory: MemorySize,
    network: NetworkMode,
    lease: &Lease,
) -> Result<CreateSandbox> {
    let image: WantedImage = "debian-bookworm".parse()?;
    let spec = SandboxSpec { memory, network, ..SandboxSpec::of(image) };
    Ok(CreateSandbox {
        name: None,
        spec: Some(spec),
        from: None,
        labels: Labels::default(),
        lifetime: Lifetime { lease: Some(lease.id()), ..Lifetime::default() },
        start: true,
    })
}

/// Makes a sandbox and waits until it runs; its id.
pub(super) async fn start(client: &Client, wanted: &CreateSandbox) -> Result<String> {
    let created = client.create(wanted).await?;
    let operation = created.operation.context("the daemon does not start the sandbox")?;
    succeeded(client, &operation).await?;
    Ok(created.sandbox.id.to_string())
}

/// Waits until an operation has succeeded; how long it had its sandbox stand still, if it did.
pub(super) async fn succeeded(
    client: &Client,
    operation: &OperationId,
) -> Result<Option<Duration>> {
    let ended = progress::follow(client, operation, &Silent).await?;
    match ended.status {
        OperationStatus::Succeeded { .. } => Ok(ended.stood_still_ms.map(Duration::from_millis)),
        OperationStatus::Failed { error, .. } => Err(anyhow!(error)),
        _ => bail!("it was called off"),
    }
}

/// Runs a command in a sandbox with `banger vm exec`, to its end; what it wrote.
pub(super) async fn exec(program: &Path, sandbox: &str, command: &[&str]) -> Result<Vec<u8>> {
    let tool = Tool::new(program).args(["vm", "exec", sandbox, "--"]).args(command);
    Ok(spawn_blocking(move || tool.capture(PATIENCE)).await??)
}

/// Runs a command in a sandbox, asked of the daemon alone, to its end; what it wrote.
pub(super) async fn run(client: &Client, sandbox: &str, command: &[&str]) -> Result<Vec<u8>> {
    let process = ProcessId(u64::from_ne_bytes(random::bytes()?));
    let argv = command.iter().map(|word| (*word).into()).collect();
    let what = StartProcess::Command(Command { argv, ..Command::default() });
    client.start_process(sandbox, process, &what).await?;
    let mut session = ProcessSession::open(client, sandbox, process).await?;
    let mut written = Vec::new();
    loop {
        match session.next().await? {
            SessionEvent::Output { stream, bytes } => {
                session.control().consumed(stream, bytes.len());
                written.extend(bytes);
            }
            SessionEvent::Exited(ProcessEnd::Exited(0)) => break,
            SessionEvent::OutputEnded { .. } | SessionEvent::Notice(_) => {}
            other => bail!("{command:?} came to {other:?}"),
        }
    }
    client.release(sandbox, process).await?;
    Ok(written)
}

/// What a sandbox's machine takes of the host's memory, its part of what it shares included.
pub(super) async fn memory(client: &Client, sandbox: &str) -> Result<Bytes> {
    let detail = client.show(sandbox).await?.detail;
    let pid = detail.and_then(|detail| detail.vmm_pid).context("a sandbox has no machine")?;
    Ok(spawn_blocking(move || proportional(pid)).await??)
}
