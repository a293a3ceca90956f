//! A machine that was saved, as the files of one directory: memory, devices and disk, which fit
//! each other and nothing else. What else is known about it is its owner's: of a template that of
//! a sandbox that nobody is yet, of a snapshot that of one that somebody was.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use banger_host::fs::{file_size, read_bounded};
use banger_model::Bytes;
use banger_vmm::SavedMachine;
use sha2::{Digest as _, Sha256};

use crate::templates::Shape;

const MEMORY: &str = "memory";
const DEVICES: &str = "devices";
const DISK: &str = "disk.ext4";
/// Largest state of devices that makes sense: it is half a megabyte.
const MAX_DEVICES_LEN: u64 = 64 * 1024 * 1024;

/// Its memory and devices, in the directory that it is saved in.
pub(crate) fn files(dir: &Path) -> SavedMachine {
    SavedMachine { memory: dir.join(MEMORY), devices: dir.join(DEVICES) }
}

/// Its disk.
pub(crate) fn disk(dir: &Path) -> PathBuf {
    dir.join(DISK)
}

/// The digest of its devices' state, to be compared when it is used.
///
/// # Errors
/// When that cannot be read.
pub(crate) fn digest(dir: &Path) -> Result<String> {
    let bytes = read_bounded(&files(dir).devices, MAX_DEVICES_LEN)?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Checks that everything of it is there, and returns what it takes on the disk.
///
/// # Errors
/// When something is missing or otherwise than it was written.
pub(crate) fn check(dir: &Path, shape: &Shape, devices_sha256: &str) -> Result<Bytes> {
    let SavedMachine { memory, devices } = files(dir);
    let wanted = [(memory, shape.memory.bytes()), (disk(dir), shape.disk.bytes())];
    let mut size = file_size(&devices)?.real.get();
    for (file, len) in wanted {
        let there = file_size(&file)?;
        if there.apparent != len {
            bail!("{} has {} instead of {len}", file.display(), there.apparent);
        }
        size += there.real.get();
    }
    if digest(dir)? != devices_sha256 {
        bail!("{} is not what was written", devices.display());
    }
    Ok(Bytes::new(size))
}
