//! Space on the host for what sandboxes write.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use banger_host::fs::{ensure_private_dir, free_space};
use banger_model::Bytes;
use banger_vmm::Running;

/// Space that must be free before a sandbox starts: less is gone before its first write reaches
/// the disk, and then it would only stand still.
pub const MIN_FREE: Bytes = Bytes::mib(64);
/// Between two looks for space on a full file system.
const LOOK_FOR_SPACE: Duration = Duration::from_secs(1);

/// Whether there is space to start a sandbox below `dir`.
///
/// # Errors
/// When there is not, in a sentence that says what helps.
pub fn check_space(dir: &Path) -> Result<()> {
    ensure_private_dir(dir)?;
    let free = free_space(dir)?;
    if free < MIN_FREE {
        bail!(
            "no space for a sandbox: {free} is free on the file system of {}, {MIN_FREE} is needed; \
             remove something or set BANGER_HOME to another file system",
            dir.display()
        );
    }
    Ok(())
}

/// Waits until the file system of `dir`, where a machine's disk is, has space again, and lets the
/// machine go on.
///
/// # Errors
/// When the file system cannot be asked, or the machine does not go on.
pub async fn resume_when_there_is_space(dir: &Path, machine: &dyn Running) -> Result<()> {
    // No event tells of space: this is the one place that has to look again and again, and
    // only while a sandbox stands still for want of it.
    let mut look = tokio::time::interval(LOOK_FOR_SPACE);
    loop {
        look.tick().await;
        if free_space(dir)? >= MIN_FREE {
            return Ok(machine.resume().await?);
        }
    }
}
