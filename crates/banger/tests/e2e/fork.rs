//! `vm fork`: copies of a sandbox that runs, in which its processes go on.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::pause::{daemon_that_dies_at, daemon_with, exec, show};
use crate::support::{TestEnv, kill, wait_until};
use crate::vm::fails;

/// How many copies are made at once.
const COPIES: usize = 3;
/// How long a sandbox may stand still while it is copied: some 50 ms where it was measured, under
/// emulation, times what else the host may have to do.
const LONGEST_GAP_MS: u64 = 5_000;

/// Nothing that two copies have in common with each other or with their source.
const UNIQUE: [&str; 9] = [
    "hostname",
    "cat /etc/hostname",
    "cat /etc/machine-id",
    "cat /proc/sys/kernel/random/boot_id",
    "cat /sys/class/net/eth0/address",
    "hostname -I",
    "head -c 16 /dev/urandom | od -An -tx1",
    "cat /proc/sys/kernel/random/uuid",
    "perl -e 'print rand(), \"\\n\"'",
];

/// Starts a process that knows something that is nowhere but in its memory, and tells it with the
/// number of times that it was asked.
const KEEPER: &str = "
    mkfifo /root/ask /root/answer
    cat > /root/keeper <<'EOF'
secret=$(cat /proc/sys/kernel/random/uuid)
n=0
while read line < /root/ask; do n=$((n+1)); echo $secret $n > /root/answer; done
EOF
    setsid sh /root/keeper </dev/null >/dev/null 2>&1 &";
const ASK: &str = "echo > /root/ask; cat /root/answer";

/// Starts a process that writes down what time it is, again and again.
const TICKER: &str = "
    cat > /root/ticker <<'EOF'
while :; do date +%s%3N >> /dev/shm/ticks; sleep 0.05; done
EOF
    setsid sh /root/ticker </dev/null >/dev/null 2>&1 &
    until [ -s /dev/shm/ticks ]; do sleep 0.05; done";

fn fork(env: &TestEnv, args: &[&str]) -> Vec<String> {
    let args = ["vm", "fork", "-q"].iter().chain(args);
    env.run(args).ok().lines().map(str::to_owned).collect()
}

/// Directories of snapshots, whole or not.
fn snapshots(env: &TestEnv) -> usize {
    let names = std::fs::read_dir(env.home().join("state/snapshots")).into_iter().flatten();
    names.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

fn longest_gap(ticks: &str) -> u64 {
    let ticks: Vec<u64> = ticks.lines().map(|tick| tick.parse().unwrap()).collect();
    ticks.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap()
}

#[test]
fn each_copy_goes_on_as_somebody_else_and_the_source_hardly_notices() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--label", "app=shop"]).ok();
    exec(&env, "web", &format!("echo before > /root/file\n{KEEPER}\n{TICKER}"));
    // The kernel makes up its boot id when it is first asked: a copy would make up its own.
    exec(&env, "web", &UNIQUE.join("\n"));
    let told = exec(&env, "web", ASK);
    let (secret, _) = told.trim().split_once(' ').unwrap();
    let names = fork(&env, &["web", "-n", &COPIES.to_string()]);
    assert_eq!(names, ["web-1", "web-2", "web-3"]);
    // Each was asked once before, as somebody else, and knows it.
    for name in &names {
        assert_eq!(exec(&env, name, ASK), format!("{secret} 2\n"), "{name}");
        assert_eq!(exec(&env, name, "cat /root/file"), "before\n");
    }
    assert_eq!(exec(&env, "web", ASK), format!("{secret} 2\n"));
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["web"]).collect();
    let answers: Vec<String> = all.iter().map(|n| exec(&env, n, &UNIQUE.join("\n"))).collect();
    for (at, thing) in UNIQUE.iter().enumerate() {
        let each: BTreeSet<_> = answers.iter().map(|told| told.lines().nth(at).unwrap()).collect();
        assert_eq!(each.len(), all.len(), "{thing}: {each:?}");
    }
    for (name, told) in all.iter().zip(&answers) {
        let shown = show(&env, name);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!([lines[0], lines[1]], [*name, *name]);
        assert_eq!(shown["detail"]["boot_id"], lines[3], "{name}");
        assert_eq!(shown["detail"]["address"], lines[5].trim(), "{name}");
        assert_eq!(shown["labels"]["app"], "shop");
    }
    // What is written from now on is each one's own.
    for name in &all {
        exec(&env, name, &format!("echo {name} > /root/file; echo {name} > /dev/shm/file; sync"));
    }
    for name in &all {
        let read = exec(&env, name, "cat /root/file /dev/shm/file");
        assert_eq!(read, format!("{name}\n{name}\n"));
    }
    let gap = longest_gap(&exec(&env, "web", "cat /dev/shm/ticks"));
    assert!(gap < LONGEST_GAP_MS, "{gap} ms");
    wait_until("what only the copies needed is gone", || snapshots(&env) == 0);
    assert_eq!(env.run(["snapshot", "list", "-q"]).ok(), "");
    env.run(["vm", "delete", "--force"].into_iter().chain(all)).ok();
    env.assert_nothing_left();
}

#[test]
fn a_pipe_in_the_place_of_a_file_keeps_no_copy_from_coming_up() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "rm /etc/hostname; mkfifo /etc/hostname");
    let names = fork(&env, &["web", "-n", "2"]);
    for name in &names {
        assert_eq!(exec(&env, name, "cat /etc/hostname"), format!("{name}\n"));
    }
    env.run(["vm", "delete", "--force", "web"].into_iter().chain(names.iter().map(String::as_str)))
        .ok();
    env.assert_nothing_left();
}

