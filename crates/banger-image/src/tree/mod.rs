//! A root file system in memory: what is left of archives that are laid one over the other. Pure.
//!
//! Only names and attributes are here; the content of files stays in the archives and is known by
//! its place. So a tree costs memory for its names alone, and everything that archives can do to
//! each other (replace, hide, link across, write through symbolic links) is settled before the
//! first byte of an image is written. Whiteouts are those of the OCI image specification, section
//! "Representing Changes" of `layer.md`.

mod hide;
mod lay;
mod walk;
mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use bstr::{BStr, BString};
use thiserror::Error;

use crate::archive::{Archive, Attributes, Content};

pub(crate) use walk::{Step, Visit};

/// Most files, directories and links of one tree, those included that were replaced or hidden.
pub const MAX_NODES: usize = 4_000_000;
/// Most directories that archives may leave unmentioned: proper ones mention all.
pub const MAX_IMPLIED: usize = 100_000;
/// Most symbolic links on the way to one entry, as Linux has it (`MAXSYMLINKS`).
pub const MAX_LINKS_ON_WAY: usize = 40;
/// Most components of paths that are looked up because symbolic links lead there, in one tree.
pub const MAX_DETOURS: usize = 5_000_000;

/// Why an archive's entry has no place in the tree.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{path:?} of the archive: {problem}")]
pub struct TreeError {
    /// Its path there.
    pub path: BString,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Why something has no place.
type Refused = &'static str;

/// Whether an archive says of files below it that they are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// Entries whose names begin with `.wh.` do: it is a layer.
    Hide,
    /// Such names are names as all others.
    AreFiles,
}

/// Number of a file, directory or link. Files with several names have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What one of them is.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) attributes: Attributes,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) enum NodeKind {
    Directory(Children),
    File(Place),
    Symlink(BString),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// What is in a directory.
pub(crate) type Children = BTreeMap<BString, Child>;

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    pub(crate) node: NodeId,
    /// The layer that spoke of this name last.
    layer: u32,
}

/// Where a file's bytes are.
#[derive(Debug)]
pub(crate) struct Place {
    /// Which of the tree's archives.
    pub(crate) archive: usize,
    pub(crate) content: Content,
}

/// Directories that no archive mentions.
const IMPLIED: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };

/// A root file system as its archives say.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    archives: Vec<File>,
    implied: usize,
    detours: usize,
    /// Which of the archives is being laid.
    layer: u32,
    /// Directories that show nothing of lower layers, by a whiteout of the layer that is being laid.
    bare: BTreeSet<NodeId>,
    /// The directory that the last entry was in: the next one is mostly there, too.
    recent: Option<(BString, NodeId)>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty directory.
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::directory(IMPLIED)],
            archives: Vec::new(),
            implied: 0,
            detours: 0,
            layer: 0,
            bare: BTreeSet::new(),
            recent: None,
        }
    }

    /// What one archive says.
    ///
    /// # Errors
    /// [`TreeError`] names an entry that has no place in a file system.
    pub fn of(archive: Archive) -> Result<Self, TreeError> {
        let mut tree = Self::new();
        tree.lay(archive, Whiteouts::AreFiles)?;
        Ok(tree)
    }

    /// Lays an archive over what there is; later entries of a path replace earlier ones.
    ///
    /// # Errors
    /// [`TreeError`] names an entry that has no place in a file system. The tree is of no use then.
    pub fn lay(&mut self, archive: Archive, whiteouts: Whiteouts) -> Result<(), TreeError> {
        let Archive { entries, file } = archive;
        let number = self.archives.len();
        self.archives.push(file);
        self.lay_entries(number, entries, whiteouts)
    }

    /// Number of everything in it, the root included.
    pub fn count(&self) -> usize {
        self.walk().filter(|step| step.visit == Visit::First).count() + 1
    }

    /// Bytes of all files' content together.
    pub fn content_len(&self) -> u64 {
        let files = self.walk().filter(|step| step.visit == Visit::First);
        files
            .map(|step| match &self.node(step.node).kind {
                NodeKind::File(place) => place.content.len(),
                _ => 0,
            })
            .sum()
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// One more than the largest number of a node.
    pub(crate) fn bound(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn archive(&self, place: &Place) -> Option<&File> {
        self.archives.get(place.archive)
    }

    fn child(&self, directory: NodeId, name: &BStr) -> Option<NodeId> {
        Some(self.node(directory).children()?.get(name)?.node)
    }
}

impl Node {
    fn directory(attributes: Attributes) -> Self {
        Self { kind: NodeKind::Directory(Children::new()), attributes, xattrs: Vec::new() }
    }

    pub(crate) fn children(&self) -> Option<&Children> {
        match &self.kind {
            NodeKind::Directory(children) => Some(children),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
