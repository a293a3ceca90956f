//! The host's end of the link.

use std::collections::{BTreeMap, VecDeque};

use banger_model::ProcessEnd;
use thiserror::Error;

use crate::VERSIONS;
use crate::control::{Assembly, encode};
use crate::frame::{self, Parsed, Payload, Tag};
use crate::hello::{Answer, Hello, Nonce, Versions};
use crate::limits::{MAX_PENDING_BYTES, MAX_PENDING_REQUESTS, MAX_STALE, TRANSMIT_BUDGET};
use crate::message::{
    AgentMessage, Command, HostMessage, ProcessId, Refusal, Reply, Request, Stream,
};
use crate::stream::{Receipt, SendBuffer, Violation};
use crate::turn::in_turn;

/// Why a connection is of no use.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// Host and agent have no protocol version in common.
    #[error(
        "the agent in the sandbox speaks protocol versions {} to {}, this banger {} to {}",
        agent.min, agent.max, host.min, host.max
    )]
    Version {
        /// What the agent speaks.
        agent: Versions,
        /// What this build speaks.
        host: Versions,
    },
    /// Much came, but no answer to the hello.
    #[error("no agent answered on the sandbox's link, only {MAX_STALE} bytes of something else")]
    NoAnswer,
    /// The guest broke the protocol.
    #[error("the agent in the sandbox {0}")]
    Violation(&'static str),
}

impl From<Violation> for LinkError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation.0)
    }
}

/// So much waits for replies already that no request can be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many requests to the sandbox wait for their replies")]
pub struct Busy;

/// What a host learns from its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The agent answered on this connection; it speaks this version.
    Up {
        /// The protocol version of this connection.
        version: u16,
    },
    /// The reply to a request.
    Reply {
        /// Which request.
        request: u64,
        /// The agent's reply.
        reply: Reply,
    },
    /// The streams of a process flow from now on. Comes once for each [`HostLink::start`] and
    /// [`HostLink::attach`].
    Attached {
        /// Which process.
        process: ProcessId,
        /// Bytes of its stdin that the guest has already: input goes on behind them.
        stdin: u64,
    },
    /// The process or a part of its output does not exist any more; it is closed.
    Lost {
        /// Which process.
        process: ProcessId,
        /// What the agent says.
        refusal: Refusal,
    },
    /// Output of a process; to be acknowledged by [`HostLink::consumed`].
    Output {
        /// Which process.
        process: ProcessId,
        /// Which of its streams.
        stream: Stream,
        /// The next bytes.
        bytes: Vec<u8>,
    },
    /// An output stream has ended.
    OutputEnded {
        /// Which process.
        process: ProcessId,
        /// Which of its streams.
        stream: Stream,
    },
    /// There is room for input again.
    StdinRoom {
        /// Which process.
        process: ProcessId,
    },
    /// The process has ended, and all its output was sent.
    Exited {
        /// Which process.
        process: ProcessId,
        /// How it ended.
        end: ProcessEnd,
    },
}

/// The host's end: bytes of a connection in and out, requests in and events out, streams both
/// ways. It lives across connections and repeats what a lost one may have swallowed.
#[derive(Debug)]
pub struct HostLink {
    session: u64,
    state: State,
    /// Counts connections.
    connection: u64,
    input: Vec<u8>,
    assembly: Assembly,
    control: VecDeque<Vec<u8>>,
    pending: BTreeMap<u64, Pending>,
    pending_bytes: usize,
    next_id: u64,
    processes: BTreeMap<ProcessId, Process>,
    last_served: Option<ProcessId>,
    events: VecDeque<HostEvent>,
}

#[derive(Debug)]
enum State {
    Down,
    Greeting { nonce: Nonce, discarded: usize },
    Up(Tag),
}

/// A request without its reply.
#[derive(Debug)]
struct Pending {
    request: Request,
    size: usize,
    /// The connection on which it was first sent, if it was.
    sent_on: Option<u64>,
    /// Whether the reply is the link's own to take.
    internal: bool,
}

#[derive(Debug, Default)]
struct Process {
    /// Whether its streams go over this connection.
    attached: bool,
    /// Whether the owner was told that it is attached.
    announced: bool,
    /// None until it is known where input goes on.
    stdin: Option<SendBuffer>,
    stdout: Option<Receipt>,
    stderr: Option<Receipt>,
    end: Option<ProcessEnd>,
}

impl Process {
    fn output(&mut self, stream: Stream) -> Option<&mut Receipt> {
        match stream {
            Stream::Stdout => self.stdout.as_mut(),
            Stream::Stderr => self.stderr.as_mut(),
            Stream::Stdin => None,
        }
    }
}

