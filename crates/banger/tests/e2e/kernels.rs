//! Kernels besides the default one: of the user's own, an image's, a catalog's.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use banger_api::types::{Asked, ImageAction, Operation};
use banger_testkit::kernel::bzimage;
use rustix::process::{Pid, Signal, kill_process};

use crate::catalog::WebServer;
use crate::images::gives;
use crate::made_images::{busybox_root, own, refused};
use crate::pause::daemon_with;
use crate::support::{TestEnv, wait_until};
use crate::template::operations;

/// Of an image that is none.
const ID: &str = "0123456789abcdef0123456789abcdef";

/// The files of the default kernel: it, and the directory of its modules.
fn files(env: &TestEnv) -> (PathBuf, PathBuf) {
    let kernel = env.home().join("data/kernels/debian-cloud");
    let tree = env.home().join("modules");
    std::fs::create_dir(&tree).unwrap();
    let mut rdump = std::process::Command::new("/sbin/debugfs");
    let dump = format!("rdump / {}", tree.display());
    assert!(rdump.args(["-R", &dump]).arg(kernel.join("modules.ext4")).status().unwrap().success());
    (kernel.join("vmlinux"), tree)
}

#[test]
fn a_kernel_of_the_users_own_boots() {
    let Some(env) = own() else { return };
    let (vmlinux, tree) = files(&env);
    let import = format!("kernel import mine --vmlinux {}", vmlinux.display());
    gives(&env, &format!("{import} --modules {}", tree.display()), "mine\n");
    refused(&env, &import, "there is a kernel mine already");
    let run = "vm run --network none --kernel mine -- modprobe -v --show-depends fuse";
    assert!(env.run(run.split(' ')).ok().contains("/fuse.ko"));
    gives(&env, "vm create one --network none --kernel mine", "one\n");
    gives(&env, "vm snapshot one", "one@1\n");
    refused(&env, "kernel rm mine", "needed by one, snapshot one@1");
    gives(&env, "vm delete --force one", "one\n");
    refused(&env, "kernel rm mine", "needed by snapshot one@1");
    gives(&env, "snapshot rm one@1", "one@1\n");
    gives(&env, "kernel rm mine", "mine\n");
    env.assert_nothing_left();
}

/// What a program says of its input.
fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = std::process::Command::new(program);
    let pipe = std::process::Stdio::piped;
    let mut child = child.args(args).stdin(pipe()).stdout(pipe()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writes = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writes.join().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

/// Packs the modules below a directory, each third in another way.
fn pack(dir: &std::path::Path, packed: &mut usize) {
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            pack(&entry, packed);
        } else if entry.extension().is_some_and(|end| end == "ko") {
            let (program, args, end) = [
                ("gzip", &["-1"][..], "ko.gz"),
                ("xz", &["-0", "--check=crc32"], "ko.xz"),
                ("zstd", &["-1"], "ko.zst"),
            ][*packed % 3];
            let bytes = piped(program, args, &std::fs::read(&entry).unwrap());
            std::fs::write(entry.with_extension(end), bytes).unwrap();
            std::fs::remove_file(&entry).unwrap();
            *packed += 1;
        }
    }
}

#[test]
fn a_compressed_kernel_with_compressed_modules_boots() {
    let Some(env) = own() else { return };
    if ["gzip", "xz", "zstd"].iter().any(|it| !PathBuf::from("/usr/bin").join(it).exists()) {
        return banger_testkit::skipped("xz-utils or zstd is not installed");
    }
    let (vmlinux, tree) = files(&env);
    let mut packed = 0;
    pack(&tree, &mut packed);
    assert!(packed > 20, "{packed} modules are packed");
    let image = env.home().join("vmlinuz");
    let payload = piped("gzip", &["-1"], &std::fs::read(vmlinux).unwrap());
    std::fs::write(&image, bzimage(&payload)).unwrap();
    let import = format!("kernel import mine --vmlinux {}", image.display());
    gives(&env, &format!("{import} --modules {}", tree.display()), "mine\n");
    let run = ["vm", "run", "--network", "none", "--kernel", "mine", "--", "sh", "-c"];
    let look = "modprobe fuse && modprobe -v --show-depends fuse && cat /proc/filesystems";
    let said = env.run(run.iter().chain(&[look])).ok();
    assert!(said.contains("/fuse.ko ") && said.contains("\tfuse\n"), "{said}");
    gives(&env, "kernel rm mine", "mine\n");
    env.assert_nothing_left();
}

