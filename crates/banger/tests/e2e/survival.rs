//! Sandboxes that outlive the daemon, whatever becomes of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::network::own_address;
use crate::pause::daemon_with;
use crate::support::{TestEnv, Tmpfs, is_root, wait_until};

/// How often the daemon is killed.
const KILLS: usize = 10;

fn show(env: &TestEnv, name: &str) -> Value {
    let shown = env.run(["vm", "show", name, "-o", "json"]).ok();
    serde_json::from_str(&shown).unwrap()
}

#[test]
fn nobody_is_told_what_would_not_be_remembered() {
    if !is_root() {
        return banger_testkit::skipped_on_this_machine("mounting a small file system needs root");
    }
    let Some(env) = TestEnv::with_machines() else { return };
    let state = env.home().join("state");
    let small = Tmpfs::mount(&state, "size=1g,mode=0700");
    // Guests write, and give back what they have deleted, whenever they like: that is no room for the
    // daemon, and theirs is not to become full.
    let roomy = ["sandboxes", "templates"];
    let roomy = roomy.map(|dir| Tmpfs::mount(&state.join(dir), "size=1g,mode=0700"));
    env.run(["vm", "create", "box", "--network", "none", "--no-start"]).ok();
    env.kill_daemon();
    let mut daemon = daemon_with(&env, "start.answered=stop");
    let mut client = env.command(["vm", "start", "box"]);
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stat = format!("/proc/{}/stat", daemon.id());
    wait_until("the daemon stands still", || {
        std::fs::read_to_string(&stat).unwrap().contains(" T ")
    });
    // Its machine is up, and there is no room left to write that down.
    std::fs::remove_file(state.join("banger.reserve")).unwrap();
    let filler = state.join("filler");
    let full = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&filler).unwrap());
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let mut said = BufReader::new(client.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains("it waits until the daemon can store how it is") {
        let more = line(&mut said);
        assert!(!more.is_empty(), "it did not wait: {told}");
        told += &more;
    }
    assert!(client.try_wait().unwrap().is_none());
    std::fs::remove_file(&filler).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(client.wait().unwrap().success(), "{rest}");
    let before = identity(&env);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    wait_until("the next daemon finds it as it was", || identity(&env) == before);
    env.run(["vm", "delete", "--force", "box"]).ok();
    env.assert_nothing_left();
    env.kill_daemon();
    drop((roomy, small));
}

/// What must stay as it is.
fn identity(env: &TestEnv) -> (Value, Value) {
    let mut shown = show(env, "box");
    (shown["detail"]["vmm_pid"].take(), shown["detail"]["boot_id"].take())
}

fn follow(env: &TestEnv, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = env
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

fn line(reader: &mut BufReader<impl std::io::Read>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

/// An exec whose lines are counted: none may be missing, none may come twice.
struct Counter {
    child: Child,
    stdout: BufReader<ChildStdout>,
    next: u64,
}

impl Counter {
    fn start(env: &TestEnv) -> Self {
        // Each line in a process of its own would be too slow to have many in flight.
        let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
        let (child, stdout) = follow(env, &["vm", "exec", "box", "--", "sh", "-c", script]);
        Self { child, stdout, next: 0 }
    }

    fn read(&mut self, count: u64) {
        for _ in 0..count {
            assert_eq!(line(&mut self.stdout), format!("{}\n", self.next), "a gap or a repeat");
            self.next += 1;
        }
    }
}

#[test]
fn a_sandbox_survives_ten_deaths_of_the_daemon() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "box"]).ok();
    let before = identity(&env);
    let connection = own_address().map(|own| connect(&env, own));
    let script = "i=0; while :; do i=$((i+1)); echo $i > /run/counter; sleep 0.01; done";
    let detached = format!("setsid sh -c '{script}' >/dev/null 2>&1 </dev/null & echo started");
    env.run(["vm", "exec", "box", "--", "sh", "-c", &detached]).ok();
    let mut counter = Counter::start(&env);
    let (mut echo, mut echoed) = follow(&env, &["vm", "exec", "box", "--", "cat"]);
    let (mut logs, mut logged) = follow(&env, &["vm", "logs", "-f", "--tail", "0", "box"]);
    let mut ticks = 0;
    for round in 0..KILLS {
        counter.read(10);
        env.kill_daemon();
        let ran = env.run(["vm", "exec", "box", "--", "cat", "/run/counter"]).ok();
        let now: u64 = ran.trim().parse().unwrap();
        assert!(now > ticks, "the process has gone on: {now} after {ticks}");
        ticks = now;
        counter.read(10);
        echo.stdin.as_mut().unwrap().write_all(format!("echo {round}\n").as_bytes()).unwrap();
        assert_eq!(line(&mut echoed), format!("echo {round}\n"));
        let say = format!("echo log {round} > /dev/console");
        env.run(["vm", "exec", "box", "--", "sh", "-c", &say]).ok();
        assert_eq!(line(&mut logged).trim_end(), format!("log {round}"));
        assert_eq!(identity(&env), before, "the machine is another");
        if let Some((guest, _)) = &connection {
            let mut guest = guest;
            guest.write_all(b"x").unwrap();
            let mut back = [0];
            guest.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"x");
        }
    }
    for child in [&mut counter.child, &mut echo, &mut logs] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    if let Some((_, mut client)) = connection {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    env.run(["vm", "delete", "--force", "box"]).ok();
    env.assert_nothing_left();
}

/// A connection from inside the sandbox to this process, on which the guest echoes.
fn connect(env: &TestEnv, own: Ipv4Addr) -> (std::net::TcpStream, Child) {
    let listener = TcpListener::bind((own, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("exec 3<>/dev/tcp/{own}/{port}; exec cat <&3 >&3");
    let child = env
        .command(["vm", "exec", "box", "--", "bash", "-c", &script])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    (stream, child)
}

#[test]
fn a_stopped_sandbox_keeps_its_disk_over_a_restart_and_the_daemons_death() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    env.run(["vm", "exec", "web", "--", "sh", "-c", "echo hi > /root/x"]).ok();
    env.run(["vm", "stop", "web"]).ok();
    assert_eq!(show(&env, "web")["state"], "stopped");
    env.kill_daemon();
    env.run(["vm", "start", "web"]).ok();
    let read = env.run(["vm", "exec", "web", "--", "cat", "/root/x"]).ok();
    assert_eq!(read, "hi\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn a_run_goes_on_over_the_daemons_death() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "echo ready; read line; echo \"got $line\"; exit 7";
    let run = ["vm", "run", "--network", "none", "--", "sh", "-c", script];
    let (mut child, mut stdout) = follow(&env, &run);
    assert_eq!(line(&mut stdout), "ready\n");
    env.kill_daemon();
    child.stdin.take().unwrap().write_all(b"it\n").unwrap();
    assert_eq!(line(&mut stdout), "got it\n");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    wait_until("there is a daemon again", || env.daemon().is_some());
    env.assert_nothing_left();
}
