//! What a sandbox that is made from a snapshot begins with: a copy of its disk, and its memory,
//! which nobody ever writes and so may have any number of owners.

use std::path::Path;

use anyhow::Result;
use banger_host::fs::{clone_file, remove_all};

use super::furnish::keep_disk;
use super::{DISK, NEW_DISK, base, memory};
use crate::snapshots::Snapshot;

/// Gives the sandbox in `dir` the disk of a snapshot, in place of whatever it has.
///
/// # Errors
/// When it cannot be copied; then it has none.
pub(crate) fn fill_disk(snapshot: &Snapshot, dir: &Path) -> Result<()> {
    // Memory that is there fits no other disk.
    memory::forget(dir)?;
    let (disk, aside) = (dir.join(DISK), dir.join(NEW_DISK));
    remove_all(&disk)?;
    remove_all(&aside)?;
    base::belongs_to(dir, &snapshot.about.image)?;
    clone_file(&snapshot.disk(), &aside)?;
    keep_disk(&aside, &disk)
}

/// Gives the sandbox in `dir` disk and memory of a snapshot. What it has then is what a sandbox
/// has that is paused.
///
/// # Errors
/// When one of them cannot be had; then it has no memory.
pub(crate) fn fill_machine(snapshot: &Snapshot, dir: &Path) -> Result<()> {
    fill_disk(snapshot, dir)?;
    memory::link(snapshot, dir)
}
