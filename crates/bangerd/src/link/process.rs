//! A process in a guest, as the host holds it.

use banger_link::{ProcessId, Refusal, Request, SignalScope, Stream, Window};
use banger_model::ProcessEnd;
use tokio::sync::{mpsc, oneshot};

use super::{Link, LinkFailed, Order};

/// What a process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It wrote these bytes; to be acknowledged by [`Control::consumed`].
    Output(Stream, Vec<u8>),
    /// This output stream has ended.
    OutputEnded(Stream),
    /// It has ended; everything it wrote came before.
    Exited(ProcessEnd),
    /// It is not there any more.
    Lost(Refusal),
}

/// A process in a guest. Dropped, it runs on in the guest without anyone watching.
#[derive(Debug)]
pub struct Process {
    link: Link,
    id: ProcessId,
    events: mpsc::UnboundedReceiver<ProcessEvent>,
}

/// The way in to a process: its input, signals, the size of its terminal.
#[derive(Clone, Debug)]
pub struct Control {
    link: Link,
    id: ProcessId,
}

impl Process {
    pub(super) fn new(
        link: Link,
        id: ProcessId,
        events: mpsc::UnboundedReceiver<ProcessEvent>,
    ) -> Self {
        Self { link, id, events }
    }

    /// The way in to it; may be used by another task.
    pub fn control(&self) -> Control {
        Control { link: self.link.clone(), id: self.id }
    }

    /// The next thing it does.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn next(&mut self) -> Result<ProcessEvent, LinkFailed> {
        self.events.recv().await.ok_or_else(|| self.link.down())
    }

    /// Forgets the process here and in the guest, once it has ended.
    ///
    /// # Errors
    /// When it has not ended, or the link is gone.
    pub async fn release(self) -> Result<(), LinkFailed> {
        self.link.order(Order::Close { process: self.id }).await?;
        self.link.request(Request::Release { process: self.id }).await.map(drop)
    }
}

impl Control {
    /// Hands bytes to the process and waits until the link has taken them.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn write(&self, bytes: Vec<u8>) -> Result<(), LinkFailed> {
        let (done, taken) = oneshot::channel();
        self.link.order(Order::Stdin { process: self.id, bytes, done }).await?;
        taken.await.map_err(|_| self.link.down())
    }

    /// No more input will come.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn end(&self) -> Result<(), LinkFailed> {
        self.link.order(Order::EndStdin { process: self.id }).await
    }

    /// So many more bytes of output are dealt with. A process may write only a window's worth
    /// beyond what was told here, so a slow reader slows it.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn consumed(&self, stream: Stream, count: usize) -> Result<(), LinkFailed> {
        self.link.order(Order::Consumed { process: self.id, stream, count }).await
    }

    /// Nobody reads this output any more: the process learns it as from a broken pipe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn close_output(&self, stream: Stream) -> Result<(), LinkFailed> {
        self.link.request(Request::CloseOutput { process: self.id, stream }).await.map(drop)
    }

    /// Sends a signal to the process and its process group.
    ///
    /// # Errors
    /// When it has ended, or the link is gone.
    pub async fn signal(&self, signal: u8) -> Result<(), LinkFailed> {
        let request = Request::Signal { process: self.id, signal, scope: SignalScope::Group };
        self.link.request(request).await.map(drop)
    }

    /// Tells the process the size of its terminal.
    ///
    /// # Errors
    /// When it has ended or has no terminal, or the link is gone.
    pub async fn resize(&self, window: Window) -> Result<(), LinkFailed> {
        self.link.request(Request::Resize { process: self.id, window }).await.map(drop)
    }
}