#[test]
fn a_copy_of_what_cannot_write_to_its_root_is_somebody_else_too() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "mount -o remount,ro /");
    let first = fork(&env, &["web"]).remove(0);
    let second = fork(&env, &[&first]).remove(0);
    for name in ["web", &first, &second] {
        assert_eq!(exec(&env, name, "cat /etc/hostname"), format!("{name}\n"));
    }
    let id = |name: &str| exec(&env, name, "cat /etc/machine-id");
    assert!(id(&first) != id("web") && id(&first) != id(&second));
    env.run(["vm", "delete", "--force", "web", &first, &second]).ok();
    env.assert_nothing_left();
}

#[test]
fn a_copy_is_a_sandbox_like_any_other() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", &format!("echo here > /root/file; sync\n{KEEPER}\n{ASK}"));
    let first = fork(&env, &["web", "--name", "first"]);
    assert_eq!(first, ["first-1"]);
    env.run(["vm", "delete", "--force", "web"]).ok();
    // A copy of a copy, and one whose source is paused and gone on with.
    let boot = show(&env, "first-1")["detail"]["boot_id"].clone();
    env.run(["vm", "pause", "first-1"]).ok();
    env.run(["vm", "resume", "first-1"]).ok();
    assert_eq!(show(&env, "first-1")["detail"]["boot_id"], boot, "it is who it was");
    let told = exec(&env, "first-1", ASK);
    let second = fork(&env, &["first-1"]);
    let again = exec(&env, &second[0], ASK);
    assert_eq!(again.split(' ').next(), told.split(' ').next());
    assert_ne!(show(&env, &second[0])["detail"]["boot_id"], boot);
    env.kill_daemon();
    assert_eq!(exec(&env, &second[0], "hostname"), format!("{}\n", second[0]));
    env.run(["vm", "restart", &second[0]]).ok();
    assert_eq!(exec(&env, &second[0], "cat /root/file; ls /dev/shm"), "here\n");
    env.run(["vm", "delete", "--force", "first-1", &second[0]]).ok();
    env.assert_nothing_left();
    assert_eq!(snapshots(&env), 0);
}

#[test]
fn a_daemon_that_dies_in_a_fork_is_followed_by_one_that_finishes_it() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    // It knows its secret once it has told it.
    exec(&env, "web", &format!("{KEEPER}\n{ASK}"));
    let boot = show(&env, "web")["detail"]["boot_id"].clone();
    for checkpoint in [
        "snapshot.decided",
        "snapshot.paused",
        "snapshot.saved",
        "snapshot.kept",
        "snapshot.recorded",
        "restore.filled",
        "start.prepared",
        "resume.used",
        "start.answered",
        "start.recorded",
    ] {
        env.kill_daemon();
        let mut dying = daemon_that_dies_at(&env, checkpoint);
        let names = fork(&env, &["web", "-n", "2"]);
        assert!(!dying.wait().unwrap().success(), "{checkpoint} was not reached");
        assert_eq!(names, ["web-1", "web-2"], "{checkpoint}");
        let told: Vec<_> = ["web", "web-1", "web-2"].map(|name| exec(&env, name, ASK)).into();
        let secrets: BTreeSet<_> = told.iter().map(|told| told.split(' ').next()).collect();
        assert_eq!(secrets.len(), 1, "{checkpoint}: {told:?}");
        wait_until("what only the copies needed is gone", || snapshots(&env) == 0);
        env.run(["vm", "delete", "--force", "web-1", "web-2"]).ok();
        let listed = env.run(["vm", "list"]).ok();
        assert_eq!(env.sandboxes().len(), 1, "{checkpoint}: {listed} {:?}", env.sandboxes());
    }
    assert_eq!(show(&env, "web")["detail"]["boot_id"], boot, "it was never booted again");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn a_copy_that_was_stopped_before_it_began_goes_with_a_fork_that_fails() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    env.kill_daemon();
    let mut daemon = daemon_with(&env, "snapshot.frozen=hold");
    let mut fork = env.command(["vm", "fork", "web", "--name", "copy"]);
    let mut fork = fork.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let listed = || env.run(["vm", "list", "-q"]).ok();
    wait_until("the copy is remembered", || listed().contains("copy-1\n"));
    env.run(["vm", "kill", "copy-1"]).ok();
    assert_eq!(show(&env, "copy-1")["state"], "stopped");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for (pid, _) in env.all_processes().into_iter().filter(|(_, line)| line.contains("qemu-")) {
        kill(pid);
    }
    assert!(!fork.wait().unwrap().success());
    wait_until("nothing is left of the fork", || listed() == "web\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn only_what_runs_is_forked_and_only_so_often() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--no-start"]).ok();
    let refused =
        "banger: cannot fork web: it is created, and a snapshot is taken only of what runs\n";
    fails(&env, "vm fork web", 1, refused);
    assert_eq!(env.sandboxes().len(), 0, "nothing was made");
    for count in ["0", "65", "x"] {
        assert_eq!(env.run(["vm", "fork", "web", "-n", count]).status, 2, "{count}");
    }
    assert_eq!(env.run(["vm", "fork", "nobody"]).status, 1);
    assert_eq!(env.run(["vm", "list", "-q"]).ok(), "web\n");
    env.run(["vm", "delete", "web"]).ok();
}
