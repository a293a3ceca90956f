//! The directory that entries are extracted into. Nothing is made outside of it, wherever the
//! symbolic links in it lead, and whoever changes them meanwhile.
//!
//! Everything is made aside under a name of its own and then renamed: what was there before stays
//! whole until the new is. A directory is never replaced, and one that was there keeps its
//! attributes.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, makedev,
};
use rustix::io::Errno;
use thiserror::Error;

use super::inside::{NameError, inside, split};
use super::reader::{Content, Entry};
use super::shown;

/// Permissions of a directory that no entry speaks of.
const NEW_DIR: u32 = 0o755;

/// Permissions of what is not whole yet.
const PRIVATE: u32 = 0o700;

/// Why something cannot be made.
#[derive(Debug, Error)]
pub(crate) enum PlaceError {
    #[error("{}: {}", shown(name), errno_text(*errno))]
    System { name: Vec<u8>, errno: Errno },
    #[error("{}: this name in the archive {cause}", shown(name))]
    Name { name: Vec<u8>, cause: NameError },
    #[error("{}: a symbolic link on the way leads out of the destination", shown(_0))]
    LeadsOut(Vec<u8>),
    #[error("{}: a directory and something that is none cannot replace each other", shown(_0))]
    OtherKind(Vec<u8>),
}

fn errno_text(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}

/// The directory, and what is left to do in it.
#[derive(Debug)]
pub(super) struct Destination {
    top: OwnedFd,
    first: Option<Vec<u8>>,
    /// Directories that were made and whose attributes are still to be set: each is below the one
    /// before. Setting them later keeps their times, and lets files be made in a read-only one.
    open: Vec<(Vec<u8>, Attributes)>,
    owners: Owners,
    /// How paths in it are looked up.
    resolve: ResolveFlags,
    /// Names for what is not whole yet, counted.
    made: u64,
}

#[derive(Clone, Copy, Debug)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (u64, u32),
}

/// Whether owners are taken from the archive: only root can give files away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owners {
    Archived,
    Own,
}

/// What is being made: its directory, and the name that it has there for now.
struct Aside<'a> {
    dir: BorrowedFd<'a>,
    name: CString,
}

