//! When sandboxes go, and when they stay.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::pause::daemon_with;
use crate::support::TestEnv;

/// Starts a shell script in a sandbox and waits until it says that it is ready.
fn start(env: &TestEnv, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = env
        .command(["vm", "run", "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, stdout)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (mut child, _stdout) = start(&env, "echo ready; sleep 1000");
    assert_eq!(env.sandboxes().len(), 1);
    assert!(env.processes().iter().any(|line| line.contains("qemu")));
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    env.assert_nothing_left();
}

#[test]
fn what_an_owner_and_a_daemon_left_goes_with_the_next_daemon() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (mut child, _stdout) = start(&env, "echo ready; sleep 1000");
    // Stopped, so that it does not start another daemon when it sees that this one is gone.
    signal(&child, Signal::STOP);
    env.kill_daemon();
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert_eq!(env.sandboxes().len(), 1, "nobody is left to remove it");
    env.run(["vm", "list"]).ok();
    env.assert_nothing_left();
}

#[test]
fn an_interrupt_reaches_the_command() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let (mut child, mut stdout) = start(&env, script);
    signal(&child, Signal::INT);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("caught\n", Some(9)));
    env.assert_nothing_left();
}

#[test]
fn an_interrupt_while_it_starts_leaves_nothing() {
    let Some(env) = TestEnv::with_machines() else { return };
    let mut child = env.command(["vm", "run", "--", "true"]).stdin(Stdio::null()).spawn().unwrap();
    crate::support::wait_until("a machine is there", || {
        env.processes().iter().any(|line| line.contains("qemu"))
    });
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    env.assert_nothing_left();
}

#[test]
fn the_end_of_the_guest_is_told_with_its_reason() {
    let Some(env) = TestEnv::with_machines() else { return };
    for (script, reason) in [
        ("kill -TERM 1; sleep 100", "the guest powered itself off"),
        ("echo b > /proc/sysrq-trigger; sleep 100", "the guest restarted"),
        ("echo c > /proc/sysrq-trigger; sleep 100", "the guest's kernel panicked"),
    ] {
        let ran = env.sh(script);
        assert_eq!(ran.status, 125, "{script}");
        assert!(ran.stderr.contains(reason), "{script}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    env.assert_nothing_left();
}

#[test]
fn whoever_comes_late_is_told_how_it_ended() {
    let Some(env) = TestEnv::with_machines() else { return };
    // It has ended and is to go, or its deletion is begun, and goes no further.
    for (checkpoint, state) in [("stop.recorded", "stopped"), ("delete.decided", "deleting")] {
        env.run(["vm", "create", "box", "--rm", "--network", "none"]).ok();
        env.kill_daemon();
        let mut daemon = daemon_with(&env, &format!("{checkpoint}=hold"));
        let off = env.run(["vm", "exec", "box", "--", "sh", "-c", "kill -TERM 1; sleep 100"]);
        assert!(off.stderr.contains("the guest powered itself off"), "{}", off.stderr);
        let late = env.run(["vm", "exec", "box", "--", "true"]);
        let why =
            format!("banger: sandbox box is {state}, not running: the guest powered itself off\n");
        assert_eq!((late.status, late.stderr), (125, why));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        // The next one goes on with it.
        env.run(["vm", "list"]).ok();
        env.assert_nothing_left();
    }
}

#[test]
fn a_reader_that_does_not_read_keeps_no_signal_from_its_command() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (mut child, stdout) = start(&env, "echo ready; yes");
    // The pipe, the link's window and the guest's own pipe are full within a second; nothing
    // here depends on it.
    signal(&child, Signal::TERM);
    // Killed by the signal that was passed on, or given up after the grace period.
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(143));
    drop(stdout);
    env.assert_nothing_left();
}

#[test]
fn a_kept_sandbox_keeps_its_disk_in_order() {
    let Some(env) = TestEnv::with_machines() else { return };
    let ran = env.run(["vm", "run", "--keep", "--", "sh", "-c", "echo kept > /root/file"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let [dir] = &env.sandboxes()[..] else { panic!("{:?}", env.sandboxes()) };
    let name = env.run(["vm", "list", "-q"]).ok();
    let name = name.trim();
    assert!(ran.stderr.starts_with(&format!("banger: kept as {name}: ")), "{}", ran.stderr);
    let disk = dir.join("disk.ext4");
    let check = std::process::Command::new("e2fsck").arg("-fn").arg(&disk).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let cat = ["-R", "cat /upper/root/file"];
    let read = std::process::Command::new("debugfs").args(cat).arg(&disk).output().unwrap();
    assert_eq!(read.stdout, b"kept\n");
    crate::support::wait_until("its processes are gone", || env.processes().is_empty());
    env.run(["vm", "run", "--", "true"]).ok();
    assert!(disk.exists(), "nobody takes what is kept");
    env.run(["vm", "delete", name]).ok();
    env.assert_nothing_left();
}
