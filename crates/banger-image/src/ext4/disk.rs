//! Empty writable disks for sandboxes.
//!
//! `mke2fs` makes them: unlike the writer of images it leaves block bitmaps uninitialised, so
//! that a disk of 4 TiB costs the host 1 MiB and a few milliseconds instead of 256 MiB.

use std::path::Path;
use std::time::Duration;

use banger_host::{HostError, fs};
use banger_model::{Bytes, Limits};
use thiserror::Error;

use crate::hosttools::{E2FSCK, MKE2FS, MissingPackages};

/// How long `mke2fs` may take: it writes a few blocks, but perhaps to a slow disk.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long a file system may take to be checked, which reads all its tables.
const CHECK_TIMEOUT: Duration = Duration::from_secs(300);

/// Below this size a disk gets a small journal and more inodes per byte.
const SMALL: Bytes = Bytes::mib(512);

/// What every kernel since 4.3 can mount and a sandbox's disk needs. Left out on purpose:
/// `resize_inode` (4 MiB on every disk, and such a disk never grows), `64bit` (only needed beyond
/// 16 TiB) and backups of the superblock (a damaged disk is thrown away).
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,\
     sparse_super2,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// What a volume needs: it grows while it is mounted, which no kernel does with `sparse_super2`
/// (Linux, `ext4_resize_begin`), and is worth backups of its superblock.
const VOLUME_FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,\
     sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,resize_inode";

/// Block groups whose structures lie together: many, so that a disk of any size has few places
/// that are not holes.
const FLEX_GROUPS: &str = "256";

/// A new sparse file reads as zeros, so inode tables need no zeroing: not now, and not by the
/// guest in the background, where it would fill the host's disk.
const EXTENDED: &str = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,\
     assume_storage_prezeroed=1";
/// For a disk without backups of the superblock.
const NO_BACKUPS: &str = ",num_backup_sb=0";

