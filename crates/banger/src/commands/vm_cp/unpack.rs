//! Makes what a guest sends, below one directory and nowhere else.
//!
//! The guest may send anything. Every path is looked up from the directory's descriptor with no
//! symbolic link followed, so neither links that were there nor links that it sends lead
//! anywhere. Only what was asked for may be in the stream: a guest that is asked for `build`
//! cannot add a `.bashrc` beside it. No device is made, and nobody's programs get rights by a
//! bit in their mode. What was there stays whole until the new is: everything but a directory is
//! made aside and renamed.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::places::Place;
use super::stream::{Content, Entries, Entry, MAX_NAME};
use crate::output::{notice, shown};

/// Bytes that are read and written at once.
const CHUNK: usize = 64 * 1024;
/// Most entries: more than any file system of a sandbox has.
const MAX_ENTRIES: u64 = 1 << 32;
/// Permissions that a guest may give: none that lend the rights of an owner.
const MODES: u32 = 0o777;
/// Permissions of what is not whole yet, and of directories that no entry speaks of.
const PRIVATE: u32 = 0o700;
/// Most things of which it is said that they are left out.
const MAX_NOTICES: u64 = 20;
/// Everything below a directory, through no link at all.
const BELOW: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Makes what is in the stream at the place. Every entry has to begin with `top`.
pub(super) fn unpack(input: impl Read, top: &[u8], place: Place) -> Result<()> {
    let mut below = Below::open(top, place)?;
    let made = below.make_all(&mut Entries::new(input));
    // Directories get what they are to have, however far the rest came.
    made.and(below.finish())
}

/// The directory that all is made in.
#[derive(Debug)]
struct Below {
    dir: OwnedFd,
    top: Vec<u8>,
    name: Option<Vec<u8>>,
    /// Directories that were made and whose attributes are still to be set, each below the one
    /// before: a read-only one has to be filled first, and filling changes its time.
    open: Vec<(Vec<u8>, Attributes)>,
    /// How many names were made up for what is not whole yet.
    aside: u64,
    left_out: u64,
}

#[derive(Clone, Copy, Debug)]
struct Attributes {
    mode: u32,
    mtime: u64,
}

