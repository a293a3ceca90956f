//! `vm pause` and `vm resume`: what runs stands still without a machine, and goes on as it was.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{TestEnv, kill, wait_until};
use crate::vm::fails;

/// How often one is paused in a row.
const CYCLES: usize = 10;

pub(crate) fn show(env: &TestEnv, name: &str) -> Value {
    let json = env.run(["vm", "show", name, "-o", "json"]).ok();
    serde_json::from_str(&json).unwrap()
}

pub(crate) fn exec(env: &TestEnv, name: &str, script: &str) -> String {
    env.run(["vm", "exec", name, "--", "sh", "-c", script]).ok()
}

/// Writes to a database and to a file in memory, for ever: one number more at a time.
const WRITER: &str = r#"
mkdir /root/tree && cp -r /usr/share/doc /root/tree/ 2>/dev/null
(cd /root/tree && find . -type f -exec sha256sum {} + | sort) > /root/sums
cat > /root/writer <<'EOF'
import sqlite3
base = sqlite3.connect("/root/base.db", isolation_level=None)
base.execute("pragma journal_mode=wal")
base.execute("create table counted (number integer primary key, text text)")
memory = open("/dev/shm/counted", "w")
number = 0
while True:
    number += 1
    base.execute("insert into counted values (?, ?)", (number, "x" * (number % 500)))
    memory.write(f"{number}\n")
    memory.flush()
EOF
setsid python3 /root/writer </dev/null >/root/said 2>&1 & echo $!"#;
/// Says what is wrong with what the writer has written, and how much it is.
const CHECK: &str = r#"
cat /root/said
(cd /root/tree && find . -type f -exec sha256sum {} + | sort) | cmp - /root/sums
python3 -c '
import sqlite3
base = sqlite3.connect("/root/base.db")
for (said,) in base.execute("pragma integrity_check"):
    if said != "ok": print(said)
count, last = base.execute("select count(*), max(number) from counted").fetchone()
if count != last: print(f"{count} rows up to {last}")
print(last)'"#;

