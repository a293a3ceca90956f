//! Files into a sandbox and out of one.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Ran, TestEnv};
use crate::vm::{fails, ran};

/// Bytes of the file that takes a while to copy.
const LARGE: usize = 60_000_000;

/// Where copies are made: a directory here that commands run in.
fn here(env: &TestEnv) -> PathBuf {
    env.home().parent().unwrap().to_owned()
}

fn copy(env: &TestEnv, from: &str, to: &str) {
    let Ran { status, stdout, stderr } = env.run(["vm", "cp", from, to]);
    assert_eq!((status, &stdout[..], &*stderr), (0, &b""[..], ""), "{from} to {to}");
}

fn guest(env: &TestEnv, script: &str) -> String {
    env.run(["vm", "exec", "web", "--", "sh", "-c", script]).ok()
}

#[test]
fn a_copy_has_one_side_in_a_sandbox() {
    let env = TestEnv::empty();
    let neither = "banger: neither side of the copy is in a sandbox\n\
                   hint: write NAME:/PATH for a path in a sandbox\n";
    fails(&env, "vm cp a b", 2, neither);
    fails(&env, "vm cp ./web:/a b", 2, neither);
    fails(&env, "vm cp web: .", 2, "banger: web: names no path in the sandbox: write web:/PATH\n");
    let both = "banger: a copy goes between a sandbox and this host, not between two\n\
                hint: join two: `banger vm cp A:/x - | banger vm cp - B:/y`\n";
    fails(&env, "vm cp a:/x b:/y", 2, both);
    assert_eq!(env.daemon(), None);
    let missing = "banger: cannot read none: No such file or directory (os error 2)\n";
    fails(&env, "vm cp none web:/", 1, missing);
    let unknown = "banger: there is no sandbox \"nobody\"\n\
                   hint: `banger vm list` shows those that are there\n";
    fails(&env, "vm cp nobody:/etc .", 1, unknown);
}

#[test]
fn what_is_copied_comes_back() {
    let Some(env) = TestEnv::with_machines() else { return };
    let (status, _, stderr) = ran(&env, "vm create web --network none");
    assert_eq!(status, 0, "{stderr}");
    whole_trees(&env);
    where_docker_would(&env);
    mistakes(&env);
    streams(&env);
    hostile(&env);
    interrupted(&env);
    // Nothing is left of any of that but the guest itself.
    let json = env.run(["vm", "show", "web", "-o", "json"]).ok();
    let sandbox: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(sandbox["detail"]["processes"], serde_json::json!([]));
    env.run(["vm", "delete", "-f", "web"]).ok();
    env.assert_nothing_left();
}

