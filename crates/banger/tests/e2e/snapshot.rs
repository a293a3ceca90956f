//! `vm snapshot` and `vm create --from`: what a sandbox was, as often as it is of use.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::pause::{daemon_that_dies_at, exec, show};
use crate::support::{TestEnv, Tmpfs, is_root, wait_until};
use crate::vm::{fails, says};

fn snapshots(env: &TestEnv) -> Vec<Value> {
    serde_json::from_str(&env.run(["snapshot", "list", "-o", "json"]).ok()).unwrap()
}

#[test]
fn a_snapshot_outlives_its_sandbox_and_what_is_made_from_it_outlives_the_snapshot() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none", "--memory", "256M"]).ok();
    let counter = "(while :; do i=$((i+1)); echo $i > /dev/shm/n; sleep 0.05; done) \
                   </dev/null >/dev/null 2>&1 & echo here > /root/file; sync";
    exec(&env, "web", counter);
    says(&env, "vm snapshot web", "web@1\n");
    says(&env, "vm snapshot web before", "web@before\n");
    says(&env, "vm snapshot web", "web@2\n");
    let (id, boot) =
        (show(&env, "web")["id"].clone(), show(&env, "web")["detail"]["boot_id"].clone());
    says(&env, "vm delete --force web", "web\n");
    env.kill_daemon();
    let names: Vec<_> = snapshots(&env).iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["web@1", "web@before", "web@2"]);
    assert_eq!(snapshots(&env)[0]["memory"], 256 << 20);
    // The name is free again, and the sandbox another.
    says(&env, "vm create web --from web@1", "web\n");
    assert_ne!(show(&env, "web")["id"], id);
    assert_ne!(show(&env, "web")["detail"]["boot_id"], boot);
    assert_eq!(show(&env, "web")["spec"]["memory"], 256 << 20);
    says(&env, "vm create other --from web@1", "other\n");
    // It is empty for a moment before each number is written.
    let count = |name: &str| {
        let mut count = None;
        wait_until("there is a number", || {
            count = exec(&env, name, "cat /dev/shm/n").trim().parse::<u64>().ok();
            count.is_some()
        });
        count
    };
    for name in ["web", "other"] {
        let before = count(name).unwrap();
        wait_until("its process goes on", || count(name).is_some_and(|now| now > before));
    }
    says(&env, "vm run --from web@2 -- cat /root/file", "here\n");
    says(&env, "snapshot rm web@1 web@before web@2", "web@1\nweb@before\nweb@2\n");
    says(&env, "snapshot list -q", "");
    for name in ["web", "other"] {
        env.run(["vm", "pause", name]).ok();
        env.run(["vm", "resume", name]).ok();
        let before = count(name).unwrap();
        wait_until("its process goes on", || count(name).is_some_and(|now| now > before));
        env.run(["vm", "restart", name]).ok();
        assert_eq!(exec(&env, name, "cat /root/file"), "here\n");
    }
    env.run(["vm", "delete", "--force", "web", "other"]).ok();
    env.assert_nothing_left();
}

#[test]
fn the_disk_alone_boots_and_a_network_is_as_it_is_asked_for() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "echo here > /dev/shm/file; echo there > /root/file; sync");
    says(&env, "vm snapshot web", "web@1\n");
    says(&env, "vm create disk --from web@1 --disk-only", "disk\n");
    assert_eq!(exec(&env, "disk", "cat /root/file; ls /dev/shm; hostname"), "there\ndisk\n");
    // It had no carrier, and has one now.
    says(&env, "vm create net --from web@1 --network user", "net\n");
    let address =
        exec(&env, "net", "cat /dev/shm/file; hostname -I; cat /sys/class/net/eth0/carrier");
    let shown = show(&env, "net")["detail"]["address"].as_str().unwrap().to_owned();
    assert_eq!(address, format!("here\n{shown} \n1\n"));
    says(&env, "vm create none --from web@1", "none\n");
    assert_eq!(exec(&env, "none", "hostname -I").trim(), "");
    env.run(["vm", "delete", "--force", "web", "disk", "net", "none"]).ok();
    env.assert_nothing_left();
}

