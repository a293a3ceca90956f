//! What a check tells of databases that nobody has open.

use std::fs;
use std::io::Write as _;

use tempfile::TempDir;

use super::*;
use crate::samples::sandbox;
use crate::store::Store;
use crate::write::Write;

const NEXT: [&str; 2] =
    [MIGRATIONS[0], "ALTER TABLE sandbox ADD COLUMN host TEXT NOT NULL DEFAULT ''"];
const BROKEN: [&str; 2] = [MIGRATIONS[0], "nonsense"];

fn place() -> (TempDir, TempDir, PathBuf) {
    let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("state.db");
    (dir, scratch, path)
}

fn filled(path: &Path) {
    let mut store = Store::open(path).unwrap();
    let group = (1..=3u16).map(|n| Write::Insert(sandbox(n, &format!("s{n}")))).collect();
    store.write(&[group]).unwrap();
    let spoil = "UPDATE sandbox SET record = '' WHERE id LIKE '%2'";
    store.conn().execute_batch(spoil).unwrap();
}

#[test]
fn without_a_database_there_is_nothing_wrong_and_none_is_made() {
    let (dir, scratch, path) = place();
    let check = check_migrations(&path, scratch.path()).unwrap();
    assert_eq!((check.found, check.known), (None, SCHEMA_VERSION));
    assert!(check.to_string().contains("would be created"), "{check}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_empty_file_would_be_filled() {
    let (_dir, scratch, path) = place();
    File::create(&path).unwrap();
    let check = check_migrations(&path, scratch.path()).unwrap();
    assert_eq!(check.found, Some(0));
    assert!(check.to_string().contains("version 0 would be migrated to 1"), "{check}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn a_migration_is_tried_on_a_copy_and_rows_that_cannot_be_read_are_told() {
    let (dir, scratch, path) = place();
    filled(&path);
    File::create(scratch.path().join(COPY))
        .unwrap()
        .write_all(b"from a check that was killed")
        .unwrap();
    let check = check_with(&path, scratch.path(), &NEXT).unwrap();
    assert_eq!((check.found, check.known, check.sandboxes), (Some(1), 2, 2));
    assert_eq!(check.damaged.len(), 1);
    assert!(check.to_string().contains("1 rows cannot"), "{check}");
    assert_eq!(check_migrations(&path, scratch.path()).unwrap().found, Some(1));
    let error = check_with(&path, scratch.path(), &BROKEN).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_open_refuses_a_check_refuses_under_the_databases_name() {
    let (_dir, scratch, path) = place();
    filled(&path);
    drop(Store::open_with(&path, &NEXT).unwrap());
    let error = check_migrations(&path, scratch.path()).unwrap_err();
    let backup = crate::backup::name(&path, 1);
    match error {
        StoreError::Newer { path: named, backup: found, .. } => {
            assert_eq!((named, found), (path.clone(), Some(backup)));
        }
        other => panic!("{other:?}"),
    }
    File::create(&path).unwrap().write_all(&[b'x'; 5000]).unwrap();
    let error = check_migrations(&path, scratch.path()).unwrap_err();
    assert!(matches!(&error, StoreError::NotOurs { path: named } if *named == path), "{error:?}");
}

#[test]
fn without_a_directory_for_the_copy_the_error_says_so() {
    let (_dir, scratch, path) = place();
    filled(&path);
    let error = check_migrations(&path, &scratch.path().join("none")).unwrap_err();
    assert!(matches!(error, StoreError::Copy { .. }), "{error:?}");
}

#[test]
fn a_log_begun_anew_tells_that_a_copy_may_be_torn() {
    let print = |log: Option<u8>, len| Print {
        log: log.map(|byte| [byte; LOG_HEADER]),
        database: Some((1, 1, len, 1, 1)),
        journal: None,
    };
    assert!(print(Some(1), 1).is_same_filling(&print(Some(1), 2)));
    assert!(!print(Some(1), 1).is_same_filling(&print(Some(2), 1)));
    assert!(!print(Some(1), 1).is_same_filling(&print(None, 1)));
    assert!(!print(None, 1).is_same_filling(&print(Some(1), 1)));
    assert!(print(None, 1).is_same_filling(&print(None, 1)));
    assert!(!print(None, 1).is_same_filling(&print(None, 2)));
}

/// Writes so much that the log is emptied into the database and begun anew.
fn begin_log_anew(store: &mut Store, n: u16) {
    let insert = |n: u16| vec![Write::Insert(sandbox(n, &format!("s{n}")))];
    assert_eq!(store.write(&[insert(n)]).unwrap(), [Ok(())]);
    let empty = "PRAGMA wal_checkpoint(RESTART)";
    let busy: i64 = store.conn().query_row(empty, [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
    assert_eq!(store.write(&[insert(n + 1)]).unwrap(), [Ok(())]);
}

#[test]
fn a_copy_that_a_writer_has_torn_is_made_again() {
    let (_dir, scratch, path) = place();
    let mut store = Store::open(&path).unwrap();
    store.write(&[vec![Write::Insert(sandbox(1, "s1"))]]).unwrap();
    let copy = Copy { to: scratch.path().join(COPY) };
    let mut torn = 0;
    copy.take(&path, |suffix| {
        if suffix.is_empty() && torn < 3 {
            begin_log_anew(&mut store, 10 + 2 * torn);
            torn += 1;
        }
    })
    .unwrap();
    assert_eq!(torn, 3);
    let copied = Store::open(&copy.to).unwrap().load().unwrap();
    assert_eq!(copied.sandboxes.len(), 7);
    assert_eq!(copied, store.load().unwrap());
}

#[test]
fn a_database_that_never_holds_still_is_not_copied_for_ever() {
    let (_dir, scratch, path) = place();
    let mut store = Store::open(&path).unwrap();
    let copy = Copy { to: scratch.path().join(COPY) };
    let mut times = 0;
    let taken = copy.take(&path, |suffix| {
        if suffix.is_empty() {
            begin_log_anew(&mut store, 2 * times);
            times += 1;
        }
    });
    assert!(matches!(taken, Err(StoreError::Unsteady { .. })), "{taken:?}");
    assert_eq!(usize::from(times), MAX_COPIES);
}

#[test]
fn what_moves_from_the_log_into_the_database_meanwhile_is_not_missed() {
    let (_dir, scratch, path) = place();
    let mut store = Store::open(&path).unwrap();
    store.write(&[vec![Write::Insert(sandbox(1, "s1"))]]).unwrap();
    let copy = Copy { to: scratch.path().join(COPY) };
    let mut copied = 0;
    copy.take(&path, |_| {
        copied += 1;
        if copied == 1 {
            let many = (2..100).map(|n| Write::Insert(sandbox(n, &format!("s{n}")))).collect();
            assert_eq!(store.write(&[many]).unwrap(), [Ok(())]);
            store.conn().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        }
    })
    .unwrap();
    // The log was not begun anew: the first copy was good.
    assert_eq!(copied, COPIED.len());
    let there = Store::open(&copy.to).unwrap().load().unwrap();
    assert_eq!(there, store.load().unwrap());
}
