//! The task that owns a link.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use banger_link::{HostEvent, HostLink, Nonce, ProcessId, Refusal, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::{Connect, Counts, LinkFailed, LinkState, Order, ProcessEvent, Program, Watch, Watcher};

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
    (state, counts): (watch::Sender<LinkState>, Arc<Counts>),
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
                counts.faults.fetch_add(1, Ordering::Relaxed);
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
    watcher: Watcher,
    /// Who waits to be attached, and for the offset of stdin.
    attaching: Option<oneshot::Sender<Result<u64, LinkFailed>>>,
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
            Order::Start { watcher, program, reply } => {
                let process = watcher.watch.process;
                let asked = match program {
                    Program::Command(command) => self.link.start(process, command),
                    Program::Tool(tool) => self.link.start_tool(process, tool),
                };
                if let Ok(id) = asked {
                    self.replies.insert(id, reply);
                    self.watch(watcher, None);
                }
            }
            Order::Attach { watcher, stdout, stderr, reply } => {
                match self.link.attach(watcher.watch.process, stdout, stderr) {
                    Ok(()) => self.watch(watcher, Some(reply)),
                    // Nobody may be there any more to be told.
                    Err(busy) => drop(reply.send(Err(busy.into()))),
                }
            }
            Order::Stdin { watch, bytes, done } => {
                self.input(watch, Input::Bytes { bytes, taken: 0, done });
            }
            Order::EndStdin { watch } => self.input(watch, Input::End),
            Order::Consumed { watch, stream, count } => {
                if self.is_current(watch) {
                    self.link.consumed(watch.process, stream, count);
                }
            }
            Order::Close { watch } => {
                if self.is_current(watch) {
                    self.close(watch.process);
                }
            }
            Order::Reconnect => {}
        }
    }

    /// Takes in a watcher; whoever watched the same process before learns that its events end.
    fn watch(
        &mut self,
        watcher: Watcher,
        attaching: Option<oneshot::Sender<Result<u64, LinkFailed>>>,
    ) {
        let process = watcher.watch.process;
        self.processes.insert(process, Watched { watcher, attaching, stdin: VecDeque::new() });
        self.forget_unwatched();
    }

    /// Forgets processes whose holders have gone before anything was to be told to them.
    fn forget_unwatched(&mut self) {
        let gone = |(_, watched): &(&ProcessId, &Watched)| watched.watcher.events.is_closed();
        let gone: Vec<_> = self.processes.iter().filter(gone).map(|(id, _)| *id).collect();
        for process in gone {
            self.close(process);
        }
    }

    fn is_current(&self, watch: Watch) -> bool {
        self.processes.get(&watch.process).is_some_and(|watched| watched.watcher.watch == watch)
    }

    /// Forgets a process here. The agent goes on sending its output until the window is full.
    fn close(&mut self, process: ProcessId) {
        self.link.close(process);
        self.processes.remove(&process);
    }

    fn input(&mut self, watch: Watch, input: Input) {
        let watched = self.processes.get_mut(&watch.process);
        if let Some(watched) = watched.filter(|watched| watched.watcher.watch == watch) {
            watched.stdin.push_back(input);
            self.feed(watch.process);
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
                HostEvent::Attached { process, stdin } => self.attached(process, stdin),
                HostEvent::StdinRoom { process } => self.has_room(process),
                HostEvent::Output { process, stream, bytes } => {
                    self.tell(process, ProcessEvent::Output(stream, bytes));
                }
                HostEvent::OutputEnded { process, stream } => {
                    self.tell(process, ProcessEvent::OutputEnded(stream));
                }
                HostEvent::Exited { process, end } => {
                    self.tell(process, ProcessEvent::Exited(end));
                }
                HostEvent::Lost { process, refusal } => self.lost(process, refusal),
            }
        }
    }

    fn attached(&mut self, process: ProcessId, stdin: u64) {
        let watched = self.processes.get_mut(&process);
        if let Some(reply) = watched.and_then(|watched| watched.attaching.take())
            && reply.send(Ok(stdin)).is_err()
        {
            // Whoever wanted it has given up meanwhile.
            self.close(process);
            return;
        }
        self.has_room(process);
    }

    fn has_room(&mut self, process: ProcessId) {
        if let Some(watched) = self.processes.get(&process) {
            let received = self.link.stdin_received(process);
            watched.watcher.stdin_received.send_if_modified(|known| {
                let news = received > *known;
                *known = received.max(*known);
                news
            });
        }
        self.feed(process);
    }

    fn lost(&mut self, process: ProcessId, refusal: Refusal) {
        let Some(watched) = self.processes.get_mut(&process) else { return };
        match watched.attaching.take() {
            Some(reply) => {
                let _ = reply.send(Err(refusal.into()));
                self.processes.remove(&process);
            }
            None => self.tell(process, ProcessEvent::Lost(refusal)),
        }
    }

    fn tell(&mut self, process: ProcessId, event: ProcessEvent) {
        let Some(watched) = self.processes.get(&process) else { return };
        if watched.watcher.events.send(event).is_err() {
            // Its holder has gone. What it wrote is kept in the guest for whoever attaches next.
            self.close(process);
        }
    }
}