#[test]
fn a_daemon_that_dies_while_it_takes_a_snapshot_leaves_the_sandbox_running() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "echo here > /dev/shm/file");
    let boot = show(&env, "web")["detail"]["boot_id"].clone();
    let checkpoints = [
        "snapshot.decided",
        "snapshot.frozen",
        "snapshot.paused",
        "snapshot.saved",
        "snapshot.resumed",
        "snapshot.kept",
        "snapshot.recorded",
    ];
    for (n, checkpoint) in checkpoints.into_iter().enumerate() {
        env.kill_daemon();
        let mut dying = daemon_that_dies_at(&env, checkpoint);
        says(&env, "vm snapshot web", &format!("web@{}\n", n + 1));
        assert!(!dying.wait().unwrap().success(), "{checkpoint} was not reached");
        assert_eq!(snapshots(&env).len(), n + 1, "{checkpoint}");
        assert_eq!(show(&env, "web")["state"], "running", "{checkpoint}");
        assert_eq!(exec(&env, "web", "cat /dev/shm/file"), "here\n", "{checkpoint}");
    }
    assert_eq!(show(&env, "web")["detail"]["boot_id"], boot, "it was never booted again");
    let aside = std::fs::read_dir(env.home().join("state/snapshots")).unwrap();
    assert_eq!(aside.filter(|e| e.as_ref().unwrap().path().is_dir()).count(), checkpoints.len());
    says(&env, "vm run --from web@3 -- cat /dev/shm/file", "here\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let Some(env) = TestEnv::with_machines() else { return };
    let unknown = "banger: there is no snapshot web@1\n\
                   hint: `banger snapshot list` shows those that are there\n";
    fails(&env, "vm create --from web@1", 1, unknown);
    fails(&env, "snapshot rm web@1", 1, unknown);
    assert_eq!(env.run(["snapshot", "rm", "web"]).status, 2);
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    says(&env, "vm snapshot web a", "web@a\n");
    let taken = "banger: cannot take a snapshot of web: there is a snapshot web@a already\n\
                 hint: choose another tag, or give none; `banger snapshot delete web@a` deletes it\n";
    fails(&env, "vm snapshot web a", 1, taken);
    let both = env.run(["vm", "create", "--from", "web@a", "--memory", "1G"]);
    assert!(both.status == 2 && both.stderr.contains("cannot be used with"), "{}", both.stderr);
    // What was never up needs its snapshot.
    says(&env, "vm create later --from web@a --no-start", "later\n");
    let in_use = env.run(["snapshot", "rm", "web@a"]);
    assert!(in_use.stderr.contains("web@a is in use: sandbox "), "{}", in_use.stderr);
    says(&env, "vm start later", "later\n");
    env.run(["vm", "stop", "web"]).ok();
    let stopped = "banger: cannot take a snapshot of web: it is stopped, and a snapshot is taken \
                   only of what runs\n";
    fails(&env, "vm snapshot web", 1, stopped);
    // One that is damaged is told, and harms nobody.
    says(&env, "snapshot rm web@a", "web@a\n");
    says(&env, "vm snapshot later", "later@1\n");
    let id = snapshots(&env)[0]["id"].as_str().unwrap().to_owned();
    let dir = env.home().join("state/snapshots").join(id);
    let whole = std::fs::read(dir.join("devices")).unwrap();
    std::fs::write(dir.join("devices"), &whole[..100]).unwrap();
    let damaged = env.run(["vm", "create", "third", "--from", "later@1"]);
    assert!(damaged.stderr.contains("snapshot later@1 is damaged"), "{}", damaged.stderr);
    std::fs::write(dir.join("devices"), &whole).unwrap();
    says(&env, "vm start third", "third\n");
    env.run(["vm", "delete", "--force", "web", "later", "third"]).ok();
    env.assert_nothing_left();
}

