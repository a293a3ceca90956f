//! What tells of a machine that is gone goes with the next start of the daemon.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use serde_json::json;

use crate::support::{Daemon, PATIENCE, create};

/// A daemon that was killed between the end of a machine and the clearing up behind it.
#[test]
fn a_record_and_sockets_without_a_process_are_removed() {
    let daemon = Daemon::start();
    let (_, made) = create(&daemon, json!({}));
    let dir = daemon.home().sandbox(&made["sandbox"]["id"].as_str().unwrap().parse().unwrap());
    let traces = ["vmm.json", "link.sock", "qmp.sock"].map(|name| dir.join(name));
    let [record, sockets @ ..] = &traces;
    let _daemon = daemon.replace(|_| {
        std::fs::create_dir_all(&dir).unwrap();
        let process = json!({
            "boot_id": "00000000-0000-0000-0000-000000000000", "pid": 1, "start_time": 0,
        });
        let written = json!({ "vmm": "qemu 7.2.0", "process": process, "network": [] });
        std::fs::write(record, written.to_string()).unwrap();
        for socket in sockets {
            drop(UnixListener::bind(socket).unwrap());
        }
    });
    let began = Instant::now();
    while let Some(left) = traces.iter().find(|trace| trace.exists()) {
        assert!(began.elapsed() < PATIENCE, "{} remains", left.display());
    }
}
