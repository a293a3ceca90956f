//! What is written is read back by a second reader, and checked by the file system's own tools.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::fs;
use banger_model::Silent;
use mkext4::reader::Fs;
use mkext4::spec::Inode;
use proptest::prelude::*;

use super::*;
use crate::archive::{Archive, Attributes, Content, Entry, Kind};

const SOON: Duration = Duration::from_secs(120);

fn e2fsck(image: &Path) {
    Tool::new("/sbin/e2fsck").arg("-fn").arg(image).capture(SOON).unwrap();
}

fn plain(path: &str, kind: Kind) -> Entry {
    Entry { kind, ..Entry::file(path, Vec::new(), (1_700_000_000, 123_456_789)) }
}

fn text(path: &str, content: &str) -> Entry {
    Entry::file(path, content.as_bytes().to_vec(), (1_700_000_000, 0))
}

/// An image of these entries, checked.
fn image_of(dir: &Path, entries: Vec<Entry>) -> Fs<File> {
    let path = dir.join("image");
    fs::remove_all(&path).unwrap();
    let archive = Archive { entries, file: tempfile::tempfile().unwrap() };
    write_image(&path, "test", &archive, &Silent).unwrap();
    e2fsck(&path);
    let image = Fs::open(File::open(&path).unwrap()).unwrap();
    assert!(image.verify().unwrap().is_empty());
    image
}

fn refusal(entries: Vec<Entry>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive { entries, file: tempfile::tempfile().unwrap() };
    write_image(&dir.path().join("image"), "test", &archive, &Silent).unwrap_err().to_string()
}

fn xattr(image: &Fs<File>, path: &str, name: &str) -> Option<Vec<u8>> {
    let attrs = image.xattrs(image.resolve(path).unwrap()).unwrap();
    attrs.into_iter().find(|a| a.full_name().as_deref() == Some(name.as_bytes())).map(|a| a.value)
}

#[test]
fn extended_attributes_and_access_lists_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let list = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff".to_vec();
    let mut ping = text("ping", "elf");
    ping.xattrs = vec![
        ("security.capability".to_owned(), capability.clone()),
        ("user.big".to_owned(), vec![7; 3000]),
        ("system.posix_acl_access".to_owned(), list),
    ];
    let image = image_of(dir.path(), vec![ping]);
    assert_eq!(xattr(&image, "ping", "security.capability"), Some(capability));
    assert_eq!(xattr(&image, "ping", "user.big"), Some(vec![7; 3000]));
    assert_eq!(
        xattr(&image, "ping", "system.posix_acl_access").as_deref(),
        Some(&b"\x01\0\0\0\x01\0\x06\0\x20\0\x04\0"[..])
    );
}

#[test]
fn the_last_entry_of_a_path_wins() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = plain("d", Kind::Directory);
    old.xattrs = vec![("user.old".to_owned(), b"x".to_vec())];
    let image = image_of(
        dir.path(),
        vec![
            old,
            text("d/kept", "kept"),
            text("f", "first"),
            plain("link", Kind::HardLink("f".to_owned())),
            text("f", "second"),
            plain("d", Kind::Directory),
            text("gone/below", "x"),
            plain("gone", Kind::Symlink("elsewhere".to_owned())),
        ],
    );
    let content = |path| image.read_file(image.resolve(path).unwrap()).unwrap();
    assert_eq!(content("f"), b"second");
    assert_eq!(content("link"), b"first", "the other name of what was replaced stays");
    assert_eq!(content("d/kept"), b"kept");
    assert_eq!(xattr(&image, "d", "user.old"), None);
    assert_eq!(image.symlink_target(image.resolve("gone").unwrap()).unwrap(), b"elsewhere");
}

