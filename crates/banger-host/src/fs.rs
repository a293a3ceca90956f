//! Files: bounded reads, writes that a crash cannot halve, sparse copies.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use banger_model::Bytes;
use rustix::fs::{
    CWD, FallocateFlags, OFlags, RenameFlags, SeekFrom, fallocate, ioctl_ficlone, renameat_with,
    seek,
};
use rustix::io::Errno;

use crate::error::{AtPath as _, HostError, Result};

/// The permissions to write of the group and of everybody else.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// What tells files apart that are written aside at the same time has so many digits.
const TAG_LEN: usize = 8;

/// Opens a file to read it. Anything else of that name is refused: reading from a pipe would
/// wait for its writer, from a device perhaps for ever.
///
/// # Errors
/// [`HostError::NotAFile`], or when it cannot be opened.
pub fn open_file(path: &Path) -> Result<File> {
    let not_a_file = || HostError::NotAFile { path: path.to_owned() };
    // Without this flag already opening a pipe waits for its writer. Files do not heed it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        // A socket (open(2)).
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Err(not_a_file())?,
        other => other.at("open", path)?,
    };
    if file.metadata().at("look at", path)?.is_file() { Ok(file) } else { Err(not_a_file()) }
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, is no file, or is larger.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open_file(path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(HostError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Reads a text file of at most `limit` bytes; bytes that are no UTF-8 are replaced.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_bounded(path, limit)?).into_owned())
}

/// Replaces the file at `path` by these bytes: whoever reads it, also after a power cut, sees
/// the old content or the new one whole.
///
/// # Errors
/// When any step fails; the old file then stands as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = aside(path)?;
    let written = write_synced(&aside, bytes)
        .and_then(|()| fs::rename(&aside, path).at("rename into place", path))
        .and_then(|()| sync_parent(path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn aside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or(OsStr::new("file"));
    let tag = u32::from_ne_bytes(crate::random::bytes()?);
    Ok(path.with_file_name(format!(".{}.{tag:0TAG_LEN$x}.new", name.to_string_lossy())))
}

/// Removes what writers of the file at `path` have left aside that were killed, or lost their power.
/// Nobody may be writing it meanwhile.
///
/// # Errors
/// When the directory cannot be listed, or something remains.
pub fn sweep_aside(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let begin = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    for name in list_dir(parent)? {
        let tag = name.to_str().and_then(|name| name.strip_prefix(&begin)?.strip_suffix(".new"));
        if tag.is_some_and(|tag| tag.len() == TAG_LEN && u32::from_str_radix(tag, 16).is_ok()) {
            remove_all(&parent.join(name))?;
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync_all().at("sync", path)
}

/// Creates a file that must not exist yet, readable and writable by its owner alone.
///
/// # Errors
/// When it exists or cannot be made.
pub fn create_new(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("create", path)
}

/// Opens a file to add to its end, for its owner alone; it is created where it is missing. Another
/// may truncate it meanwhile: what is written next then stands at its new end.
///
/// # Errors
/// When it cannot be opened.
pub fn open_append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).at("open", path)
}

/// Makes the directory entry of `path` survive a power cut.
///
/// # Errors
/// When the parent cannot be opened or synced.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        // A name alone is in the current directory.
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent.unwrap_or(Path::new("/")),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).at("sync", parent)
}

/// Creates a directory and its parents, for the owner alone. One that exists is left as it is.
///
/// # Errors
/// When it cannot be made.
pub fn create_private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("create the directory", path)
}

/// Creates a directory as [`create_private_dir`] does, and refuses one that is there but not this
/// user's alone: what others put there would be taken for this user's. Nothing is changed about
/// such a directory, for others may rely on it.
///
/// # Errors
/// [`HostError::OthersOwn`], [`HostError::OthersWrite`], or when it cannot be made or looked at.
pub fn ensure_private_dir(path: &Path) -> Result<()> {
    create_private_dir(path)?;
    let meta = fs::metadata(path).at("look at", path)?;
    judge_private(path, &meta, rustix::process::geteuid().as_raw())
}