/// A place with the image `busy`, and the directory of the default kernel's modules.
fn busy() -> Option<(TestEnv, PathBuf)> {
    let (env, root) = (own()?, busybox_root()?);
    let (_, tree) = files(&env);
    let rootfs = env.home().join("root.tar");
    std::fs::write(&rootfs, root).unwrap();
    gives(&env, &format!("image register busy --rootfs {}", rootfs.display()), "busy\n");
    Some((env, tree))
}

/// The command that builds an image of the image `busy`, with modules and a script.
fn building(env: &TestEnv, name: &str, modules: &Path, script: &str) -> Command {
    let file = env.home().join("script");
    std::fs::write(&file, script).unwrap();
    let words = ["image", "build", "--from", "busy", "--modules"].map(Path::new);
    let rest = [modules, Path::new("--provision"), &file, Path::new(name)];
    env.command(words.into_iter().chain(rest))
}

fn build(env: &TestEnv, name: &str, modules: &Path, script: &str) -> (i32, String) {
    let built = building(env, name, modules, script).output().unwrap();
    (built.status.code().unwrap(), String::from_utf8(built.stderr).unwrap())
}

#[test]
fn a_build_that_is_interrupted_ends_at_once_and_leaves_nothing() {
    let Some((env, tree)) = busy() else { return };
    let signal = |child: &Child, it| kill_process(Pid::from_child(child), it).unwrap();

    // In a step, however it takes it.
    let script = "trap '' INT; echo begun; while :; do sleep 1; done";
    let mut child = building(&env, "mine", &tree, script).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line == "begun"));
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(said.collect::<Vec<_>>(), [""; 0]);
    gives(&env, "kernel list -q", "debian-cloud\n");
    env.assert_nothing_left();

    // Between two.
    env.kill_daemon();
    let mut daemon = daemon_with(&env, "stop.off=hold");
    let mut child = building(&env, "mine", &tree, "true").stderr(Stdio::null()).spawn().unwrap();
    wait_until("its sandbox stops", || env.run(["vm", "list"]).ok().contains("stopping"));
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // The next one goes on with what this one had begun.
    gives(&env, "image list -q", "busy\ndebian-bookworm\n");
    env.assert_nothing_left();
    gives(&env, "vm list -q", "");
}

#[test]
fn an_image_is_built_with_modules_of_its_own() {
    let Some((env, tree)) = busy() else { return };
    let fuse = tree.join("kernel/fs/fuse/fuse.ko");
    std::fs::create_dir(tree.join("updates")).unwrap();
    std::fs::copy(fuse, tree.join("updates/banger_own.ko")).unwrap();

    let (status, said) = build(&env, "mine", Path::new("/nonexistent"), "true");
    assert!(status == 1 && said.contains("/nonexistent has no modules of"), "{said}");
    let (status, said) = build(&env, "mine", &tree, "exit 7");
    assert!(status == 1 && said.contains("failed with status 7"), "{said}");
    gives(&env, "kernel list -q", "debian-cloud\n");

    let look = "ls /lib/modules/$(uname -r)/updates";
    let script = format!("{look} > /srv/seen; busybox modprobe banger_own");
    let (status, said) = build(&env, "mine", &tree, &script);
    assert_eq!(status, 0, "{said}");
    let run = |image, script: &str| {
        env.run(["vm", "run", "--network", "none", "--image", image, "--", "sh", "-c", script])
    };
    let used = format!(
        "{look}; cat /srv/seen; busybox modprobe banger_own && busybox grep -c ^fuse /proc/modules"
    );
    assert_eq!(run("mine", &used).ok(), "banger_own.ko\nbanger_own.ko\n1\n");
    assert!(run("busy", look).stderr.contains("No such file"), "only those of this image have it");
    refused(&env, "kernel rm mine", "needed by image mine");
    let shown = env.run(["kernel", "show", "mine"]).ok();
    assert!(shown.contains("debian-cloud with the modules of "), "{shown}");

    // What an image leaves that is gone goes when the same is built again.
    gives(&env, "image delete mine", "mine\n");
    gives(&env, "kernel list -q", "debian-cloud\nmine\n");
    let (status, said) = build(&env, "mine", &tree, "true");
    assert_eq!(status, 0, "{said}");
    gives(&env, "kernel list -q", "debian-cloud\nmine\n");
    env.assert_nothing_left();
}

