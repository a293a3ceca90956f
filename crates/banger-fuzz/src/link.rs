//! Both ends of the link, each against a peer that says anything.
//!
//! Random bytes would never get past the hello, so the targets speak it properly and wrap what
//! they are given into frames of the connection, besides sending it bare.

use std::collections::BTreeMap;

use banger_link::limits::WINDOW;
use banger_link::{
    AgentLink, Command, HostEvent, HostLink, Nonce, ProcessId, Reply, Request, Stdin, Stream, Tool,
    decode_frame,
};
use banger_model::ProcessEnd;

use crate::ops::Ops;

/// Most bytes an agent is kept sending in one operation, so that each ends soon.
const MAX_PUSH: usize = 4096;

/// A frame is never longer than the bytes it was read from.
pub(crate) fn frame(bytes: &[u8]) {
    assert!(decode_frame(bytes).is_none_or(|len| len <= bytes.len()));
}

/// One frame of the connection with this nonce, made independently of the crate under test.
fn framed(nonce: Nonce, kind: u8, payload: &[u8]) -> Vec<u8> {
    let tag: Vec<u8> = nonce.0[..4].iter().map(|byte| byte | 1).collect();
    let payload = &payload[..payload.len().min(banger_link::limits::MAX_PAYLOAD)];
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    [&tag[..], &[kind, 0], &len.to_le_bytes(), payload, &tag].concat()
}

/// Whatever an agent has been sent: it stays within its bounds, and the next hello is heard.
pub(crate) fn agent(bytes: &[u8]) {
    let mut agent = AgentLink::new();
    let mut nonce = Nonce([3; 16]);
    greet(&mut agent, nonce);
    let mut ops = Ops::new(bytes);
    while let Some(op) = ops.next() {
        match op % 8 {
            0 => agent.receive(ops.bytes()),
            kind @ 1..=3 => agent.receive(&framed(nonce, kind, ops.bytes())),
            4 => agent.receive(&vec![0; usize::from(ops.byte()) * 128]),
            5 => {
                nonce = Nonce([ops.byte(); 16]);
                greet(&mut agent, nonce);
            }
            6 => act_as_server(&mut agent),
            _ => push_output(&mut agent, ProcessId(ops.byte().into()), ops.bytes()),
        }
        let mut out = Vec::new();
        agent.transmit(&mut out);
    }
    assert!(greet(&mut agent, Nonce([0xa5; 16])), "a hello was not heard");
}

/// A host connects; whether the agent answered.
fn greet(agent: &mut AgentLink, nonce: Nonce) -> bool {
    let mut host = HostLink::new(7);
    host.connect(nonce);
    let mut bytes = Vec::new();
    host.transmit(&mut bytes);
    agent.receive(&bytes);
    let mut answer = Vec::new();
    agent.transmit(&mut answer);
    host.receive(&answer).is_ok() && matches!(host.next_event(), Some(HostEvent::Up { .. }))
}

/// Does what is asked, as far as it concerns the link, and takes all input.
fn act_as_server(agent: &mut AgentLink) {
    while let Some((id, request)) = agent.next_request() {
        let reply = match request {
            Request::Start { process, .. } | Request::StartTool { process, .. }
                if agent.open(process) =>
            {
                Reply::Started { pid: 1 }
            }
            Request::Release { process } => {
                agent.close(process);
                Reply::Done
            }
            _ => Reply::Done,
        };
        agent.reply(id, reply);
    }
    while let Some(process) = agent.next_stdin() {
        while let Stdin::Data(bytes) = agent.stdin(process) {
            let len = bytes.len();
            assert!((1..=WINDOW).contains(&len), "{len}");
            agent.consume_stdin(process, len);
        }
    }
}

fn push_output(agent: &mut AgentLink, process: ProcessId, bytes: &[u8]) {
    let room = agent.output_room(process, Stream::Stdout);
    assert!(room <= WINDOW);
    let taken = agent.push_output(process, Stream::Stdout, &bytes[..bytes.len().min(MAX_PUSH)]);
    assert!(taken <= room);
    if bytes.is_empty() {
        agent.end_output(process, Stream::Stdout);
        agent.end_output(process, Stream::Stderr);
        agent.exited(process, ProcessEnd::Exited(0));
    }
}

