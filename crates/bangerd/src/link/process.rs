//! A process in a guest, as the host holds it.

use banger_link::{ProcessId, Refusal, Request, SignalScope, Stream, Window};
use banger_model::ProcessEnd;
use banger_vmm::answered;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Link, LinkFailed, Order, Watch};

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

/// A process in a guest. Dropped, it runs on in the guest without anyone watching: it is stopped
/// when it has written a window's worth, and can be attached again ([`Link::attach`]).
#[derive(Debug)]
pub struct Process {
    link: Link,
    watch: Watch,
    events: mpsc::UnboundedReceiver<ProcessEvent>,
    stdin_received: watch::Receiver<u64>,
}

/// The way in to a process: its input, signals, the size of its terminal.
#[derive(Clone, Debug)]
pub struct Control {
    link: Link,
    watch: Watch,
}

impl Process {
    pub(super) fn new(
        link: Link,
        watch: Watch,
        events: mpsc::UnboundedReceiver<ProcessEvent>,
        stdin_received: watch::Receiver<u64>,
    ) -> Self {
        Self { link, watch, events, stdin_received }
    }

    /// What it is called: how another link attaches to it.
    pub fn id(&self) -> ProcessId {
        self.watch.process
    }

    /// Up to which offset of its stdin the guest has everything for certain, always the newest
    /// number. Input before it never need be sent again, whoever dies. It follows what the
    /// process takes, so up to [`banger_link::limits::WINDOW`] bytes of input may have to be
    /// repeated after a death on the host.
    pub fn stdin_received(&self) -> watch::Receiver<u64> {
        self.stdin_received.clone()
    }

    /// The way in to it; may be used by another task.
    pub fn control(&self) -> Control {
        Control { link: self.link.clone(), watch: self.watch }
    }

    /// The next thing it does.
    ///
    /// # Errors
    /// When the link is gone, or somebody else attached to the process.
    pub async fn next(&mut self) -> Result<ProcessEvent, LinkFailed> {
        self.events.recv().await.ok_or_else(|| self.link.replaced())
    }

    /// Follows it to its end. The first `max` bytes of its output, of both streams, are added to
    /// `said`; the rest is dropped.
    ///
    /// # Errors
    /// When the link is gone, or the process is.
    pub async fn finish(
        &mut self,
        said: &mut Vec<u8>,
        max: usize,
    ) -> Result<ProcessEnd, LinkFailed> {
        loop {
            match self.next().await? {
                ProcessEvent::Output(stream, bytes) => {
                    let room = max.saturating_sub(said.len());
                    said.extend(bytes.iter().take(room));
                    self.control().consumed(stream, bytes.len()).await?;
                }
                ProcessEvent::OutputEnded(_) => {}
                ProcessEvent::Exited(end) => return Ok(end),
                ProcessEvent::Lost(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Forgets the process here and in the guest, once it has ended.
    ///
    /// # Errors
    /// When it has not ended, or the link is gone.
    pub async fn release(self) -> Result<(), LinkFailed> {
        self.link.order(Order::Close { watch: self.watch }).await?;
        self.link.request(Request::Release { process: self.watch.process }).await.map(drop)
    }
}

impl Control {
    /// Hands bytes to the process and waits until the link has taken them.
    ///
    /// # Errors
    /// When the link is gone, or somebody else attached to the process.
    pub async fn write(&self, bytes: Vec<u8>) -> Result<(), LinkFailed> {
        let (done, taken) = oneshot::channel();
        self.link.order(Order::Stdin { watch: self.watch, bytes, done }).await?;
        answered(&self.link.orders, taken).await.ok_or_else(|| self.link.replaced())
    }

    /// No more input will come.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn end(&self) -> Result<(), LinkFailed> {
        self.link.order(Order::EndStdin { watch: self.watch }).await
    }

    /// So many more bytes of output are dealt with. A process may write only a window's worth
    /// beyond what was told here, so a slow reader slows it.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn consumed(&self, stream: Stream, count: usize) -> Result<(), LinkFailed> {
        self.link.order(Order::Consumed { watch: self.watch, stream, count }).await
    }

    /// Nobody reads this output any more: the process learns it as from a broken pipe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn close_output(&self, stream: Stream) -> Result<(), LinkFailed> {
        self.link
            .request(Request::CloseOutput { process: self.watch.process, stream })
            .await
            .map(drop)
    }

    /// Sends a signal to the process and its process group.
    ///
    /// # Errors
    /// When it has ended, or the link is gone.
    pub async fn signal(&self, signal: u8) -> Result<(), LinkFailed> {
        let request =
            Request::Signal { process: self.watch.process, signal, scope: SignalScope::Group };
        self.link.request(request).await.map(drop)
    }

    /// Tells the process the size of its terminal.
    ///
    /// # Errors
    /// When it has ended or has no terminal, or the link is gone.
    pub async fn resize(&self, window: Window) -> Result<(), LinkFailed> {
        self.link.request(Request::Resize { process: self.watch.process, window }).await.map(drop)
    }
}
