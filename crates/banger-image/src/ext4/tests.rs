//! What is written is read back by a second reader, and checked by the file system's own tools.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::fs;
use banger_model::{Bytes, Silent};
use mkext4::reader::Fs;
use mkext4::spec::Inode;
use proptest::prelude::*;

use super::*;
use crate::archive::Archive;
use crate::archive::{Attributes, Content, Entry, Kind};
use crate::tree::tests::{entry as plain, laid, paths, text};
use crate::tree::{Node, NodeId, NodeKind, Tree, Visit, Whiteouts};

const SOON: Duration = Duration::from_secs(120);

fn e2fsck(image: &Path) {
    Tool::new("/sbin/e2fsck").arg("-fn").arg(image).capture(SOON).unwrap();
}

/// An image of these entries, checked.
fn image_of(dir: &Path, entries: Vec<Entry>) -> Fs<File> {
    let path = dir.join("image");
    fs::remove_all(&path).unwrap();
    written(&path, &laid(vec![entries]).unwrap())
}

fn written(path: &Path, tree: &Tree) -> Fs<File> {
    write_image(path, "test", tree, &Silent).unwrap();
    e2fsck(path);
    let image = Fs::open(File::open(path).unwrap()).unwrap();
    assert!(image.verify().unwrap().is_empty());
    image
}

fn refusal(entries: Vec<Entry>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let tree = laid(vec![entries]).unwrap();
    write_image(&dir.path().join("image"), "test", &tree, &Silent).unwrap_err().to_string()
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
fn attributes_of_other_systems_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = text("file", "x");
    let names = ["com.apple.provenance", "user.", "system.data", "user.kept"];
    file.xattrs = names.map(|name| (name.to_owned(), vec![1])).into();
    let image = image_of(dir.path(), vec![file]);
    let all = image.xattrs(image.resolve("file").unwrap()).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(xattr(&image, "file", "user.kept"), Some(vec![1]));
}

#[test]
fn names_that_look_like_stand_ins_cost_no_more_than_others() {
    let named = |path: Vec<u8>| Entry { path: path.into(), ..text("x", "") };
    let mut entries: Vec<_> = (0..20_000).map(|n| text(&format!("{n:_>4}"), "")).collect();
    entries.extend((0..2_000u32).map(|n| {
        let [a, b, ..] = n.to_le_bytes();
        named(vec![0xff, a | 0x80, b | 0x80, 0xfe])
    }));
    let dir = tempfile::tempdir().unwrap();
    let image = image_of(dir.path(), entries);
    assert!(image.read_dir(2).unwrap().len() > 20_000);
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
            plain("link", Kind::HardLink("f".into())),
            text("f", "second"),
            plain("d", Kind::Directory),
            text("gone/below", "x"),
            plain("gone", Kind::Symlink("elsewhere".into())),
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
    for (entries, path, problem) in [
        (vec![huge], "big", "4 KiB"),
        (vec![text("lost+found/x", "")], "lost+found", "keeps lost+found"),
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
    let file = tempfile::tempfile().unwrap();
    file.set_len(100 + len).unwrap();
    (&file).write_all(b"x").unwrap();
    let path = dir.path().join("image");
    let image = written(&path, &Tree::of(Archive { entries, file }).unwrap());
    let on_host = fs::file_size(&path).unwrap();
    assert!(on_host.real < Bytes::mib(64), "what is zero is a hole: {on_host:?}");
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
        let link = plain("link", Kind::HardLink("dir/file".into()));
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

#[test]
fn names_and_targets_that_are_no_text_are_written_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let named = |path: &[u8], content: &str| Entry { path: path.into(), ..text("x", content) };
    let mut entries: Vec<_> = (0..2000).map(|n| text(&format!("many/{n:0100}"), "")).collect();
    for byte in 0x80..=0xff {
        entries.push(named(&[b"many/", &[byte][..]].concat(), "one byte"));
        entries.push(named(&[b"few/", &[byte][..]].concat(), "one byte"));
    }
    entries.push(named(&[b"few/", &[0xfe; 255][..]].concat(), "the longest"));
    entries.push(named(b"\xff/\xffbelow/f", "in it"));
    entries.push(plain("short", Kind::Symlink(b"\xff/x".into())));
    entries.push(plain("long", Kind::Symlink([0xf0; 3000][..].into())));
    let image = image_of(dir.path(), entries);
    let at = |path: &[u8]| {
        path.split(|byte| *byte == b'/').try_fold(2, |ino, name| image.lookup(ino, name).unwrap())
    };
    let content = |path: &[u8]| image.read_file(at(path).unwrap()).unwrap();
    for byte in 0x80..=0xff {
        assert_eq!(content(&[b"many/", &[byte][..]].concat()), b"one byte");
        assert_eq!(content(&[b"few/", &[byte][..]].concat()), b"one byte");
    }
    assert_eq!(content(&[b"few/", &[0xfe; 255][..]].concat()), b"the longest");
    assert_eq!(content(b"\xff/\xffbelow/f"), b"in it");
    assert_eq!(image.symlink_target(at(b"short").unwrap()).unwrap(), b"\xff/x");
    assert_eq!(image.symlink_target(at(b"long").unwrap()).unwrap(), [0xf0; 3000]);
    assert_eq!(image.read_dir(at(b"many").unwrap()).unwrap().len(), 2000 + 128 + 2);
    assert!(at(format!("many/{:0100}", 1999).as_bytes()).is_some());
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let odd = prop::collection::vec(
        prop_oneof![Just(b"a".to_vec()), Just(b"\xff".to_vec()), Just(b"\xe9t\xe9".to_vec())],
        1..4,
    );
    let path = prop_oneof![
        4 => paths().prop_map(String::into_bytes),
        1 => odd.prop_map(|parts| parts.join(&b'/')),
    ];
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        5 => prop::collection::vec(any::<u8>(), 0..9000).prop_map(|b| Kind::File(Content::Inline(b))),
        2 => "[abc](/[abc])?".prop_map(|target| Kind::HardLink(target.into())),
        2 => "[a-z/]{1,100}".prop_map(|target| Kind::Symlink(target.into())),
        1 => Just(Kind::Symlink(b"\xff\xfe".into())),
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
        Entry { path: path.into(), kind, attributes, xattrs: xattrs.into_iter().collect() }
    });
    prop::collection::vec(entry, 0..40)
}

