//! Volumes outlive their sandboxes, and are in one machine at a time.

use crate::images::gives;
use crate::support::TestEnv;
use crate::vm::ran;

fn sh(env: &TestEnv, name: &str, script: &str) -> String {
    env.run(["vm", "exec", name, "--", "sh", "-c", script]).ok()
}

fn refused(env: &TestEnv, line: &str, why: &str) {
    let (status, _, stderr) = ran(env, line);
    assert!(status == 1 && stderr.contains(why), "{line}: {status} {stderr}");
}

#[test]
fn a_volume_is_filled_once_kept_enlarged_and_never_in_two_machines() {
    let Some(env) = TestEnv::with_machines().map(TestEnv::with_own_images) else { return };
    gives(&env, "volume create data --size 96M", "data\n");
    refused(&env, "volume create data", "there is a volume data already");
    let made =
        "vm create one --network none --volume data:/etc/skel --volume other:/etc/skel/deep/er";
    gives(&env, made, "one\n");
    // A new one has what the image has there.
    let own = sh(&env, "one", "ls -A /etc/skel | grep -v deep | wc -l; stat -c %U:%a /etc/skel");
    assert_eq!(own, "3\nroot:755\n");
    sh(&env, "one", "echo kept > /etc/skel/new; echo other > /etc/skel/deep/er/f; sync");
    // Somebody has it.
    let second = "vm create two --network none --volume data:/srv/data";
    refused(&env, second, "the volume data is in use by one");
    refused(&env, "volume rm data", "the volume data is needed by one");
    refused(&env, "volume resize data 1G", "the volume data is in use by one");
    refused(&env, "vm snapshot one", "one has volumes");
    refused(&env, "vm fork one", "one has volumes");
    env.kill_daemon();
    refused(&env, "vm start two", "the volume data is in use by one");
    gives(&env, "vm pause one", "one\n");
    refused(&env, "vm start two", "the volume data is in use by one");
    gives(&env, "vm resume one", "one\n");
    assert_eq!(sh(&env, "one", "cat /etc/skel/new"), "kept\n");
    // A power cut, and the next has it.
    gives(&env, "vm kill one", "one\n");
    refused(&env, "volume resize data 64M", "can only become larger");
    gives(&env, "volume resize data 1G", "data\n");
    gives(&env, "vm start two", "two\n");
    let there =
        "cat /srv/data/new; ls -A /srv/data | wc -l; df -m --output=size /srv/data | tail -1";
    let there = sh(&env, "two", there);
    let lines: Vec<_> = there.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["kept", "5"], "{there}");
    assert!(lines[2].parse::<u64>().unwrap() > 900, "{there}");
    refused(&env, "vm start one", "the volume data is in use by two");
    env.run(["vm", "delete", "--force", "one", "two"]).ok();
    let listed = env.run(["volume", "list", "-q"]).ok();
    assert_eq!(listed, "data\nother\n");
    // However it boots.
    for cold in [&["--cold"][..], &[]] {
        let run = [&["vm", "run", "--network", "none", "--volume", "data:/root"], cold];
        let run = [&run.concat(), &["--", "cat", "/root/new"][..]].concat();
        assert_eq!(env.run(run).ok(), "kept\n");
    }
    env.run(["volume", "rm", "data", "other"]).ok();
    env.assert_nothing_left();
}
