//! What a machine needs before it is there: its disk, its network, an id, and notes for whoever takes
//! it over.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use banger_host::fs::{clone_file, is_there, read_bounded, remove_all, rename, write_atomic};
use banger_host::inplace::sync_file;
use banger_host::random;
use banger_image::Image;
use banger_image::ext4::create_disk;
use banger_model::{Accelerator, DiskSize, NetworkMode, SandboxSpec, TemplateId};
use banger_net::{NetBackend, UserNet};
use banger_vmm::{Board, Disks, Machine, Net, PrepareError, Start};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{Blueprint, DISK, HelperProgram, Network, Source, base, network};
use crate::assets::Assets;
use crate::origin::Origin;
use crate::templates::Template;

/// The disk while it is made.
pub(super) const NEW_DISK: &str = "disk.ext4.new";
/// What does not change from one boot of a sandbox to the next.
const MACHINE_ID: &str = "machine-id";
/// What a daemon that takes the machine over must know beside what the monitor tells.
const NOTES: &str = "machine.json";
/// Longest notes that make sense, in bytes.
const MAX_NOTES_LEN: u64 = 4096;

/// What a daemon that takes the machine over must know beside what the monitor tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Notes {
    pub(super) accelerator: Accelerator,
    pub(super) connected: bool,
    #[serde(default)]
    pub(super) template: Option<TemplateId>,
    /// Not known of a machine that an older banger has made.
    #[serde(default)]
    pub(super) origin: Option<Origin>,
}

/// A machine with everything it is connected to, not yet there.
pub(crate) struct Furnished {
    pub(crate) machine: Machine,
    pub(super) plan: UserNet,
    pub(super) network: Network,
    pub(super) source: Source,
}

/// Makes a machine's disk, where it has none yet, and its network, and describes the machine.
pub(crate) async fn furnish(blueprint: &Blueprint<'_>) -> Result<Furnished> {
    let Blueprint { id, dir, spec, assets, .. } = blueprint;
    let (dir, disk) = (dir.to_path_buf(), dir.join(DISK));
    // What has written to a disk knows it otherwise than a template does.
    let source = match blueprint.source.clone() {
        Source::Template(_) if is_there(&disk) => Source::Kernel,
        source => source,
    };
    let (origin, plan) = (blueprint.origin(), UserNet::plan(id));
    let in_dir = InDir {
        disk: disk.clone(),
        dir: dir.clone(),
        size: assets.disk(spec),
        network: spec.network,
        image: assets.image.clone(),
        plan: plan.clone(),
        relay: blueprint.relay.clone(),
        origin: origin.clone(),
        source: source.clone(),
    };
    // It starts programs and waits for the disk.
    let (net, network) = spawn_blocking(move || in_dir.furnish()).await??;
    let machine = Machine {
        dir,
        start: match &source {
            Source::Kernel => assets.start(spec)?,
            Source::Template(template) => Start::Saved(template.saved()),
            Source::Memory(saved) | Source::Copy(saved) => Start::Saved(saved.files.clone()),
        },
        board: origin.board,
        accelerator: origin.accelerator,
        cpus: origin.cpus,
        memory: origin.memory,
        disks: Disks { volumes: blueprint.volumes.clone(), ..assets.disks(disk) },
        mac: plan.mac,
        net: net.map_or(Net::Absent, Net::Backend),
    };
    Ok(Furnished { machine, plan, network, source })
}

/// What of a machine lies in its directory, and the programs of its network.
struct InDir {
    dir: PathBuf,
    disk: PathBuf,
    size: DiskSize,
    network: NetworkMode,
    image: Image,
    plan: UserNet,
    relay: HelperProgram,
    origin: Origin,
    source: Source,
}

