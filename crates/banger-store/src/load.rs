//! Rows read back: each is checked against its own columns, and one that makes no sense is told
//! and not fatal.

use std::fmt;
use std::path::Path;

use banger_model::{Limits, OperationId, OperationRecord, SandboxId, SandboxRecord};
use rusqlite::types::Value;
use rusqlite::{Connection, Row};

use crate::error::{Access, StoreError};
use crate::row::{self, COLUMNS, Stored};
use crate::write::{MAX_OPERATIONS, MAX_RECORD_LEN};

/// Most rows that are read of a table: never so many are written, so that a file that has more is
/// not ours any more. Twice the bound of today leaves room for a program that allows fewer.
const MAX_ROWS_FACTOR: usize = 2;
/// Longest reason that is passed on, in characters.
const MAX_REASON: usize = 200;

/// Everything that is remembered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// By their creation.
    pub sandboxes: Vec<SandboxRecord>,
    /// By their start.
    pub operations: Vec<OperationRecord>,
    /// Rows that cannot be read. They stay until they are removed or written anew, and a
    /// sandbox's name stays taken.
    pub damaged: Vec<Damaged>,
}

/// Which row is damaged. An id is known unless it is damaged itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamagedRow {
    /// A sandbox's.
    Sandbox(Option<SandboxId>),
    /// An operation's.
    Operation(Option<OperationId>),
}

/// A row that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Which.
    pub row: DamagedRow,
    /// Why: a sentence without control characters, of bounded length.
    pub reason: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.row {
            DamagedRow::Sandbox(Some(id)) => write!(f, "sandbox {id}")?,
            DamagedRow::Sandbox(None) => f.write_str("a sandbox")?,
            DamagedRow::Operation(Some(id)) => write!(f, "operation {id}")?,
            DamagedRow::Operation(None) => f.write_str("an operation")?,
        }
        write!(f, ": {}", self.reason)
    }
}

/// The beginning of a text from a file, fit for a terminal.
pub(crate) fn shorten(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(MAX_REASON).map(plain).collect()
}

/// Reads both tables as they were at one time.
pub(crate) fn everything(conn: &Connection, path: &Path) -> Result<Remembered, StoreError> {
    let error = |source| StoreError::from_sql(Access::Read, path, source);
    let too_many = |table: &str, max: usize| {
        let reason = format!("more than {max} rows in its table {table}");
        StoreError::Damaged { path: path.to_owned(), reason }
    };
    let _one_time = conn.unchecked_transaction().map_err(error)?;
    let mut all = Remembered::default();

    let max = MAX_ROWS_FACTOR * Limits::MAX_SANDBOXES;
    let whose = |id: Option<&str>| DamagedRow::Sandbox(id.and_then(|id| id.parse().ok()));
    let rows = read(conn, SANDBOXES, max, whose).map_err(error)?;
    sort(rows.ok_or_else(|| too_many("sandbox", max))?, &mut all.sandboxes, &mut all.damaged);

    let max = MAX_ROWS_FACTOR * MAX_OPERATIONS;
    let whose = |id: Option<&str>| DamagedRow::Operation(id.and_then(|id| id.parse().ok()));
    let rows = read(conn, OPERATIONS, max, whose).map_err(error)?;
    sort(rows.ok_or_else(|| too_many("operation", max))?, &mut all.operations, &mut all.damaged);
    Ok(all)
}

fn sort<T>(rows: Vec<Result<T, Damaged>>, good: &mut Vec<T>, damaged: &mut Vec<Damaged>) {
    for row in rows {
        match row {
            Ok(record) => good.push(record),
            Err(reason) => damaged.push(reason),
        }
    }
}

// A record that is too long is not even taken into memory.
const SANDBOXES: &str = "SELECT id, name, state, created,
    iif(octet_length(record) <= ?1, record, NULL) FROM sandbox ORDER BY created, id LIMIT ?2";
const OPERATIONS: &str = "SELECT id, sandbox, started, finished,
    iif(octet_length(record) <= ?1, record, NULL) FROM operation ORDER BY started, id LIMIT ?2";

/// The rows of a query; `None` when there are more than `max`.
fn read<T: Stored>(
    conn: &Connection,
    query: &str,
    max: usize,
    whose: impl Fn(Option<&str>) -> DamagedRow,
) -> rusqlite::Result<Option<Vec<Result<T, Damaged>>>> {
    let mut statement = conn.prepare(query)?;
    let mut rows = statement.query((row::count(MAX_RECORD_LEN), row::count(max + 1)))?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        if all.len() == max {
            return Ok(None);
        }
        let decoded = decode(row).map_err(|reason| {
            let id = row.get_ref(0).ok().and_then(|id| id.as_str().ok());
            Damaged { row: whose(id), reason: shorten(&reason) }
        });
        all.push(decoded);
    }
    Ok(Some(all))
}

/// The record of a row that says the same in its columns and in its text.
fn decode<T: Stored>(row: &Row<'_>) -> Result<T, String> {
    let value = |column: usize| row.get::<_, Value>(column).map_err(|error| error.to_string());
    let Value::Text(json) = value(COLUMNS)? else {
        return Err(format!("its record is longer than {MAX_RECORD_LEN} bytes"));
    };
    let record: T = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    for (column, expected) in record.columns().into_iter().enumerate() {
        let found = value(column)?;
        if found != expected {
            return Err(format!("column {column} has {found:?}, its record {expected:?}"));
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_a_file_cannot_steer_a_terminal_or_fill_it() {
        assert_eq!(shorten("a\x1b[31m\nb"), "a?[31m?b");
        assert_eq!(shorten(&"é".repeat(MAX_REASON + 1)), "é".repeat(MAX_REASON));
    }
}
