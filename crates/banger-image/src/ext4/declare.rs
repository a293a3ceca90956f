//! An archive's entries put into one tree, in the archive's order, the last of a path winning.

use std::collections::{BTreeMap, HashMap};

use mkext4::{FsBuilder, InodeHandle, Meta, ROOT, SpecialKind};

use super::acl::acl_to_ext4;
use super::plan::MAX_IMPLIED;
use crate::archive::{Attributes, Content, Entry, Kind};

/// Seconds since 1970 that an ext4 inode can hold: 34 bits from 1901 on.
const TIMES: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;
/// Bytes that the extended attributes of one inode may take: a block less its header and the
/// mark at the end.
const MAX_XATTRS: usize = 4096 - 32 - 4;
/// Every ext4 file system has this directory in its root already.
const LOST_AND_FOUND: &str = "lost+found";

/// Why an entry has no place in the tree.
#[derive(Debug)]
pub(super) enum Refused {
    /// For a reason of ours.
    Problem(&'static str),
    /// The file system's writer says why.
    Writer(mkext4::Error),
}

impl From<mkext4::Error> for Refused {
    fn from(error: mkext4::Error) -> Self {
        Self::Writer(error)
    }
}

/// The tree so far.
pub(super) struct Declared<'a> {
    builder: FsBuilder,
    known: BTreeMap<String, Node>,
    last: HashMap<&'a str, usize>,
    contents: Vec<(InodeHandle, &'a Entry, &'a Content)>,
    implied: u64,
}

#[derive(Clone, Copy)]
enum Node {
    Directory(InodeHandle),
    Other(InodeHandle),
}

/// What is to be written: the tree, and for every file in it where its bytes come from.
pub(super) type Filled<'a> = (FsBuilder, Vec<(InodeHandle, &'a Entry, &'a Content)>);

impl<'a> Declared<'a> {
    pub(super) fn new(builder: FsBuilder, entries: &'a [Entry]) -> Self {
        let last = entries.iter().enumerate().map(|(i, entry)| (entry.path.as_str(), i)).collect();
        Self { builder, known: BTreeMap::new(), last, contents: Vec::new(), implied: 0 }
    }

