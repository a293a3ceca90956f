//! The memory of a virtual machine, read from outside while the machine stands still.
//!
//! A machine's memory is either a file in memory that it shares with nobody yet, or a private
//! view of a file: what the machine has written is its own, the rest is the file's. Both are
//! copied as what they are, holes stay holes, and the machine's own process does nothing for it.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use banger_model::Bytes;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::{AtPath as _, HostError, Result};
use crate::fs::{clone_file, create_new, list_dir, punch_hole, read_bounded, read_text};

/// The unit in which memory is compared with zeros and told apart from its file.
const PAGE: usize = 4096;
/// How much is read at once.
const CHUNK: usize = 256 * PAGE;
/// Longest summary of mappings that makes sense, in bytes.
const MAX_ROLLUP_LEN: u64 = 64 * 1024;
/// Longest list of mappings that makes sense, in bytes.
const MAX_MAPS_LEN: u64 = 16 * 1024 * 1024;

/// Copies the anonymous file of this name (memfd_create(2)) that a process holds into a new file.
///
/// # Errors
/// When the process has no such file, or one of both files fails.
pub fn copy_memfd(pid: i32, name: &str, to: &Path) -> Result<()> {
    let source = find_memfd(pid, name)?;
    let target = create_new(to)?;
    let len = source.metadata().at("look at the memory of", to)?.len();
    target.set_len(len).at("write memory to", to)?;
    let mut at = 0;
    while let Some(start) = data_from(&source, at).at("read memory for", to)? {
        let end = seek(&source, SeekFrom::Hole(start)).at("read memory for", to)?;
        copy_pages(&source, start..end, &target, start, Zeros::Skip).at("write memory to", to)?;
        at = end;
    }
    Ok(())
}

/// Copies the private view that a process has of the file `base` into a new file.
///
/// # Errors
/// When the process has no such view or may not be looked into, or one of the files fails.
pub fn copy_private(pid: i32, base: &Path, to: &Path) -> Result<()> {
    let views = find_views(pid, base)?;
    clone_file(base, to)?;
    let target = File::options().write(true).open(to).at("open", to)?;
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let memory = File::open(proc.join("mem")).at("open", &proc.join("mem"))?;
    let pagemap = File::open(proc.join("pagemap")).at("open", &proc.join("pagemap"))?;
    for view in views {
        for run in own_pages(&pagemap, &view).at("read", &proc.join("pagemap"))? {
            let file_at = view.offset + (run.start - view.start);
            copy_pages(&memory, run, &target, file_at, Zeros::Punch).at("write memory to", to)?;
        }
    }
    Ok(())
}

/// Memory of a process that is in RAM (proc_pid_smaps(5)): what it shares with others is divided
/// among all that have it, so what several processes take is the sum.
///
/// # Errors
/// When the process is gone, or may not be looked into.
pub fn proportional(pid: i32) -> Result<Bytes> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let text = read_text(&path, MAX_ROLLUP_LEN)?;
    let kib = proportional_of(&text);
    let kib = kib.ok_or(io::Error::from(io::ErrorKind::InvalidData)).at("understand", &path)?;
    Ok(Bytes::new(kib * 1024))
}

fn proportional_of(rollup: &str) -> Option<u64> {
    let value = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What becomes of a page that holds nothing but zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeros {
    /// The target has a hole there already.
    Skip,
    /// The target may have something else there.
    Punch,
}

fn copy_pages(
    source: &File,
    range: std::ops::Range<u64>,
    target: &File,
    target_at: u64,
    zeros: Zeros,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
        let chunk = &mut buffer[..want];
        source.read_exact_at(chunk, at)?;
        for (is_zero, start, pages) in runs(chunk) {
            let to = target_at + (at - range.start) + start as u64;
            match (is_zero, zeros) {
                (false, _) => target.write_all_at(pages, to)?,
                (true, Zeros::Punch) => punch_hole(target, to..to + pages.len() as u64)?,
                (true, Zeros::Skip) => {}
            }
        }
        at += want as u64;
    }
    Ok(())
}

/// Runs of pages that are all zeros, and of pages that are not: whether they are, where they
/// begin, what is in them.
fn runs(chunk: &[u8]) -> impl Iterator<Item = (bool, usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = chunk.get(at..).filter(|rest| !rest.is_empty())?;
        let first = is_zero(&rest[..PAGE.min(rest.len())]);
        let pages = rest.chunks(PAGE).take_while(|page| is_zero(page) == first);
        let len: usize = pages.map(<[u8]>::len).sum();
        let start = at;
        at += len;
        Some((first, start, &rest[..len]))
    })
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

fn data_from(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn find_memfd(pid: i32, name: &str) -> Result<File> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let wanted = format!("/memfd:{name} (deleted)");
    for fd in list_dir(&dir)? {
        let path = dir.join(fd);
        // Descriptors come and go; ours stays.
        if std::fs::read_link(&path).is_ok_and(|link| link.as_os_str() == wanted.as_str()) {
            return File::open(&path).at("open", &path);
        }
    }
    Err(HostError::system(format!("find {name} in process {pid}"), Errno::NOENT))
}

/// A range of addresses that shows a range of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    start: u64,
    end: u64,
    /// Where in the file it begins.
    offset: u64,
}

