//! The host's end of a sandbox's link, with the connection that carries it.
//!
//! One task owns the protocol state and the connection. When the connection breaks it makes a
//! new one, and nobody above notices. Everything else talks to that task through a queue.

mod driver;
mod process;

use std::fmt;
use std::sync::Arc;

use banger_host::HostError;
use banger_link::{Busy, Command, ProcessId, Refusal, Reply, Request};
use banger_vmm::{BoxFuture, ControlError};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

pub use process::{Control, Process, ProcessEvent};

/// Makes a new connection to the guest's end.
pub type Connect =
    Arc<dyn Fn() -> BoxFuture<'static, Result<UnixStream, ControlError>> + Send + Sync>;

/// Orders that may wait in the queue to the link's task.
const QUEUE: usize = 64;

/// Why a link does not do what it is asked.
#[derive(Clone, Debug, Error)]
pub enum LinkFailed {
    /// The agent refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The link is gone for good.
    #[error("the sandbox does not answer any more: {0}")]
    Down(Arc<str>),
    /// Too much waits for the agent already.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// No randomness for an id.
    #[error("cannot name a process: {0}")]
    NoId(Arc<str>),
}

impl From<HostError> for LinkFailed {
    fn from(error: HostError) -> Self {
        Self::NoId(error.to_string().into())
    }
}

/// How a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The agent has not answered yet on this connection.
    Connecting,
    /// The agent answers; it speaks this version.
    Up(u16),
    /// Given up.
    Down(Arc<str>),
}

/// A handle to a link. All its copies are the same link; it ends with the last of them.
#[derive(Clone)]
pub struct Link {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<LinkState>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("state", &*self.state.borrow()).finish()
    }
}

/// What the link's task is asked to do.
#[derive(Debug)]
enum Order {
    Request {
        request: Request,
        reply: oneshot::Sender<Reply>,
    },
    Start {
        process: ProcessId,
        command: Command,
        events: mpsc::UnboundedSender<ProcessEvent>,
        reply: oneshot::Sender<Reply>,
    },
    Stdin {
        process: ProcessId,
        bytes: Vec<u8>,
        done: oneshot::Sender<()>,
    },
    EndStdin {
        process: ProcessId,
    },
    Consumed {
        process: ProcessId,
        stream: banger_link::Stream,
        count: usize,
    },
    Close {
        process: ProcessId,
    },
    Reconnect,
}

impl Link {
    /// Begins a link. The first connection is made at once and waits for the agent.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn begin(connect: Connect) -> Result<Self, HostError> {
        let session = u64::from_ne_bytes(banger_host::random::bytes()?);
        let (orders, queue) = mpsc::channel(QUEUE);
        let (state, watched) = watch::channel(LinkState::Connecting);
        tokio::spawn(driver::run(session, connect, queue, state));
        Ok(Self { orders, state: watched })
    }

    /// Waits until the agent answers.
    ///
    /// # Errors
    /// [`LinkFailed::Down`] when it never will.
    pub async fn up(&self) -> Result<u16, LinkFailed> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                LinkState::Up(version) => return Ok(*version),
                LinkState::Down(reason) => return Err(LinkFailed::Down(reason.clone())),
                LinkState::Connecting => {}
            }
            if state.changed().await.is_err() {
                return Err(self.down());
            }
        }
    }

    /// Asks the agent for something and waits for its answer.
    ///
    /// # Errors
    /// When the agent refuses or the link is gone.
    pub async fn request(&self, request: Request) -> Result<Reply, LinkFailed> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Request { request, reply }).await?;
        accepted(answer.await.map_err(|_| self.down())?)
    }

    /// Starts a process in the guest.
    ///
    /// # Errors
    /// When the agent refuses or the link is gone.
    pub async fn start(&self, command: Command) -> Result<Process, LinkFailed> {
        let process = ProcessId(u64::from_ne_bytes(banger_host::random::bytes()?));
        // Bounded by the protocol's window: an event that was not taken is not acknowledged.
        let (events, received) = mpsc::unbounded_channel();
        let (reply, answer) = oneshot::channel();
        self.order(Order::Start { process, command, events, reply }).await?;
        accepted(answer.await.map_err(|_| self.down())?)?;
        Ok(Process::new(self.clone(), process, received))
    }

    /// Breaks the connection and makes a new one. Nothing is lost by it.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn reconnect(&self) -> Result<(), LinkFailed> {
        self.order(Order::Reconnect).await
    }

    async fn order(&self, order: Order) -> Result<(), LinkFailed> {
        self.orders.send(order).await.map_err(|_| self.down())
    }

    /// Why an order was dropped: the link is down, else it had no room.
    fn down(&self) -> LinkFailed {
        match &*self.state.borrow() {
            LinkState::Down(reason) => LinkFailed::Down(reason.clone()),
            _ => LinkFailed::Busy(Busy),
        }
    }
}

fn accepted(reply: Reply) -> Result<Reply, LinkFailed> {
    match reply {
        Reply::Refused(refusal) => Err(LinkFailed::Refused(refusal)),
        reply => Ok(reply),
    }
}
