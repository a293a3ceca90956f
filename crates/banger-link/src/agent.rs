//! The guest's end of the link.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use banger_model::ProcessEnd;

use crate::VERSIONS;
use crate::control::{Assembly, encode};
use crate::frame::{self, Parsed, Payload, Tag};
use crate::hello::{Answer, Hello, Search};
use crate::limits::{MAX_PENDING_REQUESTS, MAX_PROCESSES, TRANSMIT_BUDGET};
use crate::message::{AgentMessage, HostMessage, ProcessId, Refusal, Reply, Request, Stream};
use crate::stream::{Receipt, SendBuffer, Violation};
use crate::turn::in_turn;

/// A request that waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    session: u64,
    id: u64,
}

/// What there is to write to a process.
#[derive(Debug, PartialEq, Eq)]
pub enum Stdin<'a> {
    /// These bytes, and perhaps more behind them.
    Data(&'a [u8]),
    /// Nothing yet.
    Empty,
    /// Nothing ever again.
    Ended,
}

/// The agent's end: bytes of the port in and out, requests out and replies in, streams both ways.
///
/// Nothing a host sends makes it fail: what is no part of the protocol makes it search for the
/// next hello.
#[derive(Debug, Default)]
pub struct AgentLink {
    input: Vec<u8>,
    sync: Sync,
    assembly: Assembly,
    control: VecDeque<Vec<u8>>,
    session: Option<u64>,
    /// The requests of this session that the host may repeat, with their replies.
    replies: BTreeMap<u64, Option<Reply>>,
    requests: VecDeque<(RequestId, Request)>,
    processes: BTreeMap<ProcessId, Process>,
    with_stdin: BTreeSet<ProcessId>,
    last_served: Option<ProcessId>,
}

#[derive(Debug)]
enum Sync {
    Searching(Search),
    Synced(Tag),
}

impl Default for Sync {
    fn default() -> Self {
        Self::Searching(Search::default())
    }
}

#[derive(Debug)]
struct Process {
    /// Whether its streams go over this connection.
    attached: bool,
    stdin: Receipt,
    input: VecDeque<u8>,
    discard: bool,
    stdout: SendBuffer,
    stderr: SendBuffer,
    end: Option<ProcessEnd>,
    end_sent: bool,
}

impl Process {
    fn output(&mut self, stream: Stream) -> Option<&mut SendBuffer> {
        match stream {
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
            Stream::Stdin => None,
        }
    }
}

