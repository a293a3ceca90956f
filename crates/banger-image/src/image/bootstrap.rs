//! The image `debian-bookworm`, bootstrapped from Debian's archive by mmdebstrap.
//!
//! mmdebstrap runs in namespaces of its own that end when this process ends, however it ends:
//! no package script runs on, no mount remains. Without root it also runs in a user namespace.
//! Its tree is in memory where there is enough of that. What it writes is an archive, in which
//! the few files that depend on the host are replaced before it becomes an image.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::time::Duration;

use banger_host::command::{Running, Tool};
use banger_host::error::AtPath as _;
use banger_host::{HostError, facts, fs};
use banger_model::{Bytes, ImageName, Progress};
use bstr::BString;
use thiserror::Error;

use super::{Image, ImageConfig, ImageInfo, NewImage};
use crate::archive::{Archive, ArchiveError, Entry};
use crate::ext4::WriteImageError;
use crate::hosttools::{
    APT_GET, HostTool, MMDEBSTRAP, MissingPackages, NEWUIDMAP, RM, SH, UNSHARE, require,
};
use crate::space::{NoSpace, require_space};
use crate::tree::{Tree, TreeError};

const SUITE: &str = "bookworm";

/// What a developer expects in a shell, beside Debian's required packages: with fewer, the first
/// thing typed is `apt-get install`; with more, every sandbox pays.
const PACKAGES: [&str; 16] = [
    "bash",
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "iputils-ping",
    // modprobe, for the modules that are mounted at /lib/modules.
    "kmod",
    "less",
    // /etc/services and /etc/protocols, which resolving names of ports needs.
    "netbase",
    "openssh-client",
    "patch",
    "procps",
    "python3",
    "sudo",
    "vim-tiny",
    "xz-utils",
];

