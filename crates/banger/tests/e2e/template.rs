//! Templates: made once, shown, removed; what is wrong with one costs time and nothing else.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use banger_api::client::{Client, SocketPath};
use banger_api::types::Operation;
use banger_host::home::Home;
use serde_json::Value;

use crate::support::{TestEnv, wait_until};
use crate::vm::{fails, ran, says};

/// A place with templates of its own, which a test may spoil and remove.
fn with_own_templates() -> Option<TestEnv> {
    let env = TestEnv::with_machines()?;
    let templates = templates(&env);
    fs::remove_file(&templates).unwrap();
    fs::create_dir(&templates).unwrap();
    Some(env)
}

fn templates(env: &TestEnv) -> PathBuf {
    env.home().join("state/templates")
}

/// The only template that there is.
fn only(env: &TestEnv) -> Value {
    let list = env.run(["template", "list", "-o", "json"]).ok();
    let mut list: Vec<Value> = serde_json::from_str(&list).unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}

fn id(template: &Value) -> String {
    template["id"].as_str().unwrap().to_owned()
}

/// Runs a command in a sandbox that is gone afterwards; returns what was said on standard error.
fn run_one(env: &TestEnv) -> String {
    let ran = env.sh("echo fine");
    assert_eq!((ran.status, ran.text().as_str()), (0, "fine\n"), "{}", ran.stderr);
    env.assert_nothing_left();
    ran.stderr
}

fn log(env: &TestEnv) -> String {
    fs::read_to_string(Home::under(&env.home()).daemon_log()).unwrap()
}

/// What the daemon does and has done.
pub(crate) fn operations(env: &TestEnv) -> Vec<Operation> {
    let client = Client::new(Arc::new(SocketPath(Home::under(&env.home()).socket())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.operations()).unwrap()
}

/// How often a template was prepared for somebody who waited.
fn preparations(env: &TestEnv) -> usize {
    let operations = operations(env);
    let stages = operations.iter().flat_map(|operation| &operation.stages);
    stages.filter(|stage| stage.what == "preparing template (once)").count()
}

#[test]
fn what_names_no_template_is_refused() {
    let env = TestEnv::empty();
    let header = "ID  IMAGE  MEMORY  SIZE  AGE  USED  HITS  IN USE  SPARES\n";
    says(&env, "template list", header);
    says(&env, "template ls -q", "");
    says(&env, "template list -o json", "[]\n");
    let unknown = "banger: there is no template \"5a27\"\n\
                   hint: `banger template list` shows those that are there\n";
    fails(&env, "template rm 5a27", 1, unknown);
    fails(&env, "template delete 5a27 5a27", 1, unknown);
    let refusal = "banger: prune asks before it deletes, and there is no terminal to ask on\n\
                   hint: --yes deletes without asking, --dry-run tells what would go\n";
    fails(&env, "template prune", 2, refusal);
    let nothing = "banger: there is nothing to delete\n";
    assert_eq!(ran(&env, "template prune -y"), (0, String::new(), nothing.into()));
    assert_eq!(ran(&env, "template prune -n"), (0, String::new(), nothing.into()));
    for (line, says) in [("template rm", "<ID>..."), ("template list -q -o json", "cannot be used")]
    {
        let (status, _, stderr) = ran(&env, line);
        assert!(status == 2 && stderr.contains(says), "{line}: {stderr}");
    }
}

#[test]
fn a_template_is_made_once_and_stays_as_long_as_it_is_in_use() {
    let Some(env) = with_own_templates() else { return };
    run_one(&env);
    assert_eq!(preparations(&env), 1);
    assert_eq!(run_one(&env), "");
    assert_eq!(preparations(&env), 1, "it is made once");
    let template = only(&env);
    let id = id(&template);
    assert_eq!((&template["hits"], &template["in_use"]), (&2.into(), &false.into()));
    assert!(template["last_used"].as_u64() >= template["made"].as_u64(), "{template}");
    let size = template["size"].as_u64().unwrap();
    assert!((1 << 20..1 << 30).contains(&size), "{template}");
    let list = env.run(["template", "list"]).ok();
    let row: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], [&id, "debian-bookworm", template_memory(&template).as_str()], "{list}");
    assert!(list.ends_with(" ago  2     no      0\n"), "{list}");
    says(&env, "template list -q", &format!("{id}\n"));
    let offered =
        env.command(["--", "banger", "template", "rm", ""]).env("COMPLETE", "fish").output();
    let offered = String::from_utf8(offered.unwrap().stdout).unwrap();
    assert!(offered.contains(&id), "{offered}");

    says(&env, "vm create web --network none", "web\n");
    let shown = env.run(["vm", "show", "web"]).ok();
    assert!(shown.lines().any(|l| l.starts_with("template:") && l.ends_with(&id)), "{shown}");
    assert_eq!(only(&env)["in_use"], true);
    let in_use = format!(
        "banger: template {id} is in use: a sandbox that was made from it runs\n\
         hint: stop the sandbox; `banger vm show` tells of each what it was made from\n"
    );
    let nothing = "banger: there is nothing to delete\n";
    fails(&env, &format!("template rm {}", &id[..4]), 1, &in_use);
    // Another daemon knows it, too, as soon as it has taken the sandbox over.
    env.kill_daemon();
    wait_until("the sandbox is taken over", || only(&env)["in_use"] == true);
    fails(&env, &format!("template rm {id}"), 1, &in_use);
    assert_eq!(ran(&env, "template prune -y"), (0, String::new(), nothing.into()));

    says(&env, "vm stop web", "web\n");
    // What looked after the machine lets go of it a moment later.
    wait_until("nobody uses it", || only(&env)["in_use"] == false);
    says(&env, &format!("template rm {} {}", &id[..5], &id[..5]), &format!("{id}\n"));
    says(&env, "template list -q", "");
    assert!(!templates(&env).join(&id).exists());
    // What has a disk boots from it.
    says(&env, "vm start web", "web\n");
    let shown = env.run(["vm", "show", "web"]).ok();
    assert!(!shown.contains("template:"), "{shown}");
    says(&env, "vm delete --force web", "web\n");
    env.assert_nothing_left();
}

