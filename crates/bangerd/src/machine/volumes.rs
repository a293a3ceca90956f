//! Mounting the volumes of a machine in its guest.

use std::time::Duration;

use anyhow::{Result, bail};
use banger_link::Tool;
use banger_model::{ProcessEnd, VolumeMount, VolumeMounts};
use thiserror::Error;
use tokio::time::timeout;
use tracing::warn;

use crate::link::Link;

/// Most of what a guest says about a failure that is kept, in bytes.
const MAX_SAID: usize = 1024;

/// How long a guest may take to mount a volume, and to fill it if it is new: that may be a copy of
/// gigabytes under emulation.
const PATIENCE: Duration = Duration::from_secs(600);

/// A volume is not mounted, which says nothing about the machine.
#[derive(Debug, Error)]
#[error("cannot mount the volume {mount}: {problem}")]
pub(crate) struct VolumeNotMounted {
    mount: VolumeMount,
    problem: String,
}

/// Has a guest mount its volumes, each after those that its path leads through.
///
/// # Errors
/// When one cannot be mounted.
pub(super) async fn mount(link: &Link, volumes: &VolumeMounts) -> Result<()> {
    for (slot, mount) in volumes.in_order() {
        let tool = Tool::MountVolume { slot, path: mount.path().as_bytes().to_vec() };
        let mounted = timeout(PATIENCE, run(link, tool)).await;
        let problem = match mounted {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("the guest has not done that within {} s", PATIENCE.as_secs()),
        };
        return Err(VolumeNotMounted { mount: mount.clone(), problem }.into());
    }
    Ok(())
}

async fn run(link: &Link, tool: Tool) -> Result<()> {
    let (mut process, mut said) = (link.start_tool(tool).await?, Vec::new());
    let end = process.finish(&mut said, MAX_SAID).await?;
    process.release().await?;
    match end {
        ProcessEnd::Exited(0) => Ok(()),
        // It is there, though not all of it was copied, or it has not become as large as its disk.
        ProcessEnd::Exited(1) => {
            warn!(said = %String::from_utf8_lossy(&said).trim().escape_debug(), "a volume");
            Ok(())
        }
        _ => bail!("{}", String::from_utf8_lossy(&said).trim().escape_debug()),
    }
}
