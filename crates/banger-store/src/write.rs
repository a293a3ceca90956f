//! Changes, and what refuses them.

use banger_model::{
    Limits, OperationId, OperationRecord, SandboxId, SandboxName, SandboxRecord, Timestamp,
};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Params, Transaction, params, params_from_iter};
use thiserror::Error;

use crate::row::{self, COLUMNS, Stored};

/// Longest record as JSON, in bytes. Labels at their limits take a third of it; the rest is for
/// the reasons of failures.
pub const MAX_RECORD_LEN: usize = 128 << 10;
/// Most operations that are remembered, under way or not: some for each sandbox there may be.
pub const MAX_OPERATIONS: usize = 4 * Limits::MAX_SANDBOXES;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new sandbox.
    Insert(SandboxRecord),
    /// What is remembered of a sandbox from now on.
    Update(SandboxRecord),
    /// A sandbox is no more.
    Remove(SandboxId),
    /// What is remembered of an operation from now on, known before or not.
    PutOperation(OperationRecord),
    /// An operation is forgotten; one that is not known is forgotten already.
    RemoveOperation(OperationId),
    /// Final operations are forgotten: those that ended before this time, and of the others all
    /// but the newest.
    PruneOperations {
        /// This time.
        finished_before: Timestamp,
        /// Most final operations that stay.
        keep: usize,
    },
}

/// Why a group of changes did not happen. Nothing of the group has.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// Another sandbox has the name.
    #[error("the name {name} is taken by sandbox {by}: choose another, or delete that sandbox")]
    NameTaken {
        /// The name.
        name: SandboxName,
        /// Who has it.
        by: SandboxId,
    },
    /// The id was given before.
    #[error("there is a sandbox {0} already")]
    Exists(SandboxId),
    /// There are as many sandboxes as there may be.
    #[error("there are {max} sandboxes, and no more are allowed: delete some")]
    TooManySandboxes {
        /// How many there may be.
        max: usize,
    },
    /// There are as many operations as there may be.
    #[error("{max} operations are remembered, and no more are allowed: wait until some end")]
    TooManyOperations {
        /// How many there may be.
        max: usize,
    },
    /// There is no such sandbox.
    #[error("no sandbox {0} is remembered")]
    Unknown(SandboxId),
    /// The record does not fit.
    #[error("the record of {id} takes {len} bytes, and {max} are allowed", max = MAX_RECORD_LEN)]
    TooLarge {
        /// Whose record.
        id: String,
        /// Its length as JSON, in bytes.
        len: usize,
    },
    /// The record cannot be written as JSON.
    #[error("the record of {id} cannot be encoded: {reason}")]
    Unencodable {
        /// Whose record.
        id: String,
        /// Why.
        reason: String,
    },
}

