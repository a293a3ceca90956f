//! The way through a tree: every name once, directories before what is in them, in byte order.

use std::collections::btree_map;

use bstr::{BStr, BString, ByteSlice as _};

use super::{Child, NodeId, Tree};

/// Whether what a name stands for was met before, under another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    First,
    Again,
}

/// One name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// The directory that it is in.
    pub(crate) parent: NodeId,
    pub(crate) name: &'a BStr,
    pub(crate) node: NodeId,
    pub(crate) visit: Visit,
}

/// See [`Tree::walk`].
pub(crate) struct Walk<'a> {
    tree: &'a Tree,
    seen: Vec<bool>,
    open: Vec<(NodeId, btree_map::Iter<'a, BString, Child>)>,
}

impl Tree {
    /// All names, the root excepted, which has none.
    pub(crate) fn walk(&self) -> Walk<'_> {
        let root = self.node(NodeId::ROOT).children().map(|names| (NodeId::ROOT, names.iter()));
        Walk { tree: self, seen: vec![false; self.bound()], open: root.into_iter().collect() }
    }

    /// A path that leads to a node, for people to read: the search takes as long as a walk.
    pub(crate) fn path_of(&self, wanted: NodeId) -> BString {
        let mut above = vec![None; self.bound()];
        for step in self.walk().filter(|step| step.visit == Visit::First) {
            above[step.node.index()] = Some((step.parent, step.name));
        }
        let mut names = Vec::new();
        let mut at = wanted;
        while let Some((parent, name)) = above[at.index()] {
            names.push(name);
            at = parent;
        }
        names.reverse();
        bstr::join("/", names).into()
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        loop {
            let (parent, names) = self.open.last_mut()?;
            let parent = *parent;
            let Some((name, &Child { node, .. })) = names.next() else {
                self.open.pop();
                continue;
            };
            let seen = std::mem::replace(&mut self.seen[node.index()], true);
            if let Some(children) = self.tree.node(node).children() {
                self.open.push((node, children.iter()));
            }
            let visit = if seen { Visit::Again } else { Visit::First };
            return Some(Step { parent, name: name.as_bstr(), node, visit });
        }
    }
}
