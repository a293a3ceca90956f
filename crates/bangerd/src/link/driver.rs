//! The task that owns a link.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use banger_link::{HostEvent, HostLink, Nonce, ProcessId, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::{Connect, LinkState, Order, ProcessEvent};

/// Bytes read from the connection at once.
const READ_CHUNK: usize = 64 * 1024;
/// A connection is refused only while the VMM is going away, or before it is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A guest that breaks the protocol on so many connections in a row is given up.
const MAX_FAILURES: u32 = 3;

/// Runs a link until its last handle is dropped or it is given up.
pub(super) async fn run(
    session: u64,
    connect: Connect,
    mut orders: mpsc::Receiver<Order>,
    state: watch::Sender<LinkState>,
) {
    let mut driver = Driver::new(session);
    let mut failures = 0;
    loop {
        let reason = match open(&connect).await {
            Err(reason) => Outcome::Fatal(reason),
            Ok((stream, nonce)) => {
                driver.link.connect(nonce);
                state.send_replace(LinkState::Connecting);
                driver.serve(stream, &mut orders, &state).await
            }
        };
        driver.link.disconnect();
        match reason {
            Outcome::Closed => return,
            Outcome::Again => failures = 0,
            Outcome::Broken(reason) => {
                failures += 1;
                if failures >= MAX_FAILURES {
                    state.send_replace(LinkState::Down(reason));
                    return;
                }
            }
            Outcome::Fatal(reason) => {
                state.send_replace(LinkState::Down(reason));
                return;
            }
        }
    }
}

async fn open(connect: &Connect) -> Result<(UnixStream, Nonce), Arc<str>> {
    let nonce = banger_host::random::bytes().map_err(|e| Arc::<str>::from(e.to_string()))?;
    match timeout(CONNECT_TIMEOUT, connect()).await {
        Ok(Ok(stream)) => Ok((stream, Nonce(nonce))),
        Ok(Err(error)) => Err(error.to_string().into()),
        Err(_) => Err("its link takes no connection".into()),
    }
}

/// Why a connection is over.
enum Outcome {
    /// Nobody needs the link any more.
    Closed,
    /// The connection ended: make another.
    Again,
    /// The guest made no sense: perhaps another connection helps.
    Broken(Arc<str>),
    /// No connection will help.
    Fatal(Arc<str>),
}

struct Driver {
    link: HostLink,
    replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    processes: BTreeMap<ProcessId, Watched>,
}

/// A process that somebody holds a handle to.
struct Watched {
    events: mpsc::UnboundedSender<ProcessEvent>,
    stdin: VecDeque<Input>,
}

enum Input {
    Bytes { bytes: Vec<u8>, taken: usize, done: oneshot::Sender<()> },
    End,
}

impl Driver {
    fn new(session: u64) -> Self {
        Self { link: HostLink::new(session), replies: BTreeMap::new(), processes: BTreeMap::new() }
    }

    async fn serve(
        &mut self,
        stream: UnixStream,
        orders: &mut mpsc::Receiver<Order>,
        state: &watch::Sender<LinkState>,
    ) -> Outcome {
        let (mut reader, mut writer): (OwnedReadHalf, OwnedWriteHalf) = stream.into_split();
        let mut chunk = vec![0; READ_CHUNK];
        let mut out = Vec::new();
        let mut written = 0;
        loop {
            self.take_events(state);
            if written == out.len() {
                out.clear();
                written = 0;
                self.link.transmit(&mut out);
            }
            tokio::select! {
                read = reader.read(&mut chunk) => match read {
                    Ok(0) | Err(_) => return Outcome::Again,
                    Ok(n) => if let Err(error) = self.link.receive(&chunk[..n]) {
                        return Outcome::Broken(error.to_string().into());
                    },
                },
                wrote = writer.write(&out[written..]), if written < out.len() => match wrote {
                    Ok(0) | Err(_) => return Outcome::Again,
                    Ok(n) => written += n,
                },
                order = orders.recv() => match order {
                    None => return Outcome::Closed,
                    Some(Order::Reconnect) => return Outcome::Again,
                    Some(order) => self.obey(order),
                },
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            // A request that the link has no room for is dropped with its answer: who asked sees
            // that nobody will answer, and that the link is not down.
            Order::Request { request, reply } => {
                if let Ok(id) = self.link.request(request) {
                    self.replies.insert(id, reply);
                }
            }
            Order::Start { process, command, events, reply } => {
                if let Ok(id) = self.link.start(process, command) {
                    self.replies.insert(id, reply);
                    self.processes.insert(process, Watched { events, stdin: VecDeque::new() });
                }
            }
            Order::Stdin { process, bytes, done } => {
                self.input(process, Input::Bytes { bytes, taken: 0, done });
            }
            Order::EndStdin { process } => self.input(process, Input::End),
            Order::Consumed { process, stream, count } => {
                self.link.consumed(process, stream, count);
            }
            Order::Close { process } => {
                self.link.close(process);
                self.processes.remove(&process);
            }
            Order::Reconnect => {}
        }
    }

    fn input(&mut self, process: ProcessId, input: Input) {
        if let Some(watched) = self.processes.get_mut(&process) {
            watched.stdin.push_back(input);
            self.feed(process);
        }
    }

    /// Hands waiting input to the link, as much as it has room for.
    fn feed(&mut self, process: ProcessId) {
        let Some(watched) = self.processes.get_mut(&process) else { return };
        while let Some(input) = watched.stdin.front_mut() {
            match input {
                Input::Bytes { bytes, taken, .. } => {
                    *taken += self.link.push_stdin(process, &bytes[*taken..]);
                    if *taken < bytes.len() {
                        return;
                    }
                }
                Input::End => self.link.end_stdin(process),
            }
            if let Some(Input::Bytes { done, .. }) = watched.stdin.pop_front() {
                let _ = done.send(());
            }
        }
    }

    fn take_events(&mut self, state: &watch::Sender<LinkState>) {
        while let Some(event) = self.link.next_event() {
            match event {
                HostEvent::Up { version } => {
                    state.send_replace(LinkState::Up(version));
                }
                HostEvent::Reply { request, reply } => {
                    if let Some(waiting) = self.replies.remove(&request) {
                        let _ = waiting.send(reply);
                    }
                }
                HostEvent::Attached { process, .. } | HostEvent::StdinRoom { process } => {
                    self.feed(process);
                }
                HostEvent::Output { process, stream, bytes } => {
                    self.tell(process, ProcessEvent::Output(stream, bytes));
                }
                HostEvent::OutputEnded { process, stream } => {
                    self.tell(process, ProcessEvent::OutputEnded(stream));
                }
                HostEvent::Exited { process, end } => {
                    self.tell(process, ProcessEvent::Exited(end));
                }
                HostEvent::Lost { process, refusal } => {
                    self.tell(process, ProcessEvent::Lost(refusal));
                }
            }
        }
    }

    fn tell(&mut self, process: ProcessId, event: ProcessEvent) {
        if let Some(watched) = self.processes.get(&process) {
            // Its holder may have gone: then nobody wants to know.
            let _ = watched.events.send(event);
        }
    }
}
