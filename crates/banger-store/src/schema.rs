//! The tables, as the numbered steps that lead to them.

use rusqlite::{Connection, TransactionBehavior};

/// The version of the tables that this program reads and writes.
pub const SCHEMA_VERSION: u32 = 1;

/// Says in a database's header that it is one of ours: `bang`.
pub(crate) const APPLICATION_ID: i32 = 0x6261_6e67;

/// The steps that lead from each version to the next. A step that was published is never changed.
pub(crate) type Migrations = [&'static str];

/// Step `n` leads from version `n` to `n + 1`.
pub(crate) const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = [
    // An operation outlives its sandbox: its column is no foreign key.
    "CREATE TABLE sandbox (
        id      TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 12 AND id NOT GLOB '*[^0-9a-f]*'),
        name    TEXT NOT NULL UNIQUE,
        state   TEXT NOT NULL,
        created INTEGER NOT NULL,
        record  TEXT NOT NULL
    ) STRICT;
    CREATE TABLE operation (
        id       TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 16 AND id NOT GLOB '*[^0-9a-f]*'),
        sandbox  TEXT NOT NULL,
        started  INTEGER NOT NULL,
        finished INTEGER,
        record   TEXT NOT NULL
    ) STRICT;
    CREATE INDEX operation_finished ON operation (finished, id) WHERE finished IS NOT NULL;",
];

/// What a database says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nothing was ever written to it.
    Empty,
    /// It is ours and has this version.
    Ours(u32),
    /// Somebody else uses it.
    Foreign,
}

/// Whose the database is, without changing it.
pub(crate) fn identify(conn: &Connection) -> rusqlite::Result<Identity> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let things: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, u32::try_from(version)) {
        (APPLICATION_ID, Ok(version)) => Identity::Ours(version),
        (0, Ok(0)) if things == 0 => Identity::Empty,
        _ => Identity::Foreign,
    })
}

/// Takes the steps after version `from`: all of them, or none.
pub(crate) fn migrate(
    conn: &mut Connection,
    from: u32,
    migrations: &Migrations,
) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut version = from;
    for step in migrations.iter().skip(from as usize) {
        tx.execute_batch(step)?;
        version += 1;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", version)?;
    tx.commit()
}
