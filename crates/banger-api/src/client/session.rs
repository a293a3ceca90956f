//! A process's streams, whole, whatever happens to connections and to the daemon meanwhile.

mod state;
mod task;

use std::sync::{Arc, Mutex, PoisonError};

use banger_model::ProcessEnd;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::Client;
use super::error::ClientError;
use crate::attach::OutputStream;
use crate::types::{ProcessId, Window};
pub use state::MAX_SIGNALS;
use state::State;
use task::Task;

/// Most events that wait for the owner. Each is a frame at most, so this bounds memory; beyond it
/// the connection is not read.
const MAX_EVENTS: usize = 32;

/// Something that happened to a process. Output comes in order, without gap or repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// It wrote this. To be answered by [`SessionControl::consumed`] once it is dealt with.
    Output {
        /// Where to.
        stream: OutputStream,
        /// What.
        bytes: Vec<u8>,
    },
    /// No more will come of this stream.
    OutputEnded {
        /// Which stream.
        stream: OutputStream,
    },
    /// It has ended. The last event.
    Exited(ProcessEnd),
    /// Something that people should know; the process goes on.
    Notice(String),
    /// Its sandbox has ended, for this reason, and it with it. The last event.
    SandboxEnded(String),
    /// Nothing more will be known of it, for this reason. The last event.
    Lost(String),
}

/// Why something cannot be done with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SessionError {
    /// It is over.
    #[error("the session with the process has ended")]
    Closed,
    /// The end of stdin was told.
    #[error("the standard input of the process was ended")]
    StdinEnded,
    /// Signals wait for a connection.
    #[error("{MAX_SIGNALS} signals wait already until the daemon is there again")]
    TooManySignals,
}

/// A process that somebody attends to: what it writes comes in order and whole. When the
/// connection breaks or the daemon is restarted, it goes on where it was.
///
/// Dropping it leaves the process alone.
#[derive(Debug)]
pub struct ProcessSession {
    events: mpsc::Receiver<Result<SessionEvent, ClientError>>,
    control: SessionControl,
    task: AbortHandle,
}

impl ProcessSession {
    /// Attends to a process from the oldest output that is kept.
    ///
    /// # Errors
    /// If the daemon refuses, or cannot be reached for long.
    pub async fn open(
        client: &Client,
        sandbox: &str,
        process: ProcessId,
    ) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared::default());
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let (ready, attached) = oneshot::channel();
        let task = Task::new(client.clone(), sandbox, process, Arc::clone(&shared), sender, ready);
        let task = tokio::spawn(task.run()).abort_handle();
        // Made first, so that the task ends with whoever does not wait any more.
        let session = Self { events, control: SessionControl { shared }, task };
        attached.await.unwrap_or(Err(ClientError::Closed))?;
        Ok(session)
    }

    /// What can be done to the process. May be cloned and used anywhere.
    pub fn control(&self) -> SessionControl {
        self.control.clone()
    }

    /// What happens next. A call may be cancelled: no event is lost by that.
    ///
    /// # Errors
    /// If the daemon refuses to go on, stays away for too long or sends nonsense;
    /// [`ClientError::Closed`] after the last event.
    pub async fn next(&mut self) -> Result<SessionEvent, ClientError> {
        self.events.recv().await.unwrap_or(Err(ClientError::Closed))
    }
}

impl Drop for ProcessSession {
    fn drop(&mut self) {
        self.task.abort();
        self.control.shared.change(State::close);
    }
}

/// What the owner and the task that has the connection share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// For the task: there may be something to send.
    work: Notify,
    /// For writers: there may be room.
    room: Notify,
}

impl Shared {
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.work.notify_one();
        self.room.notify_waiters();
        result
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }
}

/// What can be done to a process. All of it goes on, or waits, while the daemon is away.
#[derive(Clone, Debug)]
pub struct SessionControl {
    shared: Arc<Shared>,
}

impl SessionControl {
    /// Writes to its stdin; waits while there is no room. Cancelled, it has written a part.
    ///
    /// # Errors
    /// If the session is over, or stdin was ended.
    pub async fn write(&self, mut bytes: &[u8]) -> Result<(), SessionError> {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let written = self.shared.look(|state| state.write(bytes))?;
            bytes = bytes.get(written..).unwrap_or_default();
            if written > 0 {
                self.shared.work.notify_one();
            }
            if bytes.is_empty() {
                return Ok(());
            }
            room.await;
        }
    }

    /// Ends its stdin behind what was written.
    pub fn end_stdin(&self) {
        self.shared.change(State::end_stdin);
    }

    /// Sends it a signal. One that was handed to a daemon that dies at that moment may be lost.
    ///
    /// # Errors
    /// If the session is over, or too many wait for a connection.
    pub fn signal(&self, signal: u8) -> Result<(), SessionError> {
        self.shared.change(|state| state.signal(signal))
    }

    /// Tells it the size of its terminal; only the last one counts.
    pub fn resize(&self, window: Window) {
        self.shared.change(|state| state.resize(window));
    }

    /// Tells it that nobody reads this any more; no more of it comes.
    pub fn close_output(&self, stream: OutputStream) {
        self.shared.change(|state| state.close_output(stream));
    }

    /// So many more bytes of its output were dealt with. Without this it stands still after some
    /// time: what it wrote is kept until then.
    pub fn consumed(&self, stream: OutputStream, bytes: usize) {
        self.shared.change(|state| state.consumed(stream, bytes));
    }
}