impl AgentLink {
    /// A link to which no host has come yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes that came from the port.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let done = self.read(&input);
        self.input = input;
        self.input.drain(..done);
    }

    fn read(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        loop {
            match &mut self.sync {
                Sync::Searching(search) => {
                    let (done, hello) = search.advance(&input[at..]);
                    at += done;
                    match hello {
                        Some(hello) => self.greeted(&hello),
                        None => return at,
                    }
                }
                Sync::Synced(tag) => match frame::parse(&input[at..], *tag) {
                    Parsed::Incomplete => return at,
                    // The search begins at the bad frame's first byte: the zeros before the
                    // next hello may already be in it.
                    Parsed::Bad => self.lose_sync(),
                    Parsed::Frame(payload, len) => {
                        at += len;
                        if self.frame(payload).is_err() {
                            self.lose_sync();
                        }
                    }
                },
            }
        }
    }

    fn lose_sync(&mut self) {
        self.sync = Sync::default();
        self.assembly.clear();
        self.control.clear();
        for process in self.processes.values_mut() {
            process.attached = false;
        }
    }

    fn greeted(&mut self, hello: &Hello) {
        self.lose_sync();
        let version = VERSIONS.common(hello.versions);
        let answer = Answer { version, versions: VERSIONS, nonce: hello.nonce };
        self.control.push_back(answer.encode());
        if version.is_none() {
            return;
        }
        self.sync = Sync::Synced(hello.nonce.tag());
        if self.session != Some(hello.session) {
            self.session = Some(hello.session);
            self.replies.clear();
            self.requests.clear();
        }
    }

    fn frame(&mut self, payload: Payload<'_>) -> Result<(), Violation> {
        match payload {
            Payload::ControlPart(bytes) => self.assembly.part(bytes),
            Payload::ControlLast(bytes) => match self.assembly.last(bytes)? {
                Some(message) => self.message(message),
                None => Err(Violation("sent an unknown message")),
            },
            Payload::Data { process, stream: Stream::Stdin, offset, bytes } => {
                self.data(process, offset, bytes)
            }
            Payload::Data { .. } => Err(Violation("sent data of an output stream")),
        }
    }

    fn data(&mut self, id: ProcessId, offset: u64, bytes: &[u8]) -> Result<(), Violation> {
        // Data for a process that was just released is late, not wrong.
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        if process.stdin.ended() {
            // A host that took the process up cannot know that its input had ended before.
            return Ok(());
        }
        let new = process.stdin.accept(offset, bytes)?;
        if process.discard {
            process.stdin.take(new.len());
            self.ack_stdin(id);
        } else if !new.is_empty() {
            process.input.extend(new);
            self.with_stdin.insert(id);
        }
        Ok(())
    }

    fn message(&mut self, message: HostMessage) -> Result<(), Violation> {
        match message {
            HostMessage::Request { id, settled, request } => self.request(id, settled, request),
            HostMessage::Ack { process, stream, offset } => {
                match self.processes.get_mut(&process).and_then(|p| p.output(stream)) {
                    Some(buffer) => buffer.ack(offset),
                    None => Ok(()),
                }
            }
            HostMessage::End { process: id, offset } => {
                let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
                if !process.stdin.ended() && process.stdin.accept_end(offset)? {
                    self.with_stdin.insert(id);
                }
                Ok(())
            }
        }
    }

    fn request(&mut self, id: u64, settled: u64, request: Request) -> Result<(), Violation> {
        let Some(session) = self.session else { return Ok(()) };
        self.replies.retain(|known, _| *known >= settled);
        match self.replies.get(&id) {
            Some(Some(reply)) => {
                let reply = reply.clone();
                self.say(&AgentMessage::Reply { id, reply });
                return Ok(());
            }
            // Carried out at this moment, or already settled.
            Some(None) => return Ok(()),
            None if id < settled => return Ok(()),
            None => {}
        }
        // A host attaches its processes beside its pending requests.
        if self.replies.len() >= MAX_PENDING_REQUESTS + MAX_PROCESSES {
            return Err(Violation("sent too many requests at once"));
        }
        self.replies.insert(id, None);
        let request_id = RequestId { session, id };
        match request {
            Request::Attach { process, stdout, stderr } => {
                let reply = self.attach(process, stdout, stderr);
                self.reply(request_id, reply);
            }
            other => self.requests.push_back((request_id, other)),
        }
        Ok(())
    }

    fn attach(&mut self, id: ProcessId, stdout: Option<u64>, stderr: Option<u64>) -> Reply {
        let Some(process) = self.processes.get_mut(&id) else {
            return Reply::Refused(Refusal::UnknownProcess);
        };
        let out = stdout.unwrap_or(process.stdout.base());
        let err = stderr.unwrap_or(process.stderr.base());
        for (buffer, asked) in [(&mut process.stdout, out), (&mut process.stderr, err)] {
            if !buffer.resume(asked) {
                // One stream may go on elsewhere already: nobody is to see that.
                process.attached = false;
                return Reply::Refused(Refusal::OutputLost { asked, kept: buffer.base() });
            }
        }
        process.attached = true;
        process.end_sent = false;
        Reply::Attached {
            stdin: process.stdin.received(),
            stdin_taken: process.stdin.ack_again(),
            stdout: out,
            stderr: err,
        }
    }

    /// The next request, each exactly once.
    pub fn next_request(&mut self) -> Option<(RequestId, Request)> {
        self.requests.pop_front()
    }

    /// Answers a request.
    pub fn reply(&mut self, request: RequestId, reply: Reply) {
        if self.session != Some(request.session) {
            return;
        }
        if let Some(slot) = self.replies.get_mut(&request.id) {
            *slot = Some(reply.clone());
            self.say(&AgentMessage::Reply { id: request.id, reply });
        }
    }

    fn say(&mut self, message: &AgentMessage) {
        if let Sync::Synced(tag) = self.sync {
            let mut frames = Vec::new();
            frame::put_control(&mut frames, tag, &encode(message));
            self.control.push_back(frames);
        }
    }

    /// Makes the streams of a process that was just started; they are attached to this
    /// connection. `false` when there are [`MAX_PROCESSES`] already.
    #[must_use]
    pub fn open(&mut self, process: ProcessId) -> bool {
        if self.processes.len() >= MAX_PROCESSES {
            return false;
        }
        self.processes.entry(process).or_insert_with(|| Process {
            attached: matches!(self.sync, Sync::Synced(_)),
            stdin: Receipt::default(),
            input: VecDeque::new(),
            discard: false,
            stdout: SendBuffer::default(),
            stderr: SendBuffer::default(),
            end: None,
            end_sent: false,
        });
        true
    }

    /// How many bytes [`AgentLink::push_output`] takes now. While it is none, the process must
    /// wait.
    pub fn output_room(&mut self, process: ProcessId, stream: Stream) -> usize {
        self.output(process, stream).map_or(0, |buffer| buffer.room())
    }

    /// Takes output of a process, as much as there is room for; returns how much.
    pub fn push_output(&mut self, process: ProcessId, stream: Stream, bytes: &[u8]) -> usize {
        self.output(process, stream).map_or(0, |buffer| buffer.push(bytes))
    }

    /// The output stream has no more bytes.
    pub fn end_output(&mut self, process: ProcessId, stream: Stream) {
        if let Some(buffer) = self.output(process, stream) {
            buffer.end();
        }
    }

    fn output(&mut self, process: ProcessId, stream: Stream) -> Option<&mut SendBuffer> {
        self.processes.get_mut(&process).and_then(|p| p.output(stream))
    }

    /// The process has ended. The host learns it after the end of both output streams.
    pub fn exited(&mut self, process: ProcessId, end: ProcessEnd) {
        if let Some(process) = self.processes.get_mut(&process) {
            process.end = Some(end);
        }
    }

    /// A process for which [`AgentLink::stdin`] has news.
    pub fn next_stdin(&mut self) -> Option<ProcessId> {
        self.with_stdin.pop_first()
    }

    /// What there is to write to a process now.
    pub fn stdin(&self, process: ProcessId) -> Stdin<'_> {
        let Some(process) = self.processes.get(&process) else { return Stdin::Empty };
        let (front, _) = process.input.as_slices();
        match front {
            [] if process.stdin.ended() => Stdin::Ended,
            [] => Stdin::Empty,
            bytes => Stdin::Data(bytes),
        }
    }

    /// The process took `n` bytes of its stdin.
    pub fn consume_stdin(&mut self, id: ProcessId, n: usize) {
        if let Some(process) = self.processes.get_mut(&id) {
            let n = n.min(process.input.len());
            process.input.drain(..n);
            process.stdin.take(n);
            self.ack_stdin(id);
        }
    }

    /// The process takes no more input: what comes is dropped.
    pub fn discard_stdin(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.discard = true;
            let n = process.input.len();
            self.consume_stdin(id, n);
        }
    }

    fn ack_stdin(&mut self, id: ProcessId) {
        let ack = self.processes.get_mut(&id).and_then(|p| p.stdin.next_ack());
        if let Some(offset) = ack {
            self.say(&AgentMessage::Ack { process: id, offset });
        }
    }

    /// Forgets a process.
    pub fn close(&mut self, process: ProcessId) {
        self.processes.remove(&process);
    }

    /// Appends bytes for the port: about [`TRANSMIT_BUDGET`] of them at most. To be called again
    /// when they are written; adds nothing when there is nothing to send.
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

    /// Sends one frame of the next process in turn that has something to send.
    fn transmit_stream(&mut self, out: &mut Vec<u8>) -> bool {
        let Sync::Synced(tag) = self.sync else { return false };
        let sends = |process: &Process| process.attached && !process.end_sent;
        for id in in_turn(&self.processes, self.last_served, sends) {
            if let Some(process) = self.processes.get_mut(&id)
                && send_one(process, id, tag, out)
            {
                self.last_served = Some(id);
                return true;
            }
        }
        false
    }
}

/// Sends one frame of this process: output, the end of an output, or at last its own end.
fn send_one(process: &mut Process, id: ProcessId, tag: Tag, out: &mut Vec<u8>) -> bool {
    let mut say = |message| frame::put_control(out, tag, &encode(&message));
    for stream in [Stream::Stdout, Stream::Stderr] {
        let Some(buffer) = process.output(stream) else { continue };
        if let Some(offset) = buffer.next_end() {
            say(AgentMessage::End { process: id, stream, offset });
            return true;
        }
    }
    let outputs_ended = process.stdout.end_was_sent() && process.stderr.end_was_sent();
    if let Some(end) = process.end.filter(|_| outputs_ended) {
        process.end_sent = true;
        say(AgentMessage::Exited { process: id, end });
        return true;
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        let Some(buffer) = process.output(stream) else { continue };
        if let Some((offset, bytes)) = buffer.next() {
            frame::put_data(out, tag, (id, stream), offset, bytes);
            return true;
        }
    }
    false
}
