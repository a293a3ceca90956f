//! Backups: whole, compact, durable before anybody relies on them.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::StoreError;
use crate::files;

/// What a backup's name has between the database's name and its version.
const BEFORE_VERSION: &str = ".v";
/// What a backup's name ends with.
const AFTER_VERSION: &str = ".bak";

/// The name of the backup of the database at `path` when it had `version`.
pub(crate) fn name(path: &Path, version: u32) -> PathBuf {
    files::with_suffix(path, &format!("{BEFORE_VERSION}{version}{AFTER_VERSION}"))
}

/// Writes a copy of the database to `to`, replacing what is there.
pub(crate) fn take(conn: &Connection, path: &Path, to: &Path) -> Result<(), StoreError> {
    let part = files::with_suffix(to, ".part");
    let outcome = write_copy(conn, &part, to);
    if outcome.is_err() {
        // What is half written is of no use; the error tells why it is so.
        let _gone = files::remove(&part);
    }
    outcome.map_err(|source| failed(path, to, source))
}

fn failed(path: &Path, to: &Path, source: Box<dyn Error + Send + Sync>) -> StoreError {
    StoreError::Backup { path: path.to_owned(), to: to.to_owned(), source }
}

fn write_copy(
    conn: &Connection,
    part: &Path,
    to: &Path,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    files::remove(part)?;
    let file = files::create_new(part)?;
    let target = part.to_str().ok_or("its name is not UTF-8")?;
    // SQLite writes into a file that is there if it is empty, and does not sync it.
    conn.execute("VACUUM INTO ?1", [target])?;
    file.sync_all()?;
    fs::rename(part, to)?;
    files::sync_directory(to)?;
    Ok(())
}

/// The backups of the database at `path`, by version.
fn all(path: &Path) -> Vec<(u32, PathBuf)> {
    let Some(base) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(files::directory(path)) else { return Vec::new() };
    let version = |name: &str| -> Option<u32> {
        let rest = name.strip_prefix(base)?.strip_prefix(BEFORE_VERSION)?;
        rest.strip_suffix(AFTER_VERSION)?.parse().ok()
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|found| Some((version(found.file_name()?.to_str()?)?, found)))
        .collect()
}

/// The newest backup that a program knowing versions up to `known` can read.
pub(crate) fn newest(path: &Path, known: u32) -> Option<PathBuf> {
    all(path).into_iter().filter(|(version, _)| *version <= known).max().map(|(_, path)| path)
}

/// Removes all backups but that of `version`. One that cannot be removed stays: it costs room and
/// nothing else.
pub(crate) fn keep_only(path: &Path, version: u32) {
    for (_, old) in all(path).into_iter().filter(|(found, _)| *found != version) {
        let _stays = files::remove(&old);
    }
}