fn check_inode(image: &Fs<File>, ino: u32, inode: &Inode, expected: &Node) {
    let attributes = Attributes {
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime: Inode::timestamp(inode.mtime, inode.mtime_extra),
    };
    assert_eq!(attributes, expected.attributes);
    let mut xattrs: Vec<_> = image
        .xattrs(ino)
        .unwrap()
        .into_iter()
        .map(|a| (String::from_utf8(a.full_name().unwrap()).unwrap(), a.value))
        .collect();
    xattrs.sort();
    assert_eq!(xattrs, expected.xattrs);
    let format = match &expected.kind {
        NodeKind::File(place) => {
            assert!(Content::Inline(image.read_file(ino).unwrap()) == place.content);
            0o10
        }
        NodeKind::Symlink(target) => {
            assert_eq!(target, &image.symlink_target(ino).unwrap());
            0o12
        }
        NodeKind::Char(major, minor) => {
            assert_eq!(inode.dev_numbers(), Some((*major, *minor)));
            0o02
        }
        NodeKind::Block(major, minor) => {
            assert_eq!(inode.dev_numbers(), Some((*major, *minor)));
            0o06
        }
        NodeKind::Directory(children) => {
            assert_eq!(image.read_dir(ino).unwrap().len(), children.len() + 2);
            0o04
        }
        NodeKind::Fifo => 0o01,
    };
    assert_eq!(inode.mode >> 12, format);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_tree_is_read_back_as_it_was_written(entries in entries()) {
        let mut tree = Tree::new();
        for entry in entries {
            // What has no place is left out.
            let archive = Archive { entries: vec![entry], file: tempfile::tempfile().unwrap() };
            let _ = tree.lay(archive, Whiteouts::Hide);
        }
        let dir = tempfile::tempdir().unwrap();
        let image = written(&dir.path().join("image"), &tree);
        let mut inodes = BTreeMap::from([(NodeId::ROOT, 2)]);
        for step in tree.walk() {
            let ino = image.lookup(inodes[&step.parent], step.name).unwrap().unwrap();
            if step.visit == Visit::Again {
                prop_assert_eq!(inodes[&step.node], ino);
                continue;
            }
            check_inode(&image, ino, &image.inode(ino).unwrap(), tree.node(step.node));
            prop_assert!(inodes.values().all(|known| *known != ino));
            inodes.insert(step.node, ino);
        }
    }
}