    pub(super) fn finish(self) -> Filled<'a> {
        (self.builder, self.contents)
    }

    /// Puts the entry with this number into the tree.
    pub(super) fn add(&mut self, number: usize, entry: &'a Entry) -> Result<(), Refused> {
        if entry.path == LOST_AND_FOUND && entry.kind == Kind::Directory {
            return Ok(());
        }
        if entry.path.split('/').next() == Some(LOST_AND_FOUND) {
            return Err(Refused::Problem("an ext4 file system keeps lost+found for itself"));
        }
        if entry.kind == Kind::Directory {
            return self.directory(number, entry);
        }
        if entry.path.is_empty() {
            return Err(Refused::Problem("the root can only be a directory"));
        }
        if let Kind::HardLink(target) = &entry.kind {
            return self.hard_link(&entry.path, target);
        }
        let (parent, name) = self.place(&entry.path)?;
        let handle = self.declare(parent, name, entry)?;
        self.set_xattrs(handle, entry)?;
        self.known.insert(entry.path.clone(), Node::Other(handle));
        Ok(())
    }

    fn declare(
        &mut self,
        parent: InodeHandle,
        name: &str,
        entry: &'a Entry,
    ) -> Result<InodeHandle, Refused> {
        let meta = meta(&entry.attributes);
        let special = |kind| (parent, name, meta, kind);
        let (parent, name, meta, kind) = match &entry.kind {
            Kind::File(content) => {
                let handle = self.builder.file(parent, name, meta, content.len())?;
                if !content.is_empty() {
                    self.contents.push((handle, entry, content));
                }
                return Ok(handle);
            }
            Kind::Symlink(target) => {
                return Ok(self.builder.symlink(parent, name, target, meta)?);
            }
            Kind::Char(major, minor) => special(SpecialKind::Char { major: *major, minor: *minor }),
            Kind::Block(major, minor) => {
                special(SpecialKind::Block { major: *major, minor: *minor })
            }
            Kind::Fifo => special(SpecialKind::Fifo),
            Kind::Directory | Kind::HardLink(_) => {
                return Err(Refused::Problem("it cannot be declared as a file"));
            }
        };
        Ok(self.builder.mknod(parent, name, meta, kind)?)
    }

    fn directory(&mut self, number: usize, entry: &Entry) -> Result<(), Refused> {
        let handle = match self.known.get(&entry.path) {
            Some(Node::Directory(handle)) => *handle,
            _ if entry.path.is_empty() => ROOT,
            _ => self.make_directory(&entry.path)?,
        };
        // Attributes cannot be taken back: only those that will stay are set.
        if self.last.get(entry.path.as_str()) == Some(&number) {
            self.builder.set_meta(handle, meta(&entry.attributes))?;
            self.set_xattrs(handle, entry)?;
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &str, target: &str) -> Result<(), Refused> {
        let handle = match self.known.get(target) {
            Some(Node::Other(handle)) => *handle,
            Some(Node::Directory(_)) => {
                return Err(Refused::Problem("it is a hard link to a directory"));
            }
            None => return Err(Refused::Problem("it is a hard link to nothing before it")),
        };
        if path == target {
            return Ok(());
        }
        if target.strip_prefix(path).is_some_and(|below| below.starts_with('/')) {
            // What it stands for would be gone with the directory, when the link is made.
            return Err(Refused::Problem(
                "it is a hard link to what is in the directory it replaces",
            ));
        }
        let (parent, name) = self.place(path)?;
        self.builder.hardlink(parent, name, handle)?;
        self.known.insert(path.to_owned(), Node::Other(handle));
        Ok(())
    }

    /// A free place for `path`: its parent, made if it must be, and its name there.
    fn place<'p>(&mut self, path: &'p str) -> Result<(InodeHandle, &'p str), Refused> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.parent(parent)?;
        if self.known.remove(path).is_some() {
            self.builder.remove(parent, name)?;
            let below = format!("{path}/");
            let gone: Vec<String> = self
                .known
                .range(below.clone()..)
                .map(|(path, _)| path.clone())
                .take_while(|path| path.starts_with(&below))
                .collect();
            for path in gone {
                self.known.remove(&path);
            }
        }
        Ok((parent, name))
    }

    fn parent(&mut self, path: &str) -> Result<InodeHandle, Refused> {
        match self.known.get(path) {
            _ if path.is_empty() => Ok(ROOT),
            Some(Node::Directory(handle)) => Ok(*handle),
            Some(Node::Other(_)) => Err(Refused::Problem("what it is in is not a directory")),
            None => {
                // From the top down, so that depth costs no stack.
                let cuts = path.match_indices('/').map(|(at, _)| &path[..at]);
                for above in cuts.chain([path]) {
                    match self.known.get(above) {
                        Some(Node::Directory(_)) => {}
                        Some(Node::Other(_)) => {
                            return Err(Refused::Problem("what it is in is not a directory"));
                        }
                        None => drop(self.make_directory_in_parent(above)?),
                    }
                }
                match self.known.get(path) {
                    Some(Node::Directory(handle)) => Ok(*handle),
                    _ => Err(Refused::Problem("what it is in is not a directory")),
                }
            }
        }
    }

    fn make_directory(&mut self, path: &str) -> Result<InodeHandle, Refused> {
        let (parent, name) = self.place(path)?;
        self.insert_directory(parent, name, path)
    }

    fn make_directory_in_parent(&mut self, path: &str) -> Result<InodeHandle, Refused> {
        self.implied += 1;
        if self.implied > MAX_IMPLIED {
            return Err(Refused::Problem("the archive does not mention the directories it is in"));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = match self.known.get(parent) {
            Some(Node::Directory(handle)) => *handle,
            _ => ROOT,
        };
        self.insert_directory(parent, name, path)
    }

    fn insert_directory(
        &mut self,
        parent: InodeHandle,
        name: &str,
        path: &str,
    ) -> Result<InodeHandle, Refused> {
        let plain = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };
        let handle = self.builder.mkdir(parent, name, meta(&plain))?;
        self.known.insert(path.to_owned(), Node::Directory(handle));
        Ok(handle)
    }

    fn set_xattrs(&mut self, handle: InodeHandle, entry: &Entry) -> Result<(), Refused> {
        let padded = |len: usize| len.next_multiple_of(4);
        let size =
            |(name, value): &(String, Vec<u8>)| 16 + padded(name.len()) + padded(value.len());
        if entry.xattrs.iter().map(size).sum::<usize>() > MAX_XATTRS {
            return Err(Refused::Problem("its extended attributes take more than 4 KiB"));
        }
        for (name, value) in &entry.xattrs {
            if name.starts_with("system.posix_acl_") {
                let list = acl_to_ext4(value)
                    .ok_or(Refused::Problem("its access control list is not one"))?;
                self.builder.set_xattr(handle, name, &list)?;
            } else {
                self.builder.set_xattr(handle, name, value)?;
            }
        }
        Ok(())
    }
}

fn meta(attributes: &Attributes) -> Meta {
    let (seconds, nanos) = attributes.mtime;
    let seconds = seconds.clamp(*TIMES.start(), *TIMES.end());
    Meta::new(attributes.mode, attributes.uid, attributes.gid, (seconds, nanos))
}
