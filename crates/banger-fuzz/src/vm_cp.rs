//! Included from `banger`, under the name it has there: what takes in a copy from a guest.

#[expect(dead_code, reason = "what arguments mean is not fuzzed")]
#[path = "../../banger/src/commands/vm_cp/places.rs"]
mod places;

#[path = "../../banger/src/commands/vm_cp/stream.rs"]
mod stream;

#[path = "../../banger/src/commands/vm_cp/unpack.rs"]
mod unpack;

use std::collections::BTreeSet;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::blocks::{Cut, are_in_order, mended};
use places::Place;
use stream::{Content, Entries, Entry};

/// Bytes of data that are taken at once.
const CHUNK: usize = 700;
/// Deepest directory that is looked into: deeper ones are made in the same way.
const MAX_DEPTH: usize = 32;

/// What is asked for, and under which name it is to be made.
const ASKED: [(&[u8], Option<&[u8]>); 4] =
    [(b"a", None), (b"a", Some(b"b")), (b".", None), (b".", Some(b"b"))];

/// Input: what is asked for, where the stream is cut, then the stream.
///
/// Where it is cut does not matter, no entry has data that the stream has not; and whatever is in
/// it, nothing changes but what was asked for.
pub(crate) fn cp_from_guest(bytes: &[u8]) {
    let [asked, piece, bytes @ ..] = bytes else { return };
    let (top, name) = ASKED[usize::from(*asked) % ASKED.len()];
    let bytes = mended(bytes);
    let whole = read(Cut { bytes: &bytes, piece: usize::MAX });
    let cut = Cut { bytes: &bytes, piece: usize::from(*piece) };
    assert_eq!(read(cut), whole, "cuts matter");
    let data: u64 = whole.0.iter().map(|(_, len)| len).sum();
    assert!(data <= bytes.len() as u64, "{data} bytes out of {}", bytes.len());
    if let Ok(root) = tempfile::tempdir() {
        make(root.path(), &bytes, top, name);
    }
}

/// Every entry with how many bytes of data it had, and why there are no more.
fn read(input: Cut<'_>) -> (Vec<(Entry, u64)>, String) {
    let mut reader = Entries::new(input);
    let mut entries = Vec::new();
    loop {
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return (entries, String::new()),
            Err(error) => return (entries, error.to_string()),
        };
        let mut len = 0;
        loop {
            match reader.data(&mut [0; CHUNK]) {
                Ok(0) => break,
                Ok(count) => len += count as u64,
                Err(error) => return (entries, error.to_string()),
            }
        }
        if let Content::File { size, segments } = &entry.content {
            assert_eq!(segments.iter().map(|segment| segment.len).sum::<u64>(), len);
            let pieces = segments.iter().map(|segment| (segment.offset, segment.len));
            assert!(are_in_order(*size, pieces), "{entry:?}");
        }
        entries.push((entry, len));
    }
}

/// Makes it beside a secret, with a link to the secret's directory already there.
fn make(root: &Path, bytes: &[u8], top: &[u8], name: Option<&[u8]>) {
    let (into, outside) = (root.join("into"), root.join("outside"));
    let link = into.join("link");
    let prepared = fs::create_dir(&into)
        .and_then(|()| fs::create_dir(&outside))
        .and_then(|()| symlink(&outside, &link))
        .and_then(|()| fs::File::create(outside.join("secret")));
    let Ok(secret) = prepared else { return };
    let before = secret.metadata().map(|data| same(&data)).ok();
    let place = Place { dir: into.as_os_str().as_bytes().to_vec(), name: name.map(<[u8]>::to_vec) };
    // It may refuse whatever it likes.
    let _refused = unpack::unpack(bytes, top, place);
    assert_eq!(names(root), ["into", "outside"].map(str::to_owned).into(), "beside the place");
    assert_eq!(names(&outside), ["secret".to_owned()].into(), "behind a link");
    assert_eq!(secret.metadata().map(|data| same(&data)).ok(), before, "a file behind a link");
    if let Some(only) = name.or(Some(top).filter(|top| *top != b".")) {
        let meant = |found: &String| found.as_bytes() == only || found == "link";
        assert!(names(&into).iter().all(meant), "beside what was asked for");
    }
    let aside = format!(".banger-cp-{}-", std::process::id());
    // Whoever looks long enough finds the name, and sends it.
    let is_sent = bytes.windows(aside.len()).any(|some| some == aside.as_bytes());
    look_into(&into, Some(aside.as_str()).filter(|_| !is_sent), MAX_DEPTH);
}

/// What must not change of a file: what is in it, who may do what with it, how it is called.
fn same(data: &Metadata) -> (u64, u32, u64, i64, i64) {
    (data.len(), data.mode(), data.nlink(), data.mtime(), data.mtime_nsec())
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Nothing has rights that it must not have, and nothing half made, which is called `aside`, is
/// left. Directories are opened up, so that all of it can be removed.
fn look_into(dir: &Path, aside: Option<&str>, depth: usize) {
    let Ok(()) = fs::set_permissions(dir, Permissions::from_mode(0o700)) else { return };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        assert!(aside.is_none_or(|aside| !name.to_string_lossy().starts_with(aside)), "half made");
        let Ok(data) = entry.metadata() else { continue };
        let kind = data.file_type();
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink(), "{kind:?}");
        assert!(kind.is_symlink() || data.mode() & 0o7000 == 0, "{:o}", data.mode());
        if kind.is_dir() && depth > 0 {
            look_into(&entry.path(), aside, depth - 1);
        }
    }
}
