//! A tree declared to the file system's writer: directories first, every file once.

use bstr::{BStr, ByteSlice as _};
use mkext4::{FsBuilder, InodeHandle, Meta, ROOT, SpecialKind};

use super::acl::acl_to_ext4;
use super::spelling::Spelling;
use crate::archive::Attributes;
use crate::tree::{Node, NodeId, NodeKind, Step, Tree, Visit};

/// Seconds since 1970 that an ext4 inode can hold: 34 bits from 1901 on.
const TIMES: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;
/// Bytes that the extended attributes of one inode may take: a block less its header and the
/// mark at the end.
const MAX_XATTRS: usize = 4096 - 32 - 4;
/// Every ext4 file system has this directory in its root already.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Why something of a tree cannot be in a file system of this kind.
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

/// What is to be written.
pub(super) struct Declared {
    pub(super) builder: FsBuilder,
    /// Every file with bytes, and what the writer calls it.
    pub(super) files: Vec<(InodeHandle, NodeId)>,
    /// What the writer could not be told as it is.
    pub(super) spelling: Spelling,
    handles: Vec<Option<InodeHandle>>,
}

/// Declares everything in a tree; on failure what could not be.
pub(super) fn declare(builder: FsBuilder, tree: &Tree) -> Result<Declared, (NodeId, Refused)> {
    let handles = vec![None; tree.bound()];
    let spelling = Spelling::default();
    let mut declared = Declared { builder, files: Vec::new(), spelling, handles };
    let root = tree.node(NodeId::ROOT);
    declared.handles[NodeId::ROOT.index()] = Some(ROOT);
    declared.root(root).map_err(|refused| (NodeId::ROOT, refused))?;
    for step in tree.walk() {
        declared.step(tree, step).map_err(|refused| (step.node, refused))?;
    }
    Ok(declared)
}

impl Declared {
    fn root(&mut self, root: &Node) -> Result<(), Refused> {
        self.builder.set_meta(ROOT, meta(&root.attributes))?;
        self.set_xattrs(ROOT, root)
    }

    fn step(&mut self, tree: &Tree, step: Step<'_>) -> Result<(), Refused> {
        let node = tree.node(step.node);
        if step.parent == NodeId::ROOT && step.name == LOST_AND_FOUND {
            if node.children().is_some_and(|children| children.is_empty()) {
                return Ok(());
            }
            return Err(Refused::Problem("an ext4 file system keeps lost+found for itself"));
        }
        let parent = self.handle(step.parent)?;
        let Ok(name) = step.name.to_str() else {
            let siblings = tree.node(step.parent).children();
            let name = self.spelling.stand_in(step.parent, step.name, siblings);
            let name = name.ok_or(Refused::Problem("too many names beside it are not UTF-8"))?;
            return self.place(parent, &name, step, node);
        };
        self.place(parent, name, step, node)
    }

    fn handle(&self, node: NodeId) -> Result<InodeHandle, Refused> {
        self.handles[node.index()].ok_or(Refused::Problem("what it is in is not there"))
    }

    fn place(
        &mut self,
        parent: InodeHandle,
        name: &str,
        step: Step<'_>,
        node: &Node,
    ) -> Result<(), Refused> {
        if step.visit == Visit::Again {
            let handle = self.handle(step.node)?;
            return Ok(self.builder.hardlink(parent, name, handle)?);
        }
        let meta = meta(&node.attributes);
        let handle = match &node.kind {
            NodeKind::Directory(_) => self.builder.mkdir(parent, name, meta)?,
            NodeKind::File(place) => {
                let handle = self.builder.file(parent, name, meta, place.content.len())?;
                if !place.content.is_empty() {
                    self.files.push((handle, step.node));
                }
                handle
            }
            NodeKind::Symlink(target) => {
                let target = self.target(step.node, target.as_bstr());
                self.builder.symlink(parent, name, &target, meta)?
            }
            NodeKind::Char(major, minor) => {
                let kind = SpecialKind::Char { major: *major, minor: *minor };
                self.builder.mknod(parent, name, meta, kind)?
            }
            NodeKind::Block(major, minor) => {
                let kind = SpecialKind::Block { major: *major, minor: *minor };
                self.builder.mknod(parent, name, meta, kind)?
            }
            NodeKind::Fifo => self.builder.mknod(parent, name, meta, SpecialKind::Fifo)?,
        };
        self.handles[step.node.index()] = Some(handle);
        self.set_xattrs(handle, node)
    }

    fn target<'a>(&mut self, link: NodeId, target: &'a BStr) -> std::borrow::Cow<'a, str> {
        match target.to_str() {
            Ok(target) => target.into(),
            Err(_) => self.spelling.stand_in_target(link, target).into(),
        }
    }

    fn set_xattrs(&mut self, handle: InodeHandle, node: &Node) -> Result<(), Refused> {
        let padded = |len: usize| len.next_multiple_of(4);
        let size =
            |(name, value): &(String, Vec<u8>)| 16 + padded(name.len()) + padded(value.len());
        if node.xattrs.iter().map(size).sum::<usize>() > MAX_XATTRS {
            return Err(Refused::Problem("its extended attributes take more than 4 KiB"));
        }
        for (name, value) in node.xattrs.iter().filter(|(name, _)| is_of_linux(name)) {
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

/// Whether Linux has attributes of this name; those of other systems mean nothing in a sandbox.
fn is_of_linux(name: &str) -> bool {
    const NAMESPACES: [&str; 4] = ["user.", "trusted.", "security.", "system.posix_acl_"];
    let own = NAMESPACES.iter().find_map(|namespace| name.strip_prefix(namespace));
    own.is_some_and(|own| !own.is_empty()) && !name.contains('\0')
}

fn meta(attributes: &Attributes) -> Meta {
    let (seconds, nanos) = attributes.mtime;
    let seconds = seconds.clamp(*TIMES.start(), *TIMES.end());
    Meta::new(attributes.mode, attributes.uid, attributes.gid, (seconds, nanos))
}
