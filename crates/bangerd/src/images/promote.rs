//! A sandbox at rest becomes an image.
//!
//! What is on its disk makes sense over its image only, and only a kernel puts the two together: so
//! a machine of nobody's boots with a copy of the disk, and its agent packs what it sees.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use banger_host::fs::{clone_file, is_there, nameless, remove_all};
use banger_host::{heap, random};
use banger_image::Until;
use banger_image::image::{FromRootfs, Rootfs, SandboxWishes, Whose};
use banger_link::{Stream, Tool};
use banger_model::lifecycle::State;
use banger_model::{Bytes, ImageName, MacAddress, ProcessEnd, Progress, SandboxId, SandboxRecord};
use banger_vmm::{Board, Machine, Net, reap};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::CalledOff;
use crate::assets::Assets;
use crate::link::{Link, ProcessEvent};
use crate::machine::base::{base_of, belongs_to};
use crate::machine::{self, DISK};
use crate::operations::{Shown, now};
use crate::registry::Registry;

/// Stands before the name of a sandbox where a source is asked for.
pub(crate) const SANDBOX: &str = "sandbox:";
/// Most of what a guest says about a failure that is kept, in bytes.
const MAX_SAID: usize = 4096;

/// Makes an image of this name of a sandbox.
///
/// # Errors
/// When it is not at rest, or anything of that fails; nothing half-made remains.
pub(crate) async fn promote(
    registry: Arc<Registry>,
    sandbox: &str,
    (name, wishes): (ImageName, SandboxWishes),
    shown: Shown,
) -> Result<ImageName> {
    let (made_by, progress): (_, Arc<dyn Progress>) = (shown.id(), Arc::new(shown));
    let record = registry.resolve(sandbox)?.view().record.clone();
    let scratch = copy(&registry, &record, &*progress).await?;
    let shared = registry.shared();
    let base = base_of(&shared.dir(&record.id), &record.spec)?;
    shared.checkpoints.reach("promote.copied").await;
    let assets =
        shared.arsenal.assets(&base, record.spec.kernel.as_ref(), progress.clone()).await?;
    let turn = shared.boots.acquire().await?;
    progress.stage("reading the root file system");
    if let Some(kernel) = &wishes.kernel {
        shared.images.kernel(kernel.clone(), progress.clone()).await?;
    }
    let max = shared.images.max_unpacked();
    let tar = read_root(&scratch, &record, (&assets, max), &*progress).await?;
    drop((turn, scratch));
    shared.checkpoints.reach("promote.read").await;
    let home = shared.home.clone();
    // Dropped with this, what goes on in a thread ends soon.
    let ends = CalledOff::default();
    let called_off = ends.0.clone();
    let made = spawn_blocking(move || {
        let from = FromRootfs {
            home: &home,
            name: &name,
            source: &format!("sandbox {}, made of {}", record.name, record.spec.image),
            whose: Whose::Machines(Box::new(assets.image.config().clone())),
            wishes: SandboxWishes {
                kernel: wishes
                    .kernel
                    .or_else(|| record.spec.kernel.clone())
                    .or_else(|| assets.image.info().kernel.clone()),
                disk: wishes.disk,
            },
            max_unpacked: max,
            now: now(),
            made_by: Some(&made_by),
            until: Until::set(&called_off),
        };
        from.make(Rootfs::Tar(tar), &*progress)?;
        Ok(name)
    })
    .await?;
    shared.checkpoints.reach("promote.named").await;
    spawn_blocking(heap::give_back);
    made
}

/// A directory for a machine that nobody knows of: dropped, machine and directory are gone; a daemon
/// that is killed leaves it to the next one.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let dir = &self.0;
        let ended = reap(dir).map_err(anyhow::Error::from);
        if let Err(error) = ended.and_then(|_| Ok(remove_all(dir)?)) {
            warn!(dir = %dir.display(), error = format!("{error:#}"), "a copy of a sandbox remains");
        }
    }
}

