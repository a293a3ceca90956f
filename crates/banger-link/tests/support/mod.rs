//! A host and an agent on two byte streams that can be cut, shortened and littered with garbage.
//!
//! The agent's side plays processes that copy their stdin to their stdout and, inverted, to
//! their stderr, and end when their stdin ends.

use std::collections::{BTreeMap, VecDeque};

use banger_link::{
    AgentLink, Command, HostEvent, HostLink, Nonce, ProcessId, Refusal, Reply, Request, Stdin,
    Stream,
};
use banger_model::ProcessEnd;

/// So many bytes of a stream arrive before they are acknowledged together.
const MAX_LATE: usize = 40_000;

pub(crate) const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What one process was given and what came of it.
#[derive(Default)]
pub(crate) struct Job {
    pub(crate) to_send: Vec<u8>,
    pub(crate) sent: usize,
    pub(crate) attached: bool,
    /// How much of its input need never be sent again, as its host was told.
    pub(crate) surely_received: u64,
    pub(crate) outputs: BTreeMap<Stream, Vec<u8>>,
    pub(crate) ended: Vec<Stream>,
    pub(crate) end: Option<ProcessEnd>,
}

impl Job {
    /// Bytes of this stream that have arrived.
    pub(crate) fn received(&self, stream: Stream) -> usize {
        self.outputs.get(&stream).map_or(0, Vec::len)
    }
}

