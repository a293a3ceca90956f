//! The way to what is remembered, for async code.

use banger_store::{Store, StoreError, Write, WriteFailed, Writer};
use thiserror::Error;
use tokio::sync::oneshot;

/// Why something is not remembered.
#[derive(Debug, Error)]
#[error(transparent)]
pub(crate) struct NotStored(#[from] pub WriteFailed);

/// What is remembered, written by one thread in the order of the calls.
#[derive(Debug)]
pub(crate) struct Memory(Writer);

impl Memory {
    /// Takes a database over.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn new(store: Store) -> Result<Self, StoreError> {
        Writer::start(store).map(Self)
    }

    /// Writes changes as a whole; returns when they have reached the disk.
    ///
    /// # Errors
    /// [`NotStored`]; then none of them was written.
    pub(crate) async fn write(&self, group: Vec<Write>) -> Result<(), NotStored> {
        let (done, written) = oneshot::channel();
        self.0.submit(group, move |result| drop(done.send(result)));
        Ok(written.await.unwrap_or(Err(WriteFailed::Closed))?)
    }
}
