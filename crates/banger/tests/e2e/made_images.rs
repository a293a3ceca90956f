//! Images that are made here: of sandboxes, and of root file systems.

use std::path::{Path, PathBuf};

use crate::images::{gives, making, shown};
use crate::support::{TestEnv, wait_until};
use crate::vm::ran;

pub(crate) fn own() -> Option<TestEnv> {
    TestEnv::with_machines().map(TestEnv::with_own_images)
}

pub(crate) fn refused(env: &TestEnv, line: &str, why: &str) {
    let (status, _, stderr) = ran(env, line);
    assert!(status == 1 && stderr.contains(why), "{line}: {status} {stderr}");
}

/// What a program may do without being root's: bind to low ports.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A tar of a root file system with busybox and a program with a capability.
pub(crate) fn busybox_root() -> Option<Vec<u8>> {
    let Ok(program) = std::fs::read("/bin/busybox") else {
        banger_testkit::skipped("busybox-static is not installed");
        return None;
    };
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |path: &str, bytes: &[u8], kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        if kind.is_symlink() {
            header.set_size(0);
            tar.append_link(&mut header, path, "busybox").unwrap();
        } else {
            tar.append_data(&mut header, path, bytes).unwrap();
        }
    };
    put("bin/busybox", &program, tar::EntryType::Regular);
    for link in ["sh", "cat", "chown", "chmod", "ln", "mkfifo", "touch", "mv", "rm", "stat", "ls"] {
        put(&format!("bin/{link}"), b"", tar::EntryType::Symlink);
    }
    for dir in ["etc/skel/", "etc/ssh/", "srv/"] {
        put(dir, b"", tar::EntryType::Directory);
    }
    put("etc/issue", b"hello", tar::EntryType::Regular);
    put("etc/skel/x", b"x", tar::EntryType::Regular);
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", CAPABILITY)]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(2);
    tar.append_data(&mut header, "srv/capable", &b"#!"[..]).unwrap();
    Some(tar.into_inner().unwrap())
}

