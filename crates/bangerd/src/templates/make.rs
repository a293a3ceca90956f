//! Making a template: a machine boots, makes itself small, stands still and is saved.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use banger_host::fs::remove_all;
use banger_image::ext4::create_disk;
use banger_link::Request;
use banger_model::{InitMode, MacAddress, SandboxSpec, VolumeError, VolumeMounts};
use banger_vmm::{Machine, Net, reap};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::rehearse::{Processes, rehearse};
use super::shape::Shape;
use super::template;
use crate::assets::Assets;
use crate::checkpoint::Checkpoints;
use crate::machine;
use crate::operations::now;
use crate::saved;

/// Where the machine is that becomes the template, below the template's directory.
pub(super) const MACHINE: &str = "machine";

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
        accelerator: assets.accelerator,
        cpus: spec.cpus.unwrap_or(assets.accelerator.default_cpus()),
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
    Shape::of(assets, &machine_of(assets, spec, nowhere)?, spec.disk)
}

async fn save_one(
    dir: &Path,
    place: &Path,
    spec: &SandboxSpec,
    assets: &Assets,
    checkpoints: &Checkpoints,
) -> Result<()> {
    let disk = saved::disk(dir);
    create_disk(&disk, spec.disk.bytes())?;
    let machine = machine_of(assets, spec, (place, disk))?;
    let prepared = assets.vmm.prepare(machine).await?;
    checkpoints.reach("template.prepared").await;
    let (machine, link) = machine::run(prepared, place, machine::BOOT_TIMEOUT).await?;
    link.request(Request::Settle).await.context("the guest does not settle")?;
    rehearse(&link, Processes::Go).await?;
    if assets.init(spec) == InitMode::Systemd {
        // What runs in it beside the agent goes on as somebody's only.
        link.request(Request::Freeze).await.context("its processes cannot be frozen")?;
    }
    // Its end of the link is at rest before it stands still.
    drop(link);
    checkpoints.reach("template.settled").await;
    machine.pause().await?;
    machine.save(&saved::files(dir)).await?;
    machine.kill().await?;
    Ok(())
}