/// Why a disk could not be made.
#[derive(Debug, Error)]
pub enum CreateDiskError {
    /// Neither in the range nor a whole number of blocks.
    #[error("a disk cannot have {0}: {min} to {max} in whole MiB can be", min = Limits::MIN_DISK, max = Limits::MAX_DISK)]
    Size(Bytes),
    /// The file could not be made.
    #[error("cannot make the disk file")]
    Create(#[source] HostError),
    /// `mke2fs` is missing.
    #[error(transparent)]
    Missing(#[from] MissingPackages),
    /// `mke2fs` failed.
    #[error("cannot make a file system on the disk")]
    Format(#[source] HostError),
}

/// Makes a new sparse file of `size` bytes with an empty ext4 file system for a guest to mount
/// writable, with `discard` if it likes. Its journal takes 16 MiB at most.
///
/// # Errors
/// [`CreateDiskError`]; nothing remains then.
pub fn create_disk(path: &Path, size: Bytes) -> Result<(), CreateDiskError> {
    create(path, size, (FEATURES, NO_BACKUPS))
}

/// Makes a new sparse file of `size` bytes with an empty ext4 file system that may grow while it is
/// mounted. It takes some 5 MiB more than a disk.
///
/// # Errors
/// [`CreateDiskError`]; nothing remains then.
pub fn create_volume(path: &Path, size: Bytes) -> Result<(), CreateDiskError> {
    create(path, size, (VOLUME_FEATURES, ""))
}

fn check_size(size: Bytes) -> Result<(), CreateDiskError> {
    let in_range = (Limits::MIN_DISK..=Limits::MAX_DISK).contains(&size);
    match in_range && size.get().is_multiple_of(Bytes::mib(1).get()) {
        true => Ok(()),
        false => Err(CreateDiskError::Size(size)),
    }
}

fn create(path: &Path, size: Bytes, kind: (&str, &str)) -> Result<(), CreateDiskError> {
    check_size(size)?;
    let made = format(path, size, kind);
    if !matches!(made, Ok(()) | Err(CreateDiskError::Create(_))) {
        let _ = fs::remove_all(path);
    }
    made
}

fn format(
    path: &Path,
    size: Bytes,
    (features, extended): (&str, &str),
) -> Result<(), CreateDiskError> {
    let tool = MKE2FS.tool()?;
    let file = fs::create_new(path).map_err(CreateDiskError::Create)?;
    let sized = file.set_len(size.get());
    sized.map_err(|error| CreateDiskError::Format(HostError::system("size the disk", error)))?;
    let (journal_mib, bytes_per_inode) = if size < SMALL { ("4", "4096") } else { ("16", "16384") };
    let tool = tool
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-G", FLEX_GROUPS])
        .args(["-i", bytes_per_inode, "-J", &format!("size={journal_mib}")])
        .args(["-O", features, "-E", &format!("{EXTENDED}{extended}")])
        .arg(path);
    tool.capture(TIMEOUT).map(drop).map_err(CreateDiskError::Format)
}

/// Makes the file of a volume larger, which nobody has mounted. Its file system becomes so where it is
/// mounted next: the host does not read what a guest has written.
///
/// # Errors
/// [`CreateDiskError::Size`] also for less than it has; then nothing has changed.
pub fn grow_volume(path: &Path, size: Bytes) -> Result<(), CreateDiskError> {
    let now = fs::file_size(path).map_err(CreateDiskError::Create)?.apparent;
    check_size(size)?;
    if size < now {
        return Err(CreateDiskError::Size(size));
    }
    let file = fs::open_append(path).map_err(CreateDiskError::Create)?;
    let grown = file.set_len(size.get()).and_then(|()| file.sync_all());
    grown.map_err(|error| CreateDiskError::Format(HostError::system("enlarge the disk", error)))
}

/// Whether the file system in a file is whole and was unmounted: as it is, it could be mounted and
/// never written.
///
/// # Errors
/// When the program that looks is missing; within, what it says.
pub(crate) fn ext4_is_clean(path: &Path) -> Result<Result<(), HostError>, MissingPackages> {
    let checked = E2FSCK.tool()?.args(["-f", "-n"]).arg(path).capture(CHECK_TIMEOUT);
    Ok(checked.map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::command::Tool;

    #[test]
    fn a_volume_has_what_it_needs_to_grow_while_it_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        create_volume(&path, Bytes::mib(64)).unwrap();
        let about = Tool::new("/sbin/dumpe2fs").arg("-h").arg(&path).capture(TIMEOUT).unwrap();
        let about = String::from_utf8_lossy(&about).into_owned();
        assert!(about.contains("resize_inode") && !about.contains("sparse_super2"), "{about}");
        for size in [Bytes::mib(64), Bytes::gib(40)] {
            grow_volume(&path, size).unwrap();
            assert_eq!(fs::file_size(&path).unwrap().apparent, size);
        }
        for size in [Bytes::gib(39), Bytes::new((41 << 30) + 1), Bytes::gib(4097)] {
            assert!(matches!(grow_volume(&path, size), Err(CreateDiskError::Size(_))), "{size}");
        }
        assert!(fs::file_size(&path).unwrap().real < Bytes::mib(16));
    }

    #[test]
    fn a_disk_of_any_size_is_small_on_the_host() {
        let dir = tempfile::tempdir().unwrap();
        for size in [Limits::MIN_DISK, Bytes::mib(511), Bytes::gib(8), Limits::MAX_DISK] {
            let path = dir.path().join("disk");
            create_disk(&path, size).unwrap();
            let on_host = fs::file_size(&path).unwrap();
            assert_eq!(on_host.apparent, size);
            assert!(on_host.real < Bytes::mib(8), "{size}: {on_host:?}");
            Tool::new("/sbin/e2fsck").arg("-fn").arg(&path).capture(TIMEOUT).unwrap();
            fs::remove_all(&path).unwrap();
        }
    }

    #[test]
    fn sizes_out_of_range_and_existing_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for size in [Bytes::mib(63), Bytes::new((64 << 20) + 1), Bytes::gib(4097)] {
            assert!(matches!(create_disk(&path, size), Err(CreateDiskError::Size(_))), "{size}");
        }
        assert!(!path.exists());
        fs::write_atomic(&path, b"precious").unwrap();
        assert!(matches!(create_disk(&path, Bytes::gib(1)), Err(CreateDiskError::Create(_))));
        assert_eq!(fs::read_bounded(&path, 100).unwrap(), b"precious");
    }
}