/// The daemon is killed when this has begun: no half image is there, and the next one makes it.
fn promote_with_a_death(env: &TestEnv, begun: &dyn Fn(&Path) -> bool) {
    let promote = env
        .command(["image", "promote", "one", "again"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // A small image may be written between two looks.
    let made = || env.home().join("data/images/again").is_symlink();
    wait_until("it has begun", || begun(&env.home()) || made());
    env.kill_daemon();
    let output = promote.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"again\n", "the next daemon is asked");
    gives(env, "image delete again", "again\n");
    assert!(!making(&env.home()), "nothing half-made is left");
}

#[test]
fn a_sandbox_at_rest_becomes_an_image_with_everything_but_its_identity() {
    let Some(env) = own() else { return };
    let Some(root) = busybox_root() else { return };
    let file = env.home().join("root.tar");
    std::fs::write(&file, root).unwrap();
    gives(&env, &format!("image register busy --rootfs {}", file.display()), "busy\n");
    gives(&env, "vm create one --network none --no-start --image busy", "one\n");
    refused(&env, "image promote one mine", "was never started");
    gives(&env, "vm start one", "one\n");
    let script = "echo hello > /srv/file; chown 7:8 /srv/file; chmod 4751 /srv/file; \
        ln /srv/file /srv/other; ln -s file /srv/link; mkfifo /srv/pipe; rm /etc/issue; \
        touch -d '2001-02-03 04:05:06' /srv/old; mv /etc/skel /etc/moved; \
        echo secret > /etc/ssh/ssh_host_x_key; chmod 700 /srv/capable";
    env.run(["vm", "exec", "one", "--", "sh", "-c", script]).ok();
    refused(&env, "image promote one mine", "one is running: stop it first");
    gives(&env, "vm stop one", "one\n");
    let dirs = |home: &Path| std::fs::read_dir(home.join("state/sandboxes")).unwrap().count();
    for begun in [&|home: &Path| dirs(home) > 1, &making as &dyn Fn(&Path) -> bool] {
        promote_with_a_death(&env, begun);
        assert_eq!(dirs(&env.home()), 1, "nothing but the sandbox's own");
    }
    gives(&env, "image promote one mine", "mine\n");
    refused(&env, "image promote one mine", "there is an image mine already");
    assert_eq!(shown(&env, "mine")["source"], "sandbox one, made of busy");
    let look = "cd /srv; stat -c '%n %u:%g %a %h %F' file link pipe capable; cat other; \
        stat -c %Y old; ls -A /etc/moved /etc/ssh; ls /etc/issue";
    let run = ["vm", "run", "--network", "none", "--image", "mine", "--", "sh", "-c", look];
    let looked = env.run(run);
    assert_eq!(
        looked.text(),
        "file 7:8 4751 2 regular file\nlink 0:0 777 1 symbolic link\npipe 0:0 644 1 fifo\n\
         capable 0:0 700 1 regular file\nhello\n981173106\n/etc/moved:\nx\n\n/etc/ssh:\n"
    );
    assert!(looked.stderr.contains("/etc/issue: No such file"), "{}", looked.stderr);
    let id = shown(&env, "mine")["id"].as_str().unwrap().to_owned();
    let image = env.home().join("data/image-store").join(id).join("root.ext4");
    let mut debugfs = std::process::Command::new("/sbin/debugfs");
    let got =
        debugfs.args(["-R", "ea_get -x /srv/capable security.capability"]).arg(image).output();
    let got = String::from_utf8(got.unwrap().stdout).unwrap();
    assert!(got.contains("01 00 00 02 00 04 00 00"), "{got}");
    // A build is a sandbox, some commands, and this.
    let script = env.home().join("provision");
    std::fs::write(&script, "#!/bin/sh\necho built > /srv/built\n").unwrap();
    let built = env.run([
        "image".as_ref(),
        "build".as_ref(),
        "--from".as_ref(),
        "mine".as_ref(),
        "--provision".as_ref(),
        script.as_os_str(),
        "built".as_ref(),
    ]);
    assert_eq!(built.ok(), "built\n");
    let run = "vm run --network none --image built -- cat /srv/built";
    gives(&env, run, "built\n");
    refused(&env, "image build --from mine --package x other", "installing x failed with status 1");
    a_name_that_is_taken_is_told_before_anything_is_done(&env);
    // The sandbox is as it was.
    gives(&env, "vm start one", "one\n");
    assert_eq!(env.run(["vm", "exec", "one", "--", "cat", "/srv/link"]).ok(), "hello\n");
    gives(&env, "vm delete one --force", "one\n");
    env.assert_nothing_left();
}

fn a_name_that_is_taken_is_told_before_anything_is_done(env: &TestEnv) {
    let tree = env.home().join("docker");
    std::fs::create_dir(&tree).unwrap();
    let file = tree.join("Dockerfile");
    std::fs::write(&file, "FROM scratch\n").unwrap();
    let of_file = format!("-f {} --name NAME {}", file.display(), tree.display());
    for name in ["mine", "debian-bookworm"] {
        for recipe in ["--from mine --package x NAME", &of_file] {
            let line = format!("image build {}", recipe.replace("NAME", name));
            let (status, _, stderr) = ran(env, &line);
            assert!(status == 1 && !stderr.contains("ing x"), "{line}: {stderr}");
            let mut lines = stderr.lines();
            let said = lines.next().unwrap_or_default();
            assert!(
                said.starts_with(&format!("banger: there is an image {name} already")),
                "{said}"
            );
            let hint = format!("`banger image delete {name}`");
            assert!(lines.next().is_some_and(|it| it.contains(&hint)), "{stderr}");
        }
    }
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let Some(env) = own() else { return };
    let tree = env.home().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    if std::fs::copy("/bin/busybox", tree.join("bin/busybox")).is_err() {
        return banger_testkit::skipped("busybox-static is not installed");
    }
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh")).unwrap();
    let tree = tree.to_str().unwrap();
    gives(&env, &format!("image register mine --rootfs {tree}"), "mine\n");
    let run = "vm run --network none --image mine -- busybox echo it runs";
    gives(&env, run, "it runs\n");
    let nothing = format!("image register other --rootfs {tree}/nothing");
    refused(&env, &nothing, "cannot make an image of");
    refused(&env, &format!("image register other --rootfs {tree}/bin/busybox"), "neither a tar");
    gives(&env, "image delete mine", "mine\n");
    env.assert_nothing_left();
}

/// The size of a sandbox's disk, in MiB.
fn disk_of(env: &TestEnv, sandbox: &str) -> u64 {
    let shown = env.run(["vm", "show", sandbox, "-o", "json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown["detail"]["disk"]["apparent"].as_u64().unwrap() >> 20
}

#[test]
fn a_disk_is_as_large_as_the_image_wishes() {
    let Some(env) = own() else { return };
    let Some(root) = busybox_root() else { return };
    let file = env.home().join("root.tar");
    std::fs::write(&file, root).unwrap();
    let register = format!("image register busy --rootfs {}", file.display());
    let (status, _, stderr) = ran(&env, &format!("{register} --size 1M"));
    assert!(status == 2 && stderr.contains("out of range: use 64M"), "{stderr}");
    gives(&env, &format!("{register} --size 200M"), "busy\n");
    assert_eq!(shown(&env, "busy")["config"]["disk"], 200 << 20);
    let told = env.run(["image", "show", "busy"]).ok();
    assert!(told.lines().any(|line| line.split_whitespace().eq(["disk:", "200M"])), "{told}");

    let create = "vm create NAME --network none --image";
    gives(&env, &format!("{} busy", create.replace("NAME", "one")), "one\n");
    gives(&env, &format!("{} busy --disk 100M", create.replace("NAME", "two")), "two\n");
    assert_eq!((disk_of(&env, "one"), disk_of(&env, "two")), (200, 100));
    gives(&env, &format!("{} busy --no-start", create.replace("NAME", "three")), "three\n");
    let told = env.run(["vm", "show", "three"]).ok();
    assert!(told.contains("200M, not made yet"), "{told}");
    let df = "df -m / | { read x; read x size x; echo $size; }";
    let room = env.run(["vm", "exec", "one", "--", "busybox", "sh", "-c", df]).ok();
    let room: u64 = room.trim().parse().unwrap();
    assert!((150..=200).contains(&room), "{room}");

    // What is built of it wishes the same, unless its maker says otherwise.
    gives(&env, "image build --from busy same", "same\n");
    gives(&env, "image build --from busy --size 300M larger", "larger\n");
    let wishes = ["same", "larger"].map(|name| shown(&env, name)["config"]["disk"].clone());
    assert_eq!(wishes, [200 << 20, 300 << 20]);
    // One that was never started is to be made of it still.
    env.run(["vm", "delete", "--force", "one", "two"]).ok();
    refused(&env, "image delete busy", "needed by three");
    gives(&env, "vm delete three", "three\n");
    gives(&env, "image delete busy", "busy\n");
    env.assert_nothing_left();
}

#[test]
#[ignore = "installs Docker under emulation: `cargo xtask test --ignored docker_starts`"]
fn docker_starts_a_container_in_a_sandbox() {
    let Some(env) = own() else { return };
    let Ok(busybox) = std::fs::read("/bin/busybox") else {
        return banger_testkit::skipped("busybox-static is not installed");
    };
    gives(&env, "image build --from debian-bookworm --docker docker", "docker\n");
    gives(&env, "vm create one --image docker --memory 1G", "one\n");
    std::fs::write(env.home().join("busybox"), busybox).unwrap();
    let from = env.home().join("busybox").display().to_string();
    assert_eq!(env.run(["vm", "cp", &from, "one:/root/busybox"]).status, 0);
    let script = "set -e; cd /root; (dockerd >/tmp/dockerd.log 2>&1 &)
        for n in $(seq 600); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
        mkdir -p tree/bin; cp busybox tree/bin/; chmod 755 tree/bin/busybox
        tar -C tree -c . | docker import - small >/dev/null
        docker run --rm --network none small /bin/busybox echo from a container
        docker info --format '{{.Driver}}'";
    let said = env.run(["vm", "exec", "one", "--", "sh", "-c", script]).ok();
    assert_eq!(said, "from a container\noverlay2\n");
    env.run(["vm", "delete", "--force", "one"]).ok();
    env.assert_nothing_left();
}

/// A directory with a Dockerfile in it that says `version`, and what it needs.
fn dockerfile(env: &TestEnv, dir: &str, version: &str) -> PathBuf {
    let dir = env.home().join(dir);
    let bin = dir.join("tree/bin");
    if !bin.exists() {
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for link in ["sh", "cat", "tr"] {
            std::os::unix::fs::symlink("busybox", bin.join(link)).unwrap();
        }
    }
    std::fs::write(dir.join("tree/copied"), version).unwrap();
    let text = format!(
        "FROM scratch\nCOPY tree /\nRUN tr a-z A-Z < /copied > /run-{version}\n\
         CMD [\"/bin/sh\", \"-c\", \"cat /copied /run-*\"]\n"
    );
    std::fs::write(dir.join("Dockerfile"), text).unwrap();
    dir
}

#[test]
#[ignore = "installs buildah under emulation: `cargo xtask test --ignored dockerfile`"]
fn a_dockerfile_that_is_built_again_takes_the_place_of_its_image() {
    let Some(env) = own() else { return };
    if !Path::new("/bin/busybox").exists() {
        return banger_testkit::skipped("busybox-static is not installed");
    }
    let build = |dir: &Path, name: &str| {
        let file = dir.join("Dockerfile");
        ran(&env, &format!("image build -f {} --name {name} {}", file.display(), dir.display()))
    };
    let says = |image: &str| env.run(["vm", "run", "--network", "none", "--image", image]).ok();
    let first = dockerfile(&env, "first", "one");
    let (status, stdout, stderr) = build(&first, "app");
    assert_eq!((status, stdout.as_str()), (0, "app\n"), "{stderr}");
    assert_eq!(says("app"), "oneONE");
    gives(&env, "vm create old --network none --image app", "old\n");

    // The same from another directory is another image, and so is what is no Dockerfile's.
    let other = dockerfile(&env, "other", "three");
    for (dir, name) in [(&other, "app"), (&first, "banger-builder")] {
        let (status, _, stderr) = build(dir, name);
        let taken = format!("banger: there is an image {name} already, of ");
        assert!(status == 1 && stderr.starts_with(&taken), "nothing is done before: {stderr}");
    }
    assert_eq!(says("app"), "oneONE");

    dockerfile(&env, "first", "two");
    let (status, stdout, stderr) = build(&first, "app");
    assert_eq!((status, stdout.as_str()), (0, "app\n"), "{stderr}");
    assert_eq!(says("app"), "twoTWO");
    // What was made of the one before keeps that.
    assert_eq!(env.run(["vm", "exec", "old", "--", "cat", "/copied"]).ok(), "one");
    env.run(["vm", "delete", "--force", "old"]).ok();
    env.assert_nothing_left();
}
