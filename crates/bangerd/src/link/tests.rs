//! The link's task against an agent that plays its processes, over real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;

use banger_link::limits::WINDOW;
use banger_link::{
    AgentLink, Command, GuestStats, PathKind, ProcessId, ProcessInfo, Refusal, Reply, Request,
    SignalScope, Stdin, Stream, Tool,
};
use banger_model::ProcessEnd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::{Connect, Link, LinkFailed, Process, ProcessEvent};

/// What a played process writes: its own pattern, so that no byte can be taken for another.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

/// An agent. `cat` copies its input, `say N` writes `N` bytes and ends, `true` ends when it is
/// killed.
struct Agent {
    link: AgentLink,
    processes: BTreeMap<ProcessId, Played>,
}

enum Played {
    Cat,
    Say { rest: Vec<u8> },
    True,
    Killed,
    Ended,
}

impl Agent {
    /// Serves one connection after the other.
    async fn serve(mut connections: mpsc::UnboundedReceiver<UnixStream>) {
        let mut agent = Self { link: AgentLink::new(), processes: BTreeMap::new() };
        let mut next = connections.recv().await;
        while let Some(stream) = next {
            next = agent.serve_one(stream, &mut connections).await;
        }
    }

    /// Serves until another connection comes.
    async fn serve_one(
        &mut self,
        mut stream: UnixStream,
        connections: &mut mpsc::UnboundedReceiver<UnixStream>,
    ) -> Option<UnixStream> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut out = Vec::new();
            self.link.transmit(&mut out);
            if !out.is_empty() && stream.write_all(&out).await.is_ok() {
                self.play();
                continue;
            }
            tokio::select! {
                next = connections.recv() => return next,
                read = stream.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return connections.recv().await,
                    Ok(n) => self.link.receive(&buffer[..n]),
                },
            }
            self.play();
        }
    }

    fn play(&mut self) {
        while let Some((id, request)) = self.link.next_request() {
            let reply = self.carry_out(request);
            self.link.reply(id, reply);
        }
        for (id, played) in &mut self.processes {
            let ended = match played {
                Played::Cat => copy(&mut self.link, *id),
                Played::Say { rest } => {
                    let n = self.link.push_output(*id, Stream::Stdout, rest);
                    rest.drain(..n);
                    rest.is_empty()
                }
                Played::Killed => true,
                Played::True | Played::Ended => false,
            };
            if ended {
                self.link.end_output(*id, Stream::Stdout);
                self.link.end_output(*id, Stream::Stderr);
                self.link.exited(*id, ProcessEnd::Exited(7));
                *played = Played::Ended;
            }
        }
    }

    fn carry_out(&mut self, request: Request) -> Reply {
        match request {
            Request::Start { process, command } => {
                let played = match &command.argv[..] {
                    [name] if name == b"cat" => Played::Cat,
                    [name] if name == b"true" => Played::True,
                    [_, len] => {
                        let len = String::from_utf8(len.clone()).unwrap().parse().unwrap();
                        Played::Say { rest: pattern(len) }
                    }
                    _ => return Reply::Refused(Refusal::NotFound("it".to_owned())),
                };
                self.start(process, played)
            }
            Request::StartTool { process, tool: Tool::Pack { path } } => {
                self.start(process, Played::Say { rest: path })
            }
            Request::StartTool { process, tool: Tool::Unpack { .. } } => {
                self.start(process, Played::Cat)
            }
            Request::Stats => Reply::Stats(GuestStats { cpus: 3, ..GuestStats::default() }),
            Request::Look { .. } => Reply::Looked(PathKind::Directory),
            Request::List => Reply::Processes(self.processes.iter().map(info).collect()),
            Request::Signal { process, signal: 9, scope: SignalScope::Tree } => {
                self.processes.insert(process, Played::Killed);
                Reply::Done
            }
            Request::Release { process } => {
                self.processes.remove(&process);
                self.link.close(process);
                Reply::Done
            }
            // No answer that fits: a fault.
            Request::Info => Reply::Done,
            _ => Reply::Done,
        }
    }

    fn start(&mut self, process: ProcessId, played: Played) -> Reply {
        assert!(self.link.open(process));
        self.processes.insert(process, played);
        Reply::Started { pid: 1 }
    }
}