fn judge_private(path: &Path, meta: &fs::Metadata, user: u32) -> Result<()> {
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    if owner != user {
        return Err(HostError::OthersOwn { path: path.to_owned(), owner, user });
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(HostError::OthersWrite { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Removes a file or a directory with all that is in it; nothing there is no error.
///
/// # Errors
/// When something remains.
pub fn remove_all(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}

/// The names in a directory, sorted; none when there is no such directory.
///
/// # Errors
/// When it cannot be read.
pub fn list_dir(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", path)?,
    };
    let names: io::Result<Vec<_>> = entries.map(|entry| entry.map(|e| e.file_name())).collect();
    let mut names = names.at("list", path)?;
    names.sort();
    Ok(names)
}

/// Whether there is anything of this name, be it a link that leads nowhere.
pub fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a path leads to a directory.
///
/// # Errors
/// When it leads nowhere.
pub fn is_dir(path: &Path) -> Result<bool> {
    fs::metadata(path).map(|about| about.is_dir()).at("look at", path)
}

/// The last `len` bytes of a file, as text.
///
/// # Errors
/// When it cannot be read.
pub fn read_tail(path: &Path, len: u64) -> Result<String> {
    let read = || {
        let mut file = File::open(path)?;
        let begin = file.metadata()?.len().saturating_sub(len);
        io::Seek::seek(&mut file, io::SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(len).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    Ok(String::from_utf8_lossy(&read().at("read", path)?).into_owned())
}

/// Gives a file or directory another name on the same file system, replacing a file that has it;
/// when it returns, that has reached the disk.
///
/// # Errors
/// When the system refuses.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).at("rename to", to)?;
    sync_parent(to)
}

/// A new file on the file system of `dir` that has no name: it goes with its last user.
///
/// # Errors
/// When the file system cannot do that.
pub fn nameless(dir: &Path) -> Result<File> {
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::TMPFILE.bits().cast_signed())
        .open(dir);
    options.at("make a file without a name in", dir)
}

/// Makes a symbolic link at `link` that says `target`, replacing one that is there; when it
/// returns, that has reached the disk.
///
/// # Errors
/// When the system refuses, or something else than a link or a file is there.
pub fn replace_link(target: &Path, link: &Path) -> Result<()> {
    place_link(target, link)?;
    sync_parent(link)
}

/// The same without waiting for the disk: [`sync_parent`] does.
///
/// # Errors
/// When the system refuses, or something else than a link or a file is there.
pub fn place_link(target: &Path, link: &Path) -> Result<()> {
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let aside = link.with_file_name(format!(".{name}.link"));
    remove_all(&aside)?;
    std::os::unix::fs::symlink(target, &aside).at("make the link", &aside)?;
    fs::rename(&aside, link).at("rename to", link)
}

/// What a symbolic link says; `None` when there is nothing of that name.
///
/// # Errors
/// When something else is there, or it cannot be read.
pub fn read_link(link: &Path) -> Result<Option<PathBuf>> {
    match fs::read_link(link) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read the link", link),
    }
}

/// Gives two files or directories of one file system each other's names at once; when it returns,
/// that has reached the disk.
///
/// # Errors
/// When one is missing, or the file system cannot do that.
pub fn exchange(one: &Path, other: &Path) -> Result<()> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).at("exchange with", other)?;
    sync_parent(other)
}

