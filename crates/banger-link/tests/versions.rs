//! A host and an agent of different versions.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use banger_link::{
    AgentLink, HostEvent, HostLink, LinkError, Nonce, PathKind, ProcessId, Refusal, Reply, Request,
    Tool, VERSIONS,
};

const NONCE: Nonce = Nonce([9; 16]);

/// What an agent that speaks these versions, and agrees on this one, answers to a hello.
fn answer(agreed: u16, min: u16, max: u16) -> Vec<u8> {
    let numbers = [agreed, min, max].map(u16::to_le_bytes).concat();
    [&b"BangerA>"[..], &numbers, &NONCE.0, b"<A\r\n"].concat()
}

fn sent(host: &mut HostLink) -> Vec<u8> {
    let mut out = Vec::new();
    host.transmit(&mut out);
    out
}

fn events(host: &mut HostLink) -> Vec<HostEvent> {
    std::iter::from_fn(|| host.next_event()).collect()
}

fn new_requests(host: &mut HostLink) -> [u64; 3] {
    [
        host.request(Request::Stats).unwrap(),
        host.start_tool(ProcessId(4), Tool::Pack { path: b"/".to_vec() }).unwrap(),
        host.request(Request::Look { path: b"/".to_vec() }).unwrap(),
    ]
}

#[test]
fn what_an_old_agent_does_not_know_is_not_sent_to_it() {
    let mut host = HostLink::new(1);
    host.connect(NONCE);
    // Before it is known which version the agent speaks, and after.
    let before = new_requests(&mut host);
    sent(&mut host);
    host.receive(&answer(1, 1, 1)).unwrap();
    let after = new_requests(&mut host);
    assert_eq!(sent(&mut host), [], "nothing is sent");
    let mut expected = vec![HostEvent::Up { version: 1 }];
    expected.extend(
        before.into_iter().chain(after).map(|request| HostEvent::Reply {
            request,
            reply: Reply::Refused(Refusal::Unsupported),
        }),
    );
    assert_eq!(events(&mut host), expected);
    // A tool that was refused is no process.
    assert_eq!(host.push_stdin(ProcessId(4), b"x"), 0);
    host.request(Request::List).unwrap();
    assert_ne!(sent(&mut host), [], "what it knows is sent");
}

#[test]
fn both_ends_of_this_build_agree_on_the_newest_version() {
    let (mut host, mut agent) = (HostLink::new(1), AgentLink::new());
    host.connect(NONCE);
    let asked = host.request(Request::Look { path: b"/x".to_vec() }).unwrap();
    let mut replies = Vec::new();
    for _ in 0..4 {
        agent.receive(&sent(&mut host));
        while let Some((id, request)) = agent.next_request() {
            assert_eq!(request, Request::Look { path: b"/x".to_vec() });
            agent.reply(id, Reply::Looked(PathKind::Missing));
        }
        let mut out = Vec::new();
        agent.transmit(&mut out);
        host.receive(&out).unwrap();
        replies.extend(events(&mut host));
    }
    let reply = Reply::Looked(PathKind::Missing);
    let expected =
        [HostEvent::Up { version: VERSIONS.max }, HostEvent::Reply { request: asked, reply }];
    assert_eq!(replies, expected);
}

#[test]
fn a_newer_agent_is_met_at_our_newest_version_and_no_other() {
    let mut host = HostLink::new(1);
    host.connect(NONCE);
    host.receive(&answer(VERSIONS.max, 1, VERSIONS.max + 5)).unwrap();
    let mut host = HostLink::new(1);
    host.connect(NONCE);
    let error = host.receive(&answer(VERSIONS.max + 1, 1, VERSIONS.max + 1)).unwrap_err();
    assert!(matches!(error, LinkError::Version { .. }), "{error}");
}

#[test]
fn a_reply_that_does_not_fit_its_request_is_a_fault_of_the_agent() {
    let (mut host, mut agent) = (HostLink::new(1), AgentLink::new());
    host.connect(NONCE);
    host.request(Request::Stats).unwrap();
    let mut result = Ok(());
    for _ in 0..4 {
        agent.receive(&sent(&mut host));
        while let Some((id, _)) = agent.next_request() {
            agent.reply(id, Reply::Done);
        }
        let mut out = Vec::new();
        agent.transmit(&mut out);
        result = result.and(host.receive(&out));
    }
    let fault = LinkError::Violation("gave a reply that does not fit its request");
    assert_eq!(result, Err(fault));
}
