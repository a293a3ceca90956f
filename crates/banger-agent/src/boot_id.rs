//! The id of this boot, for a machine that is a copy of another that has told its own.
//!
//! The kernel makes up its id when it is first asked, keeps it in its memory, and has no way to
//! change it. So a file with another lies over the one that the kernel shows. A process that
//! mounts a procfs of its own, as container engines do, sees the kernel's still.

use std::io;
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::files::read_line;
use crate::identity::replace;

/// Where everybody looks for it.
const SHOWN: &str = "/proc/sys/kernel/random/boot_id";
/// Another each time that it is read.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";
/// The file that lies over the kernel's: where every image lets one be made.
const OURS: &str = "/dev/.banger/boot_id";

/// Which id is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BootId {
    /// The kernel's.
    #[default]
    Kernels,
    /// One of ours.
    Ours,
}

impl BootId {
    /// Has another id shown from now on. What was drawn from the random pool before does not tell
    /// it, if the pool was seeded since.
    ///
    /// # Errors
    /// What the file system or `mount` says.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        let id = read_line(Path::new(RANDOM))?;
        replace(Path::new(OURS), format!("{id}\n").as_bytes(), 0o444)?;
        if *self == Self::Ours {
            unmount(SHOWN, UnmountFlags::DETACH)?;
            *self = Self::Kernels;
        }
        mount_bind(OURS, SHOWN)?;
        *self = Self::Ours;
        Ok(())
    }
}