/// Pauses a sandbox in which somebody writes so often; nothing is lost.
fn pauses(cycles: usize) {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    let pid = exec(&env, "web", WRITER).trim().to_owned();
    exec(&env, "web", "until [ -s /dev/shm/counted ]; do sleep 0.1; done");
    let boot = show(&env, "web")["detail"]["boot_id"].clone();
    let count = || exec(&env, "web", "wc -l < /dev/shm/counted").trim().parse::<u64>().unwrap();
    let mut before = count();
    for _ in 0..cycles {
        env.run(["vm", "pause", "web"]).ok();
        assert_eq!(show(&env, "web")["state"], "paused");
        wait_until("its machine is gone", || env.processes().is_empty());
        env.run(["vm", "resume", "web"]).ok();
        let now = count();
        assert!(now >= before, "{now} {before}");
        before = now;
    }
    exec(&env, "web", &format!("kill -9 {pid}; until ! kill -0 {pid}; do sleep 0.1; done 2>&-"));
    assert_eq!(exec(&env, "web", "seq $(wc -l < /dev/shm/counted) | cmp - /dev/shm/counted"), "");
    let checked = exec(&env, "web", CHECK);
    let written = checked.trim().parse::<u64>();
    let written = written.unwrap_or_else(|_| panic!("{checked}"));
    assert!(written.abs_diff(count()) <= 1, "{written} on the disk, {} in memory", count());
    assert_eq!(show(&env, "web")["detail"]["boot_id"], boot, "it was never booted again");
    env.run(["vm", "stop", "web"]).ok();
    env.run(["vm", "start", "web"]).ok();
    assert_eq!(exec(&env, "web", CHECK), checked);
    assert_ne!(show(&env, "web")["detail"]["boot_id"], boot);
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn a_writer_that_is_paused_again_and_again_loses_nothing() {
    pauses(CYCLES);
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --ignored a_hundred_pauses`"]
fn a_hundred_pauses_lose_nothing() {
    pauses(10 * CYCLES);
}

#[test]
fn a_paused_sandbox_outlives_the_daemon_and_has_a_network_again() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web"]).ok();
    exec(&env, "web", "echo here > /dev/shm/x");
    let generation = exec(&env, "web", "cat /run/banger/generation");
    let address = exec(&env, "web", "hostname -I");
    env.run(["vm", "pause", "web"]).ok();
    env.kill_daemon();
    assert_eq!(show(&env, "web")["state"], "paused");
    let hint = "banger: sandbox web is paused, not running";
    let refused = env.run(["vm", "exec", "web", "--", "true"]);
    assert!(refused.status == 125 && refused.stderr.starts_with(hint), "{}", refused.stderr);
    env.run(["vm", "start", "web"]).ok();
    assert_eq!(exec(&env, "web", "cat /dev/shm/x"), "here\n", "to start it is to resume it");
    assert_ne!(exec(&env, "web", "cat /run/banger/generation"), generation);
    assert_eq!(exec(&env, "web", "hostname -I"), address);
    env.kill_daemon();
    env.run(["vm", "pause", "web"]).ok();
    env.run(["vm", "stop", "web"]).ok();
    let saved = env.sandboxes().remove(0).join("saved");
    wait_until("memory that is of no use goes", || !saved.exists());
    env.run(["vm", "delete", "web"]).ok();
    env.assert_nothing_left();
}

/// Starts a daemon that kills itself at a checkpoint, and waits until it answers.
pub(crate) fn daemon_that_dies_at(env: &TestEnv, checkpoint: &str) -> std::process::Child {
    daemon_with(env, &format!("{checkpoint}=kill"))
}

/// Starts a daemon with a checkpoint, and waits until it answers.
pub(crate) fn daemon_with(env: &TestEnv, checkpoint: &str) -> std::process::Child {
    let program = env.program().with_file_name("bangerd");
    let mut daemon = std::process::Command::new(program);
    daemon.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    daemon
        .env("BANGER_HOME", env.home())
        .env("BANGER_SPARES", "0")
        .args(["--checkpoint", checkpoint]);
    daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = daemon.spawn().unwrap();
    let socket = env.home().join("run/bangerd.sock");
    wait_until("the daemon answers", || UnixStream::connect(&socket).is_ok());
    child
}

#[test]
fn a_daemon_that_dies_while_it_saves_or_takes_up_memory_loses_nothing() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "echo here > /dev/shm/x; echo there > /root/y");
    let boot = show(&env, "web")["detail"]["boot_id"].clone();
    for (checkpoint, action, ends) in [
        ("pause.decided", "pause", "paused"),
        ("resume.used", "resume", "running"),
        ("pause.saved", "pause", "paused"),
        ("resume.answered", "resume", "running"),
        ("pause.recorded", "pause", "paused"),
        ("start.prepared", "resume", "running"),
    ] {
        env.kill_daemon();
        let mut dying = daemon_that_dies_at(&env, checkpoint);
        // The next daemon is asked, or has done it already: that is for the client to find out.
        env.run(["vm", action, "web"]).ok();
        assert!(!dying.wait().unwrap().success(), "{checkpoint} was not reached");
        assert_eq!(show(&env, "web")["state"], ends, "{checkpoint}");
    }
    assert_eq!(exec(&env, "web", "cat /dev/shm/x /root/y"), "here\nthere\n");
    assert_eq!(show(&env, "web")["detail"]["boot_id"], boot, "it was never booted again");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn what_is_saved_is_paused_though_daemon_and_machine_are_gone() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "echo here > /dev/shm/x");
    env.kill_daemon();
    let mut dying = daemon_that_dies_at(&env, "pause.saved");
    // A client of ours would start another daemon, which finds the machine standing still.
    let mut connection = UnixStream::connect(env.home().join("run/bangerd.sock")).unwrap();
    let pause = "POST /v1/sandboxes/web/pause HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    connection.write_all(pause.as_bytes()).unwrap();
    dying.wait().unwrap();
    let machines = env.all_processes().into_iter().filter(|(_, line)| line.contains("qemu-system"));
    for (pid, _) in machines {
        kill(pid);
    }
    wait_until("its machine is gone", || env.processes().is_empty());
    wait_until("the next daemon has looked", || show(&env, "web")["state"] == "paused");
    env.run(["vm", "resume", "web"]).ok();
    assert_eq!(exec(&env, "web", "cat /dev/shm/x"), "here\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn memory_that_is_damaged_is_not_taken_up_and_the_disk_still_is() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "echo here > /root/x; sync");
    env.run(["vm", "pause", "web"]).ok();
    let devices = env.sandboxes().remove(0).join("saved/devices");
    let whole = std::fs::read(&devices).unwrap();
    std::fs::write(&devices, &whole[..100]).unwrap();
    let failed = env.run(["vm", "resume", "web"]);
    assert_eq!(failed.status, 1);
    assert!(failed.stderr.contains("is not as it was written"), "{}", failed.stderr);
    assert_eq!(show(&env, "web")["state"], "paused", "nothing is lost by trying");
    let mut other = whole.clone();
    other[1000] ^= 1;
    std::fs::write(&devices, &other).unwrap();
    let failed = env.run(["vm", "resume", "web"]);
    assert!(failed.stderr.contains("is not as it was written"), "{}", failed.stderr);
    std::fs::write(&devices, &whole).unwrap();
    env.run(["vm", "resume", "web"]).ok();
    env.run(["vm", "pause", "web"]).ok();
    std::fs::remove_file(env.sandboxes().remove(0).join("saved/memory")).unwrap();
    assert_eq!(env.run(["vm", "resume", "web"]).status, 1);
    env.run(["vm", "kill", "web"]).ok();
    env.run(["vm", "start", "web"]).ok();
    assert_eq!(exec(&env, "web", "cat /root/x"), "here\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn memory_goes_on_with_what_executed_it_and_by_no_other_clock() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "echo here > /root/x; sync");
    env.run(["vm", "pause", "web"]).ok();
    let about = env.sandboxes().remove(0).join("saved/saved.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&about).unwrap()).unwrap();
    assert_eq!(json["origin"]["accelerator"], "tcg", "{json}");
    let tsc_khz = json["origin"]["tsc_khz"].clone();
    let mut resumed = |accelerator: &str, tsc_khz: &Value| {
        json["origin"]["accelerator"] = accelerator.into();
        json["origin"]["tsc_khz"] = tsc_khz.clone();
        std::fs::write(&about, serde_json::to_vec(&json).unwrap()).unwrap();
        env.run(["vm", "resume", "web"])
    };
    for (accelerator, tsc_khz, reason) in [
        ("kvm", &tsc_khz, "kvm executed it, which cannot be used here now"),
        ("tcg", &Value::from(1000), "the counter that its clock goes by has "),
    ] {
        let failed = resumed(accelerator, tsc_khz);
        for said in [reason, "`banger vm kill web`"] {
            assert!(failed.status == 1 && failed.stderr.contains(said), "{}", failed.stderr);
        }
        assert_eq!(show(&env, "web")["state"], "paused", "nothing is lost by trying");
    }
    resumed("tcg", &tsc_khz).ok();
    assert_eq!(exec(&env, "web", "cat /root/x"), "here\n");
    // An older banger wrote down beside the machine what executes it, and nothing beside the memory.
    env.run(["vm", "pause", "web"]).ok();
    let notes = env.sandboxes().remove(0).join("machine.json");
    for (accelerator, status) in [("kvm", 1), ("tcg", 0)] {
        for path in [&notes, &about] {
            let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let fields = json.as_object_mut().unwrap();
            fields.retain(|name, _| name != "origin" && name != "devices_sha256");
            if path == &notes {
                fields.insert("accelerator".to_owned(), accelerator.into());
            }
            std::fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
        }
        let resumed = env.run(["vm", "resume", "web"]);
        assert_eq!(resumed.status, status, "{accelerator}: {}", resumed.stderr);
    }
    assert_eq!(exec(&env, "web", "cat /root/x"), "here\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

/// Files that say who a machine is and cannot be written as they were.
const AWKWARD: [&str; 2] = ["rm /etc/hostname; mkfifo /etc/hostname", "mount -o remount,ro /"];

#[test]
fn what_a_guest_has_done_to_its_files_does_not_cost_it_its_memory() {
    let Some(env) = TestEnv::with_machines() else { return };
    for awkward in AWKWARD {
        env.run(["vm", "create", "web"]).ok();
        exec(&env, "web", "setsid sleep 1000000 </dev/null >/dev/null 2>&1 & echo $! > /dev/shm/x");
        exec(&env, "web", awkward);
        env.run(["vm", "pause", "web"]).ok();
        env.run(["vm", "resume", "web"]).ok();
        exec(&env, "web", "kill -0 $(cat /dev/shm/x)");
        assert_eq!(exec(&env, "web", "hostname; cat /etc/hostname"), "web\nweb\n", "{awkward}");
        env.run(["vm", "delete", "--force", "web"]).ok();
    }
    env.assert_nothing_left();
}

#[test]
fn only_what_runs_is_paused_and_only_what_is_paused_is_resumed() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--no-start"]).ok();
    let refused = "banger: cannot pause web: it is created, and only what runs can be paused\n";
    fails(&env, "vm pause web", 1, refused);
    let refused = "banger: cannot resume web: it is created, and only what is paused can be resumed; start it\n";
    fails(&env, "vm resume web", 1, refused);
    env.run(["vm", "delete", "web"]).ok();
}
