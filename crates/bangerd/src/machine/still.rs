//! A running machine as it is at one moment, copied while it stands still.
//!
//! How long that takes is what a snapshot costs its sandbox. So nothing is synced here, and the
//! machine goes on whatever comes of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use banger_host::fs::{clone_file, file_size, free_space};
use banger_model::Bytes;
use tokio::task::spawn_blocking;

use super::memory::{freeze, go_on, stand_still};
use super::{DISK, Live, MIN_FREE};
use crate::checkpoint::Checkpoints;
use crate::superseded::Superseded;
use crate::{saved, stats};

/// Copies memory, devices and disk of the machine of the sandbox in `dir` into the directory `to`;
/// returns how long its processes stood still.
///
/// # Errors
/// When something cannot be copied, the machine does not go on, or is to end.
pub(crate) async fn copy(
    live: &Live,
    (dir, to): (&Path, &Path),
    checkpoints: &Checkpoints,
    superseded: &mut Superseded,
) -> Result<Duration> {
    let begin = Instant::now();
    let copied = copy_still(live, (dir, to), checkpoints, superseded).await;
    let gone_on = go_on(live, superseded).await;
    let stood_still = begin.elapsed();
    copied?;
    gone_on?;
    checkpoints.reach("snapshot.resumed").await;
    Ok(stood_still)
}

async fn copy_still(
    live: &Live,
    (dir, to): (&Path, &Path),
    checkpoints: &Checkpoints,
    superseded: &mut Superseded,
) -> Result<()> {
    superseded.or(freeze(live)).await?;
    checkpoints.reach("snapshot.frozen").await;
    superseded.or(stand_still(&*live.machine)).await?;
    checkpoints.reach("snapshot.paused").await;
    live.machine.save(&saved::files(to)).await?;
    let (disk, copy) = (dir.join(DISK), saved::disk(to));
    spawn_blocking(move || clone_file(&disk, &copy)).await??;
    checkpoints.reach("snapshot.saved").await;
    Ok(())
}

/// Whether there is room for a copy of this machine. A file system that shares blocks may need
/// less: to ask for a little much is better than to stand still for nothing.
///
/// # Errors
/// When there is not, in a sentence that says what helps.
pub(crate) fn check_room(live: &Live, dir: &Path, at: &Path, memory: Bytes) -> Result<()> {
    let disk = file_size(&dir.join(DISK))?.real;
    let own = stats::memory(live.machine.identity()).unwrap_or(memory.get());
    let template = live.template.as_ref().map_or(0, |template| template.size().get());
    let base = file_size(&saved::files(&super::memory::place(dir)).memory);
    let base = template + base.map_or(0, |size| size.real.get());
    let needed = Bytes::new(own.saturating_add(base).min(memory.get()) + disk.get());
    let free = free_space(at)?;
    if free.get() < needed.get().saturating_add(MIN_FREE.get()) {
        bail!(
            "no space for a snapshot: it may take {needed}, and {free} is free on the file system \
             of {}; remove something",
            at.display()
        );
    }
    Ok(())
}
