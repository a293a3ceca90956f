//! The image bootstrapped from Debian's archive, and what is left of a build that was killed.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::command::Tool;
use banger_host::fs;
use banger_host::home::Home;
use banger_host::process::{Launch, Process};
use banger_image::Image;
use banger_model::Silent;
use mkext4::reader::Fs;

const SOON: Duration = Duration::from_secs(120);

#[test]
fn the_image_has_what_a_developer_expects_and_nothing_of_the_host() {
    let Some(image) = super::support::image() else { return };
    Tool::new("/sbin/e2fsck").arg("-fn").arg(image.root()).capture(SOON).unwrap();
    let root = Fs::open(File::open(image.root()).unwrap()).unwrap();
    for program in [
        "apt-get", "bash", "curl", "git", "ip", "less", "modprobe", "ping", "ps", "python3", "ssh",
        "sudo", "vi", "xz",
    ] {
        let found = ["usr/bin", "usr/sbin"].map(|dir| root.resolve(&format!("{dir}/{program}")));
        assert!(found.iter().any(Result::is_ok), "{program}");
    }
    let read = |path: &str| root.read_file(root.resolve(path).unwrap()).unwrap();
    assert_eq!(read("etc/machine-id"), b"");
    assert_eq!(read("etc/resolv.conf"), b"");
    assert_eq!(read("etc/hostname"), b"localhost\n");
    assert!(root.resolve("usr/lib/locale/C.utf8/LC_CTYPE").is_ok());
    assert!(String::from_utf8_lossy(&read("etc/apt/sources.list")).contains("bookworm-security"));
    let names = |path: &str| -> Vec<String> {
        let entries = root.read_dir(root.resolve(path).unwrap()).unwrap();
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    };
    assert!(!names("etc/ssh").iter().any(|name| name.starts_with("ssh_host_")));
    assert_eq!(names("usr/local/share/ca-certificates"), [".", ".."]);
    let ping = root.xattrs(root.resolve("usr/bin/ping").unwrap()).unwrap();
    assert_eq!(ping[0].full_name().unwrap(), b"security.capability");
    let sudo = root.inode(root.resolve("usr/bin/sudo").unwrap()).unwrap();
    assert_eq!(sudo.mode & 0o7777, 0o4755);
    assert_eq!(image.config().shell, ["/bin/bash", "-l"]);
}

#[test]
fn the_image_is_found_again_and_whole() {
    let Some(image) = super::support::image() else { return };
    let home = super::support::home();
    let again = Image::ensure(&home, &super::support::name(), &Silent).unwrap();
    assert_eq!(again.identity(), image.identity());
    assert!(Image::list(&home).unwrap().contains(&super::support::name()));
    image.verify().unwrap();
}

#[test]
fn unknown_images_are_told_with_what_can_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::under(dir.path());
    let error = Image::ensure(&home, &"ubuntu".parse().unwrap(), &Silent).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image ubuntu: here are none; can be made: debian-bookworm"
    );
}

/// Starts a build in another process, waits until it is in the given stage, and kills it.
fn kill_build_in(home: &Path, stage: &str) {
    let program = std::env::current_exe().unwrap().with_file_name("../examples/prepare");
    let (read, write) = std::io::pipe().unwrap();
    let write = File::from(std::os::fd::OwnedFd::from(write));
    let build = Launch::new(program, home).args([home, Path::new("image")]).output(write).start();
    let build = build.unwrap();
    let reached = BufReader::new(read).lines().map_while(Result::ok).any(|line| line == stage);
    assert!(reached, "the build ended before {stage:?}");
    let helpers = processes_that_mention(home);
    assert!(helpers.len() > 1, "the build runs programs");
    build.kill(SOON).unwrap();
    for helper in helpers {
        assert!(helper.ended(Deadline::after(SOON)).unwrap(), "it outlives the build");
    }
}

fn processes_that_mention(path: &Path) -> Vec<Process> {
    let wanted = path.to_str().unwrap();
    let pids = fs::list_dir(Path::new("/proc")).unwrap();
    let mention = pids.iter().filter_map(|name| {
        let pid: i32 = name.to_str()?.parse().ok()?;
        let line = fs::read_text(Path::new(&format!("/proc/{pid}/cmdline")), 1 << 20).ok()?;
        if line.contains(wanted) { Process::open(pid).ok()? } else { None }
    });
    mention.collect()
}

#[test]
fn a_killed_build_leaves_nothing_that_runs_or_passes_for_an_image() {
    // Where the image can be made at all, a build of it can be killed.
    let Some(_) = super::support::image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let home = Home::under(dir.path());
    let work = home.cache().join("bootstrap/debian-bookworm");
    kill_build_in(dir.path(), "unpacking essential packages");
    assert!(Image::open(&home, &super::support::name()).unwrap_err().is_missing());
    assert!(Image::list(&home).unwrap().is_empty());
    // Left in place of what was in memory, as a build on a small machine would leave it.
    let left = work.join("tree/left/behind");
    fs::create_private_dir(&left).unwrap();

    // The next build begins by removing what that one left.
    kill_build_in(dir.path(), "fetching Debian's package lists");
    assert!(!left.exists());
}
