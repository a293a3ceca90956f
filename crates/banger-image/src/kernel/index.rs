//! The binary indexes in which `modprobe` looks up modules (kmod, `libkmod-index.h`).
//!
//! An index is a radix tree of keys with values. A node lies behind its children in the file and
//! consists of those of these parts that it has, which the upper bits of the reference to it
//! tell: a NUL-ended prefix; the range of first characters of its children and a reference for
//! each character in that range; a counted list of values, each a priority and a NUL-ended text.
//! Numbers are 32 bits long, most significant byte first.

use std::collections::BTreeMap;

/// "BOOTFAST", the second of its kind.
const MAGIC: u32 = 0xb007_f457;
/// Major 2, minor 1.
const VERSION: u32 = 0x0002_0001;
/// Parts of a node, as its reference tells them.
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
/// A reference keeps this many bits for the place in the file.
const MAX_OFFSET: usize = 0x0fff_ffff;

/// Keys with their values and the values' priorities, the lowest coming first.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<Vec<u8>, Vec<(u32, String)>>);

impl Index {
    /// Adds a value to a key. Keys that are not plain ASCII cannot be looked up and are left out.
    pub(super) fn insert(&mut self, key: &str, value: &str, priority: u32) {
        if !key.is_ascii() || key.contains('\0') || value.contains('\0') {
            return;
        }
        let values = self.0.entry(key.as_bytes().to_vec()).or_default();
        if values.iter().all(|(_, known)| known != value) {
            values.push((priority, value.to_owned()));
        }
    }

    /// The index as a file; `None` when it would be larger than the format allows.
    pub(super) fn into_bytes(mut self) -> Option<Vec<u8>> {
        for values in self.0.values_mut() {
            values.sort();
        }
        let entries: Vec<_> = self.0.iter().map(|(key, values)| (&key[..], &values[..])).collect();
        let mut file = Vec::new();
        for number in [MAGIC, VERSION, 0] {
            file.extend(number.to_be_bytes());
        }
        let root = write_node(&mut file, &entries, 0)?;
        file[8..12].copy_from_slice(&root.to_be_bytes());
        Some(file)
    }
}

type EntryRef<'a> = (&'a [u8], &'a [(u32, String)]);

/// Writes the node of these sorted entries, whose first `depth` bytes the nodes above stand for,
/// and returns the reference to it. Keys have at most a few hundred bytes, so has the recursion.
fn write_node(file: &mut Vec<u8>, entries: &[EntryRef<'_>], depth: usize) -> Option<u32> {
    let (first, last) =
        (entries.first().map_or(&[][..], |e| e.0), entries.last().map_or(&[][..], |e| e.0));
    // The entries are sorted: what the first and the last share, all share.
    let shared = first[depth.min(first.len())..]
        .iter()
        .zip(&last[depth.min(last.len())..])
        .take_while(|(a, b)| a == b)
        .count();
    let end = depth + shared;
    let (values, longer) = match entries.split_first() {
        Some(((key, values), rest)) if key.len() == end => (*values, rest),
        _ => (&[][..], entries),
    };
    let children = write_children(file, longer, end)?;

    let mut reference = u32::try_from(file.len()).ok().filter(|_| file.len() <= MAX_OFFSET)?;
    if shared > 0 {
        reference |= HAS_PREFIX;
        file.extend(&first[depth..end]);
        file.push(0);
    }
    if let (Some((low, _)), Some((high, _))) = (children.first(), children.last()) {
        reference |= HAS_CHILDREN;
        file.extend([*low, *high]);
        for byte in *low..=*high {
            let child = children.iter().find(|(first, _)| *first == byte);
            file.extend(child.map_or(0, |(_, reference)| *reference).to_be_bytes());
        }
    }
    if !values.is_empty() {
        reference |= HAS_VALUES;
        file.extend(u32::try_from(values.len()).ok()?.to_be_bytes());
        for (priority, value) in values {
            file.extend(priority.to_be_bytes());
            file.extend(value.as_bytes());
            file.push(0);
        }
    }
    Some(reference)
}

fn write_children(
    file: &mut Vec<u8>,
    entries: &[EntryRef<'_>],
    depth: usize,
) -> Option<Vec<(u8, u32)>> {
    entries
        .chunk_by(|a, b| a.0[depth] == b.0[depth])
        .map(|group| Some((group[0].0[depth], write_node(file, group, depth + 1)?)))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Looks a key up as `modprobe` does, patterns aside.
    pub(crate) fn look_up(file: &[u8], key: &str) -> Vec<String> {
        let be32 = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        let text = |at: usize| {
            let end = at + file[at..].iter().position(|b| *b == 0).unwrap();
            (String::from_utf8(file[at..end].to_vec()).unwrap(), end + 1)
        };
        assert_eq!((be32(0), be32(4)), (MAGIC, VERSION));
        let (mut reference, mut rest) = (be32(8), key);
        loop {
            let mut at = reference as usize & MAX_OFFSET;
            if reference & HAS_PREFIX != 0 {
                let (prefix, after) = text(at);
                let Some(left) = rest.strip_prefix(&prefix) else { return Vec::new() };
                (rest, at) = (left, after);
            }
            let mut next = 0;
            if reference & HAS_CHILDREN != 0 {
                let (low, high) = (file[at], file[at + 1]);
                if let Some(first) = rest.bytes().next().filter(|b| (low..=high).contains(b)) {
                    next = be32(at + 2 + 4 * usize::from(first - low));
                }
                at += 2 + 4 * (usize::from(high - low) + 1);
            }
            if rest.is_empty() && reference & HAS_VALUES != 0 {
                let mut values = Vec::new();
                let count = be32(at);
                at += 4;
                for _ in 0..count {
                    let (value, after) = text(at + 4);
                    values.push(value);
                    at = after;
                }
                return values;
            }
            if rest.is_empty() || next == 0 {
                return Vec::new();
            }
            (reference, rest) = (next, &rest[1..]);
        }
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        let keys = ["", "a", "abc", "abd", "abcdef", "b", "pci:v*d*", "pci:v1d2"];
        let mut index = Index::default();
        for (n, key) in keys.iter().enumerate() {
            index.insert(key, &format!("value of {key}"), u32::try_from(n).unwrap());
        }
        let file = index.into_bytes().unwrap();
        for key in keys {
            assert_eq!(look_up(&file, key), [format!("value of {key}")], "{key:?}");
        }
        for absent in ["ab", "abcd", "c", "pci:", "abcdefg"] {
            assert!(look_up(&file, absent).is_empty(), "{absent:?}");
        }
    }

    #[test]
    fn values_of_a_key_come_by_priority_and_once() {
        let mut index = Index::default();
        for (value, priority) in [("late", 9), ("early", 1), ("late", 9)] {
            index.insert("key", value, priority);
        }
        assert_eq!(look_up(&index.into_bytes().unwrap(), "key"), ["early", "late"]);
    }

    #[test]
    fn an_empty_index_is_a_file_too() {
        assert!(look_up(&Index::default().into_bytes().unwrap(), "x").is_empty());
    }
}
