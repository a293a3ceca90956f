//! What hostile guests try, and what honest ones get.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;

/// A stream of these entries: kind, name, where it links to or what it says, and mode.
fn stream(entries: &[(EntryType, &str, &str, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, name, says, mode) in entries {
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        if is_link {
            gnu.linkname[..says.len()].copy_from_slice(says.as_bytes());
        }
        header.set_mode(*mode);
        header.set_mtime(1_000_000);
        let data = if is_link { "" } else { says };
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(data.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

/// A place to copy into, and a place beside it where nothing may appear.
struct Case {
    root: TempDir,
}

impl Case {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in ["into", "outside"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        std::fs::write(root.path().join("outside/secret"), "secret").unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn unpack(&self, top: &str, name: Option<&str>, stream: &[u8]) -> Result<()> {
        let dir = self.path("into").into_os_string();
        let dir = std::os::unix::ffi::OsStringExt::into_vec(dir);
        let place = Place { dir, name: name.map(|name| name.as_bytes().to_vec()) };
        unpack(stream, top.as_bytes(), place)
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_tree_arrives_with_modes_times_and_links() {
    let case = Case::new();
    let tree = stream(&[
        (DIR, "t/", "", 0o555),
        (FILE, "t/f", "data", 0o640),
        (SYMLINK, "t/l", "/etc/passwd", 0o777),
        (LINK, "t/h", "t/f", 0o640),
        (DIR, "t/sub/", "", 0o700),
        (FILE, "t/sub/g", "", 0o600),
    ]);
    case.unpack("t", None, &tree).unwrap();
    assert_eq!(case.names("into/t"), ["f", "h", "l", "sub"]);
    assert_eq!(case.read("into/t/f"), "data");
    assert_eq!(mode(&case.path("into/t")), 0o555);
    assert_eq!(mode(&case.path("into/t/f")), 0o640);
    let (f, h) = (case.path("into/t/f"), case.path("into/t/h"));
    assert_eq!(f.metadata().unwrap().ino(), h.metadata().unwrap().ino());
    assert_eq!(case.path("into/t").metadata().unwrap().mtime(), 1_000_000);
    assert_eq!(std::fs::read_link(case.path("into/t/l")).unwrap(), Path::new("/etc/passwd"));
    std::fs::set_permissions(case.path("into/t"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn another_name_takes_the_place_of_the_first_component() {
    let case = Case::new();
    let tree =
        stream(&[(DIR, "t/", "", 0o755), (FILE, "t/f", "x", 0o644), (LINK, "t/h", "t/f", 0)]);
    case.unpack("t", Some("new"), &tree).unwrap();
    assert_eq!(case.names("into"), ["new"]);
    assert_eq!(case.names("into/new"), ["f", "h"]);
    let contents = stream(&[(DIR, "./", "", 0o700), (FILE, "./f", "x", 0o644)]);
    case.unpack(".", None, &contents).unwrap();
    assert_eq!(case.names("into"), ["f", "new"]);
}

#[test]
fn what_was_there_is_replaced_whole_or_not_at_all() {
    let case = Case::new();
    std::fs::write(case.path("into/f"), "old").unwrap();
    let new = stream(&[(FILE, "f", "new", 0o600)]);
    assert!(case.unpack("f", None, &new[..514]).is_err());
    assert_eq!((case.names("into"), case.read("into/f")), (vec!["f".to_owned()], "old".to_owned()));
    case.unpack("f", None, &new).unwrap();
    assert_eq!(case.read("into/f"), "new");
    std::fs::create_dir(case.path("into/d")).unwrap();
    assert!(case.unpack("d", None, &stream(&[(FILE, "d", "", 0o600)])).is_err());
    assert!(case.unpack("f", None, &stream(&[(DIR, "f", "", 0o700)])).is_err());
    assert_eq!(case.names("into"), ["d", "f"]);
}

#[test]
fn names_that_lead_elsewhere_or_were_not_asked_for_are_refused() {
    for name in ["../outside/x", "t/../../outside/x", "/tmp/x", "u", ".bashrc", "", "./t"] {
        let case = Case::new();
        assert!(case.unpack("t", None, &stream(&[(FILE, name, "x", 0o600)])).is_err(), "{name}");
        let link = stream(&[(FILE, "t", "x", 0o600), (LINK, "t", name, 0o600)]);
        assert!(case.unpack("t", None, &link).is_err(), "a link to {name}");
        assert_eq!(case.names("outside"), ["secret"], "{name}");
        assert!(case.names("into").iter().all(|made| made == "t"), "{name}");
    }
}

#[test]
fn no_link_is_written_through_wherever_it_comes_from() {
    let case = Case::new();
    let outside = case.path("outside").to_str().unwrap().to_owned();
    for entries in [
        &[(SYMLINK, "t", &*outside, 0o777), (FILE, "t/x", "x", 0o600)][..],
        &[(SYMLINK, "t", "../outside", 0o777), (DIR, "t", "", 0o700), (FILE, "t/x", "x", 0o600)],
        &[(SYMLINK, "t", "../outside", 0o777), (DIR, "t/d", "", 0o700)],
        &[(SYMLINK, "t", "../outside", 0o777), (LINK, "t/h", "t/secret", 0o600)],
        &[(SYMLINK, "t", "/proc/self/cwd", 0o777), (FILE, "t/x", "x", 0o600)],
    ] {
        assert!(case.unpack("t", None, &stream(entries)).is_err(), "{entries:?}");
    }
    symlink(&outside, case.path("into/mine")).unwrap();
    assert!(case.unpack("mine", None, &stream(&[(FILE, "mine/x", "x", 0o600)])).is_err());
    assert_eq!(case.names("outside"), ["secret"]);
    // A link at the very end is replaced, not followed.
    symlink(case.path("outside/secret"), case.path("into/f")).unwrap();
    case.unpack("f", None, &stream(&[(FILE, "f", "mine", 0o600)])).unwrap();
    assert_eq!(
        (case.read("outside/secret"), case.read("into/f")),
        ("secret".into(), "mine".into())
    );
}

#[test]
fn what_is_beside_the_copy_is_out_of_reach_too() {
    let case = Case::new();
    std::fs::create_dir(case.path("into/.ssh")).unwrap();
    for entries in [
        &[(SYMLINK, "t", ".ssh", 0o777), (FILE, "t/keys", "x", 0o600)][..],
        &[(SYMLINK, "t", ".ssh", 0o777), (DIR, "t/d", "", 0o700)],
        &[(DIR, "t", "", 0o700), (FILE, "t/../.ssh/keys", "x", 0o600)],
        &[(DIR, "t", "", 0o700), (SYMLINK, "t/l", "../.ssh", 0o777), (FILE, "t/l/k", "x", 0o600)],
    ] {
        assert!(case.unpack("t", None, &stream(entries)).is_err(), "{entries:?}");
        assert_eq!(case.names("into/.ssh"), [""; 0], "{entries:?}");
        let made = case.path("into/t");
        let _ = std::fs::remove_file(&made).or_else(|_| std::fs::remove_dir_all(&made));
    }
}

#[test]
fn a_hard_link_to_a_link_does_not_reach_what_that_one_leads_to() {
    let case = Case::new();
    let entries = [
        (DIR, "t", "", 0o700),
        (SYMLINK, "t/l", "../../outside/secret", 0o777),
        (LINK, "t/h", "t/l", 0o600),
        (FILE, "t/h", "x", 0o666),
    ];
    case.unpack("t", None, &stream(&entries)).unwrap();
    assert_eq!(case.read("outside/secret"), "secret");
}

#[test]
fn no_rights_and_no_devices_come_from_a_guest() {
    let case = Case::new();
    let entries = [
        (DIR, "t", "", 0o7777),
        (FILE, "t/f", "x", 0o6755),
        (EntryType::Char, "t/c", "", 0o666),
        (EntryType::Block, "t/b", "", 0o666),
        (EntryType::Fifo, "t/p", "", 0o666),
    ];
    case.unpack("t", None, &stream(&entries)).unwrap();
    assert_eq!(case.names("into/t"), ["f"]);
    assert_eq!((mode(&case.path("into/t")), mode(&case.path("into/t/f"))), (0o777, 0o755));
}