impl Below {
    fn open(top: &[u8], place: Place) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, &place.dir[..], flags, Mode::empty())
            .with_context(|| format!("cannot copy into {}", shown(&place.dir)))?;
        let (top, name) = (top.to_vec(), place.name);
        Ok(Self { dir, top, name, open: Vec::new(), aside: 0, left_out: 0 })
    }

    fn make_all<R: Read>(&mut self, entries: &mut Entries<R>) -> Result<()> {
        for _ in 0..MAX_ENTRIES {
            let Some(entry) = entries.next()? else { return Ok(()) };
            let named = || format!("cannot make {}", shown(&entry.name));
            self.make(&entry, entries).with_context(named)?;
        }
        bail!("the archive from the sandbox has no end")
    }

    fn finish(mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some((path, attributes)) = self.open.pop() {
            result = result.and(self.leave(&path, attributes));
        }
        if self.left_out > MAX_NOTICES {
            notice(&format!("{} devices and pipes are left out", self.left_out));
        }
        result
    }

    fn make<R: Read>(&mut self, entry: &Entry, entries: &mut Entries<R>) -> Result<()> {
        let path = inside(&entry.name, &self.top, self.name.as_deref())?;
        self.leave_all_but(&path)?;
        let is_dir = entry.content == Content::Directory;
        if path.is_empty() {
            // What is copied into keeps what it has.
            return if is_dir { Ok(()) } else { Err(anyhow!("it is no directory")) };
        }
        if entry.content == Content::Special {
            self.left_out += 1;
            if self.left_out <= MAX_NOTICES {
                notice(&format!("{} is a device or a pipe, and left out", shown(&entry.name)));
            }
            return Ok(());
        }
        let (parent, last) = split(&path);
        let parent = self.parent(parent)?;
        if is_dir {
            return self.make_dir(&parent, last, &path, entry);
        }
        self.aside += 1;
        let aside = format!(".banger-cp-{}-{}", std::process::id(), self.aside);
        let aside = Aside { dir: parent.as_fd(), name: CString::new(aside)? };
        let made = match &entry.content {
            Content::File { .. } => make_file(&aside, entry, entries),
            Content::Symlink(to) => make_symlink(&aside, to, entry),
            Content::HardLink(to) => self.make_link(&aside, to),
            Content::Directory | Content::Special => Ok(()),
        };
        let placed = made.and_then(|()| {
            match rustix::fs::renameat(aside.dir, &aside.name, aside.dir, last) {
                Err(Errno::ISDIR) => Err(anyhow!("there is a directory of this name")),
                renamed => Ok(renamed?),
            }
        });
        // Gone by the rename, unless that failed or both were names of one file already.
        let _ = rustix::fs::unlinkat(aside.dir, &aside.name, AtFlags::empty());
        placed
    }

    fn make_dir(
        &mut self,
        parent: &OwnedFd,
        last: &[u8],
        path: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        match rustix::fs::mkdirat(parent, last, Mode::from_raw_mode(PRIVATE)) {
            Ok(()) => {
                self.open.push((path.to_vec(), Attributes::of(entry)));
                Ok(())
            }
            // One that was there keeps its attributes.
            Err(Errno::EXIST) => self.existing(path).map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Another name for a file below the directory.
    fn make_link(&self, aside: &Aside<'_>, to: &[u8]) -> Result<()> {
        let to = inside(to, &self.top, self.name.as_deref())?;
        let (dir, last) = split(&to);
        let dir = self.existing(dir)?;
        Ok(rustix::fs::linkat(&dir, last, aside.dir, &aside.name, AtFlags::empty())?)
    }

    /// The directory at this path; made if there is none.
    fn parent(&self, path: &[u8]) -> Result<OwnedFd> {
        let mut end = 0;
        while end < path.len() {
            end =
                path[end + 1..].iter().position(|b| *b == b'/').map_or(path.len(), |n| end + 1 + n);
            let (parent, last) = split(&path[..end]);
            let parent = self.existing(parent)?;
            match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(PRIVATE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.existing(path)
    }

    fn existing(&self, path: &[u8]) -> Result<OwnedFd> {
        self.open_dir(path, OFlags::PATH)
    }

    fn open_dir(&self, path: &[u8], how: OFlags) -> Result<OwnedFd> {
        let flags = how | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = if path.is_empty() { b"." } else { path };
        match rustix::fs::openat2(&self.dir, at, flags, Mode::empty(), BELOW) {
            Err(Errno::LOOP | Errno::XDEV) => {
                bail!("a symbolic link is on the way, at or above {}", shown(path))
            }
            Err(Errno::NOTDIR) => bail!("{} is there already, and no directory", shown(path)),
            opened => Ok(opened?),
        }
    }

    /// Sets the attributes of directories that this path is not in.
    fn leave_all_but(&mut self, path: &[u8]) -> Result<()> {
        let is_in = |dir: &[u8]| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some((dir, attributes)) = self.open.pop_if(|(dir, _)| !is_in(dir)) {
            self.leave(&dir, attributes)?;
        }
        Ok(())
    }

    fn leave(&self, path: &[u8], attributes: Attributes) -> Result<()> {
        let dir = self.open_dir(path, OFlags::RDONLY)?;
        attributes.set(&dir).with_context(|| format!("cannot change {}", shown(path)))
    }
}

/// What is being made: its directory, and its name there for now.
struct Aside<'a> {
    dir: BorrowedFd<'a>,
    name: CString,
}

fn make_file<R: Read>(aside: &Aside<'_>, entry: &Entry, entries: &mut Entries<R>) -> Result<()> {
    let Content::File { size, segments } = &entry.content else { return Ok(()) };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(PRIVATE);
    let file = File::from(rustix::fs::openat(aside.dir, &aside.name, flags, mode)?);
    let mut buffer = vec![0; CHUNK];
    let mut end = 0;
    for segment in segments {
        let mut at = segment.offset;
        end = segment.offset.saturating_add(segment.len);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let count = entries.data(&mut buffer[..most])?;
            file.write_all_at(&buffer[..count], at)?;
            at += count as u64;
        }
    }
    if end < *size {
        file.set_len(*size)?;
    }
    Attributes::of(entry).set(&file.into())
}

fn make_symlink(aside: &Aside<'_>, to: &[u8], entry: &Entry) -> Result<()> {
    if to.len() > MAX_NAME {
        bail!("it leads to a name that is too long");
    }
    rustix::fs::symlinkat(to, aside.dir, &aside.name)?;
    let times = Attributes::of(entry).times();
    Ok(rustix::fs::utimensat(aside.dir, &aside.name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

impl Attributes {
    fn of(entry: &Entry) -> Self {
        Self { mode: entry.mode & MODES, mtime: entry.mtime }
    }

    fn set(self, file: &OwnedFd) -> Result<()> {
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))?;
        Ok(rustix::fs::futimens(file, &self.times())?)
    }

    fn times(self) -> Timestamps {
        let tv_sec = i64::try_from(self.mtime).unwrap_or(i64::MAX);
        let time = Timespec { tv_sec, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// The path below the directory that a name in the stream means; empty for the directory itself.
fn inside(name: &[u8], top: &[u8], instead: Option<&[u8]>) -> Result<Vec<u8>> {
    if name.starts_with(b"/") || name.contains(&0) || name.len() > MAX_NAME {
        bail!("{} is no name that a copy can have", shown(name));
    }
    let mut components = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    if components.next() != Some(top) {
        bail!("{} was not asked for", shown(name));
    }
    let mut path = match (instead, top) {
        (Some(instead), _) => instead.to_vec(),
        (None, b".") => Vec::new(),
        (None, top) => top.to_vec(),
    };
    for component in components.filter(|part| *part != b".") {
        if component == b".." {
            bail!("{} leads upwards", shown(name));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    Ok(path)
}

/// The directory and the last component of a path from [`inside`].
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
#[expect(clippy::disallowed_methods, reason = "tests look at the files that were made")]
mod tests;