fn template_memory(template: &Value) -> String {
    banger_model::Bytes::new(template["memory"].as_u64().unwrap()).to_string()
}

#[test]
fn templates_that_are_not_in_use_are_pruned_and_made_anew_when_they_are_needed() {
    let Some(env) = with_own_templates() else { return };
    run_one(&env);
    let first = only(&env);
    let size = banger_model::Bytes::new(first["size"].as_u64().unwrap());
    let one = format!("{}\n", id(&first));
    let would = format!("banger: 1 template of {size} would be deleted\n");
    assert_eq!(ran(&env, "template prune --dry-run"), (0, one.clone(), would));
    says(&env, "template list -q", &one);
    let gone = format!("banger: 1 template of {size} deleted\n");
    assert_eq!(ran(&env, "template prune --yes"), (0, one.clone(), gone));
    says(&env, "template list -q", "");
    run_one(&env);
    let second = only(&env);
    assert_eq!((id(&second), &second["hits"]), (id(&first), &1.into()));
    assert!(second["made"].as_u64() > first["made"].as_u64());
    assert_eq!(preparations(&env), 2);
}

#[test]
fn a_template_that_is_damaged_is_found_out_and_made_anew() {
    let Some(env) = with_own_templates() else { return };
    run_one(&env);
    let mut before = only(&env);
    let dir = templates(&env).join(id(&before));
    type Break = fn(PathBuf);
    let breaks: [Break; 2] = [
        |dir| fs::write(dir.join("devices"), b"garbage").unwrap(),
        |dir| {
            let memory = fs::File::options().write(true).open(dir.join("memory")).unwrap();
            memory.set_len(memory.metadata().unwrap().len() / 2).unwrap();
        },
    ];
    for (broken, break_it) in breaks.into_iter().enumerate() {
        env.kill_daemon();
        break_it(dir.clone());
        run_one(&env);
        let after = only(&env);
        assert_eq!((id(&after), &after["hits"]), (id(&before), &1.into()));
        assert!(after["made"].as_u64() > before["made"].as_u64(), "{after}");
        let log = log(&env);
        let said = log.matches("removed a template that is not whole").count();
        assert_eq!(said, broken + 1, "{log}");
        before = after;
    }
}

#[test]
fn a_template_that_is_damaged_behind_the_daemons_back_is_done_without() {
    let Some(env) = with_own_templates() else { return };
    run_one(&env);
    let devices = templates(&env).join(id(&only(&env))).join("devices");
    fs::write(devices, b"garbage").unwrap();
    let said = run_one(&env);
    assert!(said.contains(": the template cannot be used, so it boots: "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    says(&env, "template list -q", "");
    // For a while, nobody tries again, and nobody is told again.
    assert_eq!(run_one(&env), "");
    let log = log(&env);
    assert_eq!(log.matches(" WARN ").count(), 1, "{log}");
    assert!(log.contains("a template is of no use"), "{log}");
}

/// A guest that is made small must not take more than it has, however much that is.
#[test]
fn a_template_is_made_whatever_the_memory() {
    let Some(env) = with_own_templates() else { return };
    for memory in ["256M", "1G", "3G"] {
        let ran = env.run(["vm", "run", "--memory", memory, "--network", "none", "--", "true"]);
        assert_eq!((ran.status, ran.stderr.contains("no template")), (0, false), "{}", ran.stderr);
    }
    let list = env.run(["template", "list", "-q"]).ok();
    assert_eq!(list.lines().count(), 3, "{list}");
}
