//! Machines that wait to become sandboxes: each becomes one, and they are in nobody's way.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::siblings::{SIBLINGS, all_differ};
use crate::support::{TestEnv, kill, wait_until};
use crate::vm::says;

fn templates(env: &TestEnv) -> Vec<Value> {
    serde_json::from_str(&env.run(["template", "list", "-o", "json"]).ok()).unwrap()
}

/// How many machines wait.
fn waiting(env: &TestEnv) -> u64 {
    templates(env).iter().map(|template| template["spares"].as_u64().unwrap()).sum()
}

/// Waits until so many machines wait and nothing else is there: what ran goes a moment behind its
/// command. Their ids.
fn only_spares(env: &TestEnv, count: usize) -> BTreeSet<String> {
    wait_until("there are spares and nothing else", || {
        waiting(env) == count as u64 && ids(env).len() == count
    });
    ids(env)
}

/// Names of the directories of everything that is or may become a sandbox.
fn ids(env: &TestEnv) -> BTreeSet<String> {
    let names = env
        .sandboxes()
        .into_iter()
        .filter_map(|dir| dir.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    names.collect()
}

#[test]
fn sandboxes_that_were_made_ahead_are_as_different_as_others() {
    let Some(env) = TestEnv::with_machines().map(|env| env.with_spares(SIBLINGS)) else { return };
    all_differ(&env);
    let spares = only_spares(&env, SIBLINGS);
    let machines = env.processes();
    all_differ(&env);
    wait_until("all that waited were used and are gone", || {
        ids(&env).is_disjoint(&spares)
            && env.processes().iter().all(|process| !machines.contains(process))
    });
}

#[test]
fn one_that_waits_becomes_a_sandbox_like_any_other() {
    let Some(env) = TestEnv::with_machines().map(|env| env.with_spares(1)) else { return };
    env.run(["vm", "run", "--", "true"]).ok();
    let spare = only_spares(&env, 1).pop_first().unwrap();
    says(&env, "vm list -q", "");
    says(&env, "vm create web", "web\n");
    let shown: Value =
        serde_json::from_str(&env.run(["vm", "show", "web", "-o", "json"]).ok()).unwrap();
    assert_eq!(shown["id"], spare, "it was made of the machine that waited");
    says(&env, "vm exec web -- uname -n", "web\n");
    // Its memory is its template's, as any other's.
    env.run(["vm", "exec", "web", "--", "sh", "-c", "echo kept > /dev/shm/x"]).ok();
    says(&env, "vm pause web", "web\n");
    says(&env, "vm resume web", "web\n");
    says(&env, "vm exec web -- cat /dev/shm/x", "kept\n");
    env.kill_daemon();
    says(&env, "vm exec web -- cat /dev/shm/x", "kept\n");
    says(&env, "vm delete web --force", "web\n");
}

#[test]
fn they_end_with_their_daemon_or_with_the_next() {
    let Some(env) = TestEnv::with_machines().map(|env| env.with_spares(2)) else { return };
    let fill = || {
        let runs: Vec<_> =
            (0..2).map(|_| env.command(["vm", "run", "--", "true"]).spawn()).collect();
        for run in runs {
            assert!(run.unwrap().wait().unwrap().success());
        }
        only_spares(&env, 2);
    };
    fill();
    let daemon = env.daemon().unwrap();
    let pid = rustix::process::Pid::from_raw(daemon).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_until("the daemon and all machines are gone", || {
        env.daemon().is_none() && env.processes().is_empty() && ids(&env).is_empty()
    });
    fill();
    let left = ids(&env);
    env.kill_daemon();
    assert_eq!(ids(&env), left, "who is killed leaves them");
    says(&env, "vm list -q", "");
    wait_until("the next daemon ends them", || env.processes().is_empty() && ids(&env).is_empty());
}

#[test]
fn a_template_that_only_spares_were_made_from_can_be_removed() {
    let Some(env) = TestEnv::with_machines().map(|env| env.with_spares(1)) else { return };
    let own = env.home().join("state/templates");
    std::fs::remove_file(&own).unwrap();
    std::fs::create_dir(&own).unwrap();
    env.run(["vm", "run", "--", "true"]).ok();
    only_spares(&env, 1);
    let template = &templates(&env)[0];
    assert_eq!(template["in_use"], false);
    let id = template["id"].as_str().unwrap();
    says(&env, &format!("template rm {id}"), &format!("{id}\n"));
    wait_until("the spare is gone", || env.processes().is_empty() && ids(&env).is_empty());
    // One that dies while it waits is not used.
    env.run(["vm", "run", "--", "true"]).ok();
    only_spares(&env, 1);
    let (pid, _) = env.all_processes().into_iter().find(|(_, line)| line.contains("qemu")).unwrap();
    kill(pid);
    says(&env, "vm run -- echo fine", "fine\n");
}