#[test]
fn what_ext4_cannot_hold_is_named() {
    let mut huge = text("big", "");
    huge.xattrs = vec![("user.x".to_owned(), vec![0; 5000])];
    let mut strange = text("strange", "");
    strange.xattrs = vec![("nonsense".to_owned(), vec![])];
    let link = |target: &str| plain("link", Kind::HardLink(target.to_owned()));
    for (entries, path, problem) in [
        (vec![huge], "big", "4 KiB"),
        (vec![strange], "strange", "cannot put"),
        (vec![link("nothing")], "link", "hard link to nothing"),
        (vec![plain("d", Kind::Directory), link("d")], "link", "hard link to a directory"),
        (vec![text("link/f", "x"), link("link/f")], "link", "directory it replaces"),
        (vec![text("f", ""), text("f/g", "")], "f/g", "is not a directory"),
        (vec![text("", "")], "", "root can only be"),
        (vec![text("lost+found/x", "")], "lost+found/x", "keeps lost+found"),
    ] {
        let refusal = refusal(entries);
        assert!(refusal.contains(&format!("{path:?}")) && refusal.contains(problem), "{refusal}");
    }
}

#[test]
fn the_directory_that_every_ext4_has_may_be_in_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let image = image_of(dir.path(), vec![plain("lost+found", Kind::Directory), text("a", "")]);
    assert!(image.resolve("a").is_ok());
}

#[test]
fn many_entries_and_large_files_fit() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries: Vec<_> = (0..40_000).map(|n| text(&format!("many/{n:0100}"), "")).collect();
    let len = 200 << 20;
    entries.push(plain("large", Kind::File(Content::Archived { offset: 100, len })));
    let archive = Archive { entries, file: tempfile::tempfile().unwrap() };
    archive.file.set_len(100 + len).unwrap();
    (&archive.file).write_all(b"x").unwrap();
    let path = dir.path().join("image");
    write_image(&path, "large", &archive, &Silent).unwrap();
    e2fsck(&path);
    let image = Fs::open(File::open(&path).unwrap()).unwrap();
    let large = image.inode(image.resolve("large").unwrap()).unwrap();
    assert_eq!(large.size, len);
    assert_eq!(image.read_dir(image.resolve("many").unwrap()).unwrap().len(), 40_002);
}

#[test]
fn the_same_archive_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |content: &str| {
        let mut linked = text("dir/file", content);
        linked.xattrs = vec![("user.x".to_owned(), b"y".to_vec())];
        let link = plain("link", Kind::HardLink("dir/file".to_owned()));
        image_of(dir.path(), vec![linked, link]);
        fs::read_bounded(&dir.path().join("image"), 1 << 30).unwrap()
    };
    assert!(bytes("a") == bytes("a"));
    assert!(bytes("a") != bytes("b"));
}

#[test]
fn an_archive_shorter_than_it_says_names_the_entry() {
    let entries = vec![plain("file", Kind::File(Content::Archived { offset: 0, len: 10 }))];
    assert!(refusal(entries).contains("cannot put \"file\" into the image"));
}

/// One name of the reference: everything that is known of what it stands for.
#[derive(Clone, Debug)]
struct Known {
    inode: usize,
    entry: Entry,
}

/// What a tree should be after these entries, told in the simplest way; entries that have no
/// place in it are dropped from the list.
fn reference(entries: &mut Vec<Entry>) -> BTreeMap<String, Known> {
    let mut tree: BTreeMap<String, Known> = BTreeMap::new();
    let mut next = 0..;
    entries.retain(|entry| {
        let above: Vec<_> =
            entry.path.match_indices('/').map(|(at, _)| &entry.path[..at]).collect();
        let is_dir = |known: &Known| known.entry.kind == Kind::Directory;
        let target = match &entry.kind {
            Kind::HardLink(target) => match tree.get(target) {
                Some(known) if !is_dir(known) => Some(known.clone()),
                _ => return false,
            },
            _ => None,
        };
        if above.iter().any(|dir| tree.get(*dir).is_some_and(|known| !is_dir(known))) {
            return false;
        }
        if let Kind::HardLink(target) = &entry.kind {
            if *target == entry.path {
                return true;
            }
            if target.starts_with(&format!("{}/", entry.path)) {
                return false;
            }
        }
        for dir in above {
            let attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };
            let implied = Entry { attributes, ..plain(dir, Kind::Directory) };
            let inode = next.next().unwrap();
            tree.entry(dir.to_owned()).or_insert(Known { inode, entry: implied });
        }
        if entry.kind != Kind::Directory || !tree.get(&entry.path).is_some_and(is_dir) {
            let below = format!("{}/", entry.path);
            tree.retain(|path, _| *path != entry.path && !path.starts_with(&below));
        }
        let known = target.unwrap_or(Known { inode: next.next().unwrap(), entry: entry.clone() });
        tree.insert(entry.path.clone(), known);
        true
    });
    tree
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let path = prop::collection::vec("[abc]|é-long-name", 1..4).prop_map(|parts| parts.join("/"));
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        5 => prop::collection::vec(any::<u8>(), 0..9000).prop_map(|b| Kind::File(Content::Inline(b))),
        2 => "[abc](/[abc])?".prop_map(Kind::HardLink),
        2 => "[a-z/]{1,100}".prop_map(Kind::Symlink),
        1 => (0u32..4096, 0u32..(1 << 20)).prop_map(|(major, minor)| Kind::Char(major, minor)),
        1 => (0u32..4096, 0u32..(1 << 20)).prop_map(|(major, minor)| Kind::Block(major, minor)),
        1 => Just(Kind::Fifo),
    ];
    let attributes =
        (0u16..0o10_000, any::<u32>(), any::<u32>(), -1i64 << 31..1 << 33, 0u32..1_000_000_000)
            .prop_map(|(mode, uid, gid, s, ns)| Attributes { mode, uid, gid, mtime: (s, ns) });
    let xattrs = prop::collection::btree_map(
        "(user|trusted|security)\\.[a-z]{1,20}",
        prop::collection::vec(any::<u8>(), 0..200),
        0..4,
    );
    let entry = (path, kind, attributes, xattrs).prop_map(|(path, kind, attributes, xattrs)| {
        Entry { path, kind, attributes, xattrs: xattrs.into_iter().collect() }
    });
    prop::collection::vec(entry, 0..40)
}

