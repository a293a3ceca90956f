//! Mounts a volume: a disk that the machine had no use for until now.
//!
//! What is mounted is a directory of the disk, `data`, so that a volume looks empty when it is. A new
//! one is filled with what the image has at its place, aside and renamed when it is whole: a machine
//! that ends meanwhile leaves a new volume.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use banger_model::BlockRole;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;

use super::pack::{self, Scope};
use super::unpack::{UnpackError, unpack};
use super::{BUFFER, Log};
use crate::files::read_line;
use crate::sys::ext4;
use crate::uevent;

/// The kernel's directory of block devices.
const CLASS: &str = "/sys/class/block";
/// Bytes of what the kernel counts block devices in, whatever their own sectors are.
const SECTOR: u64 = 512;
/// Most block devices looked at.
const MAX_DEVICES: usize = 256;
/// How long the kernel may take to hear that the device is not empty any more.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where the disk is mounted meanwhile.
const ASIDE: &str = "/dev/.banger/volumes";
/// The directory of the disk that is mounted in the end.
const DATA: &str = "data";
/// That directory while it is filled.
const FILLING: &str = "filling";
/// As the sandbox's own disk: what is deleted becomes free on the host, and nothing is written there
/// that nobody wrote.
const OPTIONS: &std::ffi::CStr = c"discard,noinit_itable";

/// Why a volume is not mounted.
#[derive(Debug, Error)]
pub(crate) enum VolumeError {
    #[error("cannot look for the volume's device: {0}")]
    Look(#[source] io::Error),
    #[error("the machine has no device for volume {0}, or it is empty")]
    NoDevice(u8),
    #[error("cannot mount the volume's file system: {0}")]
    Disk(#[source] io::Error),
    #[error("cannot fill the new volume: {0}")]
    Fill(#[source] io::Error),
    #[error("cannot fill the new volume: {0}")]
    Unpack(#[from] UnpackError),
    #[error("cannot mount the volume at {}: {source}", path.display())]
    Mount { path: PathBuf, source: io::Error },
}

/// Mounts what is in this slot at this path.
pub(super) fn mount_volume(slot: u8, path: &[u8], log: &mut Log) -> Result<(), VolumeError> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let Device { name, bytes } = uevent::wait_for(TIMEOUT, || find(Path::new(CLASS), slot))
        .map_err(VolumeError::Look)?
        .ok_or(VolumeError::NoDevice(slot))?;
    let disk = Path::new(ASIDE).join(slot.to_string());
    let device = Path::new("/dev").join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&disk).map_err(VolumeError::Disk)?;
    mount(&device, &disk, "ext4", MountFlags::NODEV, OPTIONS)
        .map_err(|errno| VolumeError::Disk(errno.into()))?;
    grow(&disk, bytes).unwrap_or_else(|error| {
        log.fault(
            path.as_os_str().as_bytes(),
            &format!("the volume stays as small as it is: {error}"),
        );
    });
    let attached = fill(&disk, path, log).and_then(|()| attach(&disk, path));
    // The other mount holds it now, or nothing does.
    let _in_use = unmount(&disk, UnmountFlags::DETACH);
    attached
}

/// A block device that is not empty.
#[derive(Debug, PartialEq, Eq)]
struct Device {
    name: String,
    bytes: u64,
}

/// The device of the slot, once the kernel knows that something is in it.
fn find(class: &Path, slot: u8) -> io::Result<Option<Device>> {
    let serial = BlockRole::Volume(slot).serial();
    for entry in fs::read_dir(class)?.take(MAX_DEVICES) {
        let entry = entry?;
        // Most kinds of block devices have no serial number.
        if read_line(&entry.path().join("serial")).is_ok_and(|known| known == serial) {
            let sectors = read_line(&entry.path().join("size"))?.parse::<u64>().unwrap_or(0);
            let device = |name| Device { name, bytes: sectors * SECTOR };
            return Ok(entry.file_name().into_string().ok().filter(|_| sectors > 0).map(device));
        }
    }
    Ok(None)
}

/// Makes the file system as large as its device, which may have grown.
fn grow(disk: &Path, bytes: u64) -> io::Result<()> {
    let block = u64::try_from(rustix::fs::statfs(disk)?.f_bsize).unwrap_or(SECTOR);
    ext4::resize(File::open(disk)?, bytes / block.max(SECTOR)).map_err(io::Error::from)
}

/// Makes what is to be mounted, if nobody has.
fn fill(disk: &Path, path: &Path, log: &mut Log) -> Result<(), VolumeError> {
    let (data, filling) = (disk.join(DATA), disk.join(FILLING));
    match fs::symlink_metadata(&data) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(VolumeError::Fill(error)),
    }
    match fs::remove_dir_all(&filling) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(VolumeError::Fill(error));
        }
        _ => {}
    }
    if path.is_dir() {
        copy(path, disk, log)?;
    } else {
        DirBuilder::new().mode(0o755).create(&filling).map_err(VolumeError::Fill)?;
    }
    rustix::fs::sync();
    fs::rename(&filling, &data).map_err(VolumeError::Fill)?;
    rustix::fs::sync();
    Ok(())
}

