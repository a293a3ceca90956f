//! Requests about the agent's processes, and the link under them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use banger_testkit::skipped_on_this_machine;

use crate::host::{Host, TIMEOUT, command, shell};
use banger_link::{Identity, Refusal, Reply, Request, SignalScope, Stream};
use banger_model::{MacAddress, ProcessEnd};

#[test]
fn a_signal_reaches_the_process_group() {
    let mut host = Host::new();
    let process =
        host.start(shell("sleep 60 & trap 'echo caught; exit 3' TERM; echo ready; wait")).unwrap();
    host.until(|host| host.seen.text(process).contains("ready").then_some(()));
    host.request(Request::Signal { process, signal: 15, scope: SignalScope::Group }).unwrap();
    host.until(|host| host.seen.exit(process));
    let late = Request::Signal { process, signal: 15, scope: SignalScope::Group };
    assert!(matches!(host.request(late), Err(Refusal::WrongState(_))));
    let done = host.finish(process);
    assert_eq!((done.end, &done.stdout[..]), (ProcessEnd::Exited(3), &b"ready\ncaught\n"[..]));
    let wrong = Request::Signal { process, signal: 15, scope: SignalScope::Group };
    assert_eq!(host.request(wrong), Err(Refusal::UnknownProcess));
}

#[test]
fn a_signal_for_the_tree_reaches_those_that_left_the_group() {
    let Some(cgroup) = TestCgroup::make() else { return };
    let mut host = Host::with_cgroups(Some(&cgroup.0));
    for signal in [9, 15] {
        let process = host.start(shell("setsid sleep 60 & echo ready; wait")).unwrap();
        host.until(|host| host.seen.text(process).contains("ready").then_some(()));
        host.request(Request::Signal { process, signal, scope: SignalScope::Tree }).unwrap();
        assert_eq!(host.finish(process).end, ProcessEnd::Signaled(signal));
    }
    let process = host.start(shell("setsid sleep 60 & echo $!")).unwrap();
    host.until(|host| host.seen.exit(process));
    let sleeper = host.seen.text(process).trim().to_owned();
    host.request(Request::Signal { process, signal: 9, scope: SignalScope::Tree }).unwrap();
    let sleeper = Path::new("/proc").join(sleeper);
    host.until_after_requests("what was left in the background is gone", || !sleeper.exists());
    host.finish(process);
    // A cgroup whose processes are still ending is removed when a later one is.
    let left = || {
        let entries = std::fs::read_dir(cgroup.0.join("banger")).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    let end = Instant::now() + TIMEOUT;
    // One is made ahead.
    while left() > 1 {
        assert!(Instant::now() < end, "cgroups are left");
        host.run(command(&["true"])).unwrap();
    }
}

/// A cgroup of version 2 for one test.
struct TestCgroup(PathBuf);

impl TestCgroup {
    fn make() -> Option<Self> {
        let name = format!("banger-agent-test-{}", std::process::id());
        for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let hierarchy = Path::new(hierarchy);
            let dir = hierarchy.join(&name);
            if hierarchy.join("cgroup.procs").exists() && std::fs::create_dir(&dir).is_ok() {
                return Some(Self(dir));
            }
        }
        skipped_on_this_machine("no cgroup of version 2 can be made here");
        None
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let ours = self.0.join("banger");
        let trees = std::fs::read_dir(&ours).into_iter().flatten().flatten().map(|it| it.path());
        for dir in trees.filter(|it| it.is_dir()).chain([ours.clone(), self.0.clone()]) {
            let _in_use = std::fs::remove_dir(dir);
        }
    }
}

#[test]
fn processes_are_listed_until_they_are_released() {
    let mut host = Host::new();
    let process = host.start(command(&["cat"])).unwrap();
    let list = |host: &mut Host| match host.request(Request::List) {
        Ok(Reply::Processes(list)) => list,
        other => panic!("{other:?}"),
    };
    let [running] = &list(&mut host)[..] else { panic!("one process") };
    assert_eq!((running.process, &running.program[..], running.end), (process, &b"cat"[..], None));
    assert!(Path::new("/proc").join(running.pid.to_string()).exists());
    host.end_stdin(process);
    host.until(|host| host.seen.exit(process));
    assert_eq!(list(&mut host)[0].end, Some(ProcessEnd::Exited(0)));
    host.finish(process);
    assert!(list(&mut host).is_empty());
}

#[test]
fn output_goes_on_after_a_new_connection() {
    let mut host = Host::new();
    let process = host.start(shell("head -c 3000000 /dev/zero | tr '\\0' x; cat")).unwrap();
    for part in 1..=5 {
        let enough = part * 400_000;
        host.until(|host| {
            (host.seen.output(process, Stream::Stdout).len() >= enough).then_some(())
        });
        host.connect();
    }
    host.push(process, b"end");
    host.end_stdin(process);
    let done = host.finish(process);
    assert_eq!(done.stdout.len(), 3_000_003);
    assert!(
        done.stdout.ends_with(b"xend")
            && done.stdout.iter().filter(|b| **b == b'x').count() == 3_000_000
    );
}

#[test]
fn an_identity_is_given_to_the_machine() {
    let mut host = Host::new();
    let mut identity = Identity {
        hostname: "box".to_owned(),
        machine_id: [1; 16],
        entropy: [2; 32],
        wall_clock_ns: 0,
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        net: None,
    };
    assert_eq!(host.request(Request::Configure(identity.clone())), Ok(Reply::Done));
    identity.hostname.clear();
    let refused = host.request(Request::Configure(identity));
    assert_eq!(refused, Err(Refusal::Failed("cannot be nobody".to_owned())));
}

#[test]
fn the_agent_tells_who_it_is() {
    let Ok(Reply::Info(info)) = Host::new().request(Request::Info) else { panic!("no info") };
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.boot_id.len(), 36);
}

#[test]
fn a_power_off_is_answered_before_it_happens() {
    let mut host = Host::new();
    host.start(command(&["sleep", "60"])).unwrap();
    assert_eq!(host.request(Request::PowerOff), Ok(Reply::Done));
    assert!(host.agent_end().success());
}

#[test]
fn a_process_ends_with_its_own_signal_before_the_power_goes() {
    let mut host = Host::new();
    let script = "trap 'echo quits; sleep 0.2; echo gone; exit 0' QUIT; trap 'echo ends' TERM; \
                  echo ready; while :; do sleep 0.05; done";
    let process = host.start(shell(script)).unwrap();
    host.until(|host| host.seen.text(process).contains("ready").then_some(()));
    let unknown = Request::EndWith { process: banger_link::ProcessId(7), signal: 3 };
    assert_eq!(host.request(unknown), Err(Refusal::UnknownProcess));
    let nothing = Request::EndWith { process, signal: 0 };
    assert!(matches!(host.request(nothing), Err(Refusal::Failed(_))));
    assert_eq!(host.request(Request::EndWith { process, signal: 3 }), Ok(Reply::Done));
    assert_eq!(host.request(Request::PowerOff), Ok(Reply::Done));
    host.until(|host| host.seen.exit(process));
    assert_eq!(host.seen.output(process, Stream::Stdout), b"ready\nquits\ngone\n");
    assert!(host.agent_end().success());
}
