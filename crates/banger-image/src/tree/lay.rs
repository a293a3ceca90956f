//! What one archive does to the tree below it.
//!
//! The directories of a path are looked up as the kernel would, and made where they are missing.
//! The last component is not followed: it is what the entry is about.

use bstr::{BStr, BString, ByteSlice as _};

use super::way::{Stop, Way};
use super::{
    IMPLIED, MAX_DETOURS, MAX_IMPLIED, MAX_NODES, Node, NodeId, NodeKind, Place, Refused, Tree,
    TreeError, Whiteouts,
};
use crate::archive::{Attributes, Entry, Kind, MAX_NAME_LEN, MAX_PATH_LEN};

/// Names of whiteouts begin so.
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory of which nothing is seen that was below.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names for the use of the file system that invented whiteouts; they mean nothing here.
const RESERVED: &[u8] = b".wh..wh.";

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
        entries: Vec<Entry>,
        whiteouts: Whiteouts,
    ) -> Result<(), TreeError> {
        let is_mark = |entry: &Entry| {
            whiteouts == Whiteouts::Hide && split(entry.path.as_bstr()).1.starts_with(WHITEOUT)
        };
        // A layer hides only what is below it, wherever in the layer the whiteout stands.
        for entry in entries.iter().filter(|entry| is_mark(entry)) {
            self.hide(entry.path.as_bstr()).map_err(|problem| refused(&entry.path, problem))?;
        }
        for entry in entries {
            if !is_mark(&entry) {
                let path = entry.path.clone();
                self.put(archive, entry).map_err(|problem| refused(&path, problem))?;
            }
        }
        Ok(())
    }

    fn hide(&mut self, path: &BStr) -> Result<(), Refused> {
        let (dir, mark) = split(path);
        let hidden = &mark[WHITEOUT.len()..];
        if mark != OPAQUE && mark.starts_with(RESERVED) {
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err("it is a whiteout of nothing that has a name");
        }
        let Some(dir) = self.directory(dir, Missing::Tell)? else { return Ok(()) };
        self.recent = None;
        if let NodeKind::Directory(children) = &mut self.nodes[dir.index()].kind {
            if mark == OPAQUE {
                children.clear();
            } else {
                children.remove(hidden);
            }
        }
        Ok(())
    }

    fn put(&mut self, archive: usize, entry: Entry) -> Result<(), Refused> {
        let Entry { path, kind, attributes, xattrs } = entry;
        let (dir, name) = split(path.as_bstr());
        let kind = match kind {
            Kind::HardLink(target) => return self.link(path.as_bstr(), target.as_bstr()),
            Kind::Directory => return self.put_directory(path.as_bstr(), attributes, xattrs),
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
            match self.child(parent, name) {
                Some(child) if self.node(child).children().is_some() => child,
                _ => {
                    let made = self.make(Node::directory(IMPLIED))?;
                    self.name(parent, name, made);
                    made
                }
            }
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
        if let NodeKind::Directory(children) = &mut self.nodes[parent.index()].kind
            && children.insert(name.into(), node).is_some()
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
                (Stop::File(_), _) => return Err("what it is in is not a directory"),
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
fn split(path: &BStr) -> (&BStr, &BStr) {
    match path.rfind_byte(b'/') {
        Some(slash) => (path[..slash].as_bstr(), path[slash + 1..].as_bstr()),
        None => (b"".as_bstr(), path),
    }
}

fn refused(path: &BString, problem: Refused) -> TreeError {
    TreeError { path: path.clone(), problem }
}
