//! The way to a path, as the kernel would go it with this tree as its root: symbolic links are
//! followed, `..` ends at the root.

use std::borrow::Cow;

use bstr::{BStr, BString, ByteSlice as _};

use super::{MAX_LINKS_ON_WAY, NodeId, NodeKind, Refused, Tree};

/// A way that is being gone.
pub(super) struct Way<'a> {
    /// The directories that it leads through, the root first.
    behind: Vec<NodeId>,
    /// The names that are still to be looked up, last first.
    ahead: Vec<Cow<'a, BStr>>,
    links: usize,
    /// Bytes of the path itself that are behind.
    gone: usize,
    /// Names that were looked up because of symbolic links.
    pub(super) detours: usize,
}

/// Where it ends, or cannot go on.
pub(super) enum Stop {
    /// It leads to this directory.
    Arrived(NodeId),
    /// To go on it would have to lead through this, which is no directory.
    File(NodeId),
    /// There is nothing of this name in this directory.
    Missing(NodeId, BString),
    /// To go on it would have to follow a link that is not to be followed.
    Link,
}

impl<'a> Way<'a> {
    pub(super) fn to(path: &'a BStr) -> Self {
        let ahead = path.rsplit_str("/").map(|part| Cow::Borrowed(part.as_bstr())).collect();
        Self { behind: vec![NodeId::ROOT], ahead, links: 0, gone: 0, detours: 0 }
    }

    /// Goes as far as it leads.
    pub(super) fn go_on(&mut self, tree: &Tree) -> Result<Stop, Refused> {
        self.go_on_unless(tree, |_| false)
    }

    /// Goes as far as it leads, and not through links for which `stop` is true: it is told how many
    /// bytes of the path lead to one, when the path itself leads there and no other link.
    pub(super) fn go_on_unless(
        &mut self,
        tree: &Tree,
        stop: impl Fn(usize) -> bool,
    ) -> Result<Stop, Refused> {
        while let Some(name) = self.ahead.pop() {
            let here = self.here();
            let of_path = matches!(name, Cow::Borrowed(_));
            if of_path {
                self.gone += usize::from(self.gone > 0) + name.len();
            }
            match name.as_bytes() {
                b"" | b"." => continue,
                b".." => {
                    self.behind.truncate((self.behind.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let Some(child) = tree.child(here, &name) else {
                return Ok(Stop::Missing(here, name.into_owned()));
            };
            match &tree.node(child).kind {
                NodeKind::Directory(_) => self.behind.push(child),
                NodeKind::Symlink(_) if of_path && stop(self.gone) => return Ok(Stop::Link),
                NodeKind::Symlink(target) => self.follow(target.as_bstr())?,
                _ => return Ok(Stop::File(child)),
            }
        }
        Ok(Stop::Arrived(self.here()))
    }

    /// Goes into a directory that was missing.
    pub(super) fn enter(&mut self, directory: NodeId) {
        self.behind.push(directory);
    }

    fn here(&self) -> NodeId {
        self.behind.last().copied().unwrap_or(NodeId::ROOT)
    }

    fn follow(&mut self, target: &BStr) -> Result<(), Refused> {
        self.links += 1;
        if self.links > MAX_LINKS_ON_WAY {
            return Err("there are too many symbolic links on its way");
        }
        if target.starts_with(b"/") {
            self.behind.truncate(1);
        }
        for part in target.rsplit_str("/") {
            // Also those between two slashes: looking for them takes as long.
            self.detours += 1;
            if !part.is_empty() {
                self.ahead.push(Cow::Owned(BString::from(part)));
            }
        }
        Ok(())
    }
}

impl Tree {
    /// Whether a process in the tree finds a program at this path.
    pub(crate) fn is_program(&self, path: &str) -> bool {
        self.program(path).is_some()
    }

    /// Where the program is, in the end, that this path leads to.
    pub(crate) fn program_at(&self, path: &str) -> Option<BString> {
        self.program(path).map(|node| self.path_of(node))
    }

    fn program(&self, path: &str) -> Option<NodeId> {
        let mut way = Way::to(path.as_bytes().as_bstr());
        let Ok(Stop::File(id)) = way.go_on(self) else { return None };
        let node = self.node(id);
        let is_file = matches!(node.kind, NodeKind::File(_));
        (way.ahead.is_empty() && is_file && node.attributes.mode & 0o111 != 0).then_some(id)
    }
}
