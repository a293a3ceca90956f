//! A daemon that starts beside one that is started on demand.

use std::process::{Command, Stdio};
use std::time::Instant;

use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::socket;

use crate::support::PATIENCE;

/// Who starts a daemon on demand holds the socket's lock until that has the home's: whoever holds
/// the second must not wait for the first.
#[test]
fn who_waits_for_the_socket_does_not_hold_the_home() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::under(root.path());
    for lock in [home.start_lock(), home.daemon_lock()] {
        std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    }
    let starting = FileLock::acquire(&home.start_lock()).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_bangerd"))
        .env_clear()
        .env("BANGER_HOME", root.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}");
        }
    };
    let files = format!("/proc/{}/fd", daemon.id());
    let waits = || {
        let mut files = std::fs::read_dir(&files).unwrap().flatten();
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|at| at == home.start_lock()))
    };
    until("it waits for the socket's lock", &waits);
    assert!(FileLock::try_acquire(&home.daemon_lock()).unwrap().is_some());
    drop(starting);
    until("it listens", &|| socket::connect(&home.socket()).is_ok());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
