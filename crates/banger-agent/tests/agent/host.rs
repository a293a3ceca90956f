//! The host's side for tests: an agent as a process of this machine, and what it says.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use banger_link::{
    Command, HostEvent, HostLink, Nonce, ProcessId, Refusal, Reply, Request, Stream, Tool,
};
use banger_model::{EnvVar, ProcessEnd};

/// Longer than anything here takes on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

/// A host and its agent.
pub(crate) struct Host {
    agent: Child,
    stream: UnixStream,
    link: HostLink,
    next_process: u64,
    connections: u8,
    pub(crate) seen: Seen,
    /// Whether output is acknowledged as it comes.
    pub(crate) consume: Consume,
    input: BTreeMap<ProcessId, VecDeque<u8>>,
}

#[derive(PartialEq, Eq)]
pub(crate) enum Consume {
    AtOnce,
    Never,
}

/// Everything the agent has said.
#[derive(Default)]
pub(crate) struct Seen {
    replies: BTreeMap<u64, Reply>,
    output: BTreeMap<(ProcessId, Stream), Vec<u8>>,
    outputs_ended: Vec<(ProcessId, Stream)>,
    exits: BTreeMap<ProcessId, ProcessEnd>,
}

impl Seen {
    pub(crate) fn output(&self, process: ProcessId, stream: Stream) -> &[u8] {
        self.output.get(&(process, stream)).map_or(&[], |bytes| bytes)
    }

    pub(crate) fn text(&self, process: ProcessId) -> String {
        String::from_utf8_lossy(self.output(process, Stream::Stdout)).into_owned()
    }

    pub(crate) fn exit(&self, process: ProcessId) -> Option<ProcessEnd> {
        self.exits.get(&process).copied()
    }
}

/// How a process ended and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) end: ProcessEnd,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// A command as tests need it.
pub(crate) fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        env: vec![EnvVar::parse(b"PATH=/usr/bin:/bin").unwrap()],
        cwd: Some(b"/".to_vec()),
        user: None,
        terminal: None,
    }
}

pub(crate) fn shell(script: &str) -> Command {
    command(&["sh", "-c", script])
}

impl Host {
    /// A host with a new agent.
    pub(crate) fn new() -> Self {
        Self::with_cgroups(None)
    }

