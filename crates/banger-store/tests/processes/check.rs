//! A check of a database that a daemon has open: it touches nothing, and sees what is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_store::{StoreError, check_migrations};

use crate::scribe::{Scribe, line};

type Trace = (u64, i64, i64, u32, Vec<u8>);

/// Everything about every file of a directory, and the directory's own time of change.
fn trace(dir: &Path) -> BTreeMap<PathBuf, Trace> {
    let of = |path: PathBuf| {
        let meta = fs::metadata(&path).unwrap();
        let mut bytes = Vec::new();
        if meta.is_file() {
            File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
        }
        (path, (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.mode(), bytes))
    };
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.chain([dir.to_owned()]).map(of).collect()
}

#[test]
fn a_check_touches_no_byte_and_no_time_of_a_database_in_use() {
    let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("state.db");
    let mut scribe = Scribe::start(&["hold"], &path, &[]);
    assert_eq!(line(&mut scribe.output()).as_deref(), Some("ready"));
    let before = trace(dir.path());
    let log = &before[&dir.path().join("state.db-wal")];
    assert!(!log.4.is_empty() && before.contains_key(&dir.path().join("state.db-shm")));

    let check = check_migrations(&path, scratch.path()).unwrap();
    // What is only in the log so far is seen.
    assert_eq!((check.found, check.sandboxes, check.operations), (Some(1), 5, 5));
    assert!(trace(dir.path()) == before);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);

    // The same after a crash, when nobody has it open and a log is left.
    scribe.kill();
    let check = check_migrations(&path, scratch.path()).unwrap();
    assert_eq!((check.found, check.sandboxes, check.operations), (Some(1), 5, 5));
    assert!(trace(dir.path()) == before);
}

#[test]
fn a_check_during_writes_sees_whole_groups_and_all_that_was_durable_before() {
    let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("state.db");
    let mut scribe = Scribe::start(&["write"], &path, &["0"]);
    let mut output = scribe.output();
    for _ in 0..200 {
        line(&mut output).expect("the scribe goes on");
    }
    // It stops when nobody reads what it says.
    let reader = std::thread::spawn(move || while line(&mut output).is_some() {});
    let mut whole = 0;
    for _ in 0..40 {
        match check_migrations(&path, scratch.path()) {
            Ok(check) => {
                assert_eq!((check.sandboxes, check.operations), (200, 200));
                assert_eq!(check.damaged, []);
                whole += 1;
            }
            Err(StoreError::Unsteady { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(whole > 0);
    scribe.kill();
    reader.join().unwrap();
}