/// A copy of the sandbox's disk.
async fn copy(
    registry: &Registry,
    record: &SandboxRecord,
    progress: &dyn Progress,
) -> Result<Scratch> {
    let name = &record.name;
    if !is_at_rest(record) {
        bail!("{name} is {}: stop it first, so that its disk is in order", record.state);
    }
    let shared = registry.shared();
    let (from, id) = (shared.dir(&record.id), SandboxId::from_random(random::bytes()?));
    if !is_there(&from.join(DISK)) {
        bail!("{name} was never started: there is nothing in it but {}", record.spec.image);
    }
    let base = base_of(&from, &record.spec)?.open(&shared.home)?;
    machine::check_space(&shared.home.sandboxes())?;
    progress.stage("copying the disk");
    let dir = shared.dir(&id);
    let scratch = spawn_blocking(move || -> Result<_> {
        let scratch = Scratch(machine::make_dir(&dir)?);
        base.keep_while(|| belongs_to(&scratch.0, base.id()))??;
        clone_file(&from.join(DISK), &scratch.0.join(DISK))?;
        Ok(scratch)
    })
    .await??;
    let now = registry.get(&record.id).map(|handle| handle.view().record.clone());
    match now.filter(|now| is_at_rest(now) && now.boots == record.boots) {
        Some(_) => Ok(scratch),
        None => bail!("{name} was started or deleted while its disk was copied"),
    }
}

fn is_at_rest(record: &SandboxRecord) -> bool {
    matches!(record.state, State::Created | State::Stopped { .. } | State::Failed { .. })
}

/// Boots a machine over the copy and has its root packed.
async fn read_root(
    scratch: &Scratch,
    record: &SandboxRecord,
    (assets, max): (&Assets, Bytes),
    progress: &dyn Progress,
) -> Result<File> {
    let dir = &scratch.0;
    let machine = Machine {
        dir: dir.clone(),
        // Nothing of the image runs: it would change what is read.
        start: assets.start_agent(),
        board: Board::LATEST,
        accelerator: assets.accelerator,
        cpus: record.spec.cpus_under(assets.accelerator),
        memory: record.spec.memory,
        disks: assets.disks(dir.join(DISK)),
        mac: MacAddress::default(),
        net: Net::Absent,
    };
    let prepared = assets.vmm.prepare(machine).await?;
    let (machine, link) = machine::run(prepared, dir, machine::BOOT_TIMEOUT).await?;
    let tar = spool(&link, nameless(dir)?, max, progress).await;
    let ended = machine.kill().await;
    let tar = tar?;
    ended?;
    Ok(tar)
}

/// Has the guest pack its root into this file.
async fn spool(link: &Link, file: File, max: Bytes, progress: &dyn Progress) -> Result<File> {
    let mut process = link.start_tool(Tool::PackRoot).await?;
    let (control, file) = (process.control(), Arc::new(file));
    let (mut size, mut said) = (0u64, Vec::new());
    loop {
        match process.next().await? {
            ProcessEvent::Output(stream, bytes) => {
                let len = bytes.len();
                if stream == Stream::Stdout {
                    size += len as u64;
                    if size > max.get() {
                        bail!(
                            "it is larger than {max}, which `max_unpacked` in config.toml allows"
                        );
                    }
                    let file = file.clone();
                    spawn_blocking(move || (&*file).write_all(&bytes)).await??;
                    progress.advance(size, None);
                } else {
                    let room = MAX_SAID.saturating_sub(said.len());
                    said.extend(bytes.into_iter().take(room));
                }
                control.consumed(stream, len).await?;
            }
            ProcessEvent::Exited(ProcessEnd::Exited(0)) => break,
            ProcessEvent::Exited(_) => {
                let said = String::from_utf8_lossy(&said).trim().escape_debug().to_string();
                bail!("not everything in it can be read: {said}");
            }
            ProcessEvent::Lost(refusal) => bail!("the guest's tool is gone: {refusal}"),
            ProcessEvent::OutputEnded(_) => {}
        }
    }
    Arc::into_inner(file).context("somebody still writes to it")
}
