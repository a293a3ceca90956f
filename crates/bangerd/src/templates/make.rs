//! Making a template: a machine boots, makes itself small, stands still and is saved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use banger_host::fs::remove_all;
use banger_image::ext4::create_disk;
use banger_link::Request;
use banger_model::{InitMode, MacAddress, MemorySize, SandboxSpec, VolumeError, VolumeMounts};
use banger_vmm::{Board, Machine, Net, reap};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::rehearse::{Processes, rehearse};
use super::shape::Shape;
use super::template;
use crate::assets::Assets;
use crate::checkpoint::Checkpoints;
use crate::machine::{self, ask, ask_for_long};
use crate::operations::now;
use crate::saved;

/// Where the machine is that becomes the template, below the template's directory.
pub(super) const MACHINE: &str = "machine";
/// How long a guest may take to make itself small, however little memory it has.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// How much longer for each GiB, all of which it takes once: a second where it was measured, under
/// emulation, times what else the host may have to do.
const SETTLE_PATIENCE_PER_GIB: Duration = Duration::from_secs(30);
const GIB: u64 = 1 << 30;

/// Fills `dir` with the template of this shape.
///
/// # Errors
/// When the machine does not come up or cannot be saved; nothing of it runs then.
pub(crate) async fn make(
    dir: PathBuf,
    (shape, spec): (Shape, SandboxSpec),
    assets: &Assets,
    checkpoints: &Checkpoints,
) -> Result<()> {
    let dir = dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))?;
    let place = machine::make_dir(&dir.join(MACHINE))?;
    let ends = Ends(place.clone());
    save_one(&dir, &place, &spec, assets, checkpoints).await?;
    drop(ends);
    checkpoints.reach("template.saved").await;
    let names = (spec.image, assets.kernel.name().clone());
    spawn_blocking(move || {
        remove_all(&place)?;
        template::describe(&dir, shape, names, now())
    })
    .await?
}

/// The machine in this directory ends with this value, whatever its maker comes to: nobody else
/// knows of it.
struct Ends(PathBuf);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Err(error) = reap(&self.0) {
            warn!(dir = %self.0.display(), %error, "a machine that was to become a template remains");
        }
    }
}

/// The machine that becomes the template of sandboxes of this spec.
fn machine_of(
    assets: &Assets,
    spec: &SandboxSpec,
    (place, disk): (&Path, PathBuf),
) -> Result<Machine, VolumeError> {
    // Templates of sandboxes with volumes and without are the same.
    let spec = &SandboxSpec { volumes: VolumeMounts::default(), ..spec.clone() };
    Ok(Machine {
        dir: place.to_owned(),
        start: assets.start(spec)?,
        board: Board::LATEST,
        accelerator: assets.accelerator,
        cpus: spec.cpus_under(assets.accelerator),
        memory: spec.memory,
        disks: assets.disks(disk),
        mac: MacAddress::default(),
        net: Net::Silent,
    })
}

/// The shape of sandboxes of this spec.
///
/// # Errors
/// When the host does not tell about itself.
pub(crate) fn shape(assets: &Assets, spec: &SandboxSpec) -> Result<Shape> {
    let nowhere = (Path::new("/"), PathBuf::new());
    Shape::of(assets, &machine_of(assets, spec, nowhere)?, assets.disk(spec))
}

async fn save_one(
    dir: &Path,
    place: &Path,
    spec: &SandboxSpec,
    assets: &Assets,
    checkpoints: &Checkpoints,
) -> Result<()> {
    let disk = saved::disk(dir);
    create_disk(&disk, assets.disk(spec).bytes())?;
    let machine = machine_of(assets, spec, (place, disk))?;
    let prepared = assets.vmm.prepare(machine).await?;
    checkpoints.reach("template.prepared").await;
    let (machine, link) = machine::run(prepared, place, machine::BOOT_TIMEOUT).await?;
    let settled = ask_for_long(&link, Request::Settle, settle_patience(spec.memory)).await;
    settled.context("the guest does not settle")?;
    rehearse(&link, Processes::Go).await?;
    if assets.init(spec) == InitMode::Systemd {
        // What runs in it beside the agent goes on as somebody's only.
        ask(&link, Request::Freeze).await.context("its processes cannot be frozen")?;
    }
    // Its end of the link is at rest before it stands still.
    drop(link);
    checkpoints.reach("template.settled").await;
    machine.pause().await?;
    machine.save(&saved::files(dir)).await?;
    machine.kill().await?;
    Ok(())
}

fn settle_patience(memory: MemorySize) -> Duration {
    let gib = u32::try_from(memory.bytes().get().div_ceil(GIB)).unwrap_or(u32::MAX);
    SETTLE_PATIENCE + SETTLE_PATIENCE_PER_GIB.saturating_mul(gib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_memory_may_take_longer() {
        let patience = |memory: &str| settle_patience(memory.parse().unwrap()).as_secs();
        assert_eq!([patience("256M"), patience("1G"), patience("8G")], [150, 150, 360]);
    }
}
