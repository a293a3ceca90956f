//! A machine as its maker describes it, whatever the monitor.

use std::path::{Path, PathBuf};

use banger_model::{Accelerator, BlockRole, CpuCount, MacAddress, MemorySize, VOLUME_SLOTS};
use banger_net::NetBackend;
use serde::{Deserialize, Serialize};

/// Name of the link's socket in a machine's directory.
pub const LINK_SOCKET: &str = "link.sock";

/// Everything that a monitor must know to make a machine.
#[derive(Debug)]
pub struct Machine {
    /// The machine's own directory, absolute and without symbolic links: everything the monitor
    /// writes is in it.
    pub dir: PathBuf,
    /// What it begins with.
    pub start: Start,
    /// Which devices it has.
    pub board: Board,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// Number of processors.
    pub cpus: CpuCount,
    /// Memory.
    pub memory: MemorySize,
    /// The files behind the block devices.
    pub disks: Disks,
    /// The hardware address of the network interface.
    pub mac: MacAddress,
    /// What the network interface is connected to.
    pub net: Net,
}

/// Which devices a machine has, by a number. What is saved of a machine fits the devices that it has, and
/// is to be of use to later versions, too: whoever changes them makes another board, and keeps the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Board(u32);

impl Board {
    /// That of machines of which it is not written down.
    pub const FIRST: Self = Self(1);
    /// Its network device does not ask the guest to announce itself wherever it goes on.
    pub const SILENT: Self = Self(2);
    /// That of a machine which begins now.
    pub const LATEST: Self = Self::SILENT;
}

/// Of what was written down before there were others.
impl Default for Board {
    fn default() -> Self {
        Self::FIRST
    }
}

/// What a machine begins with.
#[derive(Clone, Debug)]
pub enum Start {
    /// A kernel, at its first instruction.
    Kernel(KernelStart),
    /// What another machine of the same shape was, when it was saved.
    Saved(SavedMachine),
}

/// A kernel and what it is told.
#[derive(Clone, Debug)]
pub struct KernelStart {
    /// The kernel, an uncompressed ELF file.
    pub kernel: PathBuf,
    /// The initramfs, a cpio archive.
    pub initramfs: PathBuf,
    /// Kernel arguments beside those that the monitor itself needs.
    pub args: Vec<String>,
    /// The frequency of the host's time stamp counter ([`crate::facts::tsc_khz`]).
    pub tsc_khz: u64,
}

/// The files of a machine that was saved. Any number of machines may be made from them, also at
/// the same time: none changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedMachine {
    /// Its memory, as long as the machine has memory.
    pub memory: PathBuf,
    /// The state of its processors and devices, as the monitor writes it.
    pub devices: PathBuf,
}

/// What a machine's network interface is connected to.
#[derive(Debug)]
pub enum Net {
    /// Nothing: the guest sees no carrier.
    Absent,
    /// Nothing that answers: the guest sees a carrier, as the machines will that are made from
    /// it when it is saved.
    Silent,
    /// A network.
    Backend(NetBackend),
}

/// The files of volumes, by slot.
pub type VolumeFiles = [Option<PathBuf>; VOLUME_SLOTS as usize];

/// The files behind a machine's block devices. A device without a file is there, and empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// The image's root file system, read-only.
    pub base: Option<PathBuf>,
    /// The kernel's modules, read-only.
    pub modules: Option<PathBuf>,
    /// The sandbox's own disk.
    pub disk: Option<PathBuf>,
    /// Volumes, by slot.
    pub volumes: VolumeFiles,
}

impl Disks {
    /// The file behind a device, if it has one.
    pub fn file(&self, role: BlockRole) -> Option<&Path> {
        match role {
            BlockRole::Base => self.base.as_deref(),
            BlockRole::Modules => self.modules.as_deref(),
            BlockRole::Disk => self.disk.as_deref(),
            BlockRole::Volume(slot) => self.volumes.get(usize::from(slot))?.as_deref(),
        }
    }
}