/// Whatever a guest says: a host never holds more of a stream than the window, hears of output
/// only of processes it knows, and hears the end of a process once and after its output's.
pub(crate) fn host(bytes: &[u8]) {
    let mut ops = Ops::new(bytes);
    let mut host = Host::new();
    while let Some(op) = ops.next() {
        match op % 8 {
            0 => host.receive(ops.bytes()),
            kind @ 1..=3 => host.receive(&framed(host.nonce, kind, ops.bytes())),
            4 => host.attach(ProcessId(ops.byte().into())),
            5 => host.reconnect(ops.byte()),
            6 => host.consume(),
            _ => {
                host.link.push_stdin(ProcessId(1), ops.bytes());
            }
        }
        host.events();
        let mut out = Vec::new();
        host.link.transmit(&mut out);
    }
}

struct Host {
    link: HostLink,
    nonce: Nonce,
    /// Output that was not acknowledged, by stream.
    held: BTreeMap<(ProcessId, Stream), usize>,
    exited: Vec<ProcessId>,
}

impl Host {
    /// A host that has a connection and wants everything that there is.
    fn new() -> Self {
        let link = HostLink::new(7);
        let mut host =
            Self { link, nonce: Nonce([3; 16]), held: BTreeMap::new(), exited: Vec::new() };
        let command = Command {
            argv: vec![b"x".to_vec()],
            env: Vec::new(),
            cwd: None,
            user: None,
            terminal: None,
        };
        assert!(host.link.start(ProcessId(1), command).is_ok());
        assert_eq!(host.link.attach(ProcessId(2), None, None), Ok(()));
        assert_eq!(host.link.attach(ProcessId(3), Some(5), Some(0)), Ok(()));
        for request in [Request::List, Request::Stats, Request::Look { path: b"/".to_vec() }] {
            assert!(host.link.request(request).is_ok());
        }
        let tool = Tool::Pack { path: b"/".to_vec() };
        assert!(host.link.start_tool(ProcessId(4), tool).is_ok());
        host.reconnect(3);
        host
    }

    /// Takes up a process, perhaps again: everything of an older attachment is forgotten.
    fn attach(&mut self, process: ProcessId) {
        assert_eq!(self.link.attach(process, None, None), Ok(()));
        self.forget(process);
    }

    /// A new connection, answered as an agent answers.
    fn reconnect(&mut self, byte: u8) {
        self.nonce = Nonce([byte; 16]);
        self.link.connect(self.nonce);
        let mut hello = Vec::new();
        self.link.transmit(&mut hello);
        let mut agent = AgentLink::new();
        agent.receive(&hello);
        let mut answer = Vec::new();
        agent.transmit(&mut answer);
        assert_eq!(self.link.receive(&answer), Ok(()));
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.link.receive(bytes).is_err() {
            self.reconnect(self.nonce.0[0].wrapping_add(1));
        }
    }

    fn consume(&mut self) {
        for ((process, stream), len) in std::mem::take(&mut self.held) {
            self.link.consumed(process, stream, len);
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.link.next_event() {
            match event {
                HostEvent::Output { process, stream, bytes } => {
                    assert!(!self.exited.contains(&process), "output after the end");
                    let held = self.held.entry((process, stream)).or_default();
                    *held += bytes.len();
                    assert!(*held <= WINDOW, "more than the window: {held}");
                }
                HostEvent::Exited { process, .. } => {
                    assert!(!self.exited.contains(&process), "ended twice");
                    self.exited.push(process);
                }
                // The process may be taken up anew under its id.
                HostEvent::Lost { process, .. } => self.forget(process),
                HostEvent::Up { .. }
                | HostEvent::Reply { .. }
                | HostEvent::Attached { .. }
                | HostEvent::OutputEnded { .. }
                | HostEvent::StdinRoom { .. } => {}
            }
        }
    }

    fn forget(&mut self, process: ProcessId) {
        self.held.retain(|(held, _), _| *held != process);
        self.exited.retain(|exited| *exited != process);
    }
}