    /// A host with a new agent that puts process trees below this cgroup.
    pub(crate) fn with_cgroups(cgroup: Option<&Path>) -> Self {
        let (stream, far) = UnixStream::pair().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
        let agent = Process::new(agent_path())
            .args(cgroup)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(far)))
            .spawn()
            .unwrap();
        Self::over(agent, stream)
    }

    /// A host of an agent that is, or is inside of, this process.
    pub(crate) fn over(agent: Child, stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut host = Self {
            agent,
            stream,
            link: HostLink::new(0xbeef),
            next_process: 1,
            connections: 0,
            seen: Seen::default(),
            consume: Consume::AtOnce,
            input: BTreeMap::new(),
        };
        host.connect();
        host
    }

    /// Leaves the old stream for a new one.
    pub(crate) fn move_to(&mut self, stream: UnixStream) {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        self.link.disconnect();
        self.stream = stream;
        self.connect();
    }

    /// Begins a new connection: whatever was on its way from here is lost.
    pub(crate) fn connect(&mut self) {
        self.connections += 1;
        self.link.connect(Nonce([self.connections; 16]));
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.id()
    }

    /// Starts a command.
    pub(crate) fn start(&mut self, command: Command) -> Result<ProcessId, Refusal> {
        let process = ProcessId(self.next_process);
        self.next_process += 1;
        let request = self.link.start(process, command).unwrap();
        match self.reply_to(request) {
            Reply::Started { .. } => Ok(process),
            Reply::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Starts one of the agent's tools, gives it this input and its end, and waits for its own end.
    pub(crate) fn run_tool(&mut self, tool: Tool, input: &[u8]) -> Finished {
        let process = ProcessId(self.next_process);
        self.next_process += 1;
        let request = self.link.start_tool(process, tool).unwrap();
        let started = self.reply_to(request);
        assert!(matches!(started, Reply::Started { .. }), "{started:?}");
        self.push(process, input);
        self.end_stdin(process);
        self.finish(process)
    }

    /// Starts a command, gives it this input and its end, and waits for its own end.
    pub(crate) fn run_with(&mut self, command: Command, input: &[u8]) -> Result<Finished, Refusal> {
        let process = self.start(command)?;
        self.push(process, input);
        self.end_stdin(process);
        Ok(self.finish(process))
    }

    pub(crate) fn run(&mut self, command: Command) -> Result<Finished, Refusal> {
        self.run_with(command, b"")
    }

    pub(crate) fn push(&mut self, process: ProcessId, input: &[u8]) {
        self.input.entry(process).or_default().extend(input);
        self.until(|host| {
            host.feed(process);
            host.input[&process].is_empty().then_some(())
        });
    }

    pub(crate) fn end_stdin(&mut self, process: ProcessId) {
        self.link.end_stdin(process);
    }

    /// Waits for the end of a process and of its output, and releases it.
    pub(crate) fn finish(&mut self, process: ProcessId) -> Finished {
        let end = self.until(|host| host.seen.exit(process));
        for stream in [Stream::Stdout, Stream::Stderr] {
            assert!(self.seen.outputs_ended.contains(&(process, stream)), "{stream:?} goes on");
        }
        self.request(Request::Release { process }).unwrap();
        self.link.close(process);
        let mut output = |stream| self.seen.output.remove(&(process, stream)).unwrap_or_default();
        Finished { end, stdout: output(Stream::Stdout), stderr: output(Stream::Stderr) }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn request(&mut self, request: Request) -> Result<Reply, Refusal> {
        let number = self.link.request(request).unwrap();
        match self.reply_to(number) {
            Reply::Refused(refusal) => Err(refusal),
            reply => Ok(reply),
        }
    }

    fn reply_to(&mut self, request: u64) -> Reply {
        self.until(|host| host.seen.replies.remove(&request))
    }

    /// Exchanges bytes with the agent until this is something.
    pub(crate) fn until<T>(&mut self, mut what: impl FnMut(&mut Self) -> Option<T>) -> T {
        loop {
            if let Some(found) = what(self) {
                return found;
            }
            self.send();
            self.receive();
        }
    }

    /// Waits for something that the agent does when it has its turn; each request gives it one.
    pub(crate) fn until_after_requests(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !done() {
            assert!(Instant::now() < end, "not in time: {what}");
            self.request(Request::List).unwrap();
        }
    }

    fn send(&mut self) {
        let mut out = Vec::new();
        loop {
            out.clear();
            self.link.transmit(&mut out);
            if out.is_empty() {
                return;
            }
            self.stream.write_all(&out).unwrap();
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 64 * 1024];
        let n = match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the agent is silent"),
            Ok(0) | Err(_) => panic!("the agent is gone: {:?}", self.agent.wait()),
            Ok(n) => n,
        };
        self.link.receive(&buffer[..n]).unwrap();
        while let Some(event) = self.link.next_event() {
            self.event(event);
        }
    }

    fn event(&mut self, event: HostEvent) {
        match event {
            HostEvent::Reply { request, reply } => drop(self.seen.replies.insert(request, reply)),
            HostEvent::Output { process, stream, bytes } => {
                if self.consume == Consume::AtOnce {
                    self.link.consumed(process, stream, bytes.len());
                }
                self.seen.output.entry((process, stream)).or_default().extend(bytes);
            }
            HostEvent::OutputEnded { process, stream } => {
                self.seen.outputs_ended.push((process, stream));
            }
            HostEvent::Exited { process, end } => drop(self.seen.exits.insert(process, end)),
            HostEvent::StdinRoom { process } => self.feed(process),
            HostEvent::Attached { process, .. } => self.feed(process),
            HostEvent::Up { .. } => {}
            HostEvent::Lost { refusal, .. } => panic!("{refusal}"),
        }
    }

    fn feed(&mut self, process: ProcessId) {
        let Some(input) = self.input.get_mut(&process) else { return };
        let taken = self.link.push_stdin(process, input.make_contiguous());
        input.drain(..taken);
    }

    /// Waits until the agent's process has ended by itself.
    pub(crate) fn agent_end(&mut self) -> std::process::ExitStatus {
        self.agent.wait().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ended_already = self.agent.kill();
        let _reaped_already = self.agent.wait();
    }
}

/// The agent that serves on its standard input: built with the tests, beside them.
fn agent_path() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples/serve")
}
