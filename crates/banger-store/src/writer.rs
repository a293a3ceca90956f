//! The one thread that writes. Whoever waits is made durable together: under load a sync of the
//! disk serves many.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use thiserror::Error;

use crate::error::StoreError;
use crate::store::Store;
use crate::write::{Refused, Write};

/// Most groups that wait. The daemon itself asks for that many only when its disk has stalled.
pub const MAX_WAITING_GROUPS: usize = 1024;
/// Most groups of one commit: the first of them waits for the last.
pub const MAX_GROUPS_PER_COMMIT: usize = 256;

/// Why a group was not written. Nothing of it was.
#[derive(Clone, Debug, Error)]
pub enum WriteFailed {
    /// One of its changes may not be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The transaction it was part of failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// Too many groups wait.
    #[error(
        "the database is behind by {MAX_WAITING_GROUPS} changes: its disk is too slow; try again"
    )]
    Busy,
    /// The thread is gone.
    #[error("the database is not written to any more: banger's daemon is ending")]
    Closed,
}

type Done = Box<dyn FnOnce(Result<(), WriteFailed>) + Send>;

struct Job {
    group: Vec<Write>,
    done: Done,
}

/// The thread that owns a [`Store`]. Dropping it writes what waits, and joins the thread.
pub struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Thread`] when the system has none left.
    pub fn start(store: Store) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel(MAX_WAITING_GROUPS);
        let thread = thread::Builder::new()
            .name("banger-store".to_owned())
            .spawn(move || serve(store, &waiting))
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has a group of changes written as a whole, after all that were submitted before. `done`
    /// learns what came of it: on the writer's thread once it is durable or has failed, or at
    /// once, on the caller's, when too many wait. It is neither to block nor to panic:
    /// everything waits for it. This call itself never waits.
    pub fn submit(
        &self,
        group: Vec<Write>,
        done: impl FnOnce(Result<(), WriteFailed>) + Send + 'static,
    ) {
        let job = Job { group, done: Box::new(done) };
        let Some(jobs) = &self.jobs else {
            return (job.done)(Err(WriteFailed::Closed));
        };
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => (job.done)(Err(WriteFailed::Busy)),
            Err(TrySendError::Disconnected(job)) => (job.done)(Err(WriteFailed::Closed)),
        }
    }

    /// Writes what waits, tells everybody, and ends the thread.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            // The last owner may have been a `done`: the thread ends after it, not during it.
            && thread.thread().id() != thread::current().id()
        {
            // A panic there was told when it happened.
            let _panicked = thread.join();
        }
    }
}

fn serve(mut store: Store, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let others = waiting.try_iter().take(MAX_GROUPS_PER_COMMIT - 1);
        let jobs = std::iter::once(first).chain(others);
        let (groups, dones): (Vec<_>, Vec<_>) = jobs.map(|job| (job.group, job.done)).unzip();
        tell(store.write(&groups), dones);
    }
}

fn tell(outcome: Result<Vec<Result<(), Refused>>, StoreError>, dones: Vec<Done>) {
    match outcome {
        Ok(outcomes) => {
            for (done, outcome) in dones.into_iter().zip(outcomes) {
                done(outcome.map_err(WriteFailed::Refused));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for done in dones {
                done(Err(WriteFailed::Store(Arc::clone(&error))));
            }
        }
    }
}

#[cfg(test)]
mod tests;
