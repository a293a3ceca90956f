//! Sandboxes that stay: made, listed, shown, stopped, started, deleted.

use crate::support::{TestEnv, wait_until};

/// What `vm list` and others say of a sandbox that is not there.
const UNKNOWN: &str = "banger: there is no sandbox \"nobody\"\n\
                       hint: `banger vm list` shows those that are there\n";

/// Status, standard output and standard error.
pub(crate) fn ran(env: &TestEnv, line: &str) -> (i32, String, String) {
    let ran = env.run(line.split_whitespace());
    (ran.status, ran.text(), ran.stderr)
}

/// A run that says this on standard output and nothing else.
pub(crate) fn says(env: &TestEnv, line: &str, expected: &str) {
    assert_eq!(ran(env, line), (0, expected.to_owned(), String::new()), "{line}");
}

/// A run that fails and says this on standard error.
pub(crate) fn fails(env: &TestEnv, line: &str, status: i32, expected: &str) {
    assert_eq!(ran(env, line), (status, String::new(), expected.to_owned()), "{line}");
}

fn state(env: &TestEnv, name: &str) -> String {
    let json = env.run(["vm", "show", name, "-o", "json"]).ok();
    let sandbox: serde_json::Value = serde_json::from_str(&json).unwrap();
    sandbox["state"].as_str().unwrap().to_owned()
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let env = TestEnv::empty();
    for (line, says) in [
        ("vm create Web", "is not a name"),
        ("vm create --label =x", "is no label key"),
        ("vm create --ttl 8", "is no time span"),
        ("vm create --idle-timeout soon", "is no time span"),
        ("vm create --restart maybe", "is no restart policy"),
        ("vm create --network bridge", "is no network"),
        ("vm create --cpus 0", "is not a number of CPUs"),
        ("vm create --memory 1M", "out of range"),
        ("vm list -q -o json", "cannot be used with"),
        ("vm list --label =x", "is no label key"),
        ("vm stop", "<NAME>..."),
        ("vm show", "<NAME>"),
    ] {
        let (status, stdout, stderr) = ran(&env, line);
        assert_eq!((status, stdout.as_str()), (2, ""), "{line}: {stderr}");
        assert!(stderr.contains(says), "{line}: {stderr}");
    }
    assert_eq!(env.daemon(), None, "for none of that a daemon is needed");
}

#[test]
fn a_sandbox_that_is_not_there_is_said_not_to_be() {
    let env = TestEnv::empty();
    for command in ["show", "start", "stop", "restart", "kill", "delete", "delete -f"] {
        fails(&env, &format!("vm {command} nobody"), 1, UNKNOWN);
    }
    says(&env, "vm list", "NAME  ID  STATE  IMAGE  AGE\n");
    says(&env, "vm list -q", "");
    says(&env, "ps -o json", "[]\n");
}

#[test]
fn a_sandbox_that_was_never_started_is_listed_shown_and_deleted() {
    let env = TestEnv::empty();
    let options = "--label app=shop --label x --ttl 8h --idle-timeout 30m --restart always";
    says(&env, &format!("vm create web --no-start {options}"), "web\n");
    says(&env, "vm create db --no-start", "db\n");
    let (status, stdout, stderr) = ran(&env, "vm create web --no-start");
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("banger: the name web is taken by sandbox "), "{stderr}");

    let list = env.run(["vm", "list"]).ok();
    let lines: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "ID", "STATE", "IMAGE", "AGE", "EXPIRES", "IDLE"]);
    assert_eq!((lines[1][0], lines[1][2], lines[1][3]), ("web", "created", "debian-bookworm"));
    assert!(list.contains("  in 7h 59m  30m\n"), "{list}");
    says(&env, "vm list -q", "web\ndb\n");
    says(&env, "vm list -q --label app=shop --label x", "web\n");
    says(&env, "vm list -q --label app=other", "");
    says(&env, "ps -q", "");
    says(&env, "ps -aq", "web\ndb\n");

    let id = lines[1][1];
    says(&env, &format!("vm show -q {id}"), "web\n");
    says(&env, &format!("vm show -q {}", &id[..11]), "web\n");
    let shown = env.run(["vm", "show", "web"]).ok();
    for line in ["state:        created", "label:        app=shop", "restart:      always"] {
        assert!(shown.contains(&format!("{line}\n")), "{line} in {shown}");
    }
    assert!(shown.contains("8G, not made yet"), "{shown}");

    // To be down is what is asked for.
    says(&env, "vm stop web", "web\n");
    let hint = "hint: start it with `banger vm start web`\n";
    for command in ["stats web", "cp web:/etc ."] {
        let expected = format!("banger: sandbox web is created, not running\n{hint}");
        fails(&env, &format!("vm {command}"), 1, &expected);
    }
    let (status, stdout, stderr) = ran(&env, "vm delete web nobody web");
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (1, "web\n", UNKNOWN));
    says(&env, "vm rm db", "db\n");
    says(&env, "vm list -q", "");
}