fn make_tree(at: &Path) {
    fs::create_dir_all(at.join("sub").join("n".repeat(180))).unwrap();
    fs::write(at.join("f"), "data\n").unwrap();
    fs::set_permissions(at.join("f"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("/nowhere", at.join("l")).unwrap();
    let sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 30).unwrap();
}

fn whole_trees(env: &TestEnv) {
    let here = here(env);
    make_tree(&here.join("tree"));
    copy(env, "tree", "web:/srv");
    assert_eq!(
        guest(env, "cd /srv/tree; stat -c %a:%U f; readlink l; ls sub | wc -c"),
        "751:root\n/nowhere\n181\n"
    );
    assert_eq!(guest(env, "cd /srv/tree; stat -c %s sparse; tail -c 3 sparse"), "1073741827\nend");
    let blocks: u64 = guest(env, "stat -c %b /srv/tree/sparse").trim().parse().unwrap();
    assert!(blocks < 1000, "{blocks}");
    copy(env, "web:/srv/tree", "back");
    let (old, new) = (here.join("tree"), here.join("back"));
    assert_eq!(fs::read(new.join("f")).unwrap(), b"data\n");
    assert_eq!(fs::read_link(new.join("l")).unwrap(), Path::new("/nowhere"));
    for name in ["f", "sparse", "sub"] {
        let (old, new) = (old.join(name).metadata().unwrap(), new.join(name).metadata().unwrap());
        let of = |meta: &fs::Metadata| (meta.mode(), meta.mtime());
        assert_eq!(of(&old), of(&new), "{name}");
    }
    assert!(new.join("sparse").metadata().unwrap().blocks() < 1000);
}

fn where_docker_would(env: &TestEnv) {
    let here = here(env);
    for (from, to, made) in [
        ("tree/f", "web:/root/", "/root/f"),
        ("tree/f", "web:/root/g", "/root/g"),
        ("tree/f", "web:/root/g", "/root/g"),
        ("tree", "web:/root/new/", "/root/new/f"),
        ("tree/.", "web:/root/new", "/root/new/f"),
        ("tree/.", "web:/root/newer", "/root/newer/f"),
        ("tree", "web:root/new", "/root/new/tree/f"),
    ] {
        copy(env, from, to);
        assert_eq!(guest(env, &format!("cat {made}")), "data\n", "{from} to {to}");
    }
    fs::create_dir(here.join("into")).unwrap();
    for (from, to, made) in [
        ("web:/root/f", "into", "into/f"),
        ("web:/root/f", "into/g", "into/g"),
        ("web:/root/new/tree", "into", "into/tree/f"),
        ("web:/root/new/tree/.", "into", "into/f"),
        ("web:/root/new/tree/.", "into/newer", "into/newer/f"),
    ] {
        copy(env, from, to);
        assert_eq!(fs::read(here.join(made)).unwrap(), b"data\n", "{from} to {to}");
    }
}

fn mistakes(env: &TestEnv) {
    fails(env, "vm cp web:/none .", 1, "banger: there is no /none in web\n");
    let no_dir = "banger: there is no directory /none/ in web\nhint: make it first\n";
    fails(env, "vm cp tree/f web:/none/f", 1, no_dir);
    fails(env, "vm cp tree/f web:/none/", 1, "banger: there is no directory /none/\n");
    fails(env, "vm cp tree/f web:/none/..", 1, "banger: there is no directory /none/..\n");
    fails(
        env,
        "vm cp web:/etc/hosts none/x",
        1,
        "banger: there is no directory none/\nhint: make it first\n",
    );
    fails(
        env,
        "vm cp tree web:/etc/hosts",
        1,
        "banger: /etc/hosts is a file, and cannot become a directory\n",
    );
    fails(
        env,
        "vm cp web:/etc tree/f",
        1,
        "banger: tree/f is a file, and cannot become a directory\n",
    );
    fails(env, "vm cp web:/etc/hosts tree/f/", 1, "banger: there is no directory tree/f/\n");
}

fn streams(env: &TestEnv) {
    let out = env.run(["vm", "cp", "web:/root/g", "-"]);
    assert_eq!((out.status, &*out.stderr), (0, ""));
    assert_eq!(&out.stdout[..2], b"g\0");
    let into = env.run_with_input(&["vm", "cp", "-", "web:/opt"], &out.stdout);
    assert_eq!((into.status, &*into.stderr), (0, ""));
    assert_eq!(guest(env, "cat /opt/g"), "data\n");
    let cut = env.run_with_input(&["vm", "cp", "-", "web:/opt"], &out.stdout[..700]);
    assert_eq!(cut.status, 1);
    let expected = "banger: not everything is copied: web: the archive ends before its end mark: \
                    it is not whole\n";
    assert_eq!(cut.stderr, expected);
    let nowhere = env.run_with_input(&["vm", "cp", "-", "web:/none"], &out.stdout);
    let expected = "banger: there is no directory /none in web\nhint: make it first\n";
    assert_eq!((nowhere.status, &*nowhere.stderr), (1, expected));
    let line = format!(
        "{} vm cp web:/usr - | head -c 3; echo ${{PIPESTATUS[0]}}",
        env.program().display()
    );
    let mut bash = Command::new("bash");
    let output = bash.args(["-c", &line]).env("BANGER_HOME", env.home()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "usr0\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

fn hostile(env: &TestEnv) {
    guest(
        env,
        "mkdir -p /evil/d; cd /evil/d; cp /bin/true s; chmod 6755 s; mkfifo p; \
                mknod n c 1 3; printf x >'a\n\u{1b}[2J'",
    );
    let ran = env.run(["vm", "cp", "web:/evil/d", "into"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let mut notices: Vec<&str> = ran.stderr.lines().collect();
    notices.sort_unstable();
    let left_out = |name| format!("banger: d/{name} is a device or a pipe, and left out");
    assert_eq!(notices, [left_out("n"), left_out("p")]);
    let made = here(env).join("into/d");
    assert_eq!(made.join("s").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_dir(made).unwrap().count(), 2);
    // A link that is in the way here is not followed, wherever the guest would like to go.
    let outside = here(env).join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, here(env).join("into/e")).unwrap();
    guest(env, "mkdir /evil/e; echo x >/evil/e/f");
    let ran = env.run(["vm", "cp", "web:/evil/e", "into"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("a symbolic link is on the way"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

fn interrupted(env: &TestEnv) {
    let mut child = env
        .command(["vm", "cp", "-", "web:/opt"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The header of a file that does not end, and enough of it that the guest has begun.
    let mut header = tar_header("large", LARGE as u64);
    header.resize(512 + LARGE / 4, 7);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &header).unwrap();
    crate::support::wait_until("the copy is under way", || {
        guest(env, "ls -A /opt").contains(".banger-unpack")
    });
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = "banger: the copy was interrupted; a part of it may be there\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    assert_eq!(guest(env, "ls -A /opt"), "g\n");
}

/// The least that a reader takes for the header of a file.
fn tar_header(name: &str, size: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        0");
    put(257, "ustar  \0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
