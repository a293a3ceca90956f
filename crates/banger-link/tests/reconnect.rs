//! The link's promise: whatever happens to the connection, every request is carried out once and
//! every stream arrives byte for byte.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use banger_link::{
    HostEvent, HostLink, LinkError, Nonce, ProcessId, Refusal, Reply, Request, Stream,
};
use banger_model::ProcessEnd;
use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use support::{OUTPUTS, World};

#[derive(Clone, Debug)]
enum Action {
    Step {
        limit: usize,
    },
    Cut {
        keep_to_agent: usize,
        keep_to_host: usize,
        garbage: Vec<u8>,
    },
    /// A cut with which the host ends, too.
    Kill {
        keep_to_agent: usize,
        keep_to_host: usize,
        garbage: Vec<u8>,
    },
    ComeAgain,
}

fn action() -> impl Strategy<Value = Action> {
    // Garbage is made of what the protocol itself consists of, too: zeros and tags.
    let garbage = prop_oneof![
        vec(any::<u8>(), 0..64),
        vec(Just(0), 0..40_000),
        vec(prop_oneof![Just(0), Just(1), Just(3), Just(b'B')], 0..64),
    ];
    prop_oneof![
        6 => (1usize..200_000).prop_map(|limit| Action::Step { limit }),
        3 => (1usize..40).prop_map(|limit| Action::Step { limit }),
        2 => (0usize..150_000, 0usize..150_000, garbage)
            .prop_map(|(keep_to_agent, keep_to_host, garbage)| Action::Cut {
                keep_to_agent,
                keep_to_host,
                garbage,
            }),
    ]
}

/// With hosts that are killed, and users that come again.
fn grave_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => action(),
        1 => action().prop_map(|action| match action {
            Action::Cut { keep_to_agent, keep_to_host, garbage } =>
                Action::Kill { keep_to_agent, keep_to_host, garbage },
            _ => Action::Kill { keep_to_agent: 0, keep_to_host: 0, garbage: Vec::new() },
        }),
        1 => Just(Action::ComeAgain),
    ]
}

fn act(world: &mut World, action: Action) {
    match action {
        Action::Step { limit } => world.step(limit),
        Action::Cut { keep_to_agent, keep_to_host, garbage } => {
            world.cut(keep_to_agent, keep_to_host, &garbage);
        }
        Action::Kill { keep_to_agent, keep_to_host, garbage } => {
            world.kill_host(keep_to_agent, keep_to_host, &garbage);
        }
        Action::ComeAgain => world.come_again(),
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Long runs of zeros look most like the protocol's own.
        if state & 0x70 == 0 { 0 } else { state.to_le_bytes()[2] }
    };
    (0..len).map(|_| next()).collect()
}

