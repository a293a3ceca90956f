//! A lease makes one sandbox, ever.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]
#![expect(clippy::disallowed_methods, reason = "tests are on the other side of the door")]
#![expect(dead_code, reason = "what the tests of the daemon share is not all for each of them")]

mod support;

use std::time::Instant;

use banger_host::lock::FileLock;
use serde_json::{Value, json};

use support::{Daemon, PATIENCE};

const LEASE: &str = "00112233445566778899aabbccddeeff";

fn create(daemon: &Daemon) -> (u16, Value) {
    let wanted = json!({
        "spec": {
            "image": "debian-bookworm",
            "kernel": "debian-cloud",
            "memory": 256 << 20,
            "disk": 1 << 30,
            "network": "none",
        },
        "lifetime": { "lease": LEASE },
        "start": false,
    });
    let wanted = wanted.to_string();
    let length = wanted.len();
    let request = format!(
        "POST /v1/sandboxes HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{wanted}"
    );
    let answer = daemon.send(&request).unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

#[test]
fn who_asks_again_gets_the_same_sandbox_and_none_once_that_is_deleted() {
    let daemon = Daemon::start();
    let path = daemon.home().lease(&LEASE.to_owned().try_into().unwrap());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let held = FileLock::acquire(&path).unwrap();
    let (status, first) = create(&daemon);
    assert_eq!(status, 201, "{first}");
    let (_, again) = create(&daemon);
    assert_eq!(first["sandbox"]["id"], again["sandbox"]["id"], "{again}");
    let name = first["sandbox"]["name"].as_str().unwrap();
    assert_eq!(daemon.ask("DELETE", &format!("/v1/sandboxes/{name}")).status, 202);
    let began = Instant::now();
    while daemon.ask("GET", "/v1/sandboxes").body != "[]" {
        assert!(began.elapsed() < PATIENCE, "{name} is not deleted");
    }
    let (status, refused) = create(&daemon);
    assert_eq!(status, 400, "{refused}");
    let why = refused["detail"].as_str().unwrap();
    assert!(why.contains("is over: its sandbox was deleted"), "{why}");
    assert_eq!(daemon.ask("GET", "/v1/sandboxes").body, "[]");
    drop(held);
}