impl Destination {
    /// Opens the directory. Symbolic links on the way to it are followed.
    pub(super) fn open(path: &[u8], first: Option<Vec<u8>>) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let privileged = rustix::process::geteuid().is_root();
        let owners = if privileged { Owners::Archived } else { Owners::Own };
        let (stat, root) = (rustix::fs::fstat(&top)?, rustix::fs::stat("/")?);
        let is_root = (stat.st_dev, stat.st_ino) == (root.st_dev, root.st_ino);
        let resolve = if is_root { WITHIN_ROOT } else { BENEATH };
        Ok(Self { top, first, open: Vec::new(), owners, resolve, made: 0 })
    }

    /// Makes what an entry says. `fill` writes the data of a file.
    pub(super) fn place<E: From<PlaceError>>(
        &mut self,
        entry: &Entry,
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.inside(&entry.name)?;
        self.leave_all_but(&path)?;
        // The destination itself was there before: it keeps what it has.
        if path.is_empty() {
            return match entry.content {
                Content::Directory => Ok(()),
                _ => Err(PlaceError::OtherKind(entry.name.clone()).into()),
            };
        }
        let (dir, last) = split(&path);
        let dir = self.dir(dir, &entry.name)?;
        match &entry.content {
            Content::Directory => {
                self.place_dir(dir.as_fd(), last, entry)?;
                Ok(())
            }
            content => self.place_other(dir.as_fd(), last, (entry, content), fill),
        }
    }

    /// Nothing more is placed: what is left to be done is done, even where a part of it fails.
    pub(super) fn finish(mut self) -> Result<(), PlaceError> {
        let mut result = Ok(());
        while let Some((path, attributes)) = self.open.pop() {
            result = result.and(self.leave(&path, attributes));
        }
        result
    }

    fn inside(&self, name: &[u8]) -> Result<Vec<u8>, PlaceError> {
        let named = |cause| PlaceError::Name { name: name.to_vec(), cause };
        inside(name, self.first.as_deref()).map_err(named)
    }

    /// Sets the attributes of directories that this path is not in.
    fn leave_all_but(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        let is_in = |dir: &[u8]| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some((dir, attributes)) = self.open.pop_if(|(dir, _)| !is_in(dir)) {
            self.leave(&dir, attributes)?;
        }
        Ok(())
    }

    fn leave(&self, path: &[u8], attributes: Attributes) -> Result<(), PlaceError> {
        let failed = |errno| system(path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat2(&self.top, path, flags, Mode::empty(), self.resolve);
        self.set(&dir.map_err(failed)?, attributes).map_err(failed)
    }

    /// The directory at this path; made if there is none.
    fn dir(&self, path: &[u8], entry: &[u8]) -> Result<OwnedFd, PlaceError> {
        match self.existing_dir(path) {
            Err(Errno::NOENT) => {}
            found => return found.map_err(|errno| system(entry, errno)),
        }
        let (parent, last) = split(path);
        let parent = self.dir(parent, entry)?;
        match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(NEW_DIR)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(system(entry, errno)),
        }
        self.existing_dir(path).map_err(|errno| system(entry, errno))
    }

    fn existing_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(&self.top, path, flags, Mode::empty(), self.resolve)
    }

    fn place_dir(
        &mut self,
        dir: BorrowedFd<'_>,
        last: &[u8],
        entry: &Entry,
    ) -> Result<(), PlaceError> {
        let path = self.inside(&entry.name)?;
        match rustix::fs::mkdirat(dir, last, Mode::from_raw_mode(PRIVATE)) {
            Ok(()) => {
                self.open.push((path, Attributes::of(entry)));
                Ok(())
            }
            // Also by way of a link that stays inside.
            Err(Errno::EXIST) => match self.existing_dir(&path) {
                Ok(_) => Ok(()),
                Err(Errno::NOTDIR | Errno::NOENT) => Err(PlaceError::OtherKind(entry.name.clone())),
                Err(errno) => Err(system(&entry.name, errno)),
            },
            Err(errno) => Err(system(&entry.name, errno)),
        }
    }

    fn place_other<E: From<PlaceError>>(
        &mut self,
        dir: BorrowedFd<'_>,
        last: &[u8],
        (entry, content): (&Entry, &Content),
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        let aside = Aside { dir, name: self.name_aside() };
        let made = match content {
            Content::File { .. } => self.make_file(&aside, entry, fill),
            Content::HardLink(to) => self.make_link(&aside, entry, to).map_err(E::from),
            other => self
                .make_special(&aside, other)
                .and_then(|()| self.set_at(&aside, entry))
                .map_err(|errno| system(&entry.name, errno).into()),
        };
        let placed = made.and_then(|()| {
            rustix::fs::renameat(dir, &aside.name, dir, last).map_err(|errno| match errno {
                Errno::ISDIR => PlaceError::OtherKind(entry.name.clone()).into(),
                errno => system(&entry.name, errno).into(),
            })
        });
        // It is gone by the rename, unless that failed, or both names were of one file already.
        let _gone = rustix::fs::unlinkat(dir, &aside.name, AtFlags::empty());
        placed
    }

    fn name_aside(&mut self) -> CString {
        self.made += 1;
        let name = format!(".banger-unpack-{}-{}", std::process::id(), self.made);
        CString::new(name).unwrap_or_default()
    }

    fn make_file<E: From<PlaceError>>(
        &self,
        aside: &Aside<'_>,
        entry: &Entry,
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |errno| system(&entry.name, errno);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(PRIVATE);
        let file = rustix::fs::openat(aside.dir, &aside.name, flags, mode).map_err(failed)?;
        let file = File::from(file);
        fill(&file)?;
        Ok(self.set(&file.into(), Attributes::of(entry)).map_err(failed)?)
    }

    /// Another name for what an earlier entry made.
    fn make_link(&self, aside: &Aside<'_>, entry: &Entry, to: &[u8]) -> Result<(), PlaceError> {
        let target = self.inside(to)?;
        let (dir, last) = split(&target);
        let failed = |errno| system(&entry.name, errno);
        let dir = self.existing_dir(dir).map_err(failed)?;
        rustix::fs::linkat(&dir, last, aside.dir, &aside.name, AtFlags::empty()).map_err(failed)
    }

    fn make_special(&self, aside: &Aside<'_>, content: &Content) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(PRIVATE);
        let node = |kind, device| rustix::fs::mknodat(aside.dir, &aside.name, kind, mode, device);
        match content {
            Content::Symlink(to) => rustix::fs::symlinkat(&to[..], aside.dir, &aside.name),
            Content::Fifo => node(FileType::Fifo, 0),
            Content::CharDevice(major, minor) => {
                node(FileType::CharacterDevice, makedev(*major, *minor))
            }
            Content::BlockDevice(major, minor) => {
                node(FileType::BlockDevice, makedev(*major, *minor))
            }
            Content::File { .. } | Content::Directory | Content::HardLink(_) => Err(Errno::INVAL),
        }
    }

    fn set(&self, file: &OwnedFd, attributes: Attributes) -> Result<(), Errno> {
        if self.owners == Owners::Archived {
            let (uid, gid) = attributes.owner();
            rustix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        // After the owner: a change of it takes the set-user-id bit away.
        rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
        rustix::fs::futimens(file, &attributes.times())
    }

    /// Sets attributes of what cannot be opened without doing something.
    fn set_at(&self, aside: &Aside<'_>, entry: &Entry) -> Result<(), Errno> {
        let Aside { dir, name } = aside;
        let attributes = Attributes::of(entry);
        if self.owners == Owners::Archived {
            let (uid, gid) = attributes.owner();
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if !matches!(entry.content, Content::Symlink(_)) {
            let mode = Mode::from_raw_mode(attributes.mode);
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(dir, name, &attributes.times(), AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Paths stay below the directory in which they begin, links on the way included.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// The same for the root itself, which absolute links do not leave.
const WITHIN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl Attributes {
    fn of(entry: &Entry) -> Self {
        Self { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime }
    }

    fn owner(self) -> (Uid, Gid) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }

    fn times(self) -> Timestamps {
        let (seconds, nanoseconds) = self.mtime;
        let tv_sec = i64::try_from(seconds).unwrap_or(i64::MAX);
        let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
        Timestamps { last_access: time, last_modification: time }
    }
}

fn system(name: &[u8], errno: Errno) -> PlaceError {
    match errno {
        Errno::XDEV | Errno::LOOP => PlaceError::LeadsOut(name.to_vec()),
        errno => PlaceError::System { name: name.to_vec(), errno },
    }
}
