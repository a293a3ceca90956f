//! The way to what is remembered, for async code.

use std::path::{Path, PathBuf};

use banger_host::fs::{allocate, free_space, is_there, remove_all};
use banger_model::Bytes;
use banger_store::{Store, StoreError, Write, WriteFailed, Writer};
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::warn;

/// What is kept back on the disk: room for some thousand changes.
const RESERVED: Bytes = Bytes::mib(4);
/// Nothing is kept back where there is less: it would be taken from those who need it now.
const WHERE_THERE_IS: Bytes = Bytes::mib(64);

/// Why something is not remembered.
#[derive(Debug, Error)]
#[error(transparent)]
pub(crate) struct NotStored(#[from] pub WriteFailed);

/// Room on the disk that is given up when there is no other: what is to be deleted to make room
/// has to be remembered first.
#[derive(Debug)]
pub(crate) struct Reserve(PathBuf);

impl Reserve {
    /// Beside this database.
    pub(crate) fn beside(database: &Path) -> Self {
        Self(database.with_extension("reserve"))
    }

    fn keep(&self) {
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        if is_there(&self.0) || free_space(dir).is_ok_and(|free| free < WHERE_THERE_IS) {
            return;
        }
        if let Err(error) = allocate(&self.0, RESERVED) {
            warn!(%error, "no room on the disk is kept back");
        }
    }

    /// Whether there was any.
    fn give_up(&self) -> bool {
        is_there(&self.0) && remove_all(&self.0).is_ok()
    }
}

/// What is remembered, written by one thread in the order of the calls.
#[derive(Debug)]
pub(crate) struct Memory {
    writer: Writer,
    reserve: Reserve,
}

impl Memory {
    /// Takes a database over.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn new(store: Store, reserve: Reserve) -> Result<Self, StoreError> {
        reserve.keep();
        Ok(Self { writer: Writer::start(store)?, reserve })
    }

    /// Keeps room back again, if it was given up and there is some.
    pub(crate) fn reserve(&self) {
        self.reserve.keep();
    }

    /// Writes changes as a whole; returns when they have reached the disk.
    ///
    /// # Errors
    /// [`NotStored`]; then none of them was written.
    pub(crate) async fn write(&self, group: Vec<Write>) -> Result<(), NotStored> {
        match self.try_write(group.clone()).await {
            Err(NotStored(WriteFailed::Store(error)))
                if matches!(*error, StoreError::Full { .. }) && self.reserve.give_up() =>
            {
                warn!("the disk is full: what was kept back for the database is used now");
                self.try_write(group).await
            }
            outcome => outcome,
        }
    }

    async fn try_write(&self, group: Vec<Write>) -> Result<(), NotStored> {
        let (done, written) = oneshot::channel();
        self.writer.submit(group, move |result| drop(done.send(result)));
        Ok(written.await.unwrap_or(Err(WriteFailed::Closed))?)
    }
}