impl InDir {
    fn furnish(&self) -> Result<(Option<NetBackend>, Network)> {
        let template = match &self.source {
            Source::Template(template) => Some(&**template),
            Source::Kernel | Source::Memory(_) | Source::Copy(_) => None,
        };
        if !is_there(&self.disk) {
            self.image.keep_while(|| base::belongs_to(&self.dir, self.image.id()))??;
        }
        make_disk(&self.disk, self.size, template)?;
        // Read again when the guest is told: then nobody waits for the disk.
        machine_id(&self.dir)?;
        let (net, network) = match self.network {
            NetworkMode::None => (None, Network::Absent),
            NetworkMode::User => network::start(&self.plan, &self.dir, &self.relay)?,
        };
        let notes = Notes {
            accelerator: self.origin.accelerator,
            connected: net.is_some(),
            template: template.map(|template| template.id.clone()),
            origin: Some(self.origin.clone()),
        };
        write_atomic(&self.dir.join(NOTES), &serde_json::to_vec(&notes)?)?;
        Ok((net, network))
    }
}

/// Makes the sandbox's disk once: whole, or not at all.
fn make_disk(disk: &Path, size: DiskSize, template: Option<&Template>) -> Result<()> {
    if is_there(disk) {
        return Ok(());
    }
    let aside = disk.with_file_name(NEW_DISK);
    remove_all(&aside)?;
    match template {
        Some(template) => clone_of(&template.disk(), &aside)?,
        None => create_disk(&aside, size.bytes())?,
    }
    keep_disk(&aside, disk)
}

/// Gives a disk that was made aside its place, once it is whole whatever becomes of the host's power.
/// One that shares its blocks with another, which is whole, is that already.
pub(super) fn keep_disk(aside: &Path, disk: &Path) -> Result<()> {
    sync_file(aside)?;
    Ok(rename(aside, disk)?)
}

/// A template whose files are gone is one that cannot be loaded; it is not to blame for anything
/// else.
fn clone_of(disk: &Path, to: &Path) -> Result<()> {
    match clone_file(disk, to) {
        Err(error) if !is_there(disk) => {
            Err(PrepareError::Load { said: format!("{:#}", anyhow!(error)) }.into())
        }
        cloned => Ok(cloned.map(drop)?),
    }
}

/// The template that the machine in `dir` was made from, as far as it is written down.
pub(crate) fn template_of(dir: &Path) -> Option<TemplateId> {
    read_notes(dir).ok()?.template
}

/// What the machine in `dir` is. Where an older banger has made it, that tells only what executes it;
/// the rest is as it would be now.
pub(crate) fn origin_of(dir: &Path, (assets, spec): (&Assets, &SandboxSpec)) -> Origin {
    let (accelerator, origin) = match read_notes(dir) {
        Ok(Notes { accelerator, origin, .. }) => (accelerator, origin),
        Err(_) => (assets.accelerator, None),
    };
    let here = || Origin {
        board: Board::FIRST,
        accelerator,
        cpus: spec.cpus_under(accelerator),
        ..Origin::of(assets, spec)
    };
    origin.unwrap_or_else(here)
}

/// What the machine in `dir` is, if that is written down.
pub(super) fn noted_origin(dir: &Path) -> Option<Origin> {
    read_notes(dir).ok()?.origin
}

pub(super) fn read_notes(dir: &Path) -> Result<Notes> {
    let json = read_bounded(&dir.join(NOTES), MAX_NOTES_LEN)?;
    serde_json::from_slice(&json)
        .with_context(|| format!("cannot understand {}", dir.join(NOTES).display()))
}

/// The machine id of the sandbox in `dir`: chosen at its first boot, the same in all others.
pub(super) fn machine_id(dir: &Path) -> Result<[u8; 16]> {
    let path = dir.join(MACHINE_ID);
    if path.exists() {
        let stored = read_bounded(&path, 16)?;
        if let Ok(id) = stored.try_into() {
            return Ok(id);
        }
    }
    let id = random::bytes()?;
    write_atomic(&path, &id)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_to_blame_for_what_it_lacks_only() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, to) = (dir.path().join("disk"), dir.path().join("nowhere/disk"));
        let is_load = |cloned: Result<()>| {
            let error = cloned.unwrap_err();
            matches!(error.downcast_ref(), Some(PrepareError::Load { .. }))
        };
        assert!(is_load(clone_of(&disk, &to)));
        banger_host::fs::create_new(&disk).unwrap();
        assert!(!is_load(clone_of(&disk, &to)));
    }
}