/// Copies what there is room for; returns whether the process is over.
fn copy(link: &mut AgentLink, id: ProcessId) -> bool {
    loop {
        let room = link.output_room(id, Stream::Stdout);
        match link.stdin(id) {
            Stdin::Data(_) if room == 0 => return false,
            Stdin::Data(bytes) => {
                let bytes = bytes[..bytes.len().min(room)].to_vec();
                link.push_output(id, Stream::Stdout, &bytes);
                link.consume_stdin(id, bytes.len());
            }
            Stdin::Empty => return false,
            Stdin::Ended => return true,
        }
    }
}

fn info((id, _): (&ProcessId, &Played)) -> ProcessInfo {
    ProcessInfo { process: *id, pid: 1, program: Vec::new(), end: None }
}

/// A guest with an agent, to which links can be made.
pub(crate) fn guest() -> Connect {
    let (connections, queue) = mpsc::unbounded_channel();
    tokio::spawn(Agent::serve(queue));
    Arc::new(move || {
        let connections = connections.clone();
        Box::pin(async move {
            let (near, far) = UnixStream::pair().unwrap();
            connections.send(far).unwrap();
            Ok(near)
        })
    })
}

fn command(argv: &[&str]) -> Command {
    let argv = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    Command { argv, env: Vec::new(), cwd: None, user: None, terminal: None }
}