/// Makes a module one that its kernel does not take, though it is of the same release: it was built in
/// another way, and is not what was signed.
fn spoil(module: &Path) {
    let mut bytes = std::fs::read(module).unwrap();
    let (magic, other) = (b" mod_unload", b" mod_unlike");
    let at = bytes.windows(magic.len()).position(|it| it == magic).unwrap();
    bytes[at..at + other.len()].copy_from_slice(other);
    std::fs::write(module, bytes).unwrap();
}

#[test]
fn modules_that_do_not_boot_are_told_and_nothing_is_left_of_them() {
    let Some((env, tree)) = busy() else { return };
    spoil(&tree.join("kernel/fs/overlayfs/overlay.ko"));
    let (status, said) = build(&env, "mine", &tree, "true");
    assert_eq!(status, 1, "{said}");
    let reason = "\nbanger-agent: cannot boot: cannot insert the boot module 09-overlay.ko: ";
    assert!(said.contains(reason), "{said}");
    let error = "\nbanger: the sandbox to build in does not start with these modules: ";
    assert!(said.contains(error) && said.contains("\nhint: build the modules anew"), "{said}");
    gives(&env, "kernel list -q", "debian-cloud\n");
    gives(&env, "image list -q", "busy\ndebian-bookworm\n");
    env.assert_nothing_left();
}

#[test]
fn what_is_damaged_is_removed_by_command() {
    let Some(env) = own() else { return };
    let data = env.home().join("data");
    let left = data.join("kernels/.killed.new");
    for dir in [left.clone(), data.join("kernels/mine"), data.join("image-store").join(ID)] {
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("vmlinux"), "half").unwrap();
    }
    std::fs::write(data.join("images/file"), "no link").unwrap();
    std::os::unix::fs::symlink(format!("../image-store/{ID}"), data.join("images/app")).unwrap();
    refused(&env, "kernel show mine", "remove it with `banger kernel rm mine`");
    assert!(!left.exists(), "the daemon's start has swept it");
    refused(&env, "image show app", "remove it with `banger image delete app`");

    // It serves nobody, so nobody has to be deleted first.
    gives(&env, "vm create one --network none --no-start --kernel mine", "one\n");
    gives(&env, "kernel rm mine", "mine\n");
    env.run(["vm", "delete", "one"]).ok();
    refused(&env, "kernel rm mine", "there is no kernel mine");
    gives(&env, "image delete app", "app\n");
    assert!(!data.join("image-store").join(ID).exists());
    gives(&env, "image delete file", "file\n");
    refused(&env, "image delete file", "there is no image file");
    assert!(!data.join("kernels/mine").exists() && !data.join("images/file").exists());
    env.assert_nothing_left();
}

