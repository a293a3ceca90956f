//! A lease makes one sandbox, ever.

use std::time::Instant;

use banger_host::lock::FileLock;
use serde_json::{Value, json};

use crate::support::{Daemon, PATIENCE, create};

const LEASE: &str = "00112233445566778899aabbccddeeff";

fn ask(daemon: &Daemon) -> (u16, Value) {
    create(daemon, json!({ "lease": LEASE }))
}

#[test]
fn who_asks_again_gets_the_same_sandbox_and_none_once_that_is_deleted() {
    let daemon = Daemon::start();
    let path = daemon.home().lease(&LEASE.to_owned().try_into().unwrap());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let held = FileLock::acquire(&path).unwrap();
    let (status, first) = ask(&daemon);
    assert_eq!(status, 201, "{first}");
    let (_, again) = ask(&daemon);
    assert_eq!(first["sandbox"]["id"], again["sandbox"]["id"], "{again}");
    let name = first["sandbox"]["name"].as_str().unwrap();
    assert_eq!(daemon.ask("DELETE", &format!("/v1/sandboxes/{name}")).status, 202);
    let began = Instant::now();
    while daemon.ask("GET", "/v1/sandboxes").body != "[]" {
        assert!(began.elapsed() < PATIENCE, "{name} is not deleted");
    }
    let (status, refused) = ask(&daemon);
    assert_eq!(status, 400, "{refused}");
    let why = refused["detail"].as_str().unwrap();
    assert!(why.contains("is over: its sandbox was deleted"), "{why}");
    assert_eq!(daemon.ask("GET", "/v1/sandboxes").body, "[]");
    drop(held);
}
