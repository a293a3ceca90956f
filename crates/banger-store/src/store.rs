//! The open database: made, identified, migrated, and set up to lose nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::backup;
use crate::error::{Access, StoreError};
use crate::files;
use crate::load::{self, Remembered};
use crate::schema::{self, Identity, MIGRATIONS, Migrations};
use crate::write::{self, Refused, Write};

/// How long to wait for another program's lock. Nobody but a curious owner with `sqlite3` holds
/// one, and then for milliseconds.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(5);
/// The log shrinks to this once its content is in the database, in bytes: what a burst of writes
/// needed is given back.
const MAX_IDLE_LOG: i64 = 8 << 20;

/// The memory of a daemon, in one file. Every call blocks until the disk has answered.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the database, makes it (mode 0600) when there is none, and brings an older one to
    /// [`crate::SCHEMA_VERSION`], after a backup named `<path>.v<version>.bak` that replaces older
    /// backups of this kind.
    ///
    /// # Errors
    /// When the file cannot be made, opened or migrated, is damaged, belongs to somebody else or
    /// to a newer banger. It is unchanged then.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, &MIGRATIONS)
    }

    pub(crate) fn open_with(path: &Path, migrations: &Migrations) -> Result<Self, StoreError> {
        make_file(path).map_err(|source| StoreError::Create { path: path.to_owned(), source })?;
        let place = Place { file: path, called: path };
        let (mut conn, version) = place.connect(migrations)?;
        place.set_up(&conn)?;
        let old = version > 0 && (version as usize) < migrations.len();
        if old {
            backup::take(&conn, path, &backup::name(path, version))?;
        }
        place.migrate(&mut conn, version, migrations)?;
        if old {
            backup::keep_only(path, version);
        }
        Ok(Self { conn, path: path.to_owned() })
    }

    /// Everything that is remembered. Rows that make no sense are told beside it.
    ///
    /// # Errors
    /// When the database cannot be read at all, or holds more than was ever written to it.
    pub fn load(&self) -> Result<Remembered, StoreError> {
        load::everything(&self.conn, &self.path)
    }

    /// Carries out groups of changes in their order. Each group happens as a whole or, when any
    /// of its changes is refused, not at all; what the others do does not depend on it. On return
    /// everything that is not refused is durable.
    ///
    /// # Errors
    /// When the database cannot be written: then none of the groups has happened.
    pub fn write(&mut self, groups: &[Vec<Write>]) -> Result<Vec<Result<(), Refused>>, StoreError> {
        let outcome = immediate(&mut self.conn).and_then(|mut tx| {
            let outcomes = write::groups(&mut tx, groups)?;
            tx.commit()?;
            Ok(outcomes)
        });
        outcome.map_err(|source| StoreError::from_sql(Access::Write, &self.path, source))
    }

    /// Writes a whole and compact copy, as it is now, to `to`, replacing what is there.
    ///
    /// # Errors
    /// When the copy cannot be made; what was at `to` is still there then.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        backup::take(&self.conn, &self.path, to)
    }

    #[cfg(test)]
    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }
}

fn immediate(conn: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    conn.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// Makes an empty file, which is an empty database, unless there is one. SQLite itself would let
/// others read it; what it puts beside it later has this file's mode.
fn make_file(path: &Path) -> io::Result<()> {
    match files::create_new(path) {
        Ok(_empty) => files::sync_directory(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// A database's file, and what errors call it: they differ when a copy is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a Path,
    pub(crate) called: &'a Path,
}

impl Place<'_> {
    fn error(self, access: Access) -> impl FnOnce(rusqlite::Error) -> StoreError {
        move |source| StoreError::from_sql(access, self.called, source)
    }

    /// Opens what is there and finds out its version, without changing it.
    pub(crate) fn connect(self, migrations: &Migrations) -> Result<(Connection, u32), StoreError> {
        let conn = open_untouched(self.file).map_err(self.error(Access::Open))?;
        let version = match schema::identify(&conn).map_err(self.error(Access::Open))? {
            Identity::Empty => 0,
            Identity::Ours(version) => version,
            Identity::Foreign => {
                return Err(StoreError::NotOurs { path: self.called.to_owned() });
            }
        };
        let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
        if version > known {
            let backup = backup::newest(self.called, known);
            let path = self.called.to_owned();
            return Err(StoreError::Newer { path, found: version, known, backup });
        }
        self.check_integrity(&conn)?;
        Ok((conn, version))
    }

    fn check_integrity(self, conn: &Connection) -> Result<(), StoreError> {
        let verdict: String = conn
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(self.error(Access::Open))?;
        match verdict.as_str() {
            "ok" => Ok(()),
            found => {
                let reason = load::shorten(found);
                Err(StoreError::Damaged { path: self.called.to_owned(), reason })
            }
        }
    }

    /// From here on writes are durable when they return.
    fn set_up(self, conn: &Connection) -> Result<(), StoreError> {
        let set = || {
            conn.pragma_update(None, "journal_mode", "WAL")?;
            conn.pragma_update(None, "synchronous", "FULL")?;
            conn.pragma_update(None, "foreign_keys", "ON")?;
            conn.pragma_update(None, "cell_size_check", "ON")?;
            conn.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG)?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        };
        set().map(|_off| ()).map_err(self.error(Access::Open))
    }

    /// Brings the database from `version` to the newest.
    pub(crate) fn migrate(
        self,
        conn: &mut Connection,
        version: u32,
        migrations: &Migrations,
    ) -> Result<(), StoreError> {
        if version as usize == migrations.len() {
            return Ok(());
        }
        schema::migrate(conn, version, migrations).map_err(self.error(Access::Migrate))
    }
}

/// A connection that trusts nothing in the file and, as long as only reads are made, changes
/// nothing either: closing it leaves a log that a crash has left as it is.
fn open_untouched(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file, flags)?;
    conn.busy_timeout(MAX_LOCK_WAIT)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(conn)
}

#[cfg(test)]
mod tests;