fn check(world: &World) {
    for (process, job) in &world.jobs {
        let inverted: Vec<u8> = job.to_send.iter().map(|b| !b).collect();
        let output = |stream| job.outputs.get(&stream).cloned().unwrap_or_default();
        assert!(output(Stream::Stdout) == job.to_send, "stdout of {process:?}");
        assert!(output(Stream::Stderr) == inverted, "stderr of {process:?}");
        assert_eq!(job.ended, OUTPUTS);
        assert_eq!(job.end, Some(ProcessEnd::Exited(3)));
        assert_eq!(world.starts[process], 1);
    }
    assert!(world.lost.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn streams_and_requests_survive_any_cuts(
        sizes in vec(0usize..600_000, 1..4),
        actions in vec(action(), 0..40),
    ) {
        let mut world = World::new();
        for (id, size) in (0u64..).zip(&sizes) {
            world.start(id * 1000, pattern(id + 5, *size));
        }
        for action in actions {
            act(&mut world, action);
        }
        world.settle();
        check(&world);
    }

    #[test]
    fn streams_survive_the_death_of_any_host_and_the_return_of_any_user(
        sizes in vec(0usize..600_000, 1..4),
        actions in vec(grave_action(), 0..60),
    ) {
        let mut world = World::new();
        for (id, size) in (0u64..).zip(&sizes) {
            world.start(id * 1000, pattern(id + 5, *size));
        }
        // A start that died with its host is its user's to repeat.
        while world.jobs.values().any(|job| !job.attached) {
            world.step(20_000);
        }
        for action in actions {
            act(&mut world, action);
        }
        world.settle();
        check(&world);
        // They have ended and are not released: the next host hears of their end, too.
        world.kill_host(0, 0, &[]);
        world.settle();
        check(&world);
    }

    #[test]
    fn an_agent_survives_any_bytes(inputs in vec(vec(any::<u8>(), 0..2000), 0..20)) {
        let mut world = World::new();
        for input in inputs {
            world.agent.receive(&input);
        }
        world.cut(0, 0, &[]);
        world.start(1, b"still here".to_vec());
        world.settle();
        check(&world);
    }

    #[test]
    fn a_host_survives_any_bytes(inputs in vec(vec(any::<u8>(), 0..2000), 0..20)) {
        let mut host = HostLink::new(1);
        host.connect(Nonce([9; 16]));
        for input in inputs {
            let _ = host.receive(&input);
        }
    }
}

#[test]
fn fifty_cuts_in_a_hundred_megabytes_leave_the_hash_equal() {
    let input = pattern(42, 100_000_000);
    let expected = Sha256::digest(&input);
    let mut world = World::new();
    world.start(1, input);
    let (mut cuts, mut steps) = (0, 0);
    while world.jobs.values().any(|job| job.end.is_none()) {
        world.step(96 * 1024);
        steps += 1;
        assert!(steps < 100_000, "the stream stands still");
        let received = world.jobs[&ProcessId(1)].received(Stream::Stdout);
        if cuts < 50 && received > (cuts + 1) * 1_900_000 {
            cuts += 1;
            let keep = (cuts * 7919) % 90_000;
            world.cut(keep, 90_000 - keep, &vec![0; cuts * 100]);
        }
    }
    assert_eq!(cuts, 50);
    let job = &world.jobs[&ProcessId(1)];
    assert_eq!(Sha256::digest(&job.outputs[&Stream::Stdout]), expected);
    check(&world);
}

#[test]
fn a_user_behind_what_the_host_has_received_gets_the_difference_again() {
    let mut world = World::new();
    world.start(1, pattern(3, 300_000));
    while world.jobs[&ProcessId(1)].received(Stream::Stdout) < 30_000 {
        world.step(30_000);
    }
    world.come_again();
    // Nothing was acknowledged: the user of the output has lost all of it.
    world.jobs.get_mut(&ProcessId(1)).unwrap().outputs.clear();
    world.come_again();
    world.settle();
    check(&world);
}

#[test]
fn attaching_again_and_again_asks_the_agent_once_at_a_time() {
    let mut world = World::new();
    world.start(1, pattern(3, 100_000));
    while !world.jobs[&ProcessId(1)].attached {
        world.step(usize::MAX);
    }
    for _ in 0..10_000 {
        world.come_again();
    }
    world.settle();
    check(&world);
}

#[test]
fn input_after_its_end_is_dropped_and_harms_nobody() {
    let mut world = World::new();
    world.start(1, b"first".to_vec());
    world.settle();
    // Another user, who does not know that the input had ended.
    let to_send = |world: &mut World, input: &[u8]| {
        let job = world.jobs.get_mut(&ProcessId(1)).unwrap();
        (job.to_send, job.sent) = (input.to_vec(), job.sent.min(input.len()));
    };
    to_send(&mut world, b"first and more");
    world.kill_host(0, 0, &[]);
    world.settle();
    for _ in 0..8 {
        world.step(usize::MAX);
    }
    to_send(&mut world, b"first");
    check(&world);
    world.start(2, b"the link still works".to_vec());
    world.settle();
    check(&world);
}

#[test]
fn a_process_that_the_guest_does_not_know_is_lost_with_a_reason() {
    let mut world = World::new();
    world.host.attach(ProcessId(5), None, None).unwrap();
    for _ in 0..8 {
        world.step(usize::MAX);
    }
    assert_eq!(world.lost, [(ProcessId(5), Refusal::UnknownProcess)]);
}

#[test]
fn a_guest_that_breaks_the_protocol_ends_its_link() {
    let mut world = World::new();
    world.step(usize::MAX);
    world.step(usize::MAX);
    let error = world.host.receive(b"this is no frame").unwrap_err();
    assert_eq!(error, LinkError::Violation("sent something that is no frame"));
}

#[test]
fn a_guest_that_only_talks_garbage_is_given_up() {
    let mut host = HostLink::new(1);
    host.connect(Nonce([1; 16]));
    let garbage = vec![7; 1 << 20];
    let result = (0..20).try_for_each(|_| host.receive(&garbage));
    assert_eq!(result, Err(LinkError::NoAnswer));
}

#[test]
fn requests_are_bounded() {
    let mut host = HostLink::new(1);
    let accepted = (0..10_000).take_while(|_| host.request(Request::List).is_ok()).count();
    assert_eq!(accepted, banger_link::limits::MAX_PENDING_REQUESTS);
}

#[test]
fn a_reply_reaches_the_one_who_asked() {
    let mut world = World::new();
    let asked = world.host.request(Request::List).unwrap();
    let mut replies = Vec::new();
    for _ in 0..8 {
        let mut out = Vec::new();
        world.host.transmit(&mut out);
        world.agent.receive(&out);
        while let Some((id, _)) = world.agent.next_request() {
            world.agent.reply(id, Reply::Processes(Vec::new()));
        }
        out.clear();
        world.agent.transmit(&mut out);
        world.host.receive(&out).unwrap();
        while let Some(event) = world.host.next_event() {
            if let HostEvent::Reply { request, reply } = event {
                replies.push((request, reply));
            }
        }
    }
    assert_eq!(replies, [(asked, Reply::Processes(Vec::new()))]);
}