#[test]
fn a_kernel_that_somebody_may_need_stays() {
    let Some(env) = own() else { return };
    let (vmlinux, tree) = files(&env);
    let import = format!("kernel import mine --vmlinux {}", vmlinux.display());
    gives(&env, &format!("{import} --modules {}", tree.display()), "mine\n");
    // A snapshot that the host cannot read may hold any.
    let snapshot = env.home().join("state/snapshots/0123456789abcdef");
    std::fs::create_dir_all(snapshot.join("snapshot.json")).unwrap();
    let why = "the kernel mine stays, for somebody may need it: cannot tell what all snapshots \
               hold: ";
    refused(&env, "kernel rm mine", why);
    gives(&env, "kernel list -q", "debian-cloud\nmine\n");
    assert!(env.run(["kernel", "show", "mine"]).ok().contains("mine"));
    // It serves nobody, whatever there is.
    std::fs::write(env.home().join("data/kernels/mine/meta.json"), "{").unwrap();
    gives(&env, "kernel rm mine", "mine\n");
    gives(&env, &format!("{import} --modules {}", tree.display()), "mine\n");
    env.kill_daemon();
    let damaged = "damaged@0123456789abcdef\n";
    gives(&env, "snapshot list -q", damaged);
    gives(&env, "snapshot rm damaged@0123456789abcdef", damaged);
    gives(&env, "kernel rm mine", "mine\n");
    env.assert_nothing_left();
}

#[test]
fn the_kernel_that_an_image_wants_is_booted_and_comes_with_it() {
    let Some(env) = own() else { return };
    let Ok(busybox) = std::fs::read("/bin/busybox") else {
        return banger_testkit::skipped("busybox-static is not installed");
    };
    let root = env.home().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/busybox"), busybox).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(root.join("bin/busybox"), executable).unwrap();
    let (vmlinux, tree) = files(&env);
    let import = format!("kernel import mine --vmlinux {}", vmlinux.display());
    gives(&env, &format!("{import} --modules {}", tree.display()), "mine\n");
    let register = format!("image register small --rootfs {}", root.display());
    refused(&env, &format!("{register} --kernel none"), "there is no kernel none");
    gives(&env, &format!("{register} --kernel mine"), "small\n");
    refused(&env, "kernel rm mine", "needed by image small");

    // Whatever boots without it is this one.
    std::fs::remove_file(env.home().join("data/kernels/debian-cloud")).unwrap();
    let run = "vm run --network none --image IMAGE -- busybox echo it boots";
    gives(&env, &run.replace("IMAGE", "small"), "it boots\n");

    let out = env.home().join("public");
    let dir = out.to_str().unwrap();
    let public = env.run(["catalog", "genkey", "key.pem"]).ok().trim().to_owned();
    let build = ["catalog", "build", "--image", "small=tools", "--key", "key.pem", dir];
    assert_eq!(env.run(build).ok(), "1\n");
    gives(&env, "image delete small", "small\n");
    gives(&env, "kernel rm mine", "mine\n");
    let server = WebServer::of(&out);
    let config = format!(
        "[images]\ncache = 0\n[catalog]\nurl = \"http://{}/\"\nkey = {public:?}\n",
        server.host
    );
    std::fs::write(env.home().join("config.toml"), config).unwrap();
    env.kill_daemon();
    gives(&env, &run.replace("IMAGE", "tools"), "it boots\n");
    gives(&env, "vm create one --network none --image tools --no-start", "one\n");
    let shown = env.run(["vm", "show", "one"]).ok();
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["kernel:", "mine"])), "{shown}");
    refused(&env, "kernel rm mine", "needed by one, image tools");

    // It comes as with `kernel pull` also where other modules are to be booted with it.
    std::fs::remove_dir_all(env.home().join("data/kernels/mine")).unwrap();
    gives(&env, &format!("image build --from tools --modules {} app", tree.display()), "app\n");
    let pull = Asked::Image(ImageAction::Pull);
    let is_fetch = |it: &&Operation| it.action == pull && it.name == "mine";
    assert_eq!(operations(&env).iter().filter(is_fetch).count(), 1);
    gives(&env, "image delete app", "app\n");
    gives(&env, "kernel rm app", "app\n");
    for line in ["vm delete one", "image delete tools", "kernel rm mine"] {
        env.run(line.split(' ')).ok();
    }
    gives(&env, "kernel pull mine", "mine\n");
    gives(&env, "kernel list -q", "mine\n");
    assert!(!env.home().join("data/kernels/debian-cloud").exists(), "nothing has made another");
    gives(&env, "image cache list -q", "");
    env.assert_nothing_left();
}
