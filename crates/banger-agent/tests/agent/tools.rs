//! The agent's tools: trees into archives and out of them, and what it says about paths.

use std::fs::{self, File, Permissions};
use std::io::{Cursor, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use banger_link::{PathKind, Refusal, Reply, Request, Tool};
use banger_model::ProcessEnd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use tar::{Archive, Builder, EntryType, Header};
use tempfile::TempDir;

use crate::host::{Finished, Host};

const MTIME: i64 = 1_234_567_890;

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn pack(path: &Path) -> Finished {
    Host::new().run_tool(Tool::Pack { path: bytes(path) }, b"")
}

fn unpack(path: &Path, name: Option<&str>, archive: &[u8]) -> Finished {
    let name = name.map(|name| name.as_bytes().to_vec());
    Host::new().run_tool(Tool::Unpack { path: bytes(path), name }, archive)
}

/// The output of a tool that did all it was to do.
fn whole(done: Finished) -> Vec<u8> {
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!((done.end, said), (ProcessEnd::Exited(0), String::new()));
    done.stdout
}

/// What a tool that could not go on said.
fn refused(done: &Finished) -> String {
    assert_eq!(done.end, ProcessEnd::Exited(2));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn put(path: &Path, contents: &[u8]) {
    File::create(path).unwrap().write_all(contents).unwrap();
}

fn get(path: &Path) -> Vec<u8> {
    let mut contents = Vec::new();
    File::open(path).unwrap().read_to_end(&mut contents).unwrap();
    contents
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn set_mtime(path: &Path) {
    let time = Timespec { tv_sec: MTIME, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Every path below this one, itself last.
fn walk(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if fs::symlink_metadata(top).unwrap().is_dir() {
        for entry in fs::read_dir(top).unwrap() {
            found.extend(walk(&entry.unwrap().path()));
        }
    }
    found.push(top.to_owned());
    found
}

/// A tree with one of everything.
fn tree(at: &Path) -> PathBuf {
    let top = at.join("tree");
    fs::create_dir_all(top.join("sub/deep")).unwrap();
    put(&top.join("plain"), b"plain");
    put(&top.join("empty"), b"");
    put(&top.join("sub/program"), &[7; 100_001]);
    put(&top.join("sub").join(std::ffi::OsStr::from_bytes(b"\xffodd\n")), b"odd");
    put(&top.join("l".repeat(255)), b"long");
    let deep = top.join("sub").join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    put(&deep.join("file"), b"deep");
    fs::hard_link(top.join("plain"), deep.join("another")).unwrap();
    symlink("/nowhere/at/all", top.join("dangling")).unwrap();
    symlink("t".repeat(300), top.join("long-link")).unwrap();
    symlink("sub", top.join("link-to-dir")).unwrap();
    let fifo = top.join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    sparse(&top.join("sparse"), 40);
    File::create(top.join("hole")).unwrap().set_len(1 << 33).unwrap();
    chmod(&top.join("sub/program"), 0o4711);
    chmod(&top.join("plain"), 0o640);
    chmod(&fifo, 0o622);
    chmod(&top.join("sub/deep"), 0o1777);
    chmod(&top.join("sub"), 0o555);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(top.join("dangling"), Some(12), Some(3_000_000_000)).unwrap();
        std::os::unix::fs::chown(top.join("empty"), Some(1234), Some(99)).unwrap();
    }
    for path in walk(&top) {
        set_mtime(&path);
    }
    top
}

/// A file with this many pieces of data, a hole before and behind each.
fn sparse(path: &Path, pieces: u64) {
    let file = File::create(path).unwrap();
    file.set_len(pieces * 100_000 + 77).unwrap();
    for piece in 0..pieces {
        file.write_all_at(&[b'x'; 5000], piece * 100_000 + 50_000).unwrap();
    }
}

/// That two trees are the same, in all that is to be kept.
fn compare(a: &Path, b: &Path) {
    let below = |top: &Path| {
        let mut names: Vec<_> =
            walk(top).into_iter().map(|p| p.strip_prefix(top).unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(below(a), below(b));
    for name in below(a) {
        let (path_a, path_b) = (a.join(&name), b.join(&name));
        let (at_a, at_b) =
            (fs::symlink_metadata(&path_a).unwrap(), fs::symlink_metadata(&path_b).unwrap());
        let facts = |m: &fs::Metadata| {
            let size = if m.is_dir() { 0 } else { m.size() };
            (m.mode(), m.uid(), m.gid(), m.mtime(), size, if m.is_dir() { 0 } else { m.nlink() })
        };
        assert_eq!(facts(&at_a), facts(&at_b), "{}", name.display());
        if at_a.is_symlink() {
            assert_eq!(fs::read_link(&path_a).unwrap(), fs::read_link(&path_b).unwrap());
        } else if at_a.is_file() {
            assert!(at_b.blocks() <= at_a.blocks() + 8, "{} has no holes", name.display());
            if at_a.size() < 1 << 30 {
                assert!(get(&path_a) == get(&path_b), "{}", name.display());
            }
        }
    }
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let dir = TempDir::new().unwrap();
    let top = tree(dir.path());
    let archive = whole(pack(&top));
    assert!(archive.len() < 2_000_000, "holes are not packed: {}", archive.len());
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    whole(unpack(&to, None, &archive));
    compare(&top, &to.join("tree"));
    let names =
        ["plain".to_owned(), format!("sub/{}/{}/another", "d".repeat(200), "e".repeat(200))];
    let [a, b] = names.map(|name| fs::metadata(to.join("tree").join(name)).unwrap().ino());
    assert_eq!(a, b, "two names of one file");
    // Once more over itself, where directories keep what they have, and under another name.
    whole(unpack(&to, None, &archive));
    for path in walk(&to.join("tree")).iter().filter(|path| path.is_dir()) {
        set_mtime(path);
    }
    compare(&top, &to.join("tree"));
    whole(unpack(&to, Some("other"), &archive));
    compare(&top, &to.join("other"));
}

#[test]
fn others_read_what_is_packed() {
    let dir = TempDir::new().unwrap();
    let top = tree(dir.path());
    let archive = whole(pack(&top));
    let to = dir.path().join("to");
    let mut reader = Archive::new(Cursor::new(archive));
    reader.set_preserve_permissions(true);
    reader.set_preserve_ownerships(rustix::process::geteuid().is_root());
    for entry in reader.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type() != EntryType::Fifo {
            assert!(
                entry
                    .unpack_in({
                        fs::create_dir_all(&to).unwrap();
                        &to
                    })
                    .unwrap()
            );
        }
    }
    let read = to.join("tree");
    mknodat(CWD, read.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
    chmod(&read.join("fifo"), 0o622);
    for path in walk(&read) {
        set_mtime(&path);
    }
    compare(&top, &read);
}

#[test]
fn what_others_packed_is_read() {
    let dir = TempDir::new().unwrap();
    let top = tree(dir.path());
    let mut builder = Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.sparse(true);
    builder.append_dir_all("tree", &top).unwrap();
    let archive = builder.into_inner().unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    whole(unpack(&to, None, &archive));
    // That crate knows no hard links.
    for path in walk(&top).into_iter().filter(|path| path.ends_with("another")) {
        fs::remove_file(&path).unwrap();
        put(&path, b"plain");
        chmod(&path, 0o640);
        set_mtime(&path);
        set_mtime(path.parent().unwrap());
    }
    compare(&top, &to.join("tree"));
}

#[test]
fn properties_go_before_headers() {
    let dir = TempDir::new().unwrap();
    let mut builder = Builder::new(Vec::new());
    let name = format!("{}/b", "a".repeat(200));
    let pax = [("path", name.as_bytes()), ("mtime", b"1000.25"), ("comment", b"none")];
    builder.append_pax_extensions(pax).unwrap();
    let mut header = Header::new_ustar();
    header.set_path("short").unwrap();
    header.set_size(3);
    header.set_mode(0o600);
    header.set_cksum();
    builder.append(&header, &b"abc"[..]).unwrap();
    whole(unpack(dir.path(), None, &builder.into_inner().unwrap()));
    let file = dir.path().join(name);
    assert_eq!(get(&file), b"abc");
    let about = fs::metadata(file).unwrap();
    assert_eq!((about.mtime(), about.mtime_nsec()), (1000, 250_000_000));
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut reader = Archive::new(archive);
    let name = |entry: tar::Entry<'_, _>| String::from_utf8(entry.path_bytes().into()).unwrap();
    let mut names: Vec<_> = reader.entries().unwrap().map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn entries_are_named_after_what_was_asked_for() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    put(&dir.path().join("d/f"), b"f");
    symlink("d", dir.path().join("l")).unwrap();
    let named = |path: &str| names(&whole(pack(&dir.path().join(path))));
    assert_eq!(named("d"), ["d/", "d/f"]);
    assert_eq!(named("d/"), ["d/", "d/f"]);
    assert_eq!(named("d/."), ["./", "./f"]);
    assert_eq!(named("d/f"), ["f"]);
    assert_eq!(named("l"), ["l"]);
    assert_eq!(named("l/"), ["l/", "l/f"]);
    // The contents of a directory into another, under a new name.
    let archive = whole(pack(&dir.path().join("d/.")));
    whole(unpack(dir.path(), Some("new"), &archive));
    assert_eq!(get(&dir.path().join("new/f")), b"f");
    // A directory that was there before keeps its attributes.
    chmod(&dir.path().join("new"), 0o711);
    whole(unpack(&dir.path().join("new"), None, &archive));
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn what_cannot_be_packed_is_said_and_left_out() {
    let dir = TempDir::new().unwrap();
    let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
    put(&dir.path().join("file"), b"");
    let done = pack(&dir.path().join("."));
    assert_eq!(done.end, ProcessEnd::Exited(0));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "./socket: is a socket and left out\n");
    assert_eq!(names(&done.stdout), ["./", "./file"]);
    let missing = pack(&dir.path().join("missing"));
    assert_eq!(missing.end, ProcessEnd::Exited(1));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.starts_with("missing: cannot look at it: No such file"), "{said}");
}

fn entry(kind: EntryType, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

#[test]
fn nothing_is_made_outside_of_the_destination() {
    let dir = TempDir::new().unwrap();
    let (outside, to) = (dir.path().join("outside"), dir.path().join("to"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&to).unwrap();
    put(&outside.join("secret"), b"secret");
    let file = |name: &str| entry(EntryType::Regular, name, "", b"evil");
    let link = |name: &str, to: &str| entry(EntryType::Symlink, name, to, b"");
    let absolute = outside.to_str().unwrap();
    let hostile = [
        (archive(&[file("../outside/evil")]), "leads upwards"),
        (archive(&[file("a/../../outside/evil")]), "leads upwards"),
        (archive(&[file(&format!("{absolute}/evil"))]), "is absolute"),
        (archive(&[link("up", "../outside"), file("up/evil")]), "leads out"),
        (archive(&[link("abs", absolute), file("abs/evil")]), "leads out"),
        (archive(&[link("abs", absolute), entry(EntryType::Directory, "abs/x/", "", b"")]), "out"),
        (archive(&[link("self", "self"), file("self/evil")]), "leads out"),
        (
            archive(&[link("up", "../outside"), entry(EntryType::Link, "hard", "up/secret", b"")]),
            "leads out",
        ),
        (archive(&[entry(EntryType::Link, "hard", "../outside/secret", b"")]), "leads upwards"),
    ];
    for (archive, why) in hostile {
        let said = refused(&unpack(&to, None, &archive));
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(names_in(&outside), ["secret"]);
    // What replaces a link replaces the link, not what it leads to.
    let over = archive(&[link("f", &format!("{absolute}/secret")), file("f")]);
    whole(unpack(&to, None, &over));
    assert_eq!(get(&outside.join("secret")), b"secret");
    assert_eq!(get(&to.join("f")), b"evil");
    // A link that stays inside is a way like any other.
    fs::create_dir(to.join("usr")).unwrap();
    whole(unpack(&to, None, &archive(&[link("lib", "usr"), file("lib/f")])));
    assert_eq!(get(&to.join("usr/f")), b"evil");
}

fn names_in(dir: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| name(e.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn an_archive_that_is_not_whole_leaves_what_was_there() {
    let dir = TempDir::new().unwrap();
    put(&dir.path().join("f"), b"before");
    let whole_archive = archive(&[entry(EntryType::Regular, "f", "", &[1; 2000])]);
    for len in [0, 100, 512, 1500, 2560] {
        let said = refused(&unpack(dir.path(), None, &whole_archive[..len]));
        assert!(said.contains("it is not whole"), "{said}");
        let contents = get(&dir.path().join("f"));
        // With all its data the file is whole; what is missing then is the end of the archive.
        assert!(contents == b"before" || len == 2560 && contents == [1; 2000], "{len}");
    }
    assert_eq!(names_in(dir.path()), ["f"]);
    // A directory has its attributes all the same.
    let cut = entry(EntryType::Directory, "d/", "", b"");
    refused(&unpack(dir.path(), None, &cut));
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn numbers_beyond_all_reason_are_refused() {
    let dir = TempDir::new().unwrap();
    let mut huge = Header::new_gnu();
    huge.set_path("huge").unwrap();
    huge.set_entry_type(EntryType::Regular);
    huge.set_mode(0o600);
    huge.set_size(u64::MAX / 2);
    huge.set_cksum();
    let said = refused(&unpack(dir.path(), None, huge.as_bytes()));
    assert!(said.contains("it is not whole"), "{said}");
    // A hole larger than any file.
    let mut sparse = entry(EntryType::GNUSparse, "sparse", "", b"");
    sparse[483..495].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let mut header = Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&sparse[..512]);
    header.set_cksum();
    let said = refused(&unpack(dir.path(), None, header.as_bytes()));
    assert!(said.contains("sparse: cannot write: "), "{said}");
    let said = refused(&unpack(dir.path(), None, &[b'x'; 4096]));
    assert!(said.contains("a header that is none"), "{said}");
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn directories_and_files_do_not_replace_each_other() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    put(&dir.path().join("f"), b"");
    let over_dir = archive(&[entry(EntryType::Regular, "d", "", b"x")]);
    let over_file = archive(&[entry(EntryType::Directory, "f/", "", b"")]);
    for archive in [over_dir, over_file] {
        let said = refused(&unpack(dir.path(), None, &archive));
        assert!(said.contains("cannot replace each other"), "{said}");
    }
    let said = refused(&unpack(&dir.path().join("missing"), None, &archive(&[])));
    assert!(said.contains("cannot extract into it: No such file"), "{said}");
    let said = refused(&unpack(dir.path(), Some("a/b"), &archive(&[])));
    assert!(said.contains("is not the name of one file"), "{said}");
}

#[test]
fn a_path_is_told_by_what_is_there() {
    let dir = TempDir::new().unwrap();
    put(&dir.path().join("file"), b"");
    symlink("file", dir.path().join("link")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    let mut host = Host::new();
    let mut look = |path: &[u8]| host.request(Request::Look { path: path.to_vec() });
    let mut at = |name: &str| look(&bytes(&dir.path().join(name)));
    assert_eq!(at(""), Ok(Reply::Looked(PathKind::Directory)));
    assert_eq!(at("file"), Ok(Reply::Looked(PathKind::File)));
    assert_eq!(at("link"), Ok(Reply::Looked(PathKind::File)));
    assert_eq!(at("dangling"), Ok(Reply::Looked(PathKind::Missing)));
    assert_eq!(at("file/below"), Ok(Reply::Looked(PathKind::Missing)));
    assert!(matches!(at("loop"), Err(Refusal::Failed(_))));
    assert_eq!(look(b"dev/null"), Ok(Reply::Looked(PathKind::Other)));
    assert!(matches!(look(b"a\0b"), Err(Refusal::Failed(_))));
}

#[test]
fn the_agent_tells_how_much_is_in_use() {
    let mut host = Host::new();
    let Ok(Reply::Stats(stats)) = host.request(Request::Stats) else { panic!("no stats") };
    assert!(stats.uptime_ms > 0 && stats.processes >= 2, "{stats:?}");
}