/// Settings of dpkg that stay in the image. A sandbox is thrown away, so no package needs to
/// survive a power cut; manuals and translations are 80 MB that a sandbox rarely reads. Licences
/// are kept.
const DPKG_OPTIONS: [&str; 6] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// Files that the host or the build left its marks on, and what they are in every image. The
/// agent mounts its own over `resolv.conf`; an empty `machine-id` is filled at the first boot
/// (machine-id(5)).
const NEUTRAL_FILES: [(&str, &str); 5] = [
    ("etc/hostname", "localhost\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    ("etc/machine-id", ""),
    ("etc/resolv.conf", ""),
    ("etc/default/locale", "LANG=C.UTF-8\n"),
];

/// Room for the packages, the tree, its archive and the image.
const SPACE: Bytes = Bytes::mib(1500);
/// With so much memory available, the tree is kept in memory while it is made: no disk delays it,
/// and it vanishes with the last process of the build. It takes half a gigabyte.
const MEMORY: Bytes = Bytes::gib(2);
/// Runs a program, given after a directory, with that directory in memory.
const IN_MEMORY: &str =
    r#"mount -t tmpfs -o mode=0755,size=1500m tmpfs "$1" && shift && exec "$@""#;
/// 60 MB over a slow line, then half a minute of unpacking on a fast machine.
const BOOTSTRAP_TIME: Duration = Duration::from_secs(60 * 60);
/// Removing what an earlier build left behind.
const CLEAN_TIME: Duration = Duration::from_secs(120);
/// Longest line of mmdebstrap that is looked at.
const MAX_LINE: u64 = 64 * 1024;
/// When it fails, its first error is shown with what it said before, so many lines in all.
const SHOWN_LINES: usize = 3;

/// Why an image could not be made.
#[derive(Debug, Error)]
pub enum MakeImageError {
    /// A program that is needed is missing on the host.
    #[error(transparent)]
    Missing(#[from] MissingPackages),
    /// Too little room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// Bootstrapping failed.
    #[error("cannot bootstrap Debian {SUITE}: {said}")]
    Bootstrap {
        /// What mmdebstrap said last.
        said: String,
        /// How it ended.
        source: HostError,
    },
    /// Without root, a user namespace is needed and cannot be made.
    #[error(
        "cannot make a user namespace: allow them on this host and give this user a range in /etc/subuid and /etc/subgid, or run as root"
    )]
    Namespaces(#[source] HostError),
    /// The host could not be asked or prepared.
    #[error("cannot prepare the bootstrap")]
    Prepare(#[source] HostError),
    /// What was bootstrapped could not be read.
    #[error("cannot read what was bootstrapped")]
    Archive(#[from] ArchiveError),
    /// What was bootstrapped is no root file system.
    #[error("cannot use what was bootstrapped")]
    Tree(#[from] TreeError),
    /// The image could not be written.
    #[error("cannot write the image")]
    Write(#[from] WriteImageError),
    /// The image could not be kept.
    #[error("cannot keep the image")]
    Keep(#[source] HostError),
}

/// Makes the image and gives it its name. `work` is for what is needed
/// on the way; it is not in the staging directory because there may be files of other users in
/// it, which only a user namespace can remove.
pub(super) fn make(
    (new, name): (NewImage, &ImageName),
    work: &Path,
    progress: &dyn Progress,
) -> Result<Image, MakeImageError> {
    let namespaces = Namespaces::of_user(facts::user_id());
    require(&[APT_GET, MMDEBSTRAP, UNSHARE])?;
    if namespaces == Namespaces::WithUsers {
        require(&[NEWUIDMAP])?;
    }
    fs::create_private_dir(work).map_err(MakeImageError::Prepare)?;
    clean(namespaces, work)?;
    fs::create_private_dir(work).map_err(MakeImageError::Prepare)?;
    require_space(work.parent().unwrap_or(work), "an image", SPACE)?;
    let made = build(&new, namespaces, work, progress);
    let cleaned = clean(namespaces, work);
    let info = made?;
    cleaned?;
    new.finish(name, info).map_err(MakeImageError::Keep)
}

fn build(
    new: &NewImage,
    namespaces: Namespaces,
    work: &Path,
    progress: &dyn Progress,
) -> Result<ImageInfo, MakeImageError> {
    let tar = work.join("root.tar");
    progress.stage("bootstrapping Debian bookworm");
    let tool = mmdebstrap(namespaces, work, &tar)?;
    follow(tool, progress).map_err(|(said, source)| failure(work, said, source))?;
    progress.stage("writing the image");
    let file = File::open(&tar).at("open", &tar).map_err(MakeImageError::Keep)?;
    let mut archive = Archive::open(file)?;
    neutralize(&mut archive.entries);
    let tree = Tree::of(archive)?;
    new.write(&tree, progress)?;
    let source = format!("Debian {SUITE}, bootstrapped by mmdebstrap");
    Ok(ImageInfo {
        source,
        config: ImageConfig::debian(),
        origin: None,
        made: None,
        kernel: None,
        bundle: None,
        made_by: None,
    })
}

fn mmdebstrap(namespaces: Namespaces, work: &Path, tar: &Path) -> Result<Tool, MakeImageError> {
    let include = format!("--include={}", PACKAGES.join(","));
    let dpkg_options = DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}"));
    let tree = work.join("tree");
    fs::create_private_dir(&tree).map_err(MakeImageError::Prepare)?;
    let tool = match facts::memory() {
        Ok((_, available)) if available >= MEMORY.get() => {
            let tool = namespaces.enter(SH)?.args(["-c", IN_MEMORY, "sh"]).arg(&tree);
            tool.arg(MMDEBSTRAP.find()?)
        }
        _ => namespaces.enter(MMDEBSTRAP)?,
    };
    Ok(tool
        .env("TMPDIR", &tree)
        // Even without root: the namespaces around it give it all that it asks for.
        .args(["--mode=root", "--variant=minbase", "--format=tar"])
        // Lines of progress are to come through the pipe.
        .args(["--logfile=/dev/stdout", "--aptopt=Acquire::Languages \"none\""])
        .args(dpkg_options)
        .arg(include)
        .arg(SUITE)
        .arg(tar))
}

/// What a bootstrap is shut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespaces {
    /// Processes and mounts.
    Plain,
    /// Processes, mounts and users: root inside is the caller outside, all others are from the
    /// range that `/etc/subuid` gives him.
    WithUsers,
}

impl Namespaces {
    fn of_user(user: u32) -> Self {
        if user == 0 { Self::Plain } else { Self::WithUsers }
    }

    /// The program, to be run in new namespaces in which every process ends when the caller's
    /// thread does.
    fn enter(self, program: HostTool) -> Result<Tool, MissingPackages> {
        let users: &[&str] = match self {
            Self::Plain => &[],
            Self::WithUsers => &["--user", "--map-root-user", "--map-auto"],
        };
        let tool = UNSHARE.tool()?.args(users);
        Ok(tool.args(["--mount", "--pid", "--fork", "--kill-child", "--"]).arg(program.find()?))
    }
}

/// Removes the directory, as whoever may.
fn clean(namespaces: Namespaces, work: &Path) -> Result<(), MakeImageError> {
    let tool = namespaces.enter(RM)?.args(["-rf", "--one-file-system", "--"]).arg(work);
    tool.capture(CLEAN_TIME).map(drop).map_err(match namespaces {
        Namespaces::Plain => MakeImageError::Prepare,
        Namespaces::WithUsers => MakeImageError::Namespaces,
    })
}

/// Runs mmdebstrap and passes its stages on; on failure also what it said of that.
fn follow(tool: Tool, progress: &dyn Progress) -> Result<(), (String, HostError)> {
    let mut failure = Failure::default();
    let mut running = tool.stream(BOOTSTRAP_TIME).map_err(|error| (String::new(), error))?;
    each_line(&mut running, |line| match parse_stage(line) {
        Some(stage) => progress.stage(stage),
        None => failure.hear(line.trim()),
    });
    running.finish().map_err(|error| (failure.said(), error))
}

/// The first error among the lines of a program, and the lines before it, which tell its cause.
#[derive(Debug, Default)]
struct Failure {
    lines: VecDeque<String>,
    complete: bool,
}

impl Failure {
    fn hear(&mut self, line: &str) {
        if self.complete || line.is_empty() || line.starts_with("I: ") {
            return;
        }
        self.complete = line.starts_with("E: ");
        if self.lines.len() == SHOWN_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.trim_start_matches("E: ").to_owned());
    }

    fn said(self) -> String {
        Vec::from(self.lines).join("; ")
    }
}

fn each_line(running: &mut Running, mut act: impl FnMut(&str)) {
    let Some(stdout) = running.take_stdout() else { return };
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    while let Ok(1..) = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
        act(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

/// The stage that a line of mmdebstrap announces, in words for the user.
pub fn parse_stage(line: &str) -> Option<&'static str> {
    const STAGES: [(&str, &str); 6] = [
        ("running apt-get update", "fetching Debian's package lists"),
        ("downloading packages", "downloading packages"),
        ("extracting archives", "unpacking essential packages"),
        ("installing essential packages", "installing essential packages"),
        ("installing remaining packages", "installing packages"),
        ("creating tarball", "collecting the root file system"),
    ];
    let said = line.strip_prefix("I: ")?;
    STAGES.iter().find(|(begin, _)| said.starts_with(begin)).map(|(_, stage)| *stage)
}

fn failure(work: &Path, said: String, source: HostError) -> MakeImageError {
    if said.contains("No space left on device") || said.contains("Disk quota exceeded") {
        let free = fs::free_space(work).unwrap_or(Bytes::ZERO);
        let dir = work.to_owned();
        return NoSpace { dir, what: "an image", needs: SPACE, free }.into();
    }
    MakeImageError::Bootstrap { said, source }
}

/// Replaces what depends on the host and drops what would tell one image's sandboxes apart.
fn neutralize(entries: &mut Vec<Entry>) {
    let mtime = entries.iter().map(|entry| entry.attributes.mtime).max().unwrap_or_default();
    let is_neutral = |path: &BString| NEUTRAL_FILES.iter().any(|(neutral, _)| path == neutral);
    entries.retain(|entry| !is_neutral(&entry.path) && !is_leftover(&entry.path));
    for (path, content) in NEUTRAL_FILES {
        entries.push(Entry::file(path, content.as_bytes().to_vec(), mtime));
    }
}

/// Keys of an SSH server, which must not be shared, and traces of the build.
fn is_leftover(path: &BString) -> bool {
    const LOGS: [&str; 3] =
        ["var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log"];
    path.starts_with(b"etc/ssh/ssh_host_")
        || path.starts_with(b"var/log/apt/")
        || LOGS.iter().any(|log| path == log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Content, Kind};

    #[test]
    fn stages_are_told_in_plain_words() {
        assert_eq!(
            parse_stage("I: creating tarball...\n"),
            Some("collecting the root file system")
        );
        assert_eq!(parse_stage("I: success in 39.5 seconds"), None);
        assert_eq!(parse_stage("E: creating tarball"), None);
    }

    #[test]
    fn nothing_of_the_host_or_the_build_stays() {
        let mut entries = vec![
            Entry::file("etc/hostname", b"build-host".to_vec(), (7, 0)),
            Entry::file("etc/ssh/ssh_host_ed25519_key", b"secret".to_vec(), (9, 0)),
            Entry::file("var/log/apt/history.log", b"x".to_vec(), (0, 0)),
            Entry::file("etc/passwd", b"root".to_vec(), (0, 0)),
        ];
        neutralize(&mut entries);
        let content = |path: &str| {
            let found: Vec<_> = entries.iter().filter(|entry| entry.path == path).collect();
            assert!(found.len() <= 1, "{path}");
            found.first().map(|entry| entry.kind.clone())
        };
        let text = |text: &str| Some(Kind::File(Content::Inline(text.as_bytes().to_vec())));
        assert_eq!(content("etc/hostname"), text("localhost\n"));
        assert_eq!(content("etc/machine-id"), text(""));
        assert_eq!(content("etc/passwd"), text("root"));
        assert_eq!(content("etc/ssh/ssh_host_ed25519_key"), None);
        assert_eq!(content("var/log/apt/history.log"), None);
    }

    #[test]
    fn the_first_error_is_shown_with_what_led_to_it() {
        let mut failure = Failure::default();
        for line in ["I: a", "1", "2", "3", "", "E: bad", "E: worse", "I: b"] {
            failure.hear(line);
        }
        assert_eq!(failure.said(), "2; 3; bad");
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let source = HostError::NoProgram { program: "x".to_owned() };
        let said = "E: cannot write: No space left on device".to_owned();
        let error = failure(Path::new("/"), said, source);
        assert!(error.to_string().starts_with("no space left on /: an image needs about 1.4G"));
    }
}