/// Why a change stops its group, or everything.
enum Halt {
    Refused(Refused),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Halt {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// How many rows there are, counted once for a transaction and kept from there on.
#[derive(Clone, Copy)]
struct Counts {
    sandboxes: i64,
    operations: i64,
}

impl Counts {
    fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let count = |query| conn.prepare_cached(query)?.query_row([], |row| row.get(0));
        Ok(Self {
            sandboxes: count("SELECT count(*) FROM sandbox")?,
            operations: count("SELECT count(*) FROM operation")?,
        })
    }
}

/// Carries out the groups, each in a savepoint of its own. An error means that the transaction is
/// to be rolled back.
pub(crate) fn groups(
    tx: &mut Transaction<'_>,
    groups: &[Vec<Write>],
) -> rusqlite::Result<Vec<Result<(), Refused>>> {
    let mut counts = Counts::read(tx)?;
    let mut outcomes = Vec::with_capacity(groups.len());
    for group in groups {
        let savepoint = tx.savepoint()?;
        let mut counted = counts;
        let applied = group.iter().try_for_each(|change| apply(&savepoint, change, &mut counted));
        outcomes.push(match applied {
            Ok(()) => {
                savepoint.commit()?;
                counts = counted;
                Ok(())
            }
            Err(Halt::Refused(refused)) => {
                savepoint.finish()?;
                Err(refused)
            }
            Err(Halt::Sql(error)) => return Err(error),
        });
    }
    Ok(outcomes)
}

fn apply(conn: &Connection, change: &Write, counts: &mut Counts) -> Result<(), Halt> {
    match change {
        Write::Insert(record) => insert(conn, record, counts),
        Write::Update(record) => update(conn, record),
        Write::Remove(id) => {
            match execute(conn, "DELETE FROM sandbox WHERE id = ?1", [id.as_str()])? {
                0 => Err(Refused::Unknown(id.clone()).into()),
                gone => {
                    counts.sandboxes -= row::count(gone);
                    Ok(())
                }
            }
        }
        Write::PutOperation(record) => put_operation(conn, record, counts),
        Write::RemoveOperation(id) => {
            let gone = execute(conn, "DELETE FROM operation WHERE id = ?1", [id.as_str()])?;
            counts.operations -= row::count(gone);
            Ok(())
        }
        Write::PruneOperations { finished_before, keep } => {
            let gone = prune(conn, *finished_before, *keep)?;
            counts.operations -= row::count(gone);
            Ok(())
        }
    }
}

fn insert(conn: &Connection, record: &SandboxRecord, counts: &mut Counts) -> Result<(), Halt> {
    // The indexes decide who is first; the loser is told why afterwards.
    let query = "INSERT INTO sandbox (id, name, state, created, record)
        VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
    if execute(conn, query, params_from_iter(encode(record)?))? == 0 {
        let taken = name_taken(conn, record)?;
        return Err(taken.unwrap_or_else(|| Refused::Exists(record.id.clone())).into());
    }
    counts.sandboxes += 1;
    if counts.sandboxes > row::count(Limits::MAX_SANDBOXES) {
        return Err(Refused::TooManySandboxes { max: Limits::MAX_SANDBOXES }.into());
    }
    Ok(())
}

fn update(conn: &Connection, record: &SandboxRecord) -> Result<(), Halt> {
    let query = "UPDATE OR IGNORE sandbox
        SET name = ?2, state = ?3, created = ?4, record = ?5 WHERE id = ?1";
    if execute(conn, query, params_from_iter(encode(record)?))? == 0 {
        let taken = name_taken(conn, record)?;
        return Err(taken.unwrap_or_else(|| Refused::Unknown(record.id.clone())).into());
    }
    Ok(())
}

/// The refusal if another sandbox has the name of this one.
fn name_taken(conn: &Connection, record: &SandboxRecord) -> rusqlite::Result<Option<Refused>> {
    let name = record.name.clone();
    let query = "SELECT id FROM sandbox WHERE name = ?1 AND id <> ?2";
    let holder = conn
        .query_row(query, [name.as_str(), record.id.as_str()], |row| row.get::<_, String>(0))
        .optional()?;
    // The table has a check on ids: one that is none is not there.
    Ok(holder.and_then(|by| by.parse().ok()).map(|by| Refused::NameTaken { name, by }))
}

fn put_operation(
    conn: &Connection,
    record: &OperationRecord,
    counts: &mut Counts,
) -> Result<(), Halt> {
    let values = encode(record)?;
    let query = "UPDATE operation
        SET sandbox = ?2, started = ?3, finished = ?4, record = ?5 WHERE id = ?1";
    if execute(conn, query, params_from_iter(&values))? > 0 {
        return Ok(());
    }
    if counts.operations >= row::count(MAX_OPERATIONS) {
        return Err(Refused::TooManyOperations { max: MAX_OPERATIONS }.into());
    }
    let query = "INSERT INTO operation (id, sandbox, started, finished, record)
        VALUES (?1, ?2, ?3, ?4, ?5)";
    execute(conn, query, params_from_iter(&values))?;
    counts.operations += 1;
    Ok(())
}

/// Carries a statement out that is understood once; answers how many rows it changed. SQLite takes
/// longer to understand one than to carry it out.
fn execute(conn: &Connection, query: &str, values: impl Params) -> rusqlite::Result<usize> {
    conn.prepare_cached(query)?.execute(values)
}

/// Forgets final operations; answers how many.
fn prune(conn: &Connection, before: Timestamp, keep: usize) -> rusqlite::Result<usize> {
    let query = "DELETE FROM operation WHERE finished < ?1 OR id IN (
        SELECT id FROM operation WHERE finished IS NOT NULL
        ORDER BY finished DESC, id DESC LIMIT -1 OFFSET ?2)";
    execute(conn, query, params![row::time(before), row::count(keep)])
}

/// The values of a row: its columns, then its text.
fn encode<T: Stored>(record: &T) -> Result<[Value; COLUMNS + 1], Refused> {
    let [id, second, third, fourth] = record.columns();
    let whose = || match &id {
        Value::Text(id) => id.clone(),
        other => format!("{other:?}"),
    };
    let json = serde_json::to_string(record)
        .map_err(|error| Refused::Unencodable { id: whose(), reason: error.to_string() })?;
    if json.len() > MAX_RECORD_LEN {
        return Err(Refused::TooLarge { id: whose(), len: json.len() });
    }
    Ok([id, second, third, fourth, Value::Text(json)])
}

#[cfg(test)]
mod tests;
