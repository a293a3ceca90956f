//! How a record is a row: what is searched for has a column, and all of it is JSON text.

use banger_model::{OperationRecord, OperationStatus, SandboxRecord, Timestamp};
use rusqlite::types::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Columns of each table before the record itself; the first is the id.
pub(crate) const COLUMNS: usize = 4;

/// A record with its columns. Rows are written from them and checked against them when read.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    /// In the table's order.
    fn columns(&self) -> [Value; COLUMNS];
}

impl Stored for SandboxRecord {
    fn columns(&self) -> [Value; COLUMNS] {
        [
            text(self.id.as_str()),
            text(self.name.as_str()),
            text(self.state.name()),
            Value::Integer(time(self.created)),
        ]
    }
}

impl Stored for OperationRecord {
    fn columns(&self) -> [Value; COLUMNS] {
        let finished = match &self.status {
            OperationStatus::Running => Value::Null,
            OperationStatus::Succeeded { at }
            | OperationStatus::Failed { at, .. }
            | OperationStatus::Cancelled { at } => Value::Integer(time(*at)),
        };
        [
            text(self.id.as_str()),
            text(self.sandbox.as_str()),
            Value::Integer(time(self.started)),
            finished,
        ]
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// A time as SQLite has integers. Columns of time only sort: what is beyond sorts last.
pub(crate) fn time(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// A count as SQLite has integers.
pub(crate) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
