//! Why the store could not be opened, read or written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;

/// What was tried on a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To open it.
    Open,
    /// To read its rows.
    Read,
    /// To change its rows.
    Write,
    /// To bring it to the version of this program.
    Migrate,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write to",
            Self::Migrate => "migrate",
        })
    }
}

/// Why the store did not do what it was asked. A transaction that failed has changed nothing.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file cannot be made.
    #[error("cannot create the database {path}", path = path.display())]
    Create {
        /// The database.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "{path} is no database of banger's: move it away, or put a backup of banger's in its place",
        path = path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The file was a database of ours once.
    #[error(
        "the database {path} is damaged ({reason}): put a backup in its place",
        path = path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file was written by a newer program.
    #[error(
        "the database {path} has version {found}, and this banger knows up to {known}: run the newer banger{hint}",
        path = path.display(),
        hint = restore_hint(path, backup.as_deref())
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
        /// A backup that this program can read, if there is one.
        backup: Option<PathBuf>,
    },
    /// There is no room.
    #[error("cannot write to the database {path}: the disk is full; free some space", path = path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// Somebody else has locked it.
    #[error(
        "the database {path} has been locked by another program for too long: end that program",
        path = path.display()
    )]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// Anything else that SQLite says.
    #[error("cannot {access} the database {path}", path = path.display())]
    Sql {
        /// What was tried.
        access: Access,
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A backup cannot be made.
    #[error(
        "cannot back the database {path} up to {to}: make room for it, or let banger write there",
        path = path.display(),
        to = to.display()
    )]
    Backup {
        /// The database.
        path: PathBuf,
        /// The backup.
        to: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database cannot be copied to be looked at.
    #[error("cannot copy {path} to {to} to check it", path = path.display(), to = to.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// Its copy.
        to: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database changed each time it was copied.
    #[error(
        "the database {path} changes faster than it can be copied: try again when less happens",
        path = path.display()
    )]
    Unsteady {
        /// The database.
        path: PathBuf,
    },
    /// There is no thread to write.
    #[error("cannot start the thread that writes the database")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

fn restore_hint(path: &Path, backup: Option<&Path>) -> String {
    backup.map_or_else(String::new, |backup| {
        let (path, backup) = (path.display(), backup.display());
        format!(
            ", or go back to what was before it: stop banger, remove {path}-wal and {path}-shm, and move {backup} to {path}"
        )
    })
}

impl StoreError {
    /// What SQLite said while `access` was tried on `path`, sorted by what can be done about it.
    pub(crate) fn from_sql(access: Access, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotOurs { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, reason: source.to_string() },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            _ => Self::Sql { access, path, source },
        }
    }
}
