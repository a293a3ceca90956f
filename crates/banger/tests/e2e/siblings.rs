//! Sandboxes of one template: what should differ differs, what is shared stays as it was.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::support::{TestEnv, wait_until};
use crate::vm::says;

/// How many come from one template at once.
pub(crate) const SIBLINGS: usize = 4;
/// How far a sandbox's clock may be from the host's.
const CLOCK_SKEW_NS: i128 = 50_000_000;

/// One thing in a line that no two machines have in common. It is asked for as soon as anything
/// can be, and each program has just been started.
const UNIQUE: &str = "
    head -c 16 /dev/urandom | od -An -tx1
    cat /proc/sys/kernel/random/uuid
    cat /proc/sys/kernel/random/boot_id
    cat /etc/machine-id
    cat /etc/hostname
    uname -n
    cat /sys/class/net/eth0/address
    hostname -I
    perl -e 'print rand(), \"\\n\"'
    mktemp -u
";

fn templates(env: &TestEnv) -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(env.home().join("state/templates")).unwrap();
    let dirs = dirs.map(|entry| entry.unwrap().path());
    dirs.filter(|path| path.join("memory").exists()).collect()
}

fn digest(file: &Path) -> Vec<u8> {
    let mut file = std::fs::File::open(file).unwrap();
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hash.finalize().to_vec(),
            len => hash.update(&buffer[..len]),
        }
    }
}

#[test]
fn nothing_of_two_siblings_is_equal_that_should_differ() {
    let Some(env) = TestEnv::with_machines() else { return };
    all_differ(&env);
    env.assert_nothing_left();
}

/// Runs sandboxes at once: nothing is equal in two of them that should differ.
pub(crate) fn all_differ(env: &TestEnv) {
    let runs: Vec<_> = (0..SIBLINGS)
        .map(|_| {
            let mut run = env.command(["vm", "run", "--", "sh", "-c", UNIQUE]);
            run.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let told: Vec<String> = runs
        .into_iter()
        .map(|run| {
            let output = run.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    let things = UNIQUE.trim().lines().count();
    for (at, thing) in UNIQUE.trim().lines().enumerate() {
        let each: BTreeSet<&str> = told.iter().map(|told| told.lines().nth(at).unwrap()).collect();
        assert_eq!(each.len(), SIBLINGS, "{thing}: {each:?}");
    }
    assert!(told.iter().all(|told| told.lines().count() == things), "{told:?}");
}

#[test]
fn a_sandbox_knows_what_time_it_is() {
    let Some(env) = TestEnv::with_machines() else { return };
    let host = || i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos());
    let before = host().unwrap();
    let ran = env.sh("date +%s%N; cut -d' ' -f1 /proc/uptime; cut -d' ' -f1 /proc/uptime");
    let after = host().unwrap();
    let text = ran.ok();
    let lines: Vec<&str> = text.lines().collect();
    let guest: i128 = lines[0].parse().unwrap();
    assert!(
        (before - CLOCK_SKEW_NS..after + CLOCK_SKEW_NS).contains(&guest),
        "{before} {guest} {after}"
    );
    let uptime = |line: &str| line.parse::<f64>().unwrap();
    assert!(uptime(lines[1]) <= uptime(lines[2]), "{text}");
}

/// A guest whose clock went its own way while nobody looked after it.
#[test]
fn a_clock_that_is_wrong_is_put_right_by_whoever_takes_the_sandbox_over() {
    let Some(env) = TestEnv::with_machines() else { return };
    says(&env, "vm create web --network none", "web\n");
    env.run(["vm", "exec", "web", "--", "date", "-s", "2001-01-01"]).ok();
    env.kill_daemon();
    let host = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    wait_until("the clock is right", || {
        let now: u64 =
            env.run(["vm", "exec", "web", "--", "date", "+%s"]).ok().trim().parse().unwrap();
        now.abs_diff(host()) <= 1
    });
    env.run(["vm", "delete", "--force", "web"]).ok();
}

#[test]
fn a_process_learns_that_its_machine_became_another() {
    let Some(env) = TestEnv::with_machines() else { return };
    let generation: u64 = env.sh("cat /run/banger/generation").ok().trim().parse().unwrap();
    assert!(generation > 1, "the template was nobody before, and so is this generation 1");
}

#[test]
fn no_sibling_changes_the_template() {
    let Some(env) = TestEnv::with_machines() else { return };
    env.sh("true").ok();
    let before: Vec<_> =
        templates(&env).iter().map(|dir| (dir.clone(), digest(&dir.join("memory")))).collect();
    assert!(!before.is_empty());
    // Memory is filled, freed and given back, the disk is filled and trimmed.
    let stress = "
        for i in 1 2 3; do
            head -c 150000000 /dev/urandom > /dev/shm/fill && rm /dev/shm/fill
        done
        head -c 50000000 /dev/zero > /root/fill && sync && rm /root/fill && sync
        echo 3 > /proc/sys/vm/drop_caches";
    let runs: Vec<_> = (0..2)
        .map(|_| env.command(["vm", "run", "--", "sh", "-c", stress]).spawn().unwrap())
        .collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    for (dir, digest_before) in before {
        assert_eq!(digest(&dir.join("memory")), digest_before, "{}", dir.display());
    }
    env.assert_nothing_left();
}
