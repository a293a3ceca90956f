//! Records for tests: any that there may be, and small ones by number.

use banger_model::lifecycle::{EndCause, Origin, State, StopKind, every_state};
use banger_model::policy::{Action, Goal};
use banger_model::{
    BootMode, Bytes, CpuCount, Disposal, FromSnapshot, InitMode, LeaseId, Lifetime, NetworkMode,
    OperationId, OperationRecord, OperationStatus, RestartPolicy, SandboxId, SandboxRecord,
    SandboxSpec, SnapshotId, SnapshotPart, Span, Timestamp,
};
use proptest::prelude::*;

/// A small sandbox.
pub(crate) fn sandbox(n: u16, name: &str) -> SandboxRecord {
    let [high, low] = n.to_be_bytes();
    SandboxRecord {
        id: SandboxId::from_random([0, 0, 0, 0, high, low]),
        name: name.parse().unwrap(),
        spec: SandboxSpec {
            image: "debian-bookworm".parse().unwrap(),
            kernel: None,
            cpus: None,
            memory: Bytes::mib(512).try_into().unwrap(),
            disk: Some(Bytes::gib(8).try_into().unwrap()),
            network: NetworkMode::User,
            boot: BootMode::Cold,
            init: Some(InitMode::Systemd),
            volumes: Default::default(),
        },
        labels: Default::default(),
        lifetime: Lifetime::default(),
        created: Timestamp(1000 + u64::from(n)),
        state: State::Created,
        boots: 0,
        restarts: 0,
        restart_at: None,
        from: None,
    }
}

/// A sandbox whose record takes about so many bytes.
pub(crate) fn large(n: u16, name: &str, len: usize) -> SandboxRecord {
    let state = State::Failed { since: Timestamp(1), reason: "x".repeat(len) };
    SandboxRecord { state, ..sandbox(n, name) }
}

/// A small operation; final since `finished` if that is given.
pub(crate) fn operation(n: u16, finished: Option<u64>) -> OperationRecord {
    let [high, low] = n.to_be_bytes();
    OperationRecord {
        id: OperationId::from_random([0, 0, 0, 0, 0, 0, high, low]),
        sandbox: SandboxId::from_random([0; 6]),
        action: Action::Start,
        goal: Goal::Running { after: 0 },
        started: Timestamp(u64::from(n)),
        status: match finished {
            Some(at) => OperationStatus::Succeeded { at: Timestamp(at) },
            None => OperationStatus::Running,
        },
        tag: None,
    }
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![0..=u64::MAX, Just(0), Just(u64::MAX)].prop_map(Timestamp)
}

fn name() -> &'static str {
    "[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,2}"
}

fn spec() -> impl Strategy<Value = SandboxSpec> {
    let cpus = prop::option::of((1..=64u16).prop_map(|n| CpuCount::try_from(n).unwrap()));
    let network = prop_oneof![Just(NetworkMode::User), Just(NetworkMode::None)];
    let kernel = prop::option::of(name());
    let disk = prop::option::of((64..100_000u64).prop_map(|n| Bytes::mib(n).try_into().unwrap()));
    (name(), kernel, cpus, 96..100_000u64, disk, network).prop_map(
        |(image, kernel, cpus, memory, disk, network)| SandboxSpec {
            image: image.parse().unwrap(),
            kernel: kernel.map(|kernel| kernel.parse().unwrap()),
            cpus,
            memory: Bytes::mib(memory).try_into().unwrap(),
            disk,
            network,
            boot: BootMode::Template,
            init: None,
            volumes: Default::default(),
        },
    )
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    let span = || prop::option::of(any::<u64>().prop_map(Span::from_millis));
    let restart = prop::sample::select(vec![
        RestartPolicy::No,
        RestartPolicy::OnFailure,
        RestartPolicy::Always,
    ]);
    let disposal = prop::sample::select(vec![Disposal::Keep, Disposal::Remove]);
    let lease = prop::option::of(any::<[u8; 16]>().prop_map(LeaseId::from_random));
    (span(), span(), restart, disposal, lease).prop_map(
        |(ttl, idle_timeout, restart, disposal, lease)| Lifetime {
            ttl,
            idle_timeout,
            restart,
            disposal,
            lease,
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    let end = (time(), prop::sample::select(vec![0, 1, 2]), ".{0,200}").prop_map(
        |(since, kind, reason)| {
            let cause = match kind {
                0 => EndCause::Asked,
                1 => EndCause::PoweredOff,
                _ => EndCause::Failed(reason),
            };
            State::Stopped { since, cause }
        },
    );
    prop_oneof![
        4 => prop::sample::select(every_state()),
        1 => Just(State::Starting { from: Origin::Memory }),
        1 => Just(State::Stopping { how: StopKind::Kill }),
        1 => time().prop_map(|since| State::Running { since }),
        1 => end,
        1 => (time(), ".{0,200}").prop_map(|(since, reason)| State::Failed { since, reason }),
    ]
}

fn from() -> impl Strategy<Value = Option<FromSnapshot>> {
    let part = prop_oneof![Just(SnapshotPart::Machine), Just(SnapshotPart::Disk)];
    let id = any::<[u8; 8]>().prop_map(SnapshotId::from_random);
    let from = (id, part, prop::option::of(time()));
    prop::option::of(from.prop_map(|(snapshot, part, up)| FromSnapshot { snapshot, part, up }))
}

/// Any sandbox there may be.
pub(crate) fn any_sandbox() -> impl Strategy<Value = SandboxRecord> {
    let labels = prop::collection::btree_map("[a-zA-Z0-9][a-z./_-]{0,20}", "[ -~é]{0,60}", 0..8)
        .prop_map(|labels| labels.try_into().unwrap());
    let id = any::<[u8; 6]>().prop_map(SandboxId::from_random);
    let counts = (any::<u64>(), any::<u32>(), prop::option::of(time()), from());
    (id, name(), spec(), labels, lifetime(), time(), state(), counts).prop_map(
        |(id, name, spec, labels, lifetime, created, state, counts)| {
            let (boots, restarts, restart_at, from) = counts;
            SandboxRecord {
                id,
                name: name.parse().unwrap(),
                spec,
                labels,
                lifetime,
                created,
                state,
                boots,
                restarts,
                restart_at,
                from,
            }
        },
    )
}

/// Any operation there may be.
pub(crate) fn any_operation() -> impl Strategy<Value = OperationRecord> {
    let status = prop_oneof![
        Just(OperationStatus::Running),
        time().prop_map(|at| OperationStatus::Succeeded { at }),
        (time(), ".{0,200}").prop_map(|(at, error)| OperationStatus::Failed { at, error }),
        time().prop_map(|at| OperationStatus::Cancelled { at }),
    ];
    let goal = prop_oneof![
        any::<u64>().prop_map(|after| Goal::Running { after }),
        Just(Goal::Down),
        Just(Goal::Paused),
        Just(Goal::Taken),
        Just(Goal::Gone),
    ];
    let ids = (any::<[u8; 8]>(), any::<[u8; 6]>());
    let tag = prop::option::of(name().prop_map(|tag| tag.parse().unwrap()));
    (ids, prop::sample::select(Action::ALL.as_slice()), goal, time(), status, tag).prop_map(
        |((id, sandbox), action, goal, started, status, tag)| OperationRecord {
            id: OperationId::from_random(id),
            sandbox: SandboxId::from_random(sandbox),
            action,
            goal,
            started,
            status,
            tag,
        },
    )
}
