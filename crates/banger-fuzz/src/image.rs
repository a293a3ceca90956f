//! What images and kernels are made from: archives, kernel files, modules, the words of apt.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Cursor;

use banger_image::archive::{
    Archive, Content, Entry, Kind, MAX_NAME_LEN, MAX_PATH_LEN, read_entries,
};
use banger_image::image::parse_stage;
use banger_image::kernel::bzimage::{decompress_lz4_legacy, extract_vmlinux};
use banger_image::kernel::modinfo::{Modinfo, builtin_aliases};
use banger_image::kernel::{parse_package, parse_status};
use banger_image::tree::{Tree, Whiteouts};

use crate::blocks::mended;

/// Most bytes that the target for lz4 unpacks: enough for several of its blocks' edges.
const LZ4_LIMIT: usize = 1 << 20;

/// No path leaves the root, and no content lies outside the archive.
pub(crate) fn tar(bytes: &[u8]) {
    tar_as_it_is(bytes);
    tar_as_it_is(&mended(bytes));
}

fn tar_as_it_is(bytes: &[u8]) {
    let Ok(entries) = read_entries(&mut Cursor::new(bytes)) else { return };
    layers(&entries);
    for entry in entries {
        assert!(is_below_root(&entry.path), "{:?}", entry.path);
        assert!(entry.attributes.mode <= 0o7777);
        let mut names = BTreeSet::new();
        assert!(entry.xattrs.iter().all(|(name, _)| names.insert(name)), "an attribute twice");
        match entry.kind {
            Kind::File(Content::Archived { offset, len }) => {
                let end = offset.checked_add(len);
                assert!(end.is_some_and(|end| end <= bytes.len() as u64), "{offset} + {len}");
            }
            Kind::File(Content::Sparse { extents, len }) => {
                let mut from = 0;
                for extent in extents {
                    assert!(extent.at >= from && extent.len > 0, "{extent:?}");
                    let fits = |end: &u64| *end <= len;
                    let within = extent.at.checked_add(extent.len).filter(fits);
                    assert!(within.is_some(), "{extent:?}");
                    from = within.unwrap_or(len);
                    let end = extent.offset.checked_add(extent.len);
                    assert!(end.is_some_and(|end| end <= bytes.len() as u64), "{extent:?}");
                }
            }
            Kind::HardLink(target) => assert!(is_below_root(&target), "{target:?}"),
            _ => {}
        }
    }
}

fn is_below_root(path: &[u8]) -> bool {
    let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && part.len() <= MAX_NAME_LEN;
    path.is_empty() || path.len() <= MAX_PATH_LEN && path.split(|byte| *byte == b'/').all(plain)
}

/// Whatever lies over whatever, everything stays where a tree says that it is.
fn layers(entries: &[Entry]) {
    let mut tree = Tree::new();
    for whiteouts in [Whiteouts::AreFiles, Whiteouts::Hide] {
        let Ok(file) = File::open("/dev/null") else { return };
        let archive = Archive { entries: entries.to_vec(), file };
        if tree.lay(archive, whiteouts).is_err() {
            return;
        }
    }
    assert!(tree.count() > 0);
}

/// What comes out is an ELF file.
pub(crate) fn bzimage(bytes: &[u8]) {
    if let Ok(kernel) = extract_vmlinux(bytes) {
        assert!(kernel.starts_with(b"\x7fELF"));
    }
}

/// Never more comes out than was allowed.
pub(crate) fn lz4(bytes: &[u8]) {
    if let Ok(unpacked) = decompress_lz4_legacy(bytes, LZ4_LIMIT) {
        assert!(unpacked.len() <= LZ4_LIMIT);
    }
}

/// Names of modules become words in lists, a line for each.
pub(crate) fn modinfo(bytes: &[u8]) {
    if let Ok(info) = Modinfo::of_module(bytes) {
        assert!(info.depends.iter().all(|name| !name.is_empty() && !name.contains(',')));
    }
    // Its result is only put into an index, which takes any text.
    let _ = builtin_aliases(bytes);
}

/// No field can become an option of apt's, and progress stays within the whole.
pub(crate) fn apt(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(package) = parse_package(&text) {
        let is_name = |name: &str| name.starts_with(|c: char| c.is_ascii_alphanumeric());
        assert!(is_name(&package.name) && package.first_dependency.as_deref().is_none_or(is_name));
        assert!([package.version, package.sha256].iter().all(|field| !field.contains([' ', '\n'])));
    }
    for line in text.lines() {
        assert!(parse_status(line).is_none_or(|permyriad| permyriad <= 10_000));
        assert!(parse_stage(line).is_none_or(|_| line.starts_with("I: ")));
    }
}
