//! The encodings of messages that were published. A line here changes only when a version of
//! the protocol ends.

use banger_model::{EnvVar, GuestNet, MacAddress, ProcessEnd};

use crate::control::encode;
use crate::message::{
    AgentInfo, AgentMessage, Command, GuestStats, HostMessage, Identity, PathKind, ProcessId,
    ProcessInfo, Refusal, Reply, Request, SignalScope, Stream, Tool, Window,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn request(request: Request) -> String {
    hex(&encode(&HostMessage::Request { id: 1, settled: 0, request }))
}

fn reply(reply: Reply) -> String {
    hex(&encode(&AgentMessage::Reply { id: 1, reply }))
}

const P: ProcessId = ProcessId(300);

fn identity() -> Identity {
    Identity {
        hostname: "h".into(),
        machine_id: [1; 16],
        entropy: [2; 32],
        wall_clock_ns: 3,
        mac: MacAddress([4; 6]),
        net: Some(GuestNet {
            address: [10, 0, 0, 2].into(),
            prefix_len: 30,
            gateway: [10, 0, 0, 1].into(),
            dns: vec![[10, 0, 0, 1].into()],
        }),
    }
}

fn command() -> Command {
    Command {
        argv: vec![b"a".to_vec()],
        env: EnvVar::parse(b"N=v").into_iter().collect(),
        cwd: Some(b"/".to_vec()),
        user: None,
        terminal: Some(Window { rows: 24, cols: 80 }),
    }
}

fn unpack(name: Option<Vec<u8>>) -> Tool {
    Tool::Unpack { path: b"/a".to_vec(), name }
}

fn stats() -> GuestStats {
    GuestStats {
        uptime_ms: 1,
        cpu_busy_ms: 2,
        cpus: 3,
        memory_total: 4,
        memory_available: 5,
        disk_total: 6,
        disk_free: 7,
        net_rx: 8,
        net_tx: 9,
        processes: 10,
    }
}

#[test]
fn what_a_host_says() {
    let lines = [
        request(Request::Configure(identity())),
        request(Request::Start { process: P, command: command() }),
        request(Request::Attach { process: P, stdout: Some(5), stderr: None }),
        request(Request::Signal { process: P, signal: 9, scope: SignalScope::Tree }),
        request(Request::Resize { process: P, window: Window { rows: 1, cols: 2 } }),
        request(Request::List),
        request(Request::Release { process: P }),
        request(Request::Info),
        request(Request::PowerOff),
        request(Request::CloseOutput { process: P, stream: Stream::Stdout }),
        request(Request::Stats),
        request(Request::StartTool { process: P, tool: Tool::Pack { path: b"/a".to_vec() } }),
        request(Request::StartTool { process: P, tool: unpack(None) }),
        request(Request::StartTool { process: P, tool: unpack(Some(b"b".to_vec())) }),
        request(Request::Look { path: b"/a".to_vec() }),
        request(Request::Settle),
        request(Request::Freeze),
        request(Request::Thaw),
        request(Request::Clock { adjust_ns: -3 }),
        request(Request::StartTool {
            process: P,
            tool: Tool::MountVolume { slot: 2, path: b"/a".to_vec() },
        }),
        request(Request::StartTool { process: P, tool: Tool::PackRoot }),
        request(Request::EndWith { process: P, signal: 3 }),
        hex(&encode(&HostMessage::Ack { process: P, stream: Stream::Stderr, offset: 7 })),
        hex(&encode(&HostMessage::End { process: P, offset: 7 })),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn what_an_agent_says() {
    let info = AgentInfo { version: "1".into(), boot_id: "b".into(), ready_us: 9 };
    let listed = ProcessInfo {
        process: P,
        pid: 2,
        program: b"a".to_vec(),
        end: Some(ProcessEnd::Signaled(9)),
    };
    let refused = |refusal| reply(Reply::Refused(refusal));
    let lines = [
        reply(Reply::Done),
        reply(Reply::Started { pid: 2 }),
        reply(Reply::Attached { stdin: 1, stdin_taken: 2, stdout: 3, stderr: 4 }),
        reply(Reply::Processes(vec![listed])),
        reply(Reply::Info(info)),
        refused(Refusal::NotFound("x".into())),
        refused(Refusal::CannotInvoke("x".into(), "y".into())),
        refused(Refusal::NoSuchUser("x".into())),
        refused(Refusal::WorkingDirectory("x".into(), "y".into())),
        refused(Refusal::TooManyProcesses(1)),
        refused(Refusal::UnknownProcess),
        refused(Refusal::WrongState("x".into())),
        refused(Refusal::OutputLost { asked: 1, kept: 2 }),
        refused(Refusal::Unsupported),
        refused(Refusal::Failed("x".into())),
        reply(Reply::Stats(stats())),
        reply(Reply::Looked(PathKind::Directory)),
        reply(Reply::Looked(PathKind::File)),
        reply(Reply::Looked(PathKind::Other)),
        reply(Reply::Looked(PathKind::Missing)),
        reply(Reply::Clock { wall_clock_ns: 9 }),
        hex(&encode(&AgentMessage::Ack { process: P, offset: 7 })),
        hex(&encode(&AgentMessage::End { process: P, stream: Stream::Stdout, offset: 7 })),
        hex(&encode(&AgentMessage::Exited { process: P, end: ProcessEnd::Exited(3) })),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}
