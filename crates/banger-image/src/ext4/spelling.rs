//! Names and targets that are no text: ext4 holds any bytes, the writer takes UTF-8 only.
//!
//! Such a name is written as a stand-in that takes the same room in its directory, and corrected in
//! the finished image: the bytes in the directory's block and the block's checksum. The order
//! within an indexed directory follows from the names, so such a directory becomes one without an
//! index, which every ext4 directory is underneath: blocks of the index are blocks of a directory
//! in which nothing is. Sources: the kernel's documentation of ext4, "Directory Entries" and
//! "Checksums".

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bstr::{BStr, BString, ByteSlice as _};
use mkext4::reader::Fs;
use mkext4::spec::{DxRootView, Inode, iflags};
use mkext4::{Error, csum};

use crate::tree::{Children, NodeId, NodeKind, Tree, Visit};

/// Length of a block of the file system.
const BLOCK: usize = 4096;
/// A directory's block ends in an entry without a name that has its checksum.
const TAIL: usize = 12;
/// What a tail says its type is.
const TAIL_TYPE: u8 = 0xde;
/// A directory entry without its name: inode, length of the record, length of the name, type.
const HEADER: usize = 8;
/// Where an inode keeps the target of a short link, and where its flags and checksum are.
const INLINE: usize = 0x28;
const FLAGS: usize = 0x20;
const CHECKSUM_LOW: usize = 0x7c;
const CHECKSUM_HIGH: usize = 0x82;
/// Most stand-ins of one length that are tried in one directory: more than it can have entries.
const MAX_TRIES: u32 = 5_000_000;

/// What was written otherwise than it is.
#[derive(Debug, Default)]
pub(super) struct Spelling {
    /// Of each directory, stand-ins and the names that they stand for.
    names: HashMap<NodeId, BTreeMap<String, BString>>,
    /// For names of a length in a directory, the number from which on stand-ins are untried.
    next: HashMap<(NodeId, usize), u32>,
    /// Symbolic links whose targets are to be written again.
    targets: HashSet<NodeId>,
}

impl Spelling {
    /// A name that is free in the directory and takes the room of `name`; none if there is none.
    pub(super) fn stand_in(
        &mut self,
        directory: NodeId,
        name: &BStr,
        siblings: Option<&Children>,
    ) -> Option<String> {
        let taken = self.names.entry(directory).or_default();
        // Records have lengths that are multiples of four: so much more costs nothing.
        let len = name.len().next_multiple_of(4).min(255);
        let next = self.next.entry((directory, len)).or_default();
        let is_free = |new: &String| {
            !taken.contains_key(new)
                && siblings.is_none_or(|siblings| !siblings.contains_key(new.as_bytes()))
        };
        let stand_in = std::iter::from_fn(|| {
            let number = *next;
            *next = number.checked_add(1).filter(|next| *next < MAX_TRIES)?;
            Some(spelled(number, len))
        });
        let stand_in = stand_in.take_while(|new| new.len() == len).find(is_free)?;
        taken.insert(stand_in.clone(), name.to_owned());
        Some(stand_in)
    }

    /// A target of the same length.
    pub(super) fn stand_in_target(&mut self, link: NodeId, target: &BStr) -> String {
        self.targets.insert(link);
        "?".repeat(target.len())
    }

    /// Writes into a finished image what should be there.
    pub(super) fn correct(&self, image: &File, tree: &Tree) -> Result<(), Error> {
        if self.names.is_empty() && self.targets.is_empty() {
            return Ok(());
        }
        let reader = Fs::open(image)?;
        let image = Image { reader, file: image };
        let on_the_way = self.on_the_way(tree);
        let mut open = vec![(NodeId::ROOT, ROOT_INODE)];
        while let Some((directory, ino)) = open.pop() {
            let Some(children) = tree.node(directory).children() else { continue };
            let entries = image.reader.read_dir(ino)?;
            let written: HashMap<&[u8], u32> =
                entries.iter().map(|entry| (entry.name.as_slice(), entry.inode)).collect();
            let names = self.names.get(&directory);
            let spelled: HashMap<&BStr, &str> = names
                .into_iter()
                .flatten()
                .map(|(stand_in, name)| (name.as_bstr(), stand_in.as_str()))
                .collect();
            let children = children.iter().map(|(name, child)| (name, child.node));
            for (name, node) in children.filter(|(_, node)| on_the_way.contains(node)) {
                let spelled = spelled.get(name.as_bstr()).map_or(name.as_bytes(), |s| s.as_bytes());
                let ino = *written.get(spelled).ok_or_else(|| gone("what was written"))?;
                match &tree.node(node).kind {
                    NodeKind::Symlink(target) => image.set_target(ino, target.as_bstr())?,
                    _ => open.push((node, ino)),
                }
            }
            if let Some(names) = names {
                image.rename(ino, names)?;
            }
        }
        Ok(())
    }

    /// Everything to be corrected, and the directories that lead there.
    fn on_the_way(&self, tree: &Tree) -> HashSet<NodeId> {
        let mut parents = vec![NodeId::ROOT; tree.bound()];
        for step in tree.walk().filter(|step| step.visit == Visit::First) {
            parents[step.node.index()] = step.parent;
        }
        let mut found = HashSet::from([NodeId::ROOT]);
        for &node in self.names.keys().chain(&self.targets) {
            let mut at = node;
            while found.insert(at) {
                at = parents[at.index()];
            }
        }
        found
    }
}

