//! The host's end of the link.

mod event;
mod inbound;
mod process;
mod requests;

use std::collections::{BTreeMap, VecDeque};

use crate::VERSIONS;
use crate::control::{Assembly, encode};
use crate::frame::{self, Parsed, Tag};
use crate::hello::{Answer, Hello, Nonce};
use crate::limits::{MAX_PROCESSES, MAX_STALE, TRANSMIT_BUDGET};
use crate::message::{Command, HostMessage, ProcessId, Refusal, Reply, Request, Stream, Tool};
use crate::turn::in_turn;
pub use event::{Busy, HostEvent, LinkError};
use process::{Phase, Process};
use requests::Requests;

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
    requests: Requests,
    processes: BTreeMap<ProcessId, Process>,
    last_served: Option<ProcessId>,
    events: VecDeque<HostEvent>,
}

#[derive(Debug)]
enum State {
    Down,
    Greeting { nonce: Nonce, discarded: usize },
    Up { tag: Tag, version: u16 },
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
            requests: Requests::default(),
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
            process.disconnected();
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
                State::Up { tag, .. } => match frame::parse(&input[at..], tag) {
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
        self.state = State::Up { tag: answer.nonce.tag(), version };
        self.events.push_back(HostEvent::Up { version });
        // Requests are repeated in their order, then the streams of processes that are known to
        // run are asked for; a process whose start is repeated is attached when that is answered.
        for id in self.requests.repeated() {
            self.send_request(id);
        }
        let away = |(_, process): &(&ProcessId, &Process)| process.phase == Phase::Away;
        let away: Vec<_> = self.processes.iter().filter(away).map(|(id, _)| *id).collect();
        for process in away {
            self.request_attach(process);
        }
        Ok(())
    }

    /// The next thing to know.
    pub fn next_event(&mut self) -> Option<HostEvent> {
        self.events.pop_front()
    }

    /// Asks the agent for something; the answer is a [`HostEvent::Reply`] with this number.
    /// Processes are started by [`HostLink::start`] and attached by [`HostLink::attach`]. What the
    /// version of the connection does not have is not sent: the answer is
    /// [`Refusal::Unsupported`].
    ///
    /// # Errors
    /// [`Busy`] when too much waits for replies already.
    pub fn request(&mut self, request: Request) -> Result<u64, Busy> {
        let id = self.requests.add(request)?;
        self.send_request(id);
        Ok(id)
    }

    fn send_request(&mut self, id: u64) {
        let State::Up { version, .. } = self.state else { return };
        let settled = self.requests.settled();
        let Some(waiting) = self.requests.get_mut(id) else { return };
        if waiting.request.since() > version {
            self.refuse_here(id);
            return;
        }
        waiting.sent_on.get_or_insert(self.connection);
        let request = waiting.request.clone();
        self.say(&HostMessage::Request { id, settled, request });
    }

    /// Answers a request in place of an agent that does not know it.
    fn refuse_here(&mut self, id: u64) {
        let Some(waiting) = self.requests.remove(id) else { return };
        if let Some(process) = waiting.request.starts() {
            self.processes.remove(&process);
        }
        let reply = Reply::Refused(Refusal::Unsupported);
        self.events.push_back(HostEvent::Reply { request: id, reply });
    }

    fn request_attach(&mut self, process: ProcessId) {
        let on_its_way = self.requests.attaches(process);
        let Some(known) = self.processes.get_mut(&process) else { return };
        if on_its_way {
            known.phase = Phase::Queued;
            return;
        }
        known.phase = Phase::Asked;
        let (stdout, stderr) = known.received();
        let id = self.requests.add_attach(process, stdout, stderr);
        self.send_request(id);
    }

    /// Starts a process. The answer is a [`HostEvent::Reply`]; its streams flow after
    /// [`HostEvent::Attached`].
    ///
    /// # Errors
    /// [`Busy`] when too much waits for replies already.
    pub fn start(&mut self, process: ProcessId, command: Command) -> Result<u64, Busy> {
        self.begin(process, Request::Start { process, command })
    }

    /// Starts one of the agent's tools as a process, like [`HostLink::start`].
    ///
    /// # Errors
    /// [`Busy`] when too much waits for replies already.
    pub fn start_tool(&mut self, process: ProcessId, tool: Tool) -> Result<u64, Busy> {
        self.begin(process, Request::StartTool { process, tool })
    }

    fn begin(&mut self, process: ProcessId, request: Request) -> Result<u64, Busy> {
        let id = self.requests.add(request)?;
        self.processes.insert(process, Process::starting());
        self.send_request(id);
        Ok(id)
    }

    /// Takes up the streams of a process that runs, or has ended and is not released: one that
    /// another link has started, or one of this link, whose owner wants them again. Its output
    /// comes from these offsets on, or from the oldest byte kept; what was dealt with before them
    /// is acknowledged by that. Then comes [`HostEvent::Attached`] or [`HostEvent::Lost`].
    ///
    /// Everything of an older attachment of the same process is forgotten, with the input that
    /// has not reached the agent.
    ///
    /// # Errors
    /// [`Busy`] when there are as many processes here as an agent can have.
    pub fn attach(
        &mut self,
        process: ProcessId,
        stdout: Option<u64>,
        stderr: Option<u64>,
    ) -> Result<(), Busy> {
        if !self.processes.contains_key(&process) && self.processes.len() >= MAX_PROCESSES {
            return Err(Busy);
        }
        self.processes.insert(process, Process::running(stdout, stderr));
        if matches!(self.state, State::Up { .. }) {
            self.request_attach(process);
        }
        Ok(())
    }

    /// Bytes of a process's stdin that the guest has for certain: a link that takes up the
    /// process later need not send them again. This is news after [`HostEvent::Attached`] and
    /// [`HostEvent::StdinRoom`]. What is on its way is not counted before the process has taken
    /// some of it, so whoever may have to repeat input keeps up to [`crate::limits::WINDOW`] bytes
    /// of it.
    pub fn stdin_received(&self, process: ProcessId) -> u64 {
        self.processes.get(&process).map_or(0, |known| known.stdin_received)
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
        if let State::Up { tag, .. } = self.state {
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
        let State::Up { tag, .. } = self.state else { return false };
        let flows = |process: &Process| process.phase == Phase::Attached;
        for id in in_turn(&self.processes, self.last_served, flows) {
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