#[test]
fn what_is_damaged_is_shown_and_removed_by_command() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    for tag in ["a", "b", "c", "d", "e"] {
        says(&env, &format!("vm snapshot web {tag}"), &format!("web@{tag}\n"));
    }
    let ids: Vec<_> = snapshots(&env).iter().map(|s| s["id"].clone()).collect();
    let dirs = ids.iter().map(|id| env.home().join("state/snapshots").join(id.as_str().unwrap()));
    let dirs: Vec<_> = dirs.collect();
    env.kill_daemon();
    std::fs::write(dirs[0].join("snapshot.json"), "{").unwrap();
    std::fs::remove_file(dirs[1].join("memory")).unwrap();
    let mut devices = std::fs::read(dirs[2].join("devices")).unwrap();
    devices[0] ^= 1;
    std::fs::write(dirs[2].join("devices"), devices).unwrap();
    let nameless = format!("damaged@{}", ids[0].as_str().unwrap());
    let shown = env.run(["snapshot", "list"]).ok();
    for (name, why) in [(&*nameless, "snapshot.json"), ("web@b", "memory"), ("web@c", "devices")] {
        let is_damaged = |line: &str| line.starts_with(name) && line.contains(why);
        assert!(shown.lines().any(is_damaged), "{name}: {shown}");
    }
    let refused = env.run(["vm", "create", "--from", "web@b"]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.starts_with("banger: snapshot web@b is damaged: "),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("`banger snapshot delete web@b`"), "{}", refused.stderr);
    // Its name is given away when it is gone.
    assert!(env.run(["vm", "snapshot", "web", "c"]).stderr.contains("web@c already"));
    // One whose files are gone by now goes, too.
    std::fs::remove_dir_all(&dirs[4]).unwrap();
    let rm = ["snapshot", "rm", &nameless, "web@b", "web@c", "web@e"];
    assert_eq!(env.run(rm).ok(), format!("{nameless}\nweb@b\nweb@c\nweb@e\n"));
    says(&env, "snapshot list -q", "web@d\n");
    assert_eq!(dirs.iter().filter(|dir| dir.exists()).collect::<Vec<_>>(), [&dirs[3]]);
    says(&env, "vm snapshot web c", "web@c\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn memory_that_fits_no_more_is_told_and_its_disk_is_still_of_use() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "echo here > /root/file; sync");
    says(&env, "vm snapshot web", "web@1\n");
    let id = snapshots(&env)[0]["id"].as_str().unwrap().to_owned();
    let dir = env.home().join("state/snapshots").join(id);
    let [about, devices] = ["snapshot.json", "devices"].map(|name| dir.join(name));
    let mut json: Value = serde_json::from_slice(&std::fs::read(&about).unwrap()).unwrap();
    let mut now_says = |part: &str, value: &str| {
        json.pointer_mut(part).unwrap().clone_from(&value.into());
        std::fs::write(&about, serde_json::to_vec(&json).unwrap()).unwrap();
        env.kill_daemon();
    };
    // Whether another monitor, told otherwise, can load it is for that monitor to say.
    now_says("/shape/machine", "another monitor");
    says(&env, "vm run --from web@1 -- cat /root/file", "here\n");
    let refused = |name: &str, reason: &str| {
        let refused = env.run(["vm", "create", name, "--from", "web@1", "--rm"]);
        let what = "memory of snapshot web@1 does not fit this host or its virtual machine monitor";
        for said in [what, "--disk-only", reason] {
            assert!(refused.status == 1 && refused.stderr.contains(said), "{}", refused.stderr);
        }
    };
    let mut bytes = std::fs::read(&devices).unwrap();
    bytes[..4].copy_from_slice(b"none");
    std::fs::write(&devices, &bytes).unwrap();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    now_says("/devices_sha256", &digest);
    refused("one", "the saved machine cannot be loaded: qemu-system-x86_64: ");
    now_says("/origin/accelerator", "kvm");
    refused("two", "kvm executed it, which cannot be used here now; `banger doctor` says why");
    says(&env, "vm run --from web@1 --disk-only -- cat /root/file", "here\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
}

#[test]
fn a_full_disk_costs_a_snapshot_and_not_its_sandbox() {
    if !is_root() {
        return banger_testkit::skipped_on_this_machine("mounting a small file system needs root");
    }
    let Some(env) = TestEnv::with_machines() else { return };
    let small = Tmpfs::mount(&env.home().join("state/snapshots"), "size=80m,mode=0700");
    env.run(["vm", "create", "web", "--network", "none"]).ok();
    exec(&env, "web", "head -c 30000000 /dev/urandom > /dev/shm/fill");
    let refused = env.run(["vm", "snapshot", "web"]);
    assert!(refused.status == 1 && refused.stderr.contains("no space"), "{}", refused.stderr);
    let refused = env.run(["vm", "fork", "web", "-n", "2"]);
    assert!(refused.status == 1 && refused.stderr.contains("no space"), "{}", refused.stderr);
    wait_until("what was never made is gone", || env.sandboxes().len() == 1);
    wait_until("nobody else is listed", || env.run(["vm", "list", "-q"]).ok() == "web\n");
    assert_eq!(exec(&env, "web", "echo runs"), "runs\n");
    env.run(["vm", "delete", "--force", "web"]).ok();
    env.assert_nothing_left();
    env.kill_daemon();
    drop(small);
}
