//! How long sandboxes live when nobody says anything: their time, their idleness, and what
//! happens when their machine ends by itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{TestEnv, wait_until};
use crate::vm::says;

/// The sandbox as it is listed, which takes no notice of its guest: one that is asked for alone
/// is kept busy by the question.
fn listed(env: &TestEnv, name: &str) -> Option<Value> {
    let list = env.run(["vm", "list", "-o", "json"]).ok();
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    list.into_iter().find(|sandbox| sandbox["name"] == name)
}

fn state(env: &TestEnv, name: &str) -> String {
    let sandbox = listed(env, name).unwrap_or_else(|| panic!("{name} is gone"));
    sandbox["state"].as_str().unwrap().to_owned()
}

fn show(env: &TestEnv, name: &str) -> Value {
    serde_json::from_str(&env.run(["vm", "show", name, "-o", "json"]).ok()).unwrap()
}

fn create(env: &TestEnv, name: &str, options: &str) {
    let line = format!("vm create {name} --network none {options}");
    assert_eq!(env.run(line.split_whitespace()).ok(), format!("{name}\n"));
}

fn exec(env: &TestEnv, name: &str, script: &str) -> String {
    env.run(["vm", "exec", name, "--", "sh", "-c", script]).ok()
}

/// Has the guest end its machine. What becomes of the command is another matter.
fn power_off(env: &TestEnv, name: &str) {
    let _ = env.run(["vm", "exec", name, "--", "sh", "-c", "kill -TERM 1; sleep 1000"]);
}

/// Ends its machine as a fault of the monitor would.
fn kill_monitor(sandbox: &Value) {
    let pid = sandbox["detail"]["vmm_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

fn now() -> u64 {
    banger_host::clock::wall().as_millis().try_into().unwrap()
}

#[test]
fn a_sandbox_goes_when_its_time_is_over_whether_it_runs_or_not() {
    let Some(env) = TestEnv::with_machines() else { return };
    // What comes now is not kept waiting by a template that has to be made.
    env.sh("true").ok();
    create(&env, "short", "--ttl 30s");
    create(&env, "never", "--ttl 30s --no-start");
    let list = env.run(["vm", "list"]).ok();
    let both = ["short", "never"].map(|name| listed(&env, name).unwrap());
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].ends_with("  EXPIRES"), "{list}");
    for (line, name) in lines[1..].iter().zip(["short", "never"]) {
        let (_, left) = line.rsplit_once("  in ").unwrap_or_else(|| panic!("{list}"));
        let left: u64 = left.strip_suffix('s').unwrap().parse().unwrap();
        assert!(line.starts_with(name) && left <= 30, "{list}");
    }
    assert_eq!(both.each_ref().map(|one| &one["state"]), ["running", "created"]);
    for (sandbox, name) in both.iter().zip(["short", "never"]) {
        let expires = sandbox["expires"].as_u64().unwrap();
        assert_eq!(expires, sandbox["created"].as_u64().unwrap() + 30_000);
        wait_until("it is gone", || {
            let there = listed(&env, name).is_some_and(|sandbox| sandbox["state"] != "deleting");
            assert!(there || now() >= expires, "{name} is gone before its time is over");
            !there
        });
    }
    env.assert_nothing_left();
}

#[test]
fn a_sandbox_of_no_use_is_stopped_and_one_that_works_or_is_used_is_not() {
    let Some(env) = TestEnv::with_machines() else { return };
    create(&env, "works", "--idle-timeout 5s");
    // The command itself is over at once: what it left works on.
    let work = "while :; do :; done >/dev/null 2>&1 </dev/null & echo $! >/run/work";
    exec(&env, "works", &format!("setsid sh -c '{work}'"));
    create(&env, "used", "--idle-timeout 5s");
    let mut cat = env
        .command(["vm", "exec", "-i", "used", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    stdin.write_all(b"here\n").unwrap();
    let mut line = String::new();
    BufReader::new(cat.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    // The last to start is the first to stop.
    create(&env, "idle", "--idle-timeout 5s");
    wait_until("what is idle is stopped", || state(&env, "idle") == "stopped");
    assert_eq!([state(&env, "works"), state(&env, "used")], ["running", "running"]);

    drop(stdin);
    assert!(cat.wait().unwrap().success());
    wait_until("what is not used any more is stopped", || state(&env, "used") == "stopped");
    assert_eq!(state(&env, "works"), "running");
    exec(&env, "works", "kill $(cat /run/work)");
    wait_until("what works no more is stopped", || state(&env, "works") == "stopped");
    for name in ["works", "used", "idle"] {
        says(&env, &format!("vm delete {name}"), &format!("{name}\n"));
    }
    env.assert_nothing_left();
}

#[test]
fn a_machine_that_ends_by_itself_starts_again_as_its_policy_says() {
    let Some(env) = TestEnv::with_machines() else { return };
    create(&env, "phoenix", "--restart on-failure");
    create(&env, "restless", "--restart always");
    let runs_again = |name: &str| {
        let sandbox = listed(&env, name).unwrap();
        sandbox["state"] == "running" && sandbox["boots"] == 2
    };
    exec(&env, "phoenix", "echo kept >/root/file; sync");
    let before = show(&env, "phoenix");
    assert_eq!((&before["state"], &before["boots"]), (&"running".into(), &1.into()));
    kill_monitor(&before);
    wait_until("it runs again", || runs_again("phoenix"));
    let after = show(&env, "phoenix");
    assert_ne!(before["detail"]["vmm_pid"], after["detail"]["vmm_pid"]);
    assert_ne!(before["detail"]["boot_id"], after["detail"]["boot_id"]);
    assert_eq!(exec(&env, "phoenix", "cat /root/file"), "kept\n");

    // Who powers off means it, and stays down; unless it is to run always.
    power_off(&env, "phoenix");
    wait_until("it is off", || state(&env, "phoenix") == "stopped");
    power_off(&env, "restless");
    wait_until("it runs again", || runs_again("restless"));
    // The other had more time than this one took.
    let phoenix = listed(&env, "phoenix").unwrap();
    assert_eq!((&phoenix["state"], &phoenix["boots"]), (&"stopped".into(), &2.into()));
    assert_eq!(phoenix["reason"], "the guest powered itself off");
    says(&env, "vm delete phoenix", "phoenix\n");
    says(&env, "vm delete --force restless", "restless\n");
    env.assert_nothing_left();
}

#[test]
fn what_is_to_go_when_it_stops_goes_however_it_stops() {
    let Some(env) = TestEnv::with_machines() else { return };
    type Stop = fn(&TestEnv, &str);
    let ways: [(&str, Stop); 3] = [
        ("asked", |env, name| says(env, &format!("vm stop {name}"), &format!("{name}\n"))),
        ("off", power_off),
        ("dead", |env, name| kill_monitor(&show(env, name))),
    ];
    create(&env, "stays", "--no-start");
    for (name, stop) in ways {
        create(&env, name, "--rm");
        stop(&env, name);
        wait_until("it is gone", || env.run(["vm", "list", "-q"]).ok() == "stays\n");
    }
    says(&env, "vm delete stays", "stays\n");
    env.assert_nothing_left();
}
