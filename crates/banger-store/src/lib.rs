//! What the daemon remembers: SQLite rows and migrations.
//!
//! A [`Store`] is one file. What is searched for has a column; the rest of a record is JSON text,
//! so that a new field with a default needs no migration. A [`Writer`] is the one thread that
//! writes: it takes all groups that wait and makes them durable together.
//!
//! **Architecture invariant:** nothing here knows what a record means beyond its id, its name and
//! whether it is final; nothing here is async.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backup;
mod check;
mod error;
mod files;
mod load;
mod row;
mod schema;
mod store;
mod write;
mod writer;

#[cfg(test)]
mod samples;

pub use check::{MigrationCheck, check_migrations};
pub use error::{Access, StoreError};
pub use load::{Damaged, DamagedRow, Remembered};
pub use schema::SCHEMA_VERSION;
pub use store::Store;
pub use write::{MAX_OPERATIONS, MAX_RECORD_LEN, Refused, Write};
pub use writer::{MAX_GROUPS_PER_COMMIT, MAX_WAITING_GROUPS, WriteFailed, Writer};
