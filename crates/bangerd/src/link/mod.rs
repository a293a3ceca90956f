//! The host's end of a sandbox's link, with the connection that carries it.
//!
//! One task owns the protocol state and the connection. When the connection breaks it makes a
//! new one, and nobody above notices. Everything else talks to that task through a queue.

mod driver;
mod process;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use banger_host::HostError;
use banger_link::{
    Busy, Command, GuestStats, PathKind, ProcessId, ProcessInfo, Refusal, Reply, Request, Stream,
    Tool,
};
use banger_vmm::{BoxFuture, ControlError, answered};
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
    /// Somebody else attached to the process, or it was closed here.
    #[error("the process is watched by somebody else now")]
    Replaced,
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
    counts: Arc<Counts>,
}

/// What a link counts.
#[derive(Debug, Default)]
struct Counts {
    /// Connections that broke the protocol.
    faults: AtomicU64,
    /// Attachments to processes; each has its number.
    watches: AtomicU64,
}

/// One attachment to one process: what is left of an older one has no say any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    process: ProcessId,
    number: u64,
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
        watcher: Watcher,
        program: Program,
        reply: oneshot::Sender<Reply>,
    },
    Attach {
        watcher: Watcher,
        stdout: Option<u64>,
        stderr: Option<u64>,
        reply: oneshot::Sender<Result<u64, LinkFailed>>,
    },
    Stdin {
        watch: Watch,
        bytes: Vec<u8>,
        done: oneshot::Sender<()>,
    },
    EndStdin {
        watch: Watch,
    },
    Consumed {
        watch: Watch,
        stream: Stream,
        count: usize,
    },
    Close {
        watch: Watch,
    },
    Reconnect,
}

/// What a process is to be.
#[derive(Clone, Debug)]
pub enum Program {
    /// A program of the image.
    Command(Command),
    /// One of the agent's own.
    Tool(Tool),
}

/// The link task's end of an attachment.
#[derive(Debug)]
struct Watcher {
    watch: Watch,
    events: mpsc::UnboundedSender<ProcessEvent>,
    stdin_received: watch::Sender<u64>,
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
        let counts = Arc::new(Counts::default());
        tokio::spawn(driver::run(session, connect, queue, (state, counts.clone())));
        Ok(Self { orders, state: watched, counts })
    }

    /// How many connections ended because the guest broke the protocol.
    pub fn faults(&self) -> u64 {
        self.counts.faults.load(Ordering::Relaxed)
    }

    /// How the link is, now and from now on.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
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
        accepted(answered(&self.orders, answer).await.ok_or_else(|| self.down())?)
    }

    /// Starts a process in the guest.
    ///
    /// # Errors
    /// When the agent refuses or the link is gone.
    pub async fn start(&self, command: Command) -> Result<Process, LinkFailed> {
        self.begin_process(Program::Command(command)).await
    }

    /// Starts one of the agent's own tools as a process in the guest.
    ///
    /// # Errors
    /// When the agent refuses, [`Refusal::Unsupported`] if it is too old to have it, or the link
    /// is gone.
    pub async fn start_tool(&self, tool: Tool) -> Result<Process, LinkFailed> {
        self.begin_process(Program::Tool(tool)).await
    }

    async fn begin_process(&self, program: Program) -> Result<Process, LinkFailed> {
        let id = ProcessId(u64::from_ne_bytes(banger_host::random::bytes()?));
        self.start_as(id, program).await
    }

    /// Starts a process in the guest under an id that the caller has chosen at random.
    ///
    /// # Errors
    /// When the agent refuses, [`Refusal::WrongState`] if it was started before, or the link is
    /// gone.
    pub async fn start_as(&self, id: ProcessId, program: Program) -> Result<Process, LinkFailed> {
        let (watcher, process) = self.watcher(id);
        let (reply, answer) = oneshot::channel();
        self.order(Order::Start { watcher, program, reply }).await?;
        accepted(answered(&self.orders, answer).await.ok_or_else(|| self.down())?)?;
        Ok(process)
    }

    /// Takes up a process that runs, or has ended and is not released: one that another link has
    /// started, or one of this link. Its output comes from these offsets on (none: from the
    /// oldest byte that is kept), and whatever is before them counts as dealt with. Returns the
    /// process and the offset of its stdin from which on input is to be sent.
    ///
    /// Who watched it over this link before is told that it is [`LinkFailed::Replaced`].
    ///
    /// # Errors
    /// [`Refusal::UnknownProcess`], [`Refusal::OutputLost`], or when the link is gone.
    pub async fn attach(
        &self,
        process: ProcessId,
        stdout: Option<u64>,
        stderr: Option<u64>,
    ) -> Result<(Process, u64), LinkFailed> {
        let (watcher, process) = self.watcher(process);
        let (reply, answer) = oneshot::channel();
        self.order(Order::Attach { watcher, stdout, stderr, reply }).await?;
        let answer = answered(&self.orders, answer).await;
        let stdin = answer.ok_or_else(|| self.replaced())??;
        Ok((process, stdin))
    }

    /// Both ends of a new attachment.
    fn watcher(&self, process: ProcessId) -> (Watcher, Process) {
        // Bounded by the protocol's window: an event that was not taken is not acknowledged.
        let (events, received) = mpsc::unbounded_channel();
        let (stdin_received, taken) = watch::channel(0);
        let number = self.counts.watches.fetch_add(1, Ordering::Relaxed);
        let watch = Watch { process, number };
        let watcher = Watcher { watch, events, stdin_received };
        (watcher, Process::new(self.clone(), watch, received, taken))
    }

    /// How much of the guest is in use.
    ///
    /// # Errors
    /// When the agent refuses or the link is gone.
    pub async fn stats(&self) -> Result<GuestStats, LinkFailed> {
        match self.request(Request::Stats).await? {
            Reply::Stats(stats) => Ok(stats),
            _ => Err(unfit()),
        }
    }

    /// What is at a path of the guest.
    ///
    /// # Errors
    /// When the agent refuses or the link is gone.
    pub async fn look(&self, path: Vec<u8>) -> Result<PathKind, LinkFailed> {
        match self.request(Request::Look { path }).await? {
            Reply::Looked(kind) => Ok(kind),
            _ => Err(unfit()),
        }
    }

    /// The processes that run, or have ended and are not released.
    ///
    /// # Errors
    /// When the agent refuses or the link is gone.
    pub async fn list(&self) -> Result<Vec<ProcessInfo>, LinkFailed> {
        match self.request(Request::List).await? {
            Reply::Processes(processes) => Ok(processes),
            _ => Err(unfit()),
        }
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

    /// Why an attachment was dropped: the link is down, else another took its place.
    fn replaced(&self) -> LinkFailed {
        match self.down() {
            LinkFailed::Busy(_) => LinkFailed::Replaced,
            down => down,
        }
    }
}

/// The link lets no reply through that does not fit its request.
fn unfit() -> LinkFailed {
    LinkFailed::Refused(Refusal::Unsupported)
}

fn accepted(reply: Reply) -> Result<Reply, LinkFailed> {
    match reply {
        Reply::Refused(refusal) => Err(LinkFailed::Refused(refusal)),
        reply => Ok(reply),
    }
}
