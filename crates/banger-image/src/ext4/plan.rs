//! How large an image must be, and what identifies it: pure functions of a tree.
//!
//! An image file is sparse, so space that turns out not to be needed costs nothing on the host;
//! the estimate errs on the large side.

use sha2::{Digest as _, Sha256};

use crate::tree::{Node, NodeId, NodeKind, Step, Tree, Visit};

/// Size of a block of the file system.
const BLOCK: u64 = 4096;
/// The smallest journal that Linux accepts. The writer cannot leave it out; it is a hole in the
/// file, and a read-only mount passes it over with `noload`.
pub(super) const JOURNAL_BLOCKS: u32 = 1024;
/// Inodes that the file system has for itself, and then some.
const SPARE_INODES: u64 = 32;
/// Size of an inode.
const INODE: u64 = 256;
/// Blocks of a block group.
const GROUP: u64 = 32_768;
/// A group has at most as many inodes as its bitmap block has bits; some are kept free.
const GROUP_INODES: u64 = 32_000;
/// The journal may take a quarter of a file system: less is not possible.
const MIN_BLOCKS: u64 = 8192;
/// Blocks of data in one extent at least, where a group's own structures do not interrupt it.
const EXTENT: u64 = 16_384;
/// Extents that fit into one block beside a file's data.
const EXTENTS_PER_BLOCK: u64 = 128;
/// Symbolic links shorter than this are kept in their inode.
const INLINE_LINK: usize = 60;

/// What the writer needs to know before the first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImagePlan {
    /// Length of the image in bytes.
    pub(super) size: u64,
    pub(super) inodes: u32,
    pub(super) uuid: [u8; 16],
    /// Seconds since 1970 that the file system was made at: the newest time in it.
    pub(super) epoch: i64,
    /// Bytes of file content.
    pub(super) content: u64,
}

impl ImagePlan {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut sums = Sums::default();
        sums.node(tree.node(NodeId::ROOT));
        for step in tree.walk() {
            sums.name(tree, step);
        }
        let inodes = sums.nodes + SPARE_INODES;
        let blocks = sums.own_blocks
            // Blocks of directories may be half empty.
            + (sums.name_bytes * 2).div_ceil(BLOCK)
            + inodes.div_ceil(BLOCK / INODE)
            + u64::from(JOURNAL_BLOCKS);
        let blocks = blocks.max(inodes.div_ceil(GROUP_INODES) * GROUP).max(MIN_BLOCKS);
        // Each group has two bitmaps, and some have copies of the superblock.
        let total = blocks + blocks / 64 + GROUP / 32;
        Self {
            size: total * BLOCK,
            inodes: u32::try_from(inodes).unwrap_or(u32::MAX),
            epoch: sums.newest.clamp(0, i64::from(u32::MAX)),
            content: sums.content,
            uuid: sums.uuid(),
        }
    }
}

/// What is added up on the way through a tree.
#[derive(Default)]
struct Sums {
    nodes: u64,
    own_blocks: u64,
    name_bytes: u64,
    content: u64,
    newest: i64,
    /// Of everything but the content of files.
    hash: Sha256,
}

impl Sums {
    /// One name, and what it stands for if that is new.
    fn name(&mut self, tree: &Tree, step: Step<'_>) {
        // A line of a directory, with its header.
        self.name_bytes += (step.name.len() as u64 + 8).next_multiple_of(4);
        // Debug text quotes strings, so no two trees have the same.
        self.hash.update(format!("{:?}{:?}{:?}", step.parent, step.name, step.node));
        if step.visit == Visit::First {
            self.node(tree.node(step.node));
        }
    }

    fn node(&mut self, node: &Node) {
        self.nodes += 1;
        self.own_blocks += own_blocks(node);
        self.newest = self.newest.max(node.attributes.mtime.0);
        self.hash.update(format!("{:?}{:?}", node.attributes, node.xattrs));
        match &node.kind {
            NodeKind::Directory(_) => self.hash.update("Directory"),
            NodeKind::File(place) => {
                self.content += place.content.len();
                self.hash.update(format!("File({})", place.content.len()));
            }
            kind => self.hash.update(format!("{kind:?}")),
        }
    }

    /// An identity that changes with anything the tree says, the content of files excepted.
    fn uuid(self) -> [u8; 16] {
        let digest = self.hash.finalize();
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest[..16]);
        // Marked as version 8, "custom", of RFC 9562.
        uuid[6] = (uuid[6] & 0x0f) | 0x80;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        uuid
    }
}

/// Blocks that something takes for itself at most.
fn own_blocks(node: &Node) -> u64 {
    let own = match &node.kind {
        NodeKind::Directory(_) => 2,
        NodeKind::File(place) => {
            let data = place.content.len().div_ceil(BLOCK);
            // Four extents fit into the inode.
            let more = if data > 2 * EXTENT { 2 + data / EXTENT / EXTENTS_PER_BLOCK } else { 0 };
            data + more
        }
        NodeKind::Symlink(target) => u64::from(target.len() >= INLINE_LINK),
        _ => 0,
    };
    own + u64::from(!node.xattrs.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Archive, Entry};
    use crate::tree::Whiteouts;

    fn tree(files: &[(&str, usize)]) -> Tree {
        let file =
            |(path, len): &(&str, usize)| Entry::file(path, vec![0; *len], (1_700_000_000, 0));
        let entries = files.iter().map(file).collect();
        let archive = Archive { entries, file: tempfile::tempfile().unwrap() };
        let mut tree = Tree::new();
        tree.lay(archive, Whiteouts::AreFiles).unwrap();
        tree
    }

    #[test]
    fn an_identity_depends_on_every_entry() {
        let plan = |files: &[(&str, usize)]| ImagePlan::of(&tree(files));
        let a = plan(&[("a", 1)]);
        assert_eq!(a, plan(&[("a", 1)]));
        assert_ne!(a.uuid, plan(&[("b", 1)]).uuid);
        assert_ne!(a.uuid, plan(&[("a", 2)]).uuid);
        assert_eq!(a.epoch, 1_700_000_000);
    }

    #[test]
    fn many_small_files_get_groups_for_their_inodes() {
        let names: Vec<_> = (0..40_000).map(|n| n.to_string()).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
        let plan = ImagePlan::of(&tree(&files));
        assert!(plan.size >= 2 * GROUP * BLOCK);
        assert!(plan.inodes > 40_000);
    }
}
