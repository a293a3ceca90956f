//! What one archive does to the tree below it.
//!
//! The directories of a path are looked up as the kernel would, and made where they are missing.
//! The last component is not followed: it is what the entry is about.

use std::mem;

use bstr::{BStr, ByteSlice as _};

use super::hide::Marks;
use super::way::{Stop, Way};
use super::{
    Child, IMPLIED, MAX_DETOURS, MAX_IMPLIED, MAX_NODES, Node, NodeId, NodeKind, Place, Refused,
    Tree, TreeError, Whiteouts,
};
use crate::archive::{Attributes, Entry, Kind, MAX_NAME_LEN, MAX_PATH_LEN};

/// What happens when a directory is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Make,
    Tell,
}

impl Tree {
    pub(super) fn lay_entries(
        &mut self,
        archive: usize,
        mut entries: Vec<Entry>,
        whiteouts: Whiteouts,
    ) -> Result<(), TreeError> {
        self.layer = u32::try_from(archive).unwrap_or(u32::MAX);
        self.bare.clear();
        self.recent = None;
        // Beside the entries, as each of these may be asked for all of them.
        let paths: Vec<_> = entries.iter_mut().map(|entry| mem::take(&mut entry.path)).collect();
        let marks = match whiteouts {
            Whiteouts::Hide => Marks::among(&paths),
            Whiteouts::AreFiles => Marks::default(),
        };
        for (number, entry) in entries.into_iter().enumerate() {
            let path = paths[number].as_bstr();
            let done = match marks.is_one(path) {
                true => self.hide(number, path, &marks),
                false => self.put(archive, path, entry),
            };
            done.map_err(|problem| TreeError { path: path.into(), problem })?;
        }
        Ok(())
    }

    fn put(&mut self, archive: usize, path: &BStr, entry: Entry) -> Result<(), Refused> {
        let Entry { kind, attributes, xattrs, .. } = entry;
        let (dir, name) = split(path);
        let kind = match kind {
            Kind::HardLink(target) => return self.link(path, target.as_bstr()),
            Kind::Directory => return self.put_directory(path, attributes, xattrs),
            _ if name.is_empty() => return Err("the root can only be a directory"),
            Kind::File(content) => NodeKind::File(Place { archive, content }),
            Kind::Symlink(target) => NodeKind::Symlink(target),
            Kind::Char(major, minor) => NodeKind::Char(major, minor),
            Kind::Block(major, minor) => NodeKind::Block(major, minor),
            Kind::Fifo => NodeKind::Fifo,
        };
        let attributes = match kind {
            // Linux has no others (symlink(7)), whatever an archive says.
            NodeKind::Symlink(_) => Attributes { mode: 0o777, ..attributes },
            _ => attributes,
        };
        let parent = self.parent(dir)?;
        let node = self.make(Node { kind, attributes, xattrs })?;
        self.name(parent, name, node);
        Ok(())
    }

    fn put_directory(
        &mut self,
        path: &BStr,
        attributes: Attributes,
        xattrs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Refused> {
        let (dir, name) = split(path);
        let node = if name.is_empty() {
            NodeId::ROOT
        } else {
            let parent = self.parent(dir)?;
            let found = self.child(parent, name);
            let directory = match found.filter(|child| self.node(*child).children().is_some()) {
                Some(child) => child,
                None => self.make(Node::directory(IMPLIED))?,
            };
            // Also one that was there is of this layer now.
            self.name(parent, name, directory);
            directory
        };
        let node = &mut self.nodes[node.index()];
        node.attributes = attributes;
        node.xattrs = xattrs;
        Ok(())
    }

    fn link(&mut self, path: &BStr, target: &BStr) -> Result<(), Refused> {
        let (dir, name) = split(target);
        let there = match self.directory(dir, Missing::Tell)? {
            Some(dir) if !name.is_empty() => self.child(dir, name),
            _ => None,
        };
        let node = there.ok_or("it is a hard link to nothing before it")?;
        if self.node(node).children().is_some() {
            return Err("it is a hard link to a directory");
        }
        let (dir, name) = split(path);
        if name.is_empty() {
            return Err("the root can only be a directory");
        }
        let parent = self.parent(dir)?;
        self.name(parent, name, node);
        Ok(())
    }

    /// Gives a node a name, which another may have had.
    fn name(&mut self, parent: NodeId, name: &BStr, node: NodeId) {
        let layer = self.layer;
        if let NodeKind::Directory(children) = &mut self.nodes[parent.index()].kind
            && let Some(before) = children.insert(name.into(), Child { node, layer })
            && before.node != node
        {
            self.recent = None;
        }
    }

    fn make(&mut self, node: Node) -> Result<NodeId, Refused> {
        if self.nodes.len() >= MAX_NODES {
            return Err("there are more than 4,000,000 entries in all");
        }
        let id = u32::try_from(self.nodes.len()).map_err(|_| "there are too many entries")?;
        self.nodes.push(node);
        Ok(NodeId(id))
    }

    /// The directory that an entry is in, made where it is missing.
    fn parent(&mut self, path: &BStr) -> Result<NodeId, Refused> {
        if let Some((recent, id)) = &self.recent
            && recent == path
        {
            return Ok(*id);
        }
        let id = self.directory(path, Missing::Make)?.ok_or("what it is in is not there")?;
        self.recent = Some((path.into(), id));
        Ok(id)
    }

    /// The directory at `path`.
    fn directory(&mut self, path: &BStr, missing: Missing) -> Result<Option<NodeId>, Refused> {
        let mut way = Way::to(path);
        let found = loop {
            match (way.go_on(self)?, missing) {
                (Stop::Arrived(directory), _) => break Some(directory),
                (Stop::File(_) | Stop::Link, _) => return Err("what it is in is not a directory"),
                (Stop::Missing(..), Missing::Tell) => break None,
                (Stop::Missing(parent, name), Missing::Make) => {
                    way.enter(self.imply(parent, name.as_bstr())?);
                }
            }
        };
        self.detours += way.detours;
        if self.detours > MAX_DETOURS {
            return Err("symbolic links lead a very long way to what it is in");
        }
        Ok(found)
    }

    /// Makes the directories of a path that are missing, as whoever runs a container does for the
    /// one in which it begins. What stands in their way stays.
    pub(crate) fn make_directories(&mut self, path: &str) {
        let fits = |part: &[u8]| part.len() <= MAX_NAME_LEN && !part.contains(&0);
        if path.len() > MAX_PATH_LEN || !path.as_bytes().split_str("/").all(fits) {
            return;
        }
        // Who finds no such directory is told so when it is entered.
        let _ = self.directory(path.as_bytes().as_bstr(), Missing::Make);
    }

    fn imply(&mut self, parent: NodeId, name: &BStr) -> Result<NodeId, Refused> {
        self.implied += 1;
        if self.implied > MAX_IMPLIED {
            return Err("the archive does not mention the directories it is in");
        }
        let made = self.make(Node::directory(IMPLIED))?;
        self.name(parent, name, made);
        Ok(made)
    }
}

/// A path's directory and its last component.
pub(super) fn split(path: &BStr) -> (&BStr, &BStr) {
    match path.rfind_byte(b'/') {
        Some(slash) => (path[..slash].as_bstr(), path[slash + 1..].as_bstr()),
        None => (b"".as_bstr(), path),
    }
}
