//! Whoever builds or removes an image is killed: afterwards there is a whole image or none, and the same
//! can be asked for again.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};

use bangerd::checkpoint::IMAGE_CHECKPOINTS;

use crate::images::{gives, making, shown};
use crate::made_images::{busybox_root, own, refused};
use crate::pause::daemon_that_dies_at;
use crate::support::{TestEnv, wait_until};

/// A script that tells when it is under way, and goes on when somebody says so.
const WAITS: &str =
    "echo begun; until [ -e /srv/go ]; do busybox sleep 0.1; done; echo went > /srv/went";

/// A home with a small image `busy`, and a file to register others of.
fn with_busy() -> Option<(TestEnv, PathBuf)> {
    let env = own()?;
    let file = env.home().join("root.tar");
    std::fs::write(&file, busybox_root()?).unwrap();
    gives(&env, &format!("image register busy --rootfs {}", file.display()), "busy\n");
    Some((env, file))
}

fn build(env: &TestEnv, script: &str) -> Child {
    let file = env.home().join("script");
    std::fs::write(&file, script).unwrap();
    let mut command = env.command(["image", "build", "--from", "busy", "--provision"]);
    command.arg(file).arg("built").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn gives_image(env: &TestEnv, building: Child, at: &str) {
    let output = building.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"built\n", "{at}: {said}");
    assert_eq!(shown(env, "built")["name"], "built", "{at}");
}

/// Waits until the script is under way.
fn begun(building: &mut Child) -> BufReader<ChildStderr> {
    let mut stderr = BufReader::new(building.stderr.take().unwrap());
    let mut line = String::new();
    while line.trim_end() != "begun" {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the script never began");
    }
    stderr
}

fn gone(env: &TestEnv, at: &str) {
    gives(env, "image delete built", "built\n");
    env.assert_nothing_left();
    assert!(!making(&env.home()), "{at}: something half-made is left");
}

#[test]
fn a_build_goes_on_whenever_the_daemon_dies() {
    let Some((env, _)) = with_busy() else { return };
    let of_sandbox = ["create.reserved", "start.prepared", "start.recorded", "stop.off"];
    let promotes = IMAGE_CHECKPOINTS.into_iter().filter(|it| it.starts_with("promote."));
    let ends = ["delete.decided", "delete.removed"];
    for checkpoint in of_sandbox.into_iter().chain(promotes).chain(ends) {
        env.kill_daemon();
        let mut dying = daemon_that_dies_at(&env, checkpoint);
        gives_image(&env, build(&env, "echo built > /srv/built"), checkpoint);
        assert!(!dying.wait().unwrap().success(), "{checkpoint} was not reached");
        gone(&env, checkpoint);
    }
    let mut building = build(&env, WAITS);
    let _stderr = begun(&mut building);
    env.kill_daemon();
    let sandbox = env.run(["vm", "list", "-q"]).ok();
    env.run(["vm", "exec", sandbox.trim(), "--", "touch", "/srv/go"]).ok();
    gives_image(&env, building, "the script");
    gives(&env, "vm run --network none --image built -- cat /srv/went", "went\n");
    gone(&env, "the script");
}

#[test]
fn a_build_whose_command_is_killed_leaves_nothing_by_halves() {
    let Some((env, _)) = with_busy() else { return };
    let mut building = build(&env, WAITS);
    let stderr = begun(&mut building);
    building.kill().unwrap();
    building.wait().unwrap();
    drop(stderr);
    env.assert_nothing_left();
    assert!(!making(&env.home()));
    refused(&env, "image show built", "there is no image built");

    // While the image is written the daemon goes on alone, with or without the sandbox.
    let mut building = build(&env, "echo built > /srv/built");
    let made = || env.home().join("data/images/built").is_symlink();
    wait_until("the image is written", || making(&env.home()) || made());
    building.kill().unwrap();
    building.wait().unwrap();
    env.assert_nothing_left();
    wait_until("it is made or not", || !making(&env.home()));
    if made() {
        gives(&env, "vm run --network none --image built -- cat /srv/built", "built\n");
        gone(&env, "the command");
    }
    gives_image(&env, build(&env, "echo built > /srv/built"), "again");
    gone(&env, "again");
}

#[test]
fn an_image_is_removed_as_a_whole_whenever_the_daemon_dies() {
    let Some((env, file)) = with_busy() else { return };
    let store = env.home().join("data/image-store");
    let begin = || {
        gives(&env, &format!("image register app --rootfs {}", file.display()), "app\n");
        gives(&env, "vm run --network none --image app -- busybox true", "");
        env.assert_nothing_left();
        assert_ne!(env.run(["template", "list", "-q"]).ok(), "", "it has a template");
        store.join(shown(&env, "app")["id"].as_str().unwrap())
    };
    let gone = |stored: PathBuf, at: &str| {
        refused(&env, "image show app", "there is no image app");
        wait_until(&format!("{at}: nothing of it is left"), || {
            !stored.exists()
                && !making(&env.home())
                && env.run(["template", "list", "-q"]).ok().is_empty()
        });
    };
    for checkpoint in IMAGE_CHECKPOINTS.into_iter().filter(|it| it.starts_with("image.")) {
        let stored = begin();
        env.kill_daemon();
        let mut dying = daemon_that_dies_at(&env, checkpoint);
        gives(&env, "image delete app", "app\n");
        assert!(!dying.wait().unwrap().success(), "{checkpoint} was not reached");
        gone(stored, checkpoint);
    }
    // A damaged one goes as one that is whole.
    let stored = begin();
    let root = std::fs::File::options().write(true).open(stored.join("root.ext4")).unwrap();
    root.set_len(4096).unwrap();
    refused(&env, "image show app", "remove it with `banger image delete app`");
    gives(&env, "image delete app", "app\n");
    gone(stored, "damaged");
    // Whoever asks is killed: it is whole or gone.
    let stored = begin();
    let asking = env.command(["image", "delete", "app"]).stdout(Stdio::null()).spawn();
    let mut asking = asking.unwrap();
    wait_until("it has asked", || asking.try_wait().unwrap().is_some() || !stored.exists());
    asking.kill().unwrap();
    asking.wait().unwrap();
    gone(stored, "the command");
    env.assert_nothing_left();
}