/// Where the first byte of a file is that is not in a hole; `None` when all of it is.
///
/// # Errors
/// When the file system cannot tell.
pub fn data_begins(file: &File) -> io::Result<Option<u64>> {
    // The place in the file is shared with whoever reads it: they seek before they read.
    match seek(file, SeekFrom::Data(0)) {
        Ok(begin) => Ok(Some(begin)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives the blocks of a range of a file back to the file system. The file keeps its length; the
/// range reads as zeros.
///
/// # Errors
/// When the file system cannot do that.
pub fn punch_hole(file: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, range.start, range.end.saturating_sub(range.start))?)
}

/// What tells whether a file is still the one that was looked at before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

/// The stamp of a file.
///
/// # Errors
/// When there is no such file.
pub fn stamp(path: &Path) -> Result<Stamp> {
    let meta = fs::metadata(path).at("look at", path)?;
    let modified = (meta.mtime(), meta.mtime_nsec());
    Ok(Stamp { device: meta.dev(), inode: meta.ino(), len: meta.len(), modified })
}

/// A file's size as its reader sees it and as the disk bears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSize {
    /// Length of the content, holes included.
    pub apparent: Bytes,
    /// Space that its blocks take.
    pub real: Bytes,
}

/// Both sizes of a file.
///
/// # Errors
/// When there is no such file.
pub fn file_size(path: &Path) -> Result<FileSize> {
    let meta = fs::metadata(path).at("look at", path)?;
    // st_blocks counts in units of 512 bytes whatever the file system's block size (stat(2)).
    Ok(FileSize { apparent: Bytes::new(meta.len()), real: Bytes::new(meta.blocks() * 512) })
}

/// Makes a file of this length whose blocks are all taken.
///
/// # Errors
/// When there is no room; then there is no file.
pub fn allocate(path: &Path, len: Bytes) -> Result<()> {
    let file = create_new(path)?;
    let made = fallocate(&file, FallocateFlags::empty(), 0, len.get());
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made.at("take room for", path)
}