fn find_views(pid: i32, base: &Path) -> Result<Vec<View>> {
    let path = PathBuf::from(format!("/proc/{pid}/maps"));
    let maps = read_bounded(&path, MAX_MAPS_LEN)?;
    // The kernel tells the real path.
    let real = base.canonicalize().at("resolve", base)?;
    let inode = real.metadata().at("look at", base)?.ino();
    let views: Vec<_> = maps
        .split(|byte| *byte == b'\n')
        .filter_map(|line| view_of(line, inode, real.as_os_str().as_bytes()))
        .collect();
    if views.is_empty() {
        let what = format!("find {} in the memory of process {pid}", base.display());
        return Err(HostError::system(what, Errno::NOENT));
    }
    Ok(views)
}

/// The view that a line of `/proc/PID/maps` is (proc_pid_maps(5)), if it is a private one of
/// this file.
fn view_of(line: &[u8], inode: u64, path: &[u8]) -> Option<View> {
    if !line.ends_with(path) {
        return None;
    }
    let text = std::str::from_utf8(line.get(..line.len() - path.len())?).ok()?;
    let mut words = text.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let private = words.next()?.ends_with('p');
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let offset = hex(words.next()?)?;
    let _device = words.next()?;
    let same = words.next()?.parse() == Ok(inode);
    (private && same).then_some(View { start: hex(start)?, end: hex(end)?, offset })
}

/// Ranges of addresses whose pages are the process's own (proc_pid_pagemap(5)): in memory or
/// swapped out, and not the file's.
fn own_pages(pagemap: &File, view: &View) -> io::Result<Vec<std::ops::Range<u64>>> {
    const ENTRY: u64 = 8;
    let page = PAGE as u64;
    let entries = usize::try_from((view.end - view.start) / page * ENTRY)
        .map_err(|_| io::ErrorKind::InvalidData)?;
    let mut map = vec![0; entries];
    pagemap.read_exact_at(&mut map, view.start / page * ENTRY)?;
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    let (map, _) = map.as_chunks::<8>();
    for (index, entry) in map.iter().enumerate() {
        if !is_own(u64::from_ne_bytes(*entry)) {
            continue;
        }
        let at = view.start + index as u64 * page;
        match runs.last_mut().filter(|run| run.end == at) {
            Some(run) => run.end += page,
            None => runs.push(at..at + page),
        }
    }
    Ok(runs)
}

fn is_own(entry: u64) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILES: u64 = 1 << 61;
    entry & (PRESENT | SWAPPED) != 0 && entry & FILES == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memfd_is_copied_without_its_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let name = "a-memory-of-ours";
        let memory: File =
            rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
        memory.set_len(1 << 24).unwrap();
        memory.write_all_at(&[7; PAGE], 0).unwrap();
        memory.write_all_at(&[0; 3 * PAGE], 1 << 20).unwrap();
        memory.write_all_at(b"end", (1 << 24) - 3).unwrap();
        let to = dir.path().join("memory");
        copy_memfd(rustix::process::getpid().as_raw_nonzero().get(), name, &to).unwrap();
        let copy = read_bounded(&to, 1 << 30).unwrap();
        assert_eq!((copy.len(), copy[PAGE - 1], copy[PAGE]), (1 << 24, 7, 0));
        assert!(copy.ends_with(b"\0end"));
        let size = crate::fs::file_size(&to).unwrap();
        assert!(size.real.get() <= 4 * PAGE as u64, "{:?}", size.real);
        let missing = copy_memfd(rustix::process::getpid().as_raw_nonzero().get(), "x", &to);
        assert!(missing.is_err());
    }

    #[test]
    fn lines_of_maps_are_read_with_care() {
        let line = b"7f00-7f10 rw-p 00001000 fe:00 42                 /a b/memory";
        let view = View { start: 0x7f00, end: 0x7f10, offset: 0x1000 };
        assert_eq!(view_of(line, 42, b"/a b/memory"), Some(view));
        assert_eq!(view_of(line, 41, b"/a b/memory"), None);
        assert_eq!(view_of(line, 42, b"/b/memory"), None);
        let shared = b"7f00-7f10 rw-s 00001000 fe:00 42                 /a b/memory";
        assert_eq!(view_of(shared, 42, b"/a b/memory"), None);
        for garbage in [&b""[..], b"/a b/memory", b"x-y rw-p /a b/memory", b"7-8 /a b/memory"] {
            assert_eq!(view_of(garbage, 42, b"/a b/memory"), None);
        }
    }

    #[test]
    fn what_is_shared_is_divided() {
        let rollup = "5000-7fff ---p 0 00:00 0 [rollup]\nRss:  900 kB\nPss:   300 kB\n";
        assert_eq!(proportional_of(rollup), Some(300));
        assert_eq!(proportional_of("Pss: x kB"), None);
        assert_eq!(proportional_of(""), None);
        let own = proportional(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert!(own.get() > 100_000, "{own}");
    }

    #[test]
    fn pages_are_told_apart() {
        assert!(is_own(1 << 63) && is_own(1 << 62));
        assert!(!is_own(0) && !is_own(1 << 63 | 1 << 61) && !is_own(1 << 55));
        let mut chunk = vec![0; 4 * PAGE + 10];
        chunk[PAGE] = 1;
        let runs: Vec<_> = runs(&chunk).map(|(zero, at, run)| (zero, at, run.len())).collect();
        assert_eq!(runs, [(true, 0, PAGE), (false, PAGE, PAGE), (true, 2 * PAGE, 2 * PAGE + 10)]);
    }
}
