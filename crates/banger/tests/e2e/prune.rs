//! All that do not run go at once.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::TestEnv;
use crate::vm::{fails, ran, says};

#[test]
fn what_does_not_run_is_pruned_and_what_runs_is_not() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (status, _, stderr) = ran(&env, "vm create runs --network none --label app=shop");
    assert_eq!(status, 0, "{stderr}");
    for name in ["a", "b"] {
        env.run(["vm", "create", "--no-start", "--label", &format!("app={name}"), name]).ok();
    }
    let refusal = "banger: prune asks before it deletes, and there is no terminal to ask on\n\
                   hint: --yes deletes without asking, --dry-run tells what would go\n";
    fails(&env, "vm prune", 2, refusal);
    let would = "banger: 2 sandboxes of 0B would be deleted\n";
    assert_eq!(ran(&env, "vm prune -n"), (0, "a\nb\n".into(), would.into()));
    says(&env, "vm list -q", "runs\na\nb\n");
    let gone = "banger: 1 sandbox of 0B deleted\n";
    assert_eq!(ran(&env, "vm prune -y --label app=a"), (0, "a\n".into(), gone.into()));
    says(&env, "vm list -q", "runs\nb\n");
    assert_eq!(ran(&env, "vm prune --yes"), (0, "b\n".into(), gone.into()));
    let nothing = "banger: there is nothing to delete\n";
    assert_eq!(ran(&env, "vm prune -y"), (0, String::new(), nothing.into()));
    assert_eq!(ran(&env, "vm prune -n"), (0, String::new(), nothing.into()));
    says(&env, "vm list -q", "runs\n");
    says(&env, "vm delete --force runs", "runs\n");
    env.assert_nothing_left();
}

#[test]
fn on_a_terminal_it_asks_and_takes_only_a_yes() {
    let env = TestEnv::empty();
    env.run(["vm", "create", "--no-start", "a"]).ok();
    for (answer, left) in [("\n", "a\n"), ("n\n", "a\n"), ("y\n", "")] {
        let line = format!("{} vm prune", env.program().display());
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env_clear();
        script.env("PATH", "/usr/bin:/bin").env("BANGER_HOME", env.home());
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("Delete 1 sandbox of 0B for good? [y/N]"), "{said}");
        says(&env, "vm list -q", left);
    }
}
