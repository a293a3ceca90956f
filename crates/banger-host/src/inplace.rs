//! Files that are written where they are: appended to, overwritten without changing their length,
//! read back past the page cache. And making what was written visible to a boot loader, which
//! reads a file system without replaying its journal.
#![expect(unsafe_code, reason = "freezing a file system has no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise, syncfs};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Setter, ioctl, opcode};

use crate::error::{AtPath as _, HostError, Result};
use crate::fs::open_file;

/// Whenever so much more of a file was appended, the disk is told to begin with it.
const WINDOW: u64 = 8 * 1024 * 1024;
/// From this size on, what is read is part of something large, and the next that much is, too.
const LARGE: usize = 256 * 1024;
/// FIFREEZE and FITHAW of linux/fs.h.
const FREEZE: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'X', 119);
const THAW: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'X', 120);
/// EXT4_IOC_CHECKPOINT of linux/ext4.h, since Linux 5.14.
const CHECKPOINT: rustix::ioctl::Opcode = opcode::write::<u32>(b'f', 43);

/// Makes an empty file; what was there of that name goes.
///
/// # Errors
/// When it cannot be made, or something else than a file is there.
pub fn create_empty(path: &Path) -> Result<()> {
    let options = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    options.at("create", path).map(drop)
}

/// Adds to the end of a file.
///
/// # Errors
/// When it is not there, or the system refuses.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = OpenOptions::new()
        .append(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    let write = |mut file: File| {
        file.write_all(bytes)?;
        let end = file.metadata()?.len();
        let begin = end.saturating_sub(bytes.len() as u64);
        if end / WINDOW > begin / WINDOW {
            let full = end / WINDOW * WINDOW;
            begin_to_write(&file, full.saturating_sub(2 * WINDOW)..full);
        }
        Ok(())
    };
    file.and_then(write).at("write to", path)
}

/// The disk begins now instead of at the sync, and forgets from the cache what it has already: the
/// window before the last. That it cannot is no failure.
fn begin_to_write(file: &File, range: Range<u64>) {
    let len = NonZeroU64::new(range.end.saturating_sub(range.start));
    let _ = fadvise(file, range.start, len, Advice::DontNeed);
}

/// Overwrites the beginning of a file in one write that changes neither its length nor its place
/// on the disk, and waits until the disk has it.
///
/// # Errors
/// When it is not there or not of that length, or the system refuses.
pub fn overwrite(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let options = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        if options.metadata()?.len() != bytes.len() as u64 {
            return Err(io::Error::other("it has another length than what is to be written"));
        }
        if options.write_at(bytes, 0)? != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        options.sync_data()
    };
    write().at("overwrite", path)
}

/// Makes the content of a file survive a power cut.
///
/// # Errors
/// When it is not there, or the disk fails.
pub fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).at("sync", path)
}

/// Makes the names in a directory survive a power cut.
///
/// # Errors
/// When it is not there, or the disk fails.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).at("sync", path)
}

/// Has the kernel forget what it holds of a file, so that the next reader gets it from the disk.
/// Only what the disk has can be forgotten.
///
/// # Errors
/// When it is not there.
pub fn forget_cached(path: &Path) -> Result<()> {
    let file = open_file(path)?;
    fadvise(&file, 0, None, Advice::DontNeed).at("forget the cache of", path)
}

/// Reads at a place of a file; how many bytes, 0 at its end.
///
/// # Errors
/// When it is not there, or the disk fails.
pub fn read_at(path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let file = open_file(path)?;
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at("read", path),
        }
    }
    if done >= LARGE {
        // While this is looked at, the disk fetches what is asked for next.
        let next = NonZeroU64::new(done as u64);
        let _ = fadvise(&file, offset + done as u64, next, Advice::WillNeed);
    }
    Ok(done)
}

/// What tells two directories apart, however they are named.
///
/// # Errors
/// When it is not there.
pub fn dir_identity(path: &Path) -> Result<(u64, u64)> {
    let meta = std::fs::metadata(path).at("look at", path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Brings everything of a file system to its disk, and its journal to where it belongs: a boot loader
/// reads without replaying that. Where the file system cannot write its journal out by itself, it is
/// frozen for a moment, unless it is the one of the root directory, which everything runs on.
///
/// # Errors
/// When it cannot be synced, or would stay frozen.
pub fn settle(dir: &Path) -> Result<()> {
    let open = File::open(dir).at("open", dir)?;
    syncfs(&open).at("sync the file system of", dir)?;
    // SAFETY: the kernel reads one number, which says that nothing special is wanted.
    // JUSTIFICATION: it cannot leave anything frozen, however this process ends meanwhile.
    let written_out = unsafe { ioctl(&open, Setter::<CHECKPOINT, u32>::new(0)) };
    if written_out.is_ok() || dir_identity(dir)?.0 == dir_identity(Path::new("/"))?.0 {
        return Ok(());
    }
    freeze_for_a_moment(&open, dir)
}

fn freeze_for_a_moment(open: &File, dir: &Path) -> Result<()> {
    // SAFETY: both take an argument that they ignore, and change no memory.
    let frozen = unsafe { ioctl(open, IntegerSetter::<FREEZE>::new_usize(0)) };
    match frozen {
        Ok(()) => {}
        // File systems without a journal, others' file systems, and one that is frozen already.
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NOTTY | Errno::INVAL | Errno::BUSY) => {
            return Ok(());
        }
        Err(error) => return Err(error).at("freeze the file system of", dir),
    }
    // SAFETY: as above.
    let thawed = unsafe { ioctl(open, IntegerSetter::<THAW>::new_usize(0)) };
    thawed.map_err(|error| HostError::system("thaw a file system: it is frozen", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::read_bounded;

    #[test]
    fn overwriting_keeps_the_file_and_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        create_empty(&path).unwrap();
        append(&path, b"12").unwrap();
        append(&path, b"34").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        overwrite(&path, b"abcd").unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap(), b"abcd");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        for other in [&b"abc"[..], b"abcde", b""] {
            assert!(overwrite(&path, other).is_err());
        }
        assert_eq!(read_bounded(&path, 10).unwrap(), b"abcd");
        assert!(overwrite(&dir.path().join("missing"), b"").is_err(), "nothing is created");
    }

    #[test]
    fn links_are_not_followed_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        create_empty(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(create_empty(&link).is_err() && append(&link, b"x").is_err());
        assert!(overwrite(&link, b"").is_err());
    }

    #[test]
    fn what_was_written_is_read_back_and_settles() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        create_empty(&path).unwrap();
        append(&path, b"0123456789").unwrap();
        sync_file(&path).unwrap();
        sync_dir(dir.path()).unwrap();
        settle(dir.path()).unwrap();
        forget_cached(&path).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(read_at(&path, 8, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"89");
    }
}