/// Space that this user may still fill on the file system of `path`.
///
/// # Errors
/// When the file system cannot be asked.
pub fn free_space(path: &Path) -> Result<Bytes> {
    let stat = rustix::fs::statvfs(path).at("ask the free space of", path)?;
    Ok(Bytes::new(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// So many bytes are carried at once from one file system to another.
const CARRIED: usize = 1024 * 1024;

/// How a copy came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloned {
    /// The file system shares the blocks of both files until one is written to.
    Reflink,
    /// The data was copied, holes left out.
    Copied,
}

/// Copies a file to a new one: by sharing its blocks where the file system can, else by copying
/// its data and leaving its holes.
///
/// # Errors
/// When the target exists, or either file fails; a half-made target is removed.
pub fn clone_file(from: &Path, to: &Path) -> Result<Cloned> {
    let source = File::open(from).at("open", from)?;
    let target = create_new(to)?;
    match ioctl_ficlone(&target, &source) {
        Ok(()) => return Ok(Cloned::Reflink),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {}
        Err(error) => {
            let _ = fs::remove_file(to);
            return Err(error).at("clone to", to);
        }
    }
    match copy_extents(&source, &target).at("copy to", to) {
        Ok(()) => Ok(Cloned::Copied),
        Err(error) => {
            let _ = fs::remove_file(to);
            Err(error)
        }
    }
}

/// Gives a file that nobody ever writes to another name; on another file system, or where it has
/// as many names as it may have, it is cloned.
///
/// # Errors
/// When the other name is taken, or either file fails.
pub fn link_file(from: &Path, to: &Path) -> Result<()> {
    match rustix::fs::link(from, to) {
        Ok(()) => Ok(()),
        Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => {
            clone_file(from, to).map(drop)
        }
        Err(error) => Err(error).at("link to", to),
    }
}

fn copy_extents(source: &File, target: &File) -> io::Result<()> {
    let len = source.metadata()?.len();
    target.set_len(len)?;
    let mut offset = 0;
    while offset < len {
        let start = match seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(source, SeekFrom::Hole(start))?;
        copy_range(source, target, start, end)?;
        offset = end;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(
            source,
            Some(&mut read_at),
            target,
            Some(&mut write_at),
            want,
        );
        let copied = match copied {
            // Some kinds of file systems copy among themselves alone.
            Err(Errno::XDEV) => return carry_range(source, target, read_at..end),
            other => other?,
        };
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Copies a range through memory.
fn carry_range(source: &File, target: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; CARRIED];
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(CARRIED).min(CARRIED);
        source.read_exact_at(&mut buffer[..len], at)?;
        target.write_all_at(&buffer[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn every_path_has_a_directory_that_it_is_in() {
        for path in ["name", "./name", "/name", "/"] {
            sync_parent(Path::new(path)).unwrap();
        }
    }

    #[test]
    fn a_replaced_file_is_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap(), b"new");
        assert_eq!(list_dir(dir.path()).unwrap(), ["state.json"]);
    }

    #[test]
    fn what_a_killed_writer_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvm.json");
        sweep_aside(&dir.path().join("none/kvm.json")).unwrap();
        let others = [".kvm.json.0123.new", ".other.json.01234567.new", "kvm.json"];
        for name in others {
            create_new(&dir.path().join(name)).unwrap();
        }
        create_new(&aside(&path).unwrap()).unwrap();
        assert_eq!(list_dir(dir.path()).unwrap().len(), others.len() + 1);
        sweep_aside(&path).unwrap();
        assert_eq!(list_dir(dir.path()).unwrap(), others);
    }

    #[test]
    fn a_file_over_its_bound_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        write_atomic(&path, &[0; 11]).unwrap();
        assert!(matches!(read_bounded(&path, 10), Err(HostError::TooLarge { limit: 10, .. })));
    }

    #[test]
    fn only_files_are_read_and_a_pipe_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name| dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        for path in [at("pipe"), at("socket"), at("device"), dir.path().to_owned()] {
            let error = read_bounded(&path, 10).unwrap_err();
            assert!(matches!(error, HostError::NotAFile { .. }), "{error}");
        }
        assert!(read_bounded(&at("nothing"), 10).unwrap_err().is_not_found());
    }

    #[test]
    fn a_directory_of_others_or_open_to_them_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/sandboxes");
        ensure_private_dir(&path).unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        for harmless in [0o700, 0o755] {
            mode(harmless);
            ensure_private_dir(&path).unwrap();
        }
        for open in [0o720, 0o702, 0o1777] {
            mode(open);
            let error = ensure_private_dir(&path).unwrap_err();
            let HostError::OthersWrite { mode, .. } = error else { panic!("{error}") };
            assert_eq!(mode, open);
        }
        let meta = fs::metadata(&path).unwrap();
        let error = judge_private(&path, &meta, meta.uid() + 1).unwrap_err();
        assert!(matches!(error, HostError::OthersOwn { .. }), "{error}");
        assert_eq!(meta.mode() & 0o7777, 0o1777);
    }

    #[test]
    fn a_copy_keeps_data_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = create_new(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        rustix::io::pwrite(&file, b"in the middle", 32 << 20).unwrap();
        clone_file(&from, &to).unwrap();
        let size = file_size(&to).unwrap();
        assert_eq!(size.apparent, Bytes::mib(64));
        assert!(size.real < Bytes::mib(1), "{size:?}");
        let mut read = [0; 13];
        rustix::io::pread(File::open(&to).unwrap(), &mut read, 32 << 20).unwrap();
        assert_eq!(&read, b"in the middle");
        assert!(clone_file(&from, &to).is_err(), "an existing target is never overwritten");
    }

    #[test]
    fn a_file_with_another_name_is_the_same_file_where_that_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        write_atomic(&from, b"memory").unwrap();
        link_file(&from, &to).unwrap();
        assert_eq!(fs::metadata(&from).unwrap().ino(), fs::metadata(&to).unwrap().ino());
        assert!(link_file(&from, &to).is_err(), "a name that is taken stays whose it is");
        let elsewhere = Path::new("/dev/shm").join(format!("banger-link-{}", std::process::id()));
        link_file(&from, &elsewhere).unwrap();
        assert_eq!(read_bounded(&elsewhere, 10).unwrap(), b"memory");
        remove_all(&elsewhere).unwrap();
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        remove_all(&dir.path().join("nothing")).unwrap();
    }
}
