//! What a sandbox writes to its console, and what it uses.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::support::TestEnv;
use crate::vm::{fails, ran};

const UNKNOWN: &str = "banger: there is no sandbox \"nobody\"\n\
                       hint: `banger vm list` shows those that are there\n";

fn console(env: &TestEnv, text: &str) {
    let script = format!("printf '{text}' >/dev/console");
    env.run(["vm", "exec", "web", "--", "sh", "-c", &script]).ok();
}

#[test]
fn logs_and_stats_of_a_sandbox_that_runs() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (status, _, stderr) = ran(&env, "vm create web --network none");
    assert_eq!(status, 0, "{stderr}");
    logs(&env);
    stats(&env);
    env.run(["vm", "delete", "-f", "web"]).ok();
    env.assert_nothing_left();
}

fn logs(env: &TestEnv) {
    fails(env, "vm logs nobody", 1, UNKNOWN);
    let (status, _, stderr) = ran(env, "vm logs --since yesterday web");
    assert_eq!(status, 2);
    assert!(stderr.contains("is no time span"), "{stderr}");
    assert_eq!(ran(env, "vm logs --since 1h --tail 1 web").0, 2);

    let mut follow = env
        .command(["vm", "logs", "-f", "--tail", "1", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap());
    console(env, "first\\n\\033[2Jsecond\\n");
    let mut seen = String::new();
    while !seen.ends_with("\x1b[2Jsecond\r\n") {
        assert_ne!(lines.read_line(&mut seen).unwrap(), 0, "{seen:?}");
    }
    // A pipe gets every byte; a terminal gets nothing that steers it.
    let tail = env.run(["vm", "logs", "--tail", "1", "web"]);
    assert_eq!(tail.stdout, b"\x1b[2Jsecond\r\n");
    let line = format!("{} vm logs --tail 1 web", env.program().display());
    let output = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("BANGER_HOME", env.home())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\\u{1b}[2Jsecond\r\n");
    let all = env.run(["vm", "logs", "--since", "1h", "web"]).ok();
    assert!(all.contains("first"), "{all}");
    env.run(["vm", "logs", "--source", "agent", "web"]).ok();
    assert_eq!(env.run(["vm", "logs", "--source", "vmm", "web"]).status, 0);

    // A reader that goes is no failure, and a sandbox that stops ends its log.
    drop(lines);
    console(env, "third\\n");
    assert!(follow.wait().unwrap().success());
    let follow = env.command(["vm", "logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    env.run(["vm", "restart", "web"]).ok();
    env.run(["vm", "stop", "web"]).ok();
    let output = follow.wait_with_output().unwrap();
    assert!(output.status.success());
    env.run(["vm", "start", "web"]).ok();
}

fn stats(env: &TestEnv) {
    fails(env, "vm stats nobody", 1, UNKNOWN);
    for line in ["vm stats", "vm stats web"] {
        let table = env.run(line.split_whitespace()).ok();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        let header: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(header, ["NAME", "CPU", "MEMORY", "RSS", "DISK", "NET", "RX/TX"]);
        assert!(lines[1].starts_with("web ") && lines[1].contains('%'), "{table}");
    }
    let json = env.run(["vm", "stats", "-o", "json"]).ok();
    let sample: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!(json.lines().count(), 1, "{json}");
    assert_eq!(sample["name"], "web");
    assert!(sample["cpu_percent"].is_number() && sample["at"].is_number(), "{json}");
    assert!(sample["host"]["memory"].as_u64().unwrap() > 1 << 20, "{json}");
    assert!(sample["guest"]["memory_total"].as_u64().unwrap() > 1 << 20, "{json}");
    let mut watch = env
        .command(["vm", "stats", "--watch", "-o", "json", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        lines.next().unwrap().unwrap();
    }
    env.run(["vm", "stop", "web"]).ok();
    assert!(watch.wait().unwrap().success(), "it ends with the sandbox");
    let table = env.run(["vm", "stats"]).ok();
    assert_eq!(table.lines().count(), 1, "{table}");
}
