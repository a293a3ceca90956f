//! What whiteouts of a layer hide: whatever is of lower layers, and nothing of their own.
//!
//! A layer is gone through from its first entry to its last, and each name remembers which layer
//! spoke of it last. So a whiteout spares what its layer has brought, wherever in the layer it
//! stands. What the layer replaces further on is not gone through: below a link that becomes a
//! directory there is nothing to hide. That is what `umoci unpack` does, and more.

use bstr::{BStr, BString, ByteSlice as _};

use super::lay::split;
use super::way::{Stop, Way};
use super::{Child, MAX_DETOURS, NodeId, NodeKind, Refused, Tree};

/// Names of whiteouts begin so.
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory of which nothing is seen that was below.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names for the use of the file system that invented whiteouts; they mean nothing here.
const RESERVED: &[u8] = b".wh..wh.";

/// The whiteouts of a layer, and what else it has.
#[derive(Debug, Default)]
pub(super) struct Marks<'a> {
    /// The paths of the layer's other entries, in order, with their places in it. None without
    /// whiteouts: nobody asks then.
    others: Option<Vec<(&'a BStr, usize)>>,
}

impl<'a> Marks<'a> {
    pub(super) fn among(paths: &'a [BString]) -> Self {
        if !paths.iter().any(|path| is_mark(path.as_bstr())) {
            return Self::default();
        }
        let numbered = paths.iter().enumerate().map(|(number, path)| (path.as_bstr(), number));
        let mut others: Vec<_> = numbered.filter(|(path, _)| !is_mark(path)).collect();
        others.sort_unstable();
        Self { others: Some(others) }
    }

    /// Whether this path is that of a whiteout.
    pub(super) fn is_one(&self, path: &BStr) -> bool {
        self.others.is_some() && is_mark(path)
    }

    /// Whether the layer has this path itself, behind its entry of that number.
    fn is_replaced(&self, path: &BStr, behind: usize) -> bool {
        let others = self.others.as_deref().unwrap_or_default();
        let next = others.partition_point(|other| *other <= (path, behind));
        others.get(next).is_some_and(|(other, _)| *other == path)
    }
}

fn is_mark(path: &BStr) -> bool {
    split(path).1.starts_with(WHITEOUT)
}

impl Tree {
    /// Does what a whiteout says, which is the layer's entry of that number.
    pub(super) fn hide(
        &mut self,
        number: usize,
        path: &BStr,
        marks: &Marks<'_>,
    ) -> Result<(), Refused> {
        let (dir, mark) = split(path);
        let hidden = &mark[WHITEOUT.len()..];
        if mark != OPAQUE && mark.starts_with(RESERVED) {
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err("it is a whiteout of nothing that has a name");
        }
        let mut way = Way::to(dir);
        let stop = way.go_on_unless(self, |len| marks.is_replaced(dir[..len].as_bstr(), number));
        self.detours += way.detours;
        if self.detours > MAX_DETOURS {
            return Err("symbolic links lead a very long way to what it is in");
        }
        // Where there is no directory nothing is in it.
        let Ok(Stop::Arrived(dir)) = stop else { return Ok(()) };
        self.recent = None;
        if mark == OPAQUE {
            self.make_bare(dir);
        } else if let Some(child) = self.node(dir).children().and_then(|all| all.get(hidden)) {
            let child = *child;
            self.make_bare(child.node);
            if !self.stays(child)
                && let NodeKind::Directory(children) = &mut self.nodes[dir.index()].kind
            {
                children.remove(hidden);
            }
        }
        Ok(())
    }

    /// Leaves below a directory what is of the layer that is being laid, with the directories that
    /// this is in. Each directory is looked through once for a layer: after that nothing of lower
    /// layers comes into it.
    fn make_bare(&mut self, directory: NodeId) {
        let mut found = Vec::from_iter(self.bare_once(directory));
        let mut next = 0;
        while let Some(id) = found.get(next).copied() {
            next += 1;
            let below = self.node(id).children().into_iter().flatten();
            let below: Vec<_> = below.map(|(_, child)| child.node).collect();
            found.extend(below.into_iter().filter_map(|child| self.bare_once(child)));
        }
        // What is deepest goes first: above it one sees whether there is anything left.
        for id in found.into_iter().rev() {
            let NodeKind::Directory(children) = &mut self.nodes[id.index()].kind else { continue };
            let mut children = std::mem::take(children);
            children.retain(|_, child| self.stays(*child));
            self.nodes[id.index()].kind = NodeKind::Directory(children);
        }
    }

    fn bare_once(&mut self, id: NodeId) -> Option<NodeId> {
        (self.node(id).children().is_some() && self.bare.insert(id)).then_some(id)
    }

    /// Whether a name is spared: it is of this layer, or that of a directory with such names.
    fn stays(&self, child: Child) -> bool {
        let is_full = self.node(child.node).children().is_some_and(|below| !below.is_empty());
        child.layer == self.layer || is_full
    }
}
