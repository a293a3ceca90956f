//! Whether a database can be opened by this program, found out on a copy of it. The database may
//! be in use, and nothing of it is touched.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::files;
use crate::load::{self, Damaged};
use crate::schema::{MIGRATIONS, Migrations, SCHEMA_VERSION};
use crate::store::Place;

/// Most copies that are begun when a daemon writes the database meanwhile.
const MAX_COPIES: usize = 10;
/// Largest file that is copied, in bytes: more than all rows at their limits take.
const MAX_FILE: u64 = 8 << 30;
/// Bytes of a log's header: its salts tell one filling of the log from the next.
const LOG_HEADER: usize = 32;
/// What the copy is called in its directory.
const COPY: &str = "check.db";

/// What became of a copy of the database in the hands of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationCheck {
    /// The version of the database; `None` when there is none.
    pub found: Option<u32>,
    /// The version it would have.
    pub known: u32,
    /// Sandboxes that can be read afterwards.
    pub sandboxes: usize,
    /// Operations that can be read afterwards.
    pub operations: usize,
    /// Rows that cannot.
    pub damaged: Vec<Damaged>,
}

impl fmt::Display for MigrationCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known;
        match self.found {
            None => return write!(f, "there is no database; it would be created, version {known}"),
            Some(found) if found == known => write!(f, "version {known} is what it should be")?,
            Some(found) => write!(f, "version {found} would be migrated to {known}")?,
        }
        let Self { sandboxes, operations, damaged, .. } = self;
        write!(f, "; {sandboxes} sandboxes and {operations} operations can be read")?;
        match damaged.len() {
            0 => Ok(()),
            rows => write!(f, ", {rows} rows cannot"),
        }
    }
}

/// Opens a copy of the database at `path`, made in the directory `scratch` and removed again, as
/// [`crate::Store::open`] would: migrates it and reads every row. The database itself is only
/// read, as files are: no lock is taken, no byte and no time of change differs afterwards.
///
/// Not for a process that has the database open: closing a file ends all locks that a process has
/// on it.
///
/// # Errors
/// What [`crate::Store::open`] would say, and when there can be no copy.
pub fn check_migrations(path: &Path, scratch: &Path) -> Result<MigrationCheck, StoreError> {
    check_with(path, scratch, &MIGRATIONS)
}

pub(crate) fn check_with(
    path: &Path,
    scratch: &Path,
    migrations: &Migrations,
) -> Result<MigrationCheck, StoreError> {
    let known = u32::try_from(migrations.len()).unwrap_or(SCHEMA_VERSION);
    let nothing =
        MigrationCheck { found: None, known, sandboxes: 0, operations: 0, damaged: Vec::new() };
    let copy = Copy { to: scratch.join(COPY) };
    if !path.try_exists().unwrap_or(true) {
        return Ok(nothing);
    }
    copy.take(path, |_| ())?;
    let place = Place { file: &copy.to, called: path };
    let (mut conn, found) = place.connect(migrations)?;
    place.migrate(&mut conn, found, migrations)?;
    let all = load::everything(&conn, path)?;
    Ok(MigrationCheck {
        found: Some(found),
        sandboxes: all.sandboxes.len(),
        operations: all.operations.len(),
        damaged: all.damaged,
        ..nothing
    })
}

/// The files of a copy, removed when it is dropped.
struct Copy {
    to: PathBuf,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What stays is removed before the next copy.
        let _stays = self.remove();
    }
}

/// What is copied with a database. The index of the log (`-shm`) is made anew from the log.
const COPIED: [&str; 3] = ["", "-wal", "-journal"];

impl Copy {
    fn remove(&self) -> io::Result<()> {
        files::remove(&self.to)?;
        files::BESIDE
            .iter()
            .try_for_each(|suffix| files::remove(&files::with_suffix(&self.to, suffix)))
    }

    /// Copies the files until none was changed in a way that matters.
    ///
    /// The log is copied after the database. While it is the same filling of the log, whatever a
    /// daemon moves from it into the database is in the copied log too, and read from there: so
    /// a copy is whole if the log was not begun anew. Without a log nothing may have changed.
    ///
    /// `copied` hears of each file when it is there, by its suffix.
    fn take(&self, path: &Path, mut copied: impl FnMut(&str)) -> Result<(), StoreError> {
        let failed = |suffix: &str, source| StoreError::Copy {
            path: files::with_suffix(path, suffix),
            to: files::with_suffix(&self.to, suffix),
            source,
        };
        for _ in 0..MAX_COPIES {
            self.remove().map_err(|source| failed("", source))?;
            let before = Print::of(path).map_err(|source| failed("", source))?;
            for suffix in COPIED {
                self.take_file(path, suffix).map_err(|source| failed(suffix, source))?;
                copied(suffix);
            }
            let after = Print::of(path).map_err(|source| failed("", source))?;
            if before.is_same_filling(&after) {
                return Ok(());
            }
        }
        Err(StoreError::Unsteady { path: path.to_owned() })
    }

    fn take_file(&self, path: &Path, suffix: &str) -> io::Result<()> {
        let Some(from) = open(&files::with_suffix(path, suffix))? else { return Ok(()) };
        let mut to = files::create_new(&files::with_suffix(&self.to, suffix))?;
        if io::copy(&mut from.take(MAX_FILE + 1), &mut to)? > MAX_FILE {
            let reason = format!("it is larger than {MAX_FILE} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        Ok(())
    }
}

/// What tells whether a database has changed between two looks.
#[derive(Debug, PartialEq, Eq)]
struct Print {
    log: Option<[u8; LOG_HEADER]>,
    database: Option<Stat>,
    journal: Option<Stat>,
}

/// Device, inode, length, and time of the last change in seconds and nanoseconds.
type Stat = (u64, u64, u64, i64, i64);

impl Print {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            log: log_header(&files::with_suffix(path, "-wal"))?,
            database: stat(path)?,
            journal: stat(&files::with_suffix(path, "-journal"))?,
        })
    }

    fn is_same_filling(&self, after: &Self) -> bool {
        match self.log {
            Some(_) => self.log == after.log,
            None => self == after,
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn stat(path: &Path) -> io::Result<Option<Stat>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let meta = file.metadata()?;
    Ok(Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())))
}

fn log_header(path: &Path) -> io::Result<Option<[u8; LOG_HEADER]>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut header = [0; LOG_HEADER];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => Ok(Some(header)),
        // Nothing was written to it yet.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
