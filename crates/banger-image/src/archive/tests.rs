use std::io::Cursor;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(1000);
    header.set_gid(100);
    header.set_mtime(1_700_000_000);
    header
}

/// An archive with one entry, whose header `change` may alter.
fn archive_of(
    kind: EntryType,
    path: &str,
    content: &[u8],
    change: impl Fn(&mut Header),
) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut header = header(kind, content.len() as u64);
    header.set_path(path).unwrap();
    change(&mut header);
    header.set_cksum();
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>, ArchiveError> {
    read_entries(&mut Cursor::new(bytes))
}

fn only(bytes: &[u8]) -> Entry {
    let mut entries = read(bytes).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn problem(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn every_kind_of_entry_is_understood() {
    let link = |header: &mut Header| header.set_link_name("./target/x").unwrap();
    let device = |header: &mut Header| {
        header.set_device_major(8).unwrap();
        header.set_device_minor(17).unwrap();
    };
    let nothing = |_: &mut Header| {};
    let kind = |bytes: Vec<u8>| only(&bytes).kind;
    assert_eq!(
        kind(archive_of(EntryType::Regular, "a", b"xyz", nothing)),
        Kind::File(Content::Archived { offset: 512, len: 3 })
    );
    assert_eq!(kind(archive_of(EntryType::Directory, "a/", b"", nothing)), Kind::Directory);
    assert_eq!(kind(archive_of(EntryType::Regular, "a/", b"", nothing)), Kind::Directory);
    assert_eq!(
        kind(archive_of(EntryType::Link, "a", b"", link)),
        Kind::HardLink("target/x".into())
    );
    assert_eq!(
        kind(archive_of(EntryType::Symlink, "a", b"", link)),
        Kind::Symlink("./target/x".into())
    );
    assert_eq!(kind(archive_of(EntryType::Char, "a", b"", device)), Kind::Char(8, 17));
    assert_eq!(kind(archive_of(EntryType::Block, "a", b"", device)), Kind::Block(8, 17));
    assert_eq!(kind(archive_of(EntryType::Fifo, "a", b"", nothing)), Kind::Fifo);
}

#[test]
fn owner_mode_and_time_are_kept() {
    let entry = only(&archive_of(EntryType::Regular, "./a//b", b"", |_| {}));
    assert_eq!(entry.path, "a/b");
    let expected = Attributes { mode: 0o4755, uid: 1000, gid: 100, mtime: (1_700_000_000, 0) };
    assert_eq!(entry.attributes, expected);
}

#[test]
fn fields_in_which_nothing_is_mean_zero() {
    let blank = |header: &mut Header| {
        let old = header.as_old_mut();
        old.uid = [0; 8];
        old.gid = *b"        ";
        old.mtime = [0; 12];
    };
    let attributes = only(&archive_of(EntryType::Regular, "a", b"", blank)).attributes;
    assert_eq!((attributes.uid, attributes.gid, attributes.mtime), (0, 0, (0, 0)));
    let nonsense = |header: &mut Header| header.as_old_mut().uid = *b"zzzzzzz\0";
    assert!(problem(&archive_of(EntryType::Regular, "a", b"", nonsense)).contains("user id"));
}

#[test]
fn pax_records_go_before_the_header() {
    let mut builder = Builder::new(Vec::new());
    let long = "d/".repeat(200) + "file";
    let records: [(&str, &[u8]); 5] = [
        ("path", long.as_bytes()),
        ("uid", b"3000000000"),
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.user.x", b"\0\n="),
        ("comment", b"ignored"),
    ];
    builder.append_pax_extensions(records).unwrap();
    let mut header = header(EntryType::Regular, 0);
    header.set_path("short").unwrap();
    header.set_cksum();
    builder.append(&header, &[][..]).unwrap();
    let entry = only(&builder.into_inner().unwrap());
    assert_eq!(entry.path, long);
    assert_eq!(entry.attributes.uid, 3_000_000_000);
    assert_eq!(entry.attributes.mtime, (-2, 500_000_000));
    assert_eq!(entry.xattrs, [("user.x".to_owned(), b"\0\n=".to_vec())]);
}

#[test]
fn what_stands_before_an_entry_is_bounded_however_many_headers_it_takes() {
    let with = |records: &[(&str, usize)]| {
        let mut builder = Builder::new(Vec::new());
        for (key, len) in records {
            let value = vec![0xff; *len];
            builder.append_pax_extensions([(*key, value.as_slice())]).unwrap();
        }
        let mut header = header(EntryType::Regular, 0);
        header.set_path("f").unwrap();
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
        builder.into_inner().unwrap()
    };
    let [one, other] = ["SCHILY.xattr.user.a", "SCHILY.xattr.user.b"];
    assert_eq!(only(&with(&[(one, 30_000), (other, 30_000)])).xattrs.len(), 2);
    // One that is told again takes the other's place.
    assert_eq!(only(&with(&[(one, 40_000), (one, 40_000)])).xattrs.len(), 1);
    assert!(problem(&with(&[(one, 40_000), (other, 30_000)])).contains("more than 64 KiB"));
}

#[test]
fn what_is_said_of_all_entries_costs_each_little() {
    let mut records = Builder::new(Vec::new());
    let path = vec![b'x'; 1000];
    records.append_pax_extensions([("path", path.as_slice()), ("uid", b"7")]).unwrap();
    let mut bytes = records.into_inner().unwrap();
    let mut global = Header::from_byte_slice(&bytes[..512]).clone();
    global.set_entry_type(EntryType::XGlobalHeader);
    global.set_cksum();
    bytes[..512].copy_from_slice(global.as_bytes());
    // Without the end marker.
    bytes.truncate(512 + 1024);
    bytes.extend(archive_of(EntryType::Regular, "own", b"", |_| {}));
    let entry = only(&bytes);
    assert_eq!((entry.path.to_string(), entry.attributes.uid), ("own".to_owned(), 7));
}

#[test]
fn names_and_targets_are_any_bytes() {
    let name = |header: &mut Header| header.as_mut_bytes()[..3].copy_from_slice(b"a\xff\0");
    assert_eq!(only(&archive_of(EntryType::Regular, "xxx", b"", name)).path, b"a\xff"[..]);
    let target = |header: &mut Header| header.set_link_name_literal(b"\xfe/..").unwrap();
    let link = only(&archive_of(EntryType::Symlink, "l", b"", target));
    assert_eq!(link.kind, Kind::Symlink(b"\xfe/..".into()));
}

#[test]
fn gnu_long_names_are_understood() {
    let long = "n".repeat(150);
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_link(&mut header, &long, "t".repeat(300)).unwrap();
    let entry = only(&builder.into_inner().unwrap());
    assert_eq!(entry.path, long);
    assert_eq!(entry.kind, Kind::Symlink("t".repeat(300).into()));
}

#[test]
fn what_cannot_be_kept_is_named() {
    let named = |bytes: &[u8]| {
        archive_of(EntryType::Regular, "xxx", b"", |header| {
            header.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        })
    };
    assert!(problem(&named(b"../")).contains("leads out of the archive"));
    let unknown = archive_of(EntryType::new(b'V'), "label", b"", |_| {});
    assert!(problem(&unknown).contains("entry \"label\""), "{}", problem(&unknown));
    let no_target = archive_of(EntryType::Symlink, "l", b"", |_| {});
    assert!(problem(&no_target).contains("\"l\""));
    let long_name = archive_of(
        EntryType::Regular,
        &format!("{}/{}", "d".repeat(99), "n".repeat(90)),
        b"",
        |_| {},
    );
    assert!(read(&long_name).is_ok());
}

#[test]
fn an_archive_that_is_cut_off_is_refused() {
    let whole = archive_of(EntryType::Regular, "a", &[7; 1000], |_| {});
    for len in [0, 100, 512, 1000, 1536] {
        assert!(matches!(read(&whole[..len]), Err(ArchiveError::CutOff(_))), "{len}");
    }
    assert!(read(&whole[..2048]).is_ok(), "one block of zeros ends an archive");
}

#[test]
fn a_layer_ends_with_its_file_behind_an_entry_and_nowhere_else() {
    let whole = archive_of(EntryType::Regular, "a", &[7; 1000], |_| {});
    let entries_of = |len: usize| {
        let mut layer = Cursor::new(&whole[..len]);
        entries_until(&mut layer, End::OfFile, &Quota::of_image()).map(|entries| entries.len())
    };
    assert_eq!(entries_of(0).unwrap(), 0);
    for len in [512 + 1000, 512 + 1024, 2048, whole.len()] {
        assert_eq!(entries_of(len).unwrap(), 1, "{len}");
    }
    for len in [1, 100, 511, 512, 1000, 1511, 1513, 1537] {
        assert!(matches!(entries_of(len), Err(ArchiveError::CutOff(_))), "{len}");
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    let huge = archive_of(EntryType::Regular, "a", b"", |header| header.set_size(u64::MAX >> 1));
    assert!(matches!(read(&huge), Err(ArchiveError::CutOff(_))));
    let huge = archive_of(EntryType::XHeader, "a", b"", |header| header.set_size(1 << 40));
    assert!(matches!(read(&huge), Err(ArchiveError::TooMuch(_))));
    let mut wrong = archive_of(EntryType::Regular, "a", b"", |_| {});
    wrong[0] ^= 1;
    assert!(matches!(read(&wrong), Err(ArchiveError::BadHeader { offset: 0, .. })));
}

#[test]
fn a_subtree_becomes_the_root() {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, link) in [
        (EntryType::Directory, "lib", ""),
        (EntryType::Directory, "lib/m", ""),
        (EntryType::Regular, "lib/m/a", ""),
        (EntryType::Link, "lib/m/b", "lib/m/a"),
        (EntryType::Link, "lib/m/c", "lib/other"),
        (EntryType::Regular, "lib/mm", ""),
    ] {
        let mut header = header(kind, 0);
        header.set_path(path).unwrap();
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
    }
    let entries = read(&builder.into_inner().unwrap()).unwrap();
    let file = tempfile::tempfile().unwrap();
    let subtree = Archive { entries, file }.subtree("lib/m");
    let paths: Vec<_> = subtree.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["", "a", "b"]);
    assert_eq!(subtree.entries[2].kind, Kind::HardLink("a".into()));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read_but_never_panic(
        at in 0usize..2048, bytes in prop::collection::vec(any::<u8>(), 1..16), cut in 0usize..4096,
    ) {
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions([("path", &b"some/path"[..])]).unwrap();
        let mut header = header(EntryType::Regular, 5);
        header.set_path("short").unwrap();
        header.set_cksum();
        builder.append(&header, &b"12345"[..]).unwrap();
        let mut archive = builder.into_inner().unwrap();
        let at = at.min(archive.len() - bytes.len());
        archive[at..at + bytes.len()].copy_from_slice(&bytes);
        // Damage beneath a right checksum is what a hostile archive would have.
        for start in [0, 1024] {
            let mut header = *Header::from_byte_slice(&archive[start..start + 512]).as_bytes();
            let mut fixed = Header::from_byte_slice(&header).clone();
            fixed.set_cksum();
            header.copy_from_slice(fixed.as_bytes());
            archive[start..start + 512].copy_from_slice(&header);
        }
        if let Ok(entries) = read(&archive) {
            for entry in entries {
                prop_assert!(!entry.path.starts_with(b"/"));
                prop_assert!(entry.path.split_str("/").all(|part| part != b".."));
            }
        }
        archive.truncate(cut);
        let _ = read(&archive);
    }
}

/// What GNU tar makes of a file with three pieces, forty pieces, or nothing but a hole.
#[test]
fn files_with_holes_are_read_as_gnu_tar_writes_them() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().unwrap();
    let pieces: [&[u64]; 3] = [&[0, 1 << 20, (9 << 20) - 1], &[], &[5 << 20]];
    let many: Vec<u64> = (0..40).map(|n| n << 17).collect();
    let files = [pieces[0], pieces[1], pieces[2], &many];
    for (n, pieces) in files.iter().enumerate() {
        let file = File::create(dir.path().join(n.to_string())).unwrap();
        file.set_len(9 << 20).unwrap();
        pieces.iter().for_each(|at| file.write_all_at(b"X", *at).unwrap());
    }
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let packed = dir.path().join("packed.tar");
        let tar = banger_host::command::Tool::new("/bin/tar").args(["--create", "--sparse"]);
        let tar = tar.args(format).arg("--file").arg(&packed).arg("--directory").arg(dir.path());
        tar.args(["0", "1", "2", "3"]).capture(std::time::Duration::from_secs(60)).unwrap();
        assert!(packed.metadata().unwrap().len() < 1 << 20, "{format:?}");
        let archive = Archive::open(File::open(&packed).unwrap()).unwrap();
        assert_eq!(archive.entries.len(), files.len());
        for (n, pieces) in files.iter().enumerate() {
            let name = n.to_string();
            let content = archive.content(&name).unwrap();
            assert!(matches!(content, Content::Sparse { .. }), "{format:?} {n}");
            let mut expected = vec![0; 9 << 20];
            pieces.iter().for_each(|at| expected[usize::try_from(*at).unwrap()] = b'X');
            assert!(archive.read(content, 9 << 20).unwrap() == expected, "{format:?} {n}");
        }
    }
}

#[test]
fn a_map_of_holes_that_lies_is_refused() {
    let map = |pieces: &[(u64, u64)]| sparse::Map(pieces.to_vec());
    assert!(map(&[(0, 5), (5, 1), (9, 0)]).check(9, 6).is_ok());
    for (pieces, size, stored) in [
        (&[(0, 5), (4, 1)][..], 9, 6),
        (&[(5, 1), (0, 1)], 9, 2),
        (&[(9, 1)], 9, 1),
        (&[(u64::MAX, 1)], 9, 1),
        (&[(0, 5)], 9, 6),
        (&[(0, 5)], 9, 4),
    ] {
        assert!(map(pieces).check(size, stored).is_err(), "{pieces:?}");
    }
    assert!(sparse::Map::of_record(b"1,2,3").is_none() && sparse::Map::of_record(b"").is_none());
    let endless = || Ok([b'1'; 512]);
    assert!(sparse::Map::before_content(endless).unwrap().is_err());
    let mut many = [b'\n'; 512];
    many[..9].fill(b'9');
    assert!(sparse::Map::before_content(|| Ok(many)).unwrap().is_err());
}