/// Takes so many bytes of stdout, or more; acknowledges them, or not.
async fn take(process: &mut Process, enough: usize, ack: Ack) -> Vec<u8> {
    let mut output = Vec::new();
    while output.len() < enough {
        match process.next().await.unwrap() {
            ProcessEvent::Output(stream, bytes) => {
                if ack == Ack::AtOnce {
                    process.control().consumed(stream, bytes.len()).await.unwrap();
                }
                output.extend(bytes);
            }
            other => panic!("{other:?}"),
        }
    }
    output
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ack {
    AtOnce,
    Never,
}

/// Takes the rest of the output and the end.
async fn finish(mut process: Process) -> (Vec<u8>, ProcessEnd) {
    let mut output = Vec::new();
    loop {
        match process.next().await.unwrap() {
            ProcessEvent::Output(stream, bytes) => {
                process.control().consumed(stream, bytes.len()).await.unwrap();
                output.extend(bytes);
            }
            ProcessEvent::OutputEnded(_) => {}
            ProcessEvent::Exited(end) => return (output, end),
            ProcessEvent::Lost(refusal) => panic!("{refusal}"),
        }
    }
}

const LONG: usize = 3 * WINDOW + 1234;

#[tokio::test]
async fn another_daemon_takes_up_a_process_where_its_client_is() {
    let connect = guest();
    let first = Link::begin(connect.clone()).unwrap();
    let mut process = first.start(command(&["say", &LONG.to_string()])).await.unwrap();
    let id = process.id();
    let mut output = take(&mut process, WINDOW + 1, Ack::AtOnce).await;
    // The client has these; the daemon that had not acknowledged them yet dies.
    output.extend(take(&mut process, 1, Ack::Never).await);
    drop((process, first));
    let second = Link::begin(connect).unwrap();
    let at = output.len() as u64;
    let (process, stdin) = second.attach(id, Some(at), Some(0)).await.unwrap();
    assert_eq!(stdin, 0);
    let (rest, end) = finish(process).await;
    output.extend(rest);
    assert!(output == pattern(LONG), "a gap or a repeat");
    assert_eq!(end, ProcessEnd::Exited(7));
    // It has ended and is not released: its end can be heard again.
    let (process, _) = second.attach(id, Some(LONG as u64), Some(0)).await.unwrap();
    assert_eq!(finish(process).await, (Vec::new(), end));
}

#[tokio::test]
async fn a_client_that_comes_back_over_the_same_link_goes_on_at_its_own_offset() {
    let link = Link::begin(guest()).unwrap();
    let mut process = link.start(command(&["say", &LONG.to_string()])).await.unwrap();
    let id = process.id();
    let mut output = take(&mut process, 100_000, Ack::AtOnce).await;
    let at = Some(output.len() as u64);
    // All of this was received here, but its client went away before it had it.
    let lost = take(&mut process, 1, Ack::Never).await;
    let old = process.control();
    let (mut again, _) = link.attach(id, at, None).await.unwrap();
    // What is left of the old attachment ends and has no say any more.
    while let Ok(event) = process.next().await {
        assert!(matches!(event, ProcessEvent::Output(..)), "{event:?}");
    }
    assert!(matches!(process.next().await, Err(LinkFailed::Replaced)));
    assert!(matches!(old.write(vec![1]).await, Err(LinkFailed::Replaced)));
    take(&mut again, WINDOW / 2, Ack::Never).await;
    old.consumed(Stream::Stdout, lost.len() + WINDOW).await.unwrap();
    let (again, _) = link.attach(id, at, None).await.unwrap();
    output.extend(finish(again).await.0);
    assert!(output == pattern(LONG), "a gap or a repeat");
}

#[tokio::test]
async fn a_process_without_a_holder_runs_on_and_can_be_attached() {
    let link = Link::begin(guest()).unwrap();
    let process = link.start(command(&["say", &LONG.to_string()])).await.unwrap();
    let id = process.id();
    drop(process);
    link.reconnect().await.unwrap();
    // Other work goes on meanwhile.
    let other = link.start(command(&["say", "1000"])).await.unwrap();
    assert_eq!(finish(other).await.0, pattern(1000));
    let (process, _) = link.attach(id, None, None).await.unwrap();
    assert!(finish(process).await.0 == pattern(LONG));
}

#[tokio::test]
async fn input_goes_on_where_the_guest_has_it() {
    let connect = guest();
    let first = Link::begin(connect.clone()).unwrap();
    let mut process = first.start(command(&["cat"])).await.unwrap();
    let id = process.id();
    let input = pattern(LONG);
    let mut received = process.stdin_received();
    let control = process.control();
    let feed = input.clone();
    let writer = tokio::spawn(async move { control.write(feed).await });
    let mut output = take(&mut process, WINDOW + WINDOW / 2, Ack::AtOnce).await;
    let surely = *received.wait_for(|bytes| *bytes > 0).await.unwrap();
    drop((process, first));
    writer.abort();
    let second = Link::begin(connect).unwrap();
    let (process, stdin) = second.attach(id, Some(output.len() as u64), Some(0)).await.unwrap();
    assert!(stdin >= surely, "{stdin} of {surely}");
    assert_eq!(*process.stdin_received().borrow(), stdin);
    let control = process.control();
    let rest = input[usize::try_from(stdin).unwrap()..].to_vec();
    tokio::spawn(async move {
        control.write(rest).await.unwrap();
        control.end().await.unwrap();
    });
    output.extend(finish(process).await.0);
    assert!(output == input, "a gap or a repeat");
}

#[tokio::test]
async fn what_is_not_there_cannot_be_attached() {
    let link = Link::begin(guest()).unwrap();
    let unknown = link.attach(ProcessId(5), None, None).await.unwrap_err();
    assert!(matches!(unknown, LinkFailed::Refused(Refusal::UnknownProcess)), "{unknown}");
    let mut process = link.start(command(&["say", &LONG.to_string()])).await.unwrap();
    let id = process.id();
    take(&mut process, WINDOW + 1, Ack::AtOnce).await;
    let lost = link.attach(id, Some(0), None).await.unwrap_err();
    assert!(matches!(lost, LinkFailed::Refused(Refusal::OutputLost { asked: 0, .. })), "{lost}");
}

#[tokio::test]
async fn questions_about_the_guest_are_answered() {
    let link = Link::begin(guest()).unwrap();
    assert_eq!(link.stats().await.unwrap().cpus, 3);
    assert_eq!(link.look(b"/".to_vec()).await.unwrap(), PathKind::Directory);
    assert_eq!(link.list().await.unwrap(), []);
    let packed = link.start_tool(Tool::Pack { path: b"/a".to_vec() }).await.unwrap();
    assert_eq!(finish(packed).await.0, b"/a");
    assert_eq!(link.faults(), 0);
}

#[tokio::test]
async fn faults_of_the_guest_are_counted() {
    let link = Link::begin(guest()).unwrap();
    link.up().await.unwrap();
    // The agent never has another reply than one that does not fit, whatever the connection.
    let error = link.request(Request::Info).await.unwrap_err();
    assert!(matches!(error, LinkFailed::Down(_)), "{error}");
    assert_eq!(link.faults(), 3);
}