fn check_inode(image: &Fs<File>, ino: u32, inode: &Inode, expected: &Entry) {
    let attributes = Attributes {
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime: Inode::timestamp(inode.mtime, inode.mtime_extra),
    };
    assert_eq!(attributes, expected.attributes, "{}", expected.path);
    let mut xattrs: Vec<_> = image
        .xattrs(ino)
        .unwrap()
        .into_iter()
        .map(|a| (String::from_utf8(a.full_name().unwrap()).unwrap(), a.value))
        .collect();
    xattrs.sort();
    assert_eq!(xattrs, expected.xattrs, "{}", expected.path);
    let kind = match &expected.kind {
        Kind::File(_) => Kind::File(Content::Inline(image.read_file(ino).unwrap())),
        Kind::Symlink(_) => {
            Kind::Symlink(String::from_utf8(image.symlink_target(ino).unwrap()).unwrap())
        }
        Kind::Char(..) => {
            inode.dev_numbers().map(|(major, minor)| Kind::Char(major, minor)).unwrap()
        }
        Kind::Block(..) => {
            inode.dev_numbers().map(|(major, minor)| Kind::Block(major, minor)).unwrap()
        }
        other => other.clone(),
    };
    let format = match kind {
        Kind::Fifo => 0o01,
        Kind::Char(..) => 0o02,
        Kind::Directory => 0o04,
        Kind::Block(..) => 0o06,
        Kind::File(_) => 0o10,
        Kind::Symlink(_) => 0o12,
        Kind::HardLink(_) => unreachable!("names share an inode"),
    };
    assert_eq!(inode.mode >> 12, format, "{}", expected.path);
    assert!(kind == expected.kind, "{}", expected.path);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_tree_is_read_back_as_it_was_written(mut entries in entries()) {
        let expected = reference(&mut entries);
        let dir = tempfile::tempdir().unwrap();
        let image = image_of(dir.path(), entries.clone());
        let mut inodes = BTreeMap::new();
        for (path, known) in &expected {
            let ino = image.resolve(path).unwrap();
            let inode = image.inode(ino).unwrap();
            prop_assert_eq!(*inodes.entry(known.inode).or_insert(ino), ino, "{}", path);
            check_inode(&image, ino, &inode, &known.entry);
            if known.entry.kind == Kind::Directory {
                let below = format!("{path}/");
                let names = expected.keys().filter(|p| p.starts_with(&below) && !p[below.len()..].contains('/'));
                prop_assert_eq!(image.read_dir(ino).unwrap().len(), names.count() + 2);
            }
        }
        let distinct: std::collections::BTreeSet<_> = inodes.values().collect();
        prop_assert_eq!(distinct.len(), inodes.len());
    }
}
