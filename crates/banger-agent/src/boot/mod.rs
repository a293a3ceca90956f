//! From the kernel's first instruction of ours to the root of the sandbox.
//!
//! ```text
//! /dev /proc /sys ─► boot modules ─► disks ─► overlay ─► switch root ─► /proc … /run, modules
//! ```
//!
//! Every step is needed before the next, there is one CPU, and whoever waits for a sandbox
//! waits for all of it: so there is no concurrency here, and nothing that could be left out.

mod cmdline;
mod disks;
mod modules;
mod plan;
mod root;
mod trace;

use std::io;
use std::path::{Path, PathBuf};

use banger_model::BlockRole;
use thiserror::Error;

use crate::console;
use crate::files::read_line;
pub(crate) use cmdline::Init;
use cmdline::{Mode, Parameters};
use disks::Disks;
pub(crate) use root::Disk;
pub(crate) use trace::{Timeline, since_boot_us};

/// What the host waits for after it started a machine with `banger.probe`.
const PROBE_OK: &str = "banger-probe-ok";

/// Why a machine does not become a sandbox.
#[derive(Debug, Error)]
pub(crate) enum BootError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the initramfs lists {0} boot modules; the most is {max}", max = modules::MAX_MODULES)]
    TooManyModules(usize),
    #[error("{0:?} in the initramfs's list is not the name of a boot module")]
    ModuleName(String),
    #[error("cannot insert the boot module {name}")]
    Module {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the machine has no block device {0}")]
    NoDisk(BlockRole),
    #[error("cannot mount {} on {}", what.display(), target.display())]
    Mount {
        what: PathBuf,
        target: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot prepare {}", path.display())]
    Prepare {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot change to the sandbox's root")]
    SwitchRoot(#[source] io::Error),
}

/// What came out of a boot.
#[derive(Debug)]
pub(crate) enum Booted {
    /// The root is in place.
    Sandbox {
        /// Its own disk.
        disk: Disk,
        /// Who is to be its first process.
        init: Init,
        /// Slots and paths of volumes that are mounted before anything else runs.
        volumes: Vec<(u8, Vec<u8>)>,
        /// How long the boot took so far.
        timeline: Timeline,
    },
    /// It was only to show that a guest runs here; it is shown.
    Probe,
}

/// Boots a sandbox.
///
/// # Errors
/// The first step that failed. The machine is of no use then.
pub(crate) fn boot() -> Result<Booted, BootError> {
    let (parameters, mut timeline) = start()?;
    if parameters.mode == Mode::Probe {
        console::write_line(PROBE_OK);
        return Ok(Booted::Probe);
    }
    let disks = drivers_and_disks(&mut timeline)?;
    let disk = root::prepare_disk()?;
    let plain = root::plain_dirs()?;
    timeline.mark("prepare");
    root::mount(&plan::overlay())?;
    timeline.mark("overlay");
    root::switch()?;
    timeline.mark("switch root");
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    for mount in plan::late(&disks, &release) {
        root::mount(&mount)?;
        timeline.mark(&mount.target.to_string_lossy());
    }
    root::link_dev()?;
    root::make_tmp()?;
    root::fresh_run()?;
    root::attach_plain_dirs(plain);
    timeline.mark("run and plain directories");
    let Parameters { init, volumes, .. } = parameters;
    Ok(Booted::Sandbox { disk, init, volumes, timeline })
}

/// Boots as far as the floor of the cold-start benchmark goes: the same modules, the same disks
/// in the same places, and nothing that makes a sandbox of it.
///
/// # Errors
/// The first step that failed.
pub(crate) fn boot_floor() -> Result<(), BootError> {
    let (_, mut timeline) = start()?;
    let disks = drivers_and_disks(&mut timeline)?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let is_modules = |mount: &plan::Mount| mount.source == disks::node(&disks.modules);
    for mount in plan::late(&disks, &release).iter().filter(|mount| is_modules(mount)) {
        root::mount(mount)?;
    }
    timeline.mark("floor");
    Ok(())
}

/// The file systems that tell about the machine, and the parameters found there.
fn start() -> Result<(Parameters, Timeline), BootError> {
    for mount in plan::early() {
        root::mount(&mount)?;
    }
    let path = Path::new("/proc/cmdline");
    let cmdline =
        read_line(path).map_err(|source| BootError::Read { path: path.to_owned(), source })?;
    let parameters = Parameters::parse(&cmdline);
    let mut timeline = Timeline::new(parameters.trace);
    timeline.mark("start");
    Ok((parameters, timeline))
}

/// Inserts the boot modules and mounts the disks they drive.
fn drivers_and_disks(timeline: &mut Timeline) -> Result<Disks, BootError> {
    modules::insert_all(timeline)?;
    let disks = Disks::find()?;
    timeline.mark("find disks");
    for mount in plan::disks(&disks) {
        root::mount(&mount)?;
        timeline.mark(&mount.target.to_string_lossy());
    }
    Ok(disks)
}