/// Both ends and what is on its way between them.
pub(crate) struct World {
    pub(crate) host: HostLink,
    pub(crate) agent: AgentLink,
    pub(crate) to_agent: VecDeque<u8>,
    pub(crate) to_host: VecDeque<u8>,
    pub(crate) jobs: BTreeMap<ProcessId, Job>,
    /// How often each process was started in the guest.
    pub(crate) starts: BTreeMap<ProcessId, u32>,
    pub(crate) lost: Vec<(ProcessId, Refusal)>,
    /// Output that has arrived and is not yet acknowledged.
    unconsumed: BTreeMap<(ProcessId, Stream), usize>,
    pub(crate) connections: u8,
    sessions: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            host: HostLink::new(77),
            agent: AgentLink::new(),
            to_agent: VecDeque::new(),
            to_host: VecDeque::new(),
            jobs: BTreeMap::new(),
            starts: BTreeMap::new(),
            lost: Vec::new(),
            unconsumed: BTreeMap::new(),
            connections: 0,
            sessions: 77,
        };
        world.connect();
        world
    }

    pub(crate) fn connect(&mut self) {
        self.connections = self.connections.wrapping_add(1);
        self.host.connect(Nonce([self.connections; 16]));
    }

    /// Cuts the connection: of what is on its way only so many bytes remain, garbage follows,
    /// and a new connection begins behind it.
    pub(crate) fn cut(&mut self, keep_to_agent: usize, keep_to_host: usize, garbage: &[u8]) {
        self.to_agent.truncate(keep_to_agent);
        self.to_host.truncate(keep_to_host);
        self.to_agent.extend(garbage);
        self.to_host.extend(garbage);
        self.connect();
    }

    pub(crate) fn start(&mut self, id: u64, input: Vec<u8>) {
        let process = ProcessId(id);
        self.jobs.insert(process, Job { to_send: input, ..Job::default() });
        self.host.start(process, command()).unwrap();
    }

    /// The host is killed with all it holds. Another takes up every process where its user is:
    /// behind the output that has arrived there.
    pub(crate) fn kill_host(&mut self, keep_to_agent: usize, keep_to_host: usize, garbage: &[u8]) {
        self.sessions += 1;
        self.host = HostLink::new(self.sessions);
        self.attach_all();
        self.cut(keep_to_agent, keep_to_host, garbage);
    }

    /// The user of every process comes again, over the same link.
    pub(crate) fn come_again(&mut self) {
        self.host_works();
        self.attach_all();
    }

    fn attach_all(&mut self) {
        self.unconsumed.clear();
        for (process, job) in &mut self.jobs {
            let at = |stream| Some(job.received(stream) as u64);
            self.host.attach(*process, at(Stream::Stdout), at(Stream::Stderr)).unwrap();
            (job.sent, job.attached) = (0, false);
            (job.ended, job.end) = (Vec::new(), None);
        }
    }

    /// Lets both ends work once and moves at most `limit` bytes each way.
    pub(crate) fn step(&mut self, limit: usize) {
        self.host_works();
        self.agent_works();
        let mut out = Vec::new();
        self.host.transmit(&mut out);
        self.to_agent.extend(&out);
        out.clear();
        self.agent.transmit(&mut out);
        self.to_host.extend(&out);
        let moved: Vec<u8> = drain(&mut self.to_agent, limit);
        self.agent.receive(&moved);
        let moved: Vec<u8> = drain(&mut self.to_host, limit);
        self.host.receive(&moved).unwrap();
    }

    /// Runs without cuts until every process has ended.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.jobs.values().all(|job| job.end.is_some()) {
                return;
            }
            self.step(usize::MAX);
        }
        panic!("the processes do not end");
    }

    fn host_works(&mut self) {
        while let Some(event) = self.host.next_event() {
            match event {
                HostEvent::Output { process, stream, bytes } => {
                    let job = self.jobs.get_mut(&process).unwrap();
                    job.outputs.entry(stream).or_default().extend(&bytes);
                    let late = self.unconsumed.entry((process, stream)).or_default();
                    *late += bytes.len();
                    if *late > MAX_LATE {
                        self.host.consumed(process, stream, std::mem::take(late));
                    }
                }
                HostEvent::OutputEnded { process, stream } => {
                    self.jobs.get_mut(&process).unwrap().ended.push(stream);
                }
                HostEvent::Exited { process, end } => {
                    let job = self.jobs.get_mut(&process).unwrap();
                    assert!(job.end.replace(end).is_none(), "a process ends once");
                }
                HostEvent::Lost { process, refusal } => self.lost.push((process, refusal)),
                HostEvent::Reply { reply, .. } => {
                    assert!(matches!(reply, Reply::Started { .. } | Reply::Done), "{reply:?}");
                }
                HostEvent::Attached { process, stdin } => {
                    let job = self.jobs.get_mut(&process).unwrap();
                    assert!(stdin >= job.surely_received, "input went back");
                    job.sent = job.sent.max(usize::try_from(stdin).unwrap());
                    job.attached = true;
                }
                HostEvent::Up { .. } | HostEvent::StdinRoom { .. } => {}
            }
        }
        for (process, job) in &mut self.jobs {
            job.surely_received = job.surely_received.max(self.host.stdin_received(*process));
            job.sent += self.host.push_stdin(*process, &job.to_send[job.sent..]);
            // Before it is attached nothing is taken, and the end would be at the wrong place.
            if job.sent == job.to_send.len() && job.attached {
                self.host.end_stdin(*process);
            }
        }
    }

    fn agent_works(&mut self) {
        while let Some((id, request)) = self.agent.next_request() {
            let reply = match request {
                Request::Start { process, .. } => {
                    *self.starts.entry(process).or_default() += 1;
                    assert!(self.agent.open(process));
                    Reply::Started { pid: 1 }
                }
                _ => Reply::Done,
            };
            self.agent.reply(id, reply);
        }
        let processes: Vec<_> = self.starts.keys().copied().collect();
        while self.agent.next_stdin().is_some() {}
        for process in processes {
            copy(&mut self.agent, process);
        }
    }
}

fn copy(agent: &mut AgentLink, process: ProcessId) {
    loop {
        let room = OUTPUTS.map(|stream| agent.output_room(process, stream));
        let room = room[0].min(room[1]);
        match agent.stdin(process) {
            Stdin::Data(_) if room == 0 => return,
            Stdin::Data(bytes) => {
                let bytes = bytes[..bytes.len().min(room)].to_vec();
                agent.push_output(process, Stream::Stdout, &bytes);
                let inverted: Vec<u8> = bytes.iter().map(|b| !b).collect();
                agent.push_output(process, Stream::Stderr, &inverted);
                agent.consume_stdin(process, bytes.len());
            }
            Stdin::Empty => return,
            Stdin::Ended => {
                for stream in OUTPUTS {
                    agent.end_output(process, stream);
                }
                agent.exited(process, ProcessEnd::Exited(3));
                return;
            }
        }
    }
}

fn drain(queue: &mut VecDeque<u8>, limit: usize) -> Vec<u8> {
    let n = queue.len().min(limit);
    queue.drain(..n).collect()
}

pub(crate) fn command() -> Command {
    Command { argv: vec![b"cat".to_vec()], env: Vec::new(), cwd: None, user: None, terminal: None }
}
