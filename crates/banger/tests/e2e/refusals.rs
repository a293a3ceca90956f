//! Bad input: one sentence that names the thing and the remedy, the right status, nothing left.

use std::path::Path;

use crate::support::{Ran, TestEnv, Tmpfs, is_root};

fn run(env: &TestEnv, args: &[&str]) -> Ran {
    env.run([&["vm", "run"], args].concat())
}

fn assert_refused(ran: &Ran, status: i32, needles: &[&str]) {
    assert_eq!(ran.status, status, "{}", ran.stderr);
    for needle in needles {
        assert!(ran.stderr.contains(needle), "{needle:?} in {:?}", ran.stderr);
    }
    assert_eq!(ran.text(), "");
}

#[test]
fn what_parsing_can_refuse_costs_nothing() {
    let env = TestEnv::empty();
    for (args, needles) in [
        (&["--memory", "1M", "--", "true"][..], &["1M", "96M"][..]),
        (&["--memory", "lots", "--", "true"], &["lots"]),
        (&["--cpus", "999", "--", "true"], &["999", "1 to 64"]),
        (&["--cpus", "0", "--", "true"], &["0"]),
        (&["--disk", "1M", "--", "true"], &["1M", "64M"]),
        (&["--image", "../etc", "--", "true"], &["../etc"]),
        (&["--env", "=x", "--", "true"], &["=x", "NAME=VALUE"]),
        (&["--no-such-option"], &["--no-such-option"]),
        (&["--user", "", "--", "true"], &["--user is empty"]),
        (&["--workdir", "", "--", "true"], &["--workdir is empty"]),
        (&["--", ""], &["the command's name is empty"]),
        (&["true"], &["true", "-- <CMD>"]),
    ] {
        assert_refused(&run(&env, args), 2, needles);
    }
    assert!(!env.home().join("state").exists(), "nothing was made");
}

#[test]
fn an_unknown_image_or_kernel_is_named() {
    let Some(env) = TestEnv::with_machines() else { return };
    let image = run(&env, &["--image", "127.0.0.1:1/no-such-image", "--", "true"]);
    assert_refused(&image, 125, &["no-such-image", "cannot reach"]);
    let kernel = run(&env, &["--kernel", "no-such-kernel", "--", "true"]);
    assert_refused(&kernel, 125, &["no-such-kernel", "debian-cloud"]);
    let memory = run(&env, &["--memory", "1023G", "--", "true"]);
    assert_refused(&memory, 125, &["1023G of memory", "this host has"]);
    let cpus = run(&env, &["--cpus", "64", "--", "true"]);
    if std::thread::available_parallelism().unwrap().get() < 64 {
        assert_refused(&cpus, 125, &["64 CPUs", "this host has"]);
    }
    assert!(env.sandboxes().is_empty());
}

#[test]
fn without_qemu_the_package_is_named() {
    let env = TestEnv::empty();
    let mut command = env.command(["vm", "run", "--", "true"]);
    let output = command.env("PATH", "/nonexistent").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let agent_is_built = banger_testkit::agent_dir().is_some();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(!agent_is_built || stderr.contains("qemu-system-x86"), "{stderr}");
}

/// A home whose kernel and image are copies that a test may spoil.
fn with_own_copies() -> Option<TestEnv> {
    let env = TestEnv::with_machines()?;
    let data = env.home().join("data");
    std::fs::remove_file(&data).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "--sparse=always", "--reflink=auto"])
        .arg(banger_testkit::test_home().join("data"))
        .arg(&data)
        .status();
    assert!(copied.unwrap().success());
    Some(env)
}

fn cut_in_half(env: &TestEnv, path: &Path) {
    // A shared home may be made of links, and what those lead to is another's.
    let (path, home) = (path.canonicalize().unwrap(), env.home().canonicalize().unwrap());
    assert!(path.starts_with(home), "{} is no copy", path.display());
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn a_damaged_kernel_or_image_is_refused_before_it_runs() {
    let Some(env) = with_own_copies() else { return };
    let kernel = env.home().join("data/kernels/debian-cloud/vmlinux");
    let whole = std::fs::read(&kernel).unwrap();
    cut_in_half(&env, &kernel);
    assert_refused(&run(&env, &["--", "true"]), 125, &["debian-cloud", "vmlinux", "remove"]);
    std::fs::write(&kernel, whole).unwrap();
    let image = env.home().join("data/images/debian-bookworm");
    for entry in std::fs::read_dir(&image).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "ext4") {
            cut_in_half(&env, &path);
        }
    }
    assert_refused(&run(&env, &["--", "true"]), 125, &["debian-bookworm", "remove"]);
    env.assert_nothing_left();
}

#[test]
fn a_full_host_disk_is_named() {
    if !is_root() {
        return banger_testkit::skipped_on_this_machine("mounting a small file system needs root");
    }
    let Some(env) = TestEnv::with_machines() else { return };
    let small = Tmpfs::mount(&env.home().join("state/sandboxes"), "size=64k,mode=0700");
    assert_refused(&run(&env, &["--", "true"]), 125, &["no space", "BANGER_HOME"]);
    env.assert_nothing_left();
    drop(small);
}

#[test]
fn on_a_full_disk_what_is_not_needed_can_be_deleted() {
    if !is_root() {
        return banger_testkit::skipped_on_this_machine("mounting a small file system needs root");
    }
    let env = TestEnv::empty();
    let small = Tmpfs::mount(&env.home().join("state"), "size=80m,mode=0700");
    env.run(["vm", "create", "old", "--no-start"]).ok();
    let mut fill = std::fs::File::create(env.home().join("state/fill")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut fill).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // An open file would keep the file system mounted.
    drop(fill);
    env.run(["vm", "delete", "old"]).ok();
    assert_eq!(env.run(["vm", "list", "-q"]).ok(), "");
    env.kill_daemon();
    drop(small);
}

#[test]
fn a_read_only_home_is_named() {
    if !is_root() {
        return banger_testkit::skipped_on_this_machine("mounting a file system needs root");
    }
    let Some(env) = TestEnv::with_machines() else { return };
    let read_only = Tmpfs::mount(&env.home().join("state/sandboxes"), "ro,mode=0700");
    assert_refused(&run(&env, &["--", "true"]), 125, &["sandboxes", "Read-only file system"]);
    drop(read_only);
}

#[test]
fn a_terminal_that_is_none_is_refused() {
    let env = TestEnv::empty();
    assert_refused(&run(&env, &["-t", "--", "true"]), 2, &["-t", "terminal"]);
}