/// Copies a directory: packed by one thread and unpacked by another. This process is a tool, in which
/// there may be two.
fn copy(from: &Path, disk: &Path, log: &mut Log) -> Result<(), VolumeError> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| VolumeError::Fill(errno.into()))?;
    // What a link leads to, not the link.
    let from = [from.as_os_str().as_bytes(), b"/."].concat();
    let (packed, unpacked) = thread::scope(|scope| {
        let output = BufWriter::with_capacity(BUFFER, File::from(write));
        let packs = scope.spawn(|| pack::pack(output, &from, Scope::OneFileSystem, log));
        let input = BufReader::with_capacity(BUFFER, File::from(read));
        let name = Some(FILLING.as_bytes().to_vec());
        let unpacked = unpack(input, disk.as_os_str().as_bytes(), name);
        (packs.join(), unpacked)
    });
    unpacked?;
    let broke_off = |_| VolumeError::Fill(io::ErrorKind::BrokenPipe.into());
    packed.map_err(broke_off)?.map_err(VolumeError::Fill)
}

/// Mounts the directory of the disk. Whoever had the disk before may have put anything there: what
/// is no directory is not followed.
fn attach(disk: &Path, path: &Path) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Mount { path: path.to_owned(), source };
    let (flags, mode) = (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
    let data = openat(CWD, disk.join(DATA), flags | OFlags::CLOEXEC, mode)
        .map_err(|errno| failed(errno.into()))?;
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
    mount_bind(format!("/proc/self/fd/{}", data.as_raw_fd()), path)
        .map_err(|errno| failed(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(class: &Path, name: &str, serial: &str, size: &str) {
        fs::create_dir(class.join(name)).unwrap();
        for (file, text) in [("serial", serial), ("size", size)] {
            let path = class.join(name).join(file);
            crate::identity::replace(&path, text.as_bytes(), 0o644).unwrap();
        }
    }

    #[test]
    fn a_volume_is_there_when_it_is_known_and_not_empty() {
        let class = tempfile::tempdir().unwrap();
        device(class.path(), "vda", "banger-disk", "9\n");
        device(class.path(), "vdb", "banger-volume-1", "0\n");
        assert_eq!(find(class.path(), 0).unwrap(), None);
        assert_eq!(find(class.path(), 1).unwrap(), None);
        crate::identity::replace(&class.path().join("vdb/size"), b"16\n", 0o644).unwrap();
        let found = find(class.path(), 1).unwrap().unwrap();
        assert_eq!(found, Device { name: "vdb".to_owned(), bytes: 8192 });
    }

    #[test]
    fn a_new_volume_has_what_its_place_had_and_an_old_one_what_it_had() {
        let top = tempfile::tempdir().unwrap();
        let (disk, place) = (top.path().join("disk"), top.path().join("place"));
        fs::create_dir_all(place.join("d")).unwrap();
        fs::create_dir_all(disk.join(FILLING).join("half")).unwrap();
        crate::identity::replace(&place.join("d/f"), b"hello", 0o640).unwrap();
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&place, &link).unwrap();
        fill(&disk, &link, &mut Log::default()).unwrap();
        assert_eq!(read_line(&disk.join("data/d/f")).unwrap(), "hello");
        assert!(!disk.join(FILLING).exists() && !disk.join("data/half").exists());
        fs::remove_file(disk.join("data/d/f")).unwrap();
        fill(&disk, &link, &mut Log::default()).unwrap();
        assert!(!disk.join("data/d/f").exists(), "it is not new any more");
        let other = top.path().join("other");
        fs::create_dir(&other).unwrap();
        fill(&other, &top.path().join("nothing"), &mut Log::default()).unwrap();
        assert_eq!(fs::read_dir(other.join(DATA)).unwrap().count(), 0);
    }
}
