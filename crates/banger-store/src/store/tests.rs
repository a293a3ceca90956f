//! Opening: what is made, what is refused, and what a migration leaves behind.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::samples::sandbox;
use crate::schema::SCHEMA_VERSION;

const NEXT: [&str; 2] =
    [MIGRATIONS[0], "ALTER TABLE sandbox ADD COLUMN host TEXT NOT NULL DEFAULT ''"];
const BROKEN: [&str; 3] = [MIGRATIONS[0], NEXT[1], "CREATE TABLE extra (x TEXT) STRICT; nonsense"];

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    (dir, path)
}

fn filled(path: &Path) -> Store {
    let mut store = Store::open(path).unwrap();
    let group = vec![Write::Insert(sandbox(1, "web"))];
    assert_eq!(store.write(&[group]).unwrap(), [Ok(())]);
    store
}

fn bytes(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn put(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn version(path: &Path) -> u32 {
    let conn = open_untouched(path).unwrap();
    conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn a_new_database_is_its_owners_alone_and_loses_nothing() {
    let (dir, path) = place();
    let store = filled(&path);
    for entry in fs::read_dir(dir.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let ask = |pragma: &str| -> String {
        let query = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
        store.conn.query_row(&query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(ask("journal_mode"), "wal");
    assert_eq!(ask("synchronous"), "2");
    assert_eq!(ask("foreign_keys"), "1");
    assert_eq!(version(&path), SCHEMA_VERSION);
}

#[test]
fn an_empty_file_is_an_empty_database() {
    let (dir, path) = place();
    put(&path, b"");
    drop(filled(&path));
    assert_eq!(Store::open(&path).unwrap().load().unwrap().sandboxes, [sandbox(1, "web")]);
    // There was nothing to back up.
    let backups = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".bak"));
    assert_eq!(backups.count(), 0);
}

#[test]
fn a_newer_database_is_refused_as_it_is_with_the_way_back() {
    let (_dir, path) = place();
    drop(filled(&path));
    drop(Store::open_with(&path, &NEXT).unwrap());
    let before = bytes(&path);
    let error = Store::open(&path).unwrap_err();
    let message = error.to_string();
    let backup = backup::name(&path, 1);
    match error {
        StoreError::Newer { found: 2, known: 1, backup: Some(found), .. } => {
            assert_eq!(found, backup);
        }
        other => panic!("{other:?}"),
    }
    for part in ["version 2", "up to 1", "run the newer banger", backup.to_str().unwrap()] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(bytes(&path), before);

    fs::remove_file(&backup).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Newer { backup: None, .. }), "{error:?}");
}

#[test]
fn a_newer_database_keeps_the_log_that_a_crash_left() {
    let (dir, path) = place();
    drop(filled(&path));
    let mut store = Store::open_with(&path, &NEXT).unwrap();
    store.write(&[vec![Write::Remove(sandbox(1, "web").id)]]).unwrap();
    // What a crash would leave, in another place.
    let crashed = dir.path().join("crashed.db");
    let log = |path: &Path| files::with_suffix(path, "-wal");
    put(&crashed, &bytes(&path));
    put(&log(&crashed), &bytes(&log(&path)));
    assert!(bytes(&log(&crashed)).len() > 100);
    let before = (bytes(&crashed), bytes(&log(&crashed)));
    assert!(matches!(Store::open(&crashed), Err(StoreError::Newer { .. })));
    assert_eq!((bytes(&crashed), bytes(&log(&crashed))), before);
}

#[test]
fn before_a_migration_there_is_a_backup_and_older_ones_go() {
    let (_dir, path) = place();
    drop(filled(&path));
    let (stale, other) = (backup::name(&path, 0), files::with_suffix(&path, ".mine.bak"));
    put(&stale, b"old");
    put(&other, b"the user's");
    let store = Store::open_with(&path, &NEXT).unwrap();
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(1, "web")]);
    assert_eq!(version(&path), 2);
    assert!(!stale.exists() && other.exists());
    let kept = backup::name(&path, 1);
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    // It is a whole database that the older program opens.
    assert_eq!(Store::open(&kept).unwrap().load().unwrap().sandboxes, [sandbox(1, "web")]);
}

#[test]
fn a_migration_that_fails_half_way_has_not_happened() {
    let (_dir, path) = place();
    drop(filled(&path));
    let error = Store::open_with(&path, &BROKEN).unwrap_err();
    assert!(matches!(error, StoreError::Sql { access: Access::Migrate, .. }), "{error:?}");
    assert_eq!(version(&path), 1);
    assert_eq!(Store::open(&path).unwrap().load().unwrap().sandboxes, [sandbox(1, "web")]);
    drop(Store::open_with(&path, &NEXT).unwrap());
}

#[test]
fn a_migration_without_room_for_its_backup_does_not_begin() {
    let (_dir, path) = place();
    drop(filled(&path));
    // A directory of that name is as good a reason as a full disk.
    fs::create_dir(backup::name(&path, 1)).unwrap();
    let error = Store::open_with(&path, &NEXT).unwrap_err();
    assert!(matches!(error, StoreError::Backup { .. }), "{error:?}");
    assert_eq!(version(&path), 1);
    assert!(!files::with_suffix(&backup::name(&path, 1), ".part").exists());
}

#[test]
fn a_backup_replaces_the_one_before_and_holds_what_is_in_the_log() {
    let (dir, path) = place();
    let to = dir.path().join("copy.db");
    let mut store = filled(&path);
    store.backup(&to).unwrap();
    store.write(&[vec![Write::Insert(sandbox(2, "db"))]]).unwrap();
    store.backup(&to).unwrap();
    let copied = Store::open(&to).unwrap().load().unwrap();
    assert_eq!(copied, store.load().unwrap());
}

#[test]
fn what_is_not_ours_is_refused_as_it_is_and_named() {
    let (_dir, path) = place();
    let text = "this is no database at all\n".repeat(100);
    put(&path, text.as_bytes());
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::NotOurs { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(bytes(&path), text.as_bytes());

    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = bytes(&path);
    assert!(matches!(Store::open(&path), Err(StoreError::NotOurs { .. })));
    assert_eq!(bytes(&path), before);
}

#[test]
fn a_damaged_database_is_refused_and_named() {
    let (_dir, path) = place();
    let mut store = filled(&path);
    let many = (2..200).map(|n| Write::Insert(sandbox(n, &format!("n{n}")))).collect();
    store.write(&[many]).unwrap();
    drop(store);
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    // Past the header and the schema: pages of rows and indexes.
    file.seek(SeekFrom::Start(3 * 4096)).unwrap();
    file.write_all(&[0xa5; 4096]).unwrap();
    drop(file);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn where_nothing_can_be_made_the_error_says_so() {
    let (dir, _) = place();
    let error = Store::open(&dir.path().join("no/such/state.db")).unwrap_err();
    assert!(matches!(error, StoreError::Create { .. }), "{error:?}");
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Sql { access: Access::Open, .. }), "{error:?}");
}

#[test]
fn a_lock_of_somebody_else_is_an_error_and_passes() {
    let (_dir, path) = place();
    let mut store = filled(&path);
    store.conn.busy_timeout(Duration::ZERO).unwrap();
    let other = open_untouched(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let remove = [vec![Write::Remove(sandbox(1, "web").id)]];
    let error = store.write(&remove).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(store.write(&remove).unwrap(), [Ok(())]);
}
