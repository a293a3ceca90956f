//! How large an image must be, and what identifies it: pure functions of an archive's entries.
//!
//! An image file is sparse, so space that turns out not to be needed costs nothing on the host;
//! the estimate errs on the large side.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use crate::archive::{Content, Entry, Kind};

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

/// Most directories that an archive may leave unmentioned: proper ones mention all.
pub(super) const MAX_IMPLIED: u64 = 100_000;

/// What the writer needs to know before the first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImagePlan {
    /// Length of the image in bytes.
    pub(super) size: u64,
    pub(super) inodes: u32,
    pub(super) uuid: [u8; 16],
    /// Seconds since 1970 that the file system was made at: the newest time in it.
    pub(super) epoch: i64,
    /// Bytes of file content in the archive.
    pub(super) content: u64,
}

impl ImagePlan {
    pub(super) fn of(entries: &[Entry]) -> Self {
        let implied = implied_directories(entries);
        let inodes = entries.len() as u64 + implied + SPARE_INODES;
        let named: u64 = entries.iter().map(name_bytes).sum();
        let blocks = entries.iter().map(own_blocks).sum::<u64>()
            // Each directory begins a block and may have an index; blocks may be half empty.
            + implied * 2
            + (named * 2).div_ceil(BLOCK)
            + inodes.div_ceil(BLOCK / INODE)
            + u64::from(JOURNAL_BLOCKS);
        let blocks = blocks.max(inodes.div_ceil(GROUP_INODES) * GROUP).max(MIN_BLOCKS);
        // Each group has two bitmaps, and some have copies of the superblock.
        let total = blocks + blocks / 64 + GROUP / 32;
        let newest = entries.iter().map(|entry| entry.attributes.mtime.0).max().unwrap_or(0);
        Self {
            size: total * BLOCK,
            inodes: u32::try_from(inodes).unwrap_or(u32::MAX),
            uuid: uuid(entries),
            epoch: newest.clamp(0, i64::from(u32::MAX)),
            content: entries.iter().filter_map(content).map(Content::len).sum(),
        }
    }
}

fn content(entry: &Entry) -> Option<&Content> {
    match &entry.kind {
        Kind::File(content) => Some(content),
        _ => None,
    }
}

/// Directories that entries are in without the archive mentioning them. Counting ends beyond
/// [`MAX_IMPLIED`].
fn implied_directories(entries: &[Entry]) -> u64 {
    let mut known: HashSet<&str> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Directory)
        .map(|entry| entry.path.as_str())
        .collect();
    let mut implied = 0;
    for entry in entries {
        let mut path = entry.path.as_str();
        while let Some((parent, _)) = path.rsplit_once('/') {
            // Whatever made a directory known has counted, or will count, those above it too.
            if !known.insert(parent) {
                break;
            }
            implied += 1;
            if implied > MAX_IMPLIED {
                return implied;
            }
            path = parent;
        }
    }
    implied
}

/// Bytes of an entry's line in its directory.
fn name_bytes(entry: &Entry) -> u64 {
    let name = entry.path.rsplit('/').next().unwrap_or_default();
    (name.len() as u64 + 8).next_multiple_of(4)
}

/// Blocks that one entry takes for itself at most.
fn own_blocks(entry: &Entry) -> u64 {
    let own = match &entry.kind {
        Kind::Directory => 2,
        Kind::File(content) => {
            let data = content.len().div_ceil(BLOCK);
            // Four extents fit into the inode.
            let more = if data > 2 * EXTENT { 2 + data / EXTENT / EXTENTS_PER_BLOCK } else { 0 };
            data + more
        }
        Kind::Symlink(target) => u64::from(target.len() >= INLINE_LINK),
        _ => 0,
    };
    own + u64::from(!entry.xattrs.is_empty())
}

/// An identity that changes with anything the archive says, the content of files excepted.
fn uuid(entries: &[Entry]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for entry in entries {
        // Debug text quotes strings, so no two entries have the same.
        hash.update(format!("{:?}{:?}{:?}", entry.path, entry.attributes, entry.xattrs));
        match content(entry) {
            Some(content) => hash.update(format!("File({})", content.len())),
            None => hash.update(format!("{:?}", entry.kind)),
        }
    }
    let digest = hash.finalize();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    // Marked as version 8, "custom", of RFC 9562.
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, len: usize) -> Entry {
        Entry::file(path, vec![0; len], (1_700_000_000, 0))
    }

    #[test]
    fn unmentioned_directories_count_once() {
        let mut deep = file("x/y", 0);
        deep.kind = Kind::Directory;
        let entries = [
            file("a/b/c", 0),
            file("a/b/d", 0),
            file("a/e", 0),
            file("f", 0),
            file("x/y/z", 0),
            deep,
        ];
        assert_eq!(implied_directories(&entries), 3, "a, a/b and x");
    }

    #[test]
    fn an_identity_depends_on_every_entry() {
        let plan = |entries: &[Entry]| ImagePlan::of(entries);
        let a = plan(&[file("a", 1)]);
        assert_eq!(a, plan(&[file("a", 1)]));
        assert_ne!(a.uuid, plan(&[file("b", 1)]).uuid);
        assert_ne!(a.uuid, plan(&[file("a", 2)]).uuid);
        assert_eq!(a.epoch, 1_700_000_000);
    }

    #[test]
    fn many_small_files_get_groups_for_their_inodes() {
        let entries: Vec<_> = (0..40_000).map(|n| file(&n.to_string(), 0)).collect();
        let plan = ImagePlan::of(&entries);
        assert!(plan.size >= 2 * GROUP * BLOCK);
        assert!(plan.inodes > 40_000);
    }
}