#[test]
fn completion_knows_the_sandboxes_and_starts_no_daemon() {
    let env = TestEnv::empty();
    let offered = |line: &[&str]| {
        let mut command = env.command(["--", "banger"].iter().chain(line));
        let output = command.env("COMPLETE", "fish").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!offered(&["vm", "stop", ""]).contains("web"));
    assert_eq!(env.daemon(), None);
    says(&env, "vm create --no-start web", "web\n");
    // A daemon that does not answer at once is not waited for: nothing is offered then.
    let is_offered = |line: &[&str], what: &str| {
        wait_until(&format!("{what} is offered to {line:?}"), || {
            offered(line).lines().any(|line| line == what)
        });
    };
    for command in ["start", "stop", "show", "delete", "logs", "stats", "exec"] {
        is_offered(&["vm", command, ""], "web");
    }
    is_offered(&["vm", "cp", "we"], "web:");
}

#[test]
fn an_id_that_begins_like_two_is_ambiguous() {
    let env = TestEnv::empty();
    let mut begins = std::collections::BTreeSet::new();
    // The shortest prefix has two digits: of 257 ids, two begin alike, and mostly of a few.
    let twice = (0..257).find_map(|number| {
        let name = format!("s-{number}");
        env.run(["vm", "create", "--no-start", &name]).ok();
        let json = env.run(["vm", "show", "-o", "json", &name]).ok();
        let sandbox: serde_json::Value = serde_json::from_str(&json).unwrap();
        let begin = sandbox["id"].as_str().unwrap()[..2].to_owned();
        (!begins.insert(begin.clone())).then_some(begin)
    });
    let twice = twice.unwrap();
    for command in ["show", "stop", "delete", "logs"] {
        let (status, stdout, stderr) = ran(&env, &format!("vm {command} {twice}"));
        assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.starts_with(&format!("banger: \"{twice}\" could be {twice}")), "{stderr}");
        assert!(stderr.ends_with("hint: give more of the id, or the name\n"), "{stderr}");
    }
}

#[test]
fn a_sandbox_lives_from_its_creation_to_its_end() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (status, stdout, stderr) = ran(&env, "vm create web --network none --label app=shop");
    assert_eq!((status, stdout.as_str()), (0, "web\n"), "{stderr}");
    says(&env, "ps -q", "web\n");
    let shown = env.run(["vm", "show", "web"]).ok();
    for field in ["state:       running\n", "accelerator: ", "vmm:         process ", "boot id: "] {
        assert!(shown.contains(field), "{field} in {shown}");
    }
    assert!(shown.lines().any(|l| l.starts_with("disk:") && l.ends_with(" of 8G")), "{shown}");
    // What is so already is as it should be.
    says(&env, "vm start web", "web\n");
    let (status, stdout, stderr) = ran(&env, "vm delete web");
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("cannot delete web: it is running"), "{stderr}");
    assert!(stderr.contains("--force"), "{stderr}");

    env.run(["vm", "exec", "web", "--", "sh", "-c", "echo kept >/root/file"]).ok();
    says(&env, "vm restart web", "web\n");
    assert_eq!(env.run(["vm", "exec", "web", "--", "cat", "/root/file"]).ok(), "kept\n");
    says(&env, "vm stop web", "web\n");
    assert_eq!(state(&env, "web"), "stopped");
    let shown = env.run(["vm", "show", "web"]).ok();
    assert!(shown.contains("reason:    as asked\n"), "{shown}");
    says(&env, "ps -q", "");
    says(&env, "vm start web --no-wait", "web\n");
    says(&env, "vm kill web", "web\n");
    assert_eq!(state(&env, "web"), "stopped");
    says(&env, "vm delete web", "web\n");
    env.assert_nothing_left();
}

#[test]
fn a_sandbox_that_does_not_start_stays_to_be_looked_at() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (status, stdout, stderr) = ran(&env, "vm create web --image 127.0.0.1:1/no-such-image");
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    let begin = "banger: sandbox web is made, but did not start: ";
    assert!(stderr.starts_with(begin) && stderr.contains("no-such-image"), "{stderr}");
    assert!(stderr.contains("\nhint: `banger vm logs web` "), "{stderr}");
    assert_eq!(state(&env, "web"), "failed");
    let (status, _, stderr) = ran(&env, "vm start web");
    assert_eq!(status, 1);
    assert!(stderr.starts_with("banger: sandbox web did not start: "), "{stderr}");
    let (status, _, stderr) = ran(&env, "vm create gone --rm --image 127.0.0.1:1/no-such-image");
    assert_eq!(status, 1);
    assert!(stderr.contains("gone did not start, and is deleted again: "), "{stderr}");
    crate::support::wait_until("it is deleted", || env.run(["vm", "list", "-q"]).ok() == "web\n");
}