impl HostLink {
    /// A link without a connection. `session` is random: it tells this link's requests from
    /// those of every other link to the same agent.
    pub fn new(session: u64) -> Self {
        Self {
            session,
            state: State::Down,
            connection: 0,
            input: Vec::new(),
            assembly: Assembly::default(),
            control: VecDeque::new(),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            next_id: 0,
            processes: BTreeMap::new(),
            last_served: None,
            events: VecDeque::new(),
        }
    }

    /// Begins a new connection. Bytes of the old one that were not written are to be dropped.
    pub fn connect(&mut self, nonce: Nonce) {
        self.disconnect();
        self.connection += 1;
        self.state = State::Greeting { nonce, discarded: 0 };
        let mut hello = Vec::new();
        Hello { versions: VERSIONS, session: self.session, nonce }.encode(&mut hello);
        self.control.push_back(hello);
    }

    /// The connection is gone.
    pub fn disconnect(&mut self) {
        self.state = State::Down;
        self.input.clear();
        self.assembly.clear();
        self.control.clear();
        for process in self.processes.values_mut() {
            process.attached = false;
        }
    }

    /// Takes bytes that came over the connection.
    ///
    /// # Errors
    /// When the connection is of no use; it is down then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        match self.read(&input) {
            Ok(done) => {
                self.input = input;
                self.input.drain(..done);
                Ok(())
            }
            Err(error) => {
                self.disconnect();
                Err(error)
            }
        }
    }

    fn read(&mut self, input: &[u8]) -> Result<usize, LinkError> {
        let mut at = 0;
        loop {
            match self.state {
                State::Down => return Ok(input.len()),
                State::Greeting { nonce, discarded } => {
                    let (done, answer) = Answer::search(&input[at..], nonce);
                    at += done;
                    let Some(answer) = answer else {
                        let discarded = discarded + done;
                        if discarded > MAX_STALE {
                            return Err(LinkError::NoAnswer);
                        }
                        self.state = State::Greeting { nonce, discarded };
                        return Ok(at);
                    };
                    self.answered(&answer)?;
                }
                State::Up(tag) => match frame::parse(&input[at..], tag) {
                    Parsed::Incomplete => return Ok(at),
                    Parsed::Bad => {
                        return Err(LinkError::Violation("sent something that is no frame"));
                    }
                    Parsed::Frame(payload, len) => {
                        at += len;
                        self.frame(payload)?;
                    }
                },
            }
        }
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), LinkError> {
        let agreed = answer.version.filter(|v| (VERSIONS.min..=VERSIONS.max).contains(v));
        let Some(version) = agreed else {
            return Err(LinkError::Version { agent: answer.versions, host: VERSIONS });
        };
        self.state = State::Up(answer.nonce.tag());
        self.events.push_back(HostEvent::Up { version });
        // Requests are repeated in their order, then the streams of processes that are known to
        // run are asked for; a process whose start is repeated is attached when that is answered.
        let unanswered: Vec<u64> = self.pending.keys().copied().collect();
        let starting: Vec<ProcessId> = self.starting().collect();
        self.pending.retain(|_, pending| !pending.internal);
        for id in unanswered {
            self.send_request(id);
        }
        let processes: Vec<_> = self.processes.keys().copied().collect();
        for process in processes.into_iter().filter(|id| !starting.contains(id)) {
            self.request_attach(process);
        }
        Ok(())
    }

    fn starting(&self) -> impl Iterator<Item = ProcessId> {
        self.pending.values().filter_map(|pending| match &pending.request {
            Request::Start { process, .. } => Some(*process),
            _ => None,
        })
    }

    fn frame(&mut self, payload: Payload<'_>) -> Result<(), Violation> {
        match payload {
            Payload::ControlPart(bytes) => self.assembly.part(bytes),
            Payload::ControlLast(bytes) => match self.assembly.last(bytes)? {
                Some(message) => self.message(message),
                None => Err(Violation("sent an unknown message")),
            },
            Payload::Data { process, stream, offset, bytes } => {
                self.data(process, stream, offset, bytes)
            }
        }
    }

    fn data(
        &mut self,
        process: ProcessId,
        stream: Stream,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        // Output of a process that was just closed is late, not wrong.
        let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
        let Some(receipt) = known.output(stream) else {
            return Err(Violation("sent output before its stream was attached"));
        };
        let new = receipt.accept(offset, bytes)?;
        if !new.is_empty() {
            self.events.push_back(HostEvent::Output { process, stream, bytes: new.to_vec() });
        }
        Ok(())
    }

    fn message(&mut self, message: AgentMessage) -> Result<(), Violation> {
        match message {
            AgentMessage::Reply { id, reply } => self.replied(id, reply),
            AgentMessage::Ack { process, offset } => {
                let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
                match &mut known.stdin {
                    Some(stdin) => stdin.ack(offset)?,
                    None => return Err(Violation("acknowledged input that it was not sent")),
                }
                self.events.push_back(HostEvent::StdinRoom { process });
                Ok(())
            }
            AgentMessage::End { process, stream, offset } => {
                let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
                let Some(receipt) = known.output(stream) else {
                    return Err(Violation("ended a stream that it has not attached"));
                };
                if receipt.accept_end(offset)? {
                    self.events.push_back(HostEvent::OutputEnded { process, stream });
                }
                Ok(())
            }
            AgentMessage::Exited { process, end } => self.exited(process, end),
        }
    }

    fn exited(&mut self, process: ProcessId, end: ProcessEnd) -> Result<(), Violation> {
        let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
        let ended = |receipt: &Option<Receipt>| receipt.as_ref().is_some_and(Receipt::ended);
        if !ended(&known.stdout) || !ended(&known.stderr) {
            return Err(Violation("reported the end of a process before that of its output"));
        }
        if known.end.replace(end).is_none() {
            self.events.push_back(HostEvent::Exited { process, end });
        }
        Ok(())
    }

    fn replied(&mut self, id: u64, reply: Reply) -> Result<(), Violation> {
        // A reply may come twice when it crossed a reconnect.
        let Some(pending) = self.pending.remove(&id) else { return Ok(()) };
        self.pending_bytes -= pending.size;
        match (&pending.request, &reply) {
            (Request::Attach { process, .. }, _) => return self.attach_replied(*process, reply),
            (Request::Start { process, .. }, Reply::Started { .. }) => {
                if pending.sent_on == Some(self.connection) {
                    self.flow(*process, 0);
                } else {
                    self.request_attach(*process);
                }
            }
            (Request::Start { process, .. }, _) => {
                self.processes.remove(process);
            }
            _ => {}
        }
        self.events.push_back(HostEvent::Reply { request: id, reply });
        Ok(())
    }

    fn attach_replied(&mut self, process: ProcessId, reply: Reply) -> Result<(), Violation> {
        let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
        match reply {
            Reply::Attached { stdin, stdin_taken, stdout, stderr } => {
                let resumed = match &mut known.stdin {
                    Some(buffer) => buffer.resume(stdin) && buffer.ack(stdin_taken).is_ok(),
                    none => {
                        *none = SendBuffer::at(stdin, stdin_taken);
                        none.is_some()
                    }
                };
                if !resumed {
                    return Err(Violation("claims to have input that it was not sent"));
                }
                known.stdout.get_or_insert_with(|| Receipt::at(stdout));
                known.stderr.get_or_insert_with(|| Receipt::at(stderr));
                self.ack_outputs(process);
                self.flow(process, stdin);
                Ok(())
            }
            Reply::Refused(refusal) => {
                self.processes.remove(&process);
                self.events.push_back(HostEvent::Lost { process, refusal });
                Ok(())
            }
            _ => Err(Violation("gave a reply that does not fit its request")),
        }
    }

    fn ack_outputs(&mut self, process: ProcessId) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let Some(known) = self.processes.get_mut(&process) else { return };
            if let Some(offset) = known.output(stream).map(Receipt::ack_again) {
                self.say(&HostMessage::Ack { process, stream, offset });
            }
        }
    }

    fn flow(&mut self, process: ProcessId, stdin: u64) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        known.attached = true;
        if !std::mem::replace(&mut known.announced, true) {
            self.events.push_back(HostEvent::Attached { process, stdin });
        } else {
            self.events.push_back(HostEvent::StdinRoom { process });
        }
    }

    /// The next thing to know.
    pub fn next_event(&mut self) -> Option<HostEvent> {
        self.events.pop_front()
    }

    /// Asks the agent for something; the answer is a [`HostEvent::Reply`] with this number.
    /// Processes are started by [`HostLink::start`] and attached by [`HostLink::attach`].
    ///
    /// # Errors
    /// [`Busy`] when too much waits for replies already.
    pub fn request(&mut self, request: Request) -> Result<u64, Busy> {
        let size = encode(&request).len();
        let full = self.pending.len() >= MAX_PENDING_REQUESTS
            || self.pending_bytes + size > MAX_PENDING_BYTES;
        if full {
            return Err(Busy);
        }
        Ok(self.add_request(request, size, Answered::ToOwner))
    }

    fn add_request(&mut self, request: Request, size: usize, answered: Answered) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let internal = answered == Answered::ToLink;
        self.pending_bytes += size;
        self.pending.insert(id, Pending { request, size, sent_on: None, internal });
        self.send_request(id);
        id
    }

    fn send_request(&mut self, id: u64) {
        let State::Up(_) = self.state else { return };
        let settled = self.pending.keys().next().copied().unwrap_or(id);
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.sent_on.get_or_insert(self.connection);
            let request = pending.request.clone();
            self.say(&HostMessage::Request { id, settled, request });
        }
    }

    fn request_attach(&mut self, process: ProcessId) {
        let Some(known) = self.processes.get(&process) else { return };
        let at = |receipt: &Option<Receipt>| receipt.as_ref().map(Receipt::received);
        let request =
            Request::Attach { process, stdout: at(&known.stdout), stderr: at(&known.stderr) };
        self.add_request(request, 0, Answered::ToLink);
    }

    /// Starts a process. The answer is a [`HostEvent::Reply`]; its streams flow after
    /// [`HostEvent::Attached`].
    ///
    /// # Errors
    /// [`Busy`] when too much waits for replies already.
    pub fn start(&mut self, process: ProcessId, command: Command) -> Result<u64, Busy> {
        let id = self.request(Request::Start { process, command })?;
        let streams = Process {
            stdin: Some(SendBuffer::default()),
            stdout: Some(Receipt::default()),
            stderr: Some(Receipt::default()),
            ..Process::default()
        };
        self.processes.insert(process, streams);
        Ok(id)
    }

    /// Takes up the streams of a process that another link has started: its output from these
    /// offsets on, or from the oldest byte kept.
    pub fn attach(&mut self, process: ProcessId, stdout: Option<u64>, stderr: Option<u64>) {
        let streams = Process {
            stdout: stdout.map(Receipt::at),
            stderr: stderr.map(Receipt::at),
            ..Process::default()
        };
        self.processes.insert(process, streams);
        if matches!(self.state, State::Up(_)) {
            self.request_attach(process);
        }
    }

    /// Takes input for a process, as much as there is room for, none before it is attached;
    /// returns how much. After less than all of it, [`HostEvent::StdinRoom`] tells when to go on.
    pub fn push_stdin(&mut self, process: ProcessId, bytes: &[u8]) -> usize {
        let stdin = self.processes.get_mut(&process).and_then(|known| known.stdin.as_mut());
        stdin.map_or(0, |stdin| stdin.push(bytes))
    }

    /// The input of a process ends here.
    pub fn end_stdin(&mut self, process: ProcessId) {
        if let Some(stdin) = self.processes.get_mut(&process).and_then(|p| p.stdin.as_mut()) {
            stdin.end();
        }
    }

    /// The owner has dealt with `n` more bytes of output; the process may write as many more.
    pub fn consumed(&mut self, process: ProcessId, stream: Stream, n: usize) {
        let Some(receipt) = self.processes.get_mut(&process).and_then(|p| p.output(stream)) else {
            return;
        };
        receipt.take(n);
        if let Some(offset) = receipt.next_ack() {
            self.say(&HostMessage::Ack { process, stream, offset });
        }
    }

    /// Forgets a process here; the agent is told by [`Request::Release`].
    pub fn close(&mut self, process: ProcessId) {
        self.processes.remove(&process);
    }

    fn say(&mut self, message: &HostMessage) {
        if let State::Up(tag) = self.state {
            let mut frames = Vec::new();
            frame::put_control(&mut frames, tag, &encode(message));
            self.control.push_back(frames);
        }
    }

    /// Appends bytes for the connection: about [`TRANSMIT_BUDGET`] of them at most. To be called
    /// again when they are written; adds nothing when there is nothing to send.
    pub fn transmit(&mut self, out: &mut Vec<u8>) {
        let full = out.len() + TRANSMIT_BUDGET;
        while out.len() < full {
            if let Some(frames) = self.control.pop_front() {
                out.extend(frames);
            } else if !self.transmit_stream(out) {
                return;
            }
        }
    }

    /// Sends one frame of input to the next process in turn that has some.
    fn transmit_stream(&mut self, out: &mut Vec<u8>) -> bool {
        let State::Up(tag) = self.state else { return false };
        for id in in_turn(&self.processes, self.last_served, |process| process.attached) {
            let Some(stdin) = self.processes.get_mut(&id).and_then(|p| p.stdin.as_mut()) else {
                continue;
            };
            if let Some((offset, bytes)) = stdin.next() {
                frame::put_data(out, tag, (id, Stream::Stdin), offset, bytes);
            } else if let Some(offset) = stdin.next_end() {
                let end = HostMessage::End { process: id, offset };
                frame::put_control(out, tag, &encode(&end));
            } else {
                continue;
            }
            self.last_served = Some(id);
            return true;
        }
        false
    }
}

/// Who takes the reply to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answered {
    ToOwner,
    ToLink,
}