/// The root directory's inode, in every ext4.
const ROOT_INODE: u32 = 2;

/// A number as text of this length, or of a greater one when it does not fit.
fn spelled(number: u32, len: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let (mut left, mut digits) = (number, String::new());
    while left > 0 {
        digits.insert(0, char::from(DIGITS[(left % 36) as usize]));
        left /= 36;
    }
    format!("{digits:_>len$}")
}

fn gone(what: &str) -> Error {
    Error::Io(io::Error::other(format!("{what} is not in the image")))
}

/// A whole image that is read and written.
struct Image<'a> {
    reader: Fs<&'a File>,
    file: &'a File,
}

impl Image<'_> {
    /// Replaces stand-ins by the names that they stand for.
    fn rename(&self, ino: u32, names: &BTreeMap<String, BString>) -> Result<(), Error> {
        let mut inode = self.reader.inode(ino)?;
        let seed = csum::inode_seed(self.reader.fs_seed(), ino, inode.generation);
        let extents = self.reader.extents(ino, &inode)?;
        let indexed = inode.flags & iflags::INDEX != 0;
        for logical in 0..inode.size / BLOCK as u64 {
            let block = self.reader.file_block(&extents, logical);
            let block = block.ok_or_else(|| gone("a block of a directory"))?;
            let mut bytes = self.reader.read_block(block)?;
            if indexed {
                forget_index(&mut bytes, logical)?;
            }
            rename_in(&mut bytes, names)?;
            let sum = csum::dirent_block(seed, &bytes);
            bytes[BLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
            self.file.write_all_at(&bytes, block * BLOCK as u64)?;
        }
        if indexed {
            inode.flags &= !iflags::INDEX;
            let flags = inode.flags;
            self.change_inode(ino, &inode, |raw| {
                raw[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_le_bytes());
            })?;
        }
        Ok(())
    }

    fn set_target(&self, ino: u32, target: &BStr) -> Result<(), Error> {
        let inode = self.reader.inode(ino)?;
        if inode.fast_symlink_target().is_some() {
            return self.change_inode(ino, &inode, |raw| {
                raw[INLINE..INLINE + target.len()].copy_from_slice(target);
            });
        }
        let extents = self.reader.extents(ino, &inode)?;
        let block = self.reader.file_block(&extents, 0);
        let block = block.ok_or_else(|| gone("the target of a link"))?;
        Ok(self.file.write_all_at(target, block * BLOCK as u64)?)
    }

    fn change_inode(
        &self,
        ino: u32,
        inode: &Inode,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        let mut raw = self.reader.inode_raw(ino)?;
        change(&mut raw);
        let sum = csum::inode(self.reader.fs_seed(), ino, inode.generation, &raw).to_le_bytes();
        raw[CHECKSUM_LOW..CHECKSUM_LOW + 2].copy_from_slice(&sum[..2]);
        raw[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].copy_from_slice(&sum[2..]);
        let superblock = self.reader.superblock();
        let in_group = u64::from(superblock.inodes_per_group);
        let (group, at) = ((u64::from(ino) - 1) / in_group, (u64::from(ino) - 1) % in_group);
        let table = self.reader.group_desc(group)?.inode_table * BLOCK as u64;
        let offset = table + at * u64::from(superblock.inode_size);
        Ok(self.file.write_all_at(&raw, offset)?)
    }
}

/// Makes a block of a directory's index one of a directory without. Its checksum is wrong then.
fn forget_index(block: &mut [u8], logical: u64) -> Result<(), Error> {
    let record =
        |at: usize, block: &[u8]| usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
    let first = if logical == 0 {
        // `.` keeps its record, `..` has the rest.
        DxRootView::parse(block)?;
        HEADER + 4
    } else if block[..4] == [0; 4] && record(0, block) == BLOCK {
        0
    } else {
        return Ok(());
    };
    let used = if logical == 0 { first + HEADER + 4 } else { HEADER };
    block[used..].fill(0);
    let rest = u16::try_from(BLOCK - TAIL - first).unwrap_or(0);
    block[first + 4..first + 6].copy_from_slice(&rest.to_le_bytes());
    let tail = BLOCK - TAIL;
    block[tail + 4] = 12;
    block[tail + 7] = TAIL_TYPE;
    Ok(())
}

/// Renames entries in a block. Its checksum is wrong then.
fn rename_in(block: &mut [u8], names: &BTreeMap<String, BString>) -> Result<(), Error> {
    let mut at = 0;
    while at + HEADER <= BLOCK - TAIL {
        let record = usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
        let len = usize::from(block[at + 6]);
        if record < HEADER || at + record > BLOCK || HEADER + len > record {
            return Err(gone("a whole directory"));
        }
        let name = at + HEADER..at + HEADER + len;
        let stands_for = block[name.clone()].to_str().ok().and_then(|name| names.get(name));
        if let Some(stands_for) = stands_for {
            block[name].fill(0);
            block[at + 6] = u8::try_from(stands_for.len()).unwrap_or(0);
            block[at + HEADER..at + HEADER + stands_for.len()].copy_from_slice(stands_for);
        }
        at += record;
    }
    Ok(())
}
