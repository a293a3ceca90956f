//! One cgroup for each process tree, so that all of a tree can be found and ended, however its
//! processes fork, change their session or lose their parents.
//!
//! The cgroups have no controllers: they are for finding processes. Whoever wants limits in a
//! sandbox (a container engine) makes cgroups of its own beside them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::files::{SMALL, read_bounded, read_line, set};

/// Where the hierarchy is mounted.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// The cgroup that holds all of ours.
const OURS: &str = "banger";

/// The one that holds the agent where it is not the first process: that would take it along to its
/// own cgroup from the hierarchy's root.
const AGENTS: &str = "banger-agent";

/// The controllers that limits of containers are made of.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Longest list of the processes of one cgroup: every process the kernel can have, in decimals.
const MAX_PROCS_LEN: u64 = 64 * 1024 * 1024;

/// How long processes may take to stand still: one that waits for a disk does when it has it.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most names in a row that somebody else may have taken.
const MAX_TAKEN: usize = 16;

/// Most cgroups below the one of a tree that are searched for its processes.
const MAX_NESTED: usize = 4096;

/// The cgroup under which every process tree gets its own.
#[derive(Debug)]
pub struct Cgroups {
    top: PathBuf,
    /// How many were made.
    made: u64,
    /// For the next tree: whoever starts it need not wait for the kernel to make one.
    ahead: Option<Tree>,
    /// Those whose processes are released but still live.
    left: Vec<PathBuf>,
}

/// The cgroup of one process tree.
#[derive(Debug)]
pub(crate) struct Tree {
    path: PathBuf,
    dir: File,
}

/// Whether processes run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freezer {
    /// None does.
    Frozen,
    /// All do.
    #[default]
    Thawed,
}

/// As the end of "make processes …".
impl fmt::Display for Freezer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frozen => "stand still",
            Self::Thawed => "go on",
        })
    }
}

impl Cgroups {
    /// Sets up the hierarchy of a machine that has just booted, with the controllers that a
    /// service manager would have enabled. A kernel without cgroups gives none: processes run
    /// without.
    pub(crate) fn set_up() -> Option<Self> {
        let hierarchy = Path::new(HIERARCHY);
        let available = read_line(&hierarchy.join("cgroup.controllers")).ok()?;
        // Without them, whoever wants limits enables controllers itself.
        let _left_off =
            set(&hierarchy.join("cgroup.subtree_control"), enable(&available).as_bytes());
        Self::below(hierarchy).ok()
    }

    /// Makes a cgroup for ours below this one.
    ///
    /// # Errors
    /// What `mkdir` says.
    pub fn below(parent: &Path) -> io::Result<Self> {
        let top = parent.join(OURS);
        make_dir(&top)?;
        let mut cgroups = Self { top, made: 0, ahead: None, left: Vec::new() };
        cgroups.make_ahead();
        Ok(cgroups)
    }

    /// Freezes or thaws every process but those of the hierarchy's root and of the agent's own
    /// cgroup, and waits until that is so. A service manager or a container engine has cgroups of
    /// its own beside ours: they count, too.
    ///
    /// # Errors
    /// `TimedOut` when some process does not stand still, else what the kernel says.
    pub(crate) fn freeze(&self, state: Freezer) -> io::Result<()> {
        let end = Instant::now() + FREEZE_TIMEOUT;
        let hierarchy = self.top.parent().unwrap_or(&self.top);
        let mut groups = Vec::new();
        for entry in fs::read_dir(hierarchy)?.take(MAX_NESTED) {
            let path = entry?.path();
            if !path.ends_with(AGENTS) && path.join("cgroup.freeze").exists() {
                groups.push(path);
            }
        }
        let value = if state == Freezer::Frozen { b"1" } else { b"0" };
        for group in &groups {
            set(&group.join("cgroup.freeze"), value)?;
        }
        for group in &groups {
            await_freezer(&group.join("cgroup.events"), state, end)?;
        }
        Ok(())
    }

    /// The cgroup of a new tree.
    ///
    /// # Errors
    /// What `mkdir` and `open` say.
    pub(crate) fn make(&mut self) -> io::Result<Tree> {
        match self.ahead.take() {
            // Root may have cleared away what has no processes. What else root does to it, like freezing
            // it, is done to the next process.
            Some(tree) if tree.is_there() => Ok(tree),
            _ => self.make_now(),
        }
    }

    fn make_now(&mut self) -> io::Result<Tree> {
        let path = self.make_new_dir()?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let dir = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        Ok(Tree { path, dir })
    }

    /// Names that root has taken are passed over.
    fn make_new_dir(&mut self) -> io::Result<PathBuf> {
        for _ in 0..MAX_TAKEN {
            self.made += 1;
            let path = self.top.join(self.made.to_string());
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| path),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn make_ahead(&mut self) {
        if self.ahead.is_none() {
            // Who needs one is told why there is none.
            self.ahead = self.make_now().ok();
        }
    }

    /// Removes the cgroup of a tree, now or when a later one is removed: as long as a process
    /// lives in it, it stays.
    pub(crate) fn remove(&mut self, tree: Tree) {
        self.left.push(tree.path);
        self.left.retain(|path| match fs::remove_dir(path) {
            Ok(()) => false,
            Err(error) => error.raw_os_error() == Some(Errno::BUSY.raw_os_error()),
        });
        self.make_ahead();
    }
}

/// Has this process and the children that it gets leave the hierarchy's root, or come back to it.
///
/// # Errors
/// What the kernel says.
pub(crate) fn move_to(place: Place) -> io::Result<()> {
    let hierarchy = Path::new(HIERARCHY);
    let dir = match place {
        Place::Root => hierarchy.to_owned(),
        Place::Agents => hierarchy.join(AGENTS),
    };
    make_dir(&dir)?;
    set(&dir.join("cgroup.procs"), b"0")
}

/// Where a process is that is not to be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The hierarchy's root: with the first process.
    Root,
    /// The agent's own cgroup.
    Agents,
}

/// Signals the processes of the cgroup with this path below the root of the hierarchy, and of none
/// below it. There may be no such cgroup.
pub(crate) fn signal_group(path: &str, signal: Signal) {
    for pid in processes_of(path) {
        let _ended = kill_process(pid, signal);
    }
}

/// Whether a cgroup of somebody else's has processes.
pub(crate) fn has_processes(path: &str) -> bool {
    !processes_of(path).is_empty()
}

fn processes_of(path: &str) -> Vec<Pid> {
    let list = Path::new(HIERARCHY).join(path).join("cgroup.procs");
    parse_procs(&read_bounded(&list, MAX_PROCS_LEN).unwrap_or_default()).collect()
}

impl Tree {
    /// Whether its path leads to it still.
    fn is_there(&self) -> bool {
        let known = self.dir.metadata().map(|about| about.ino());
        let found = fs::metadata(&self.path).map(|about| about.ino());
        matches!((known, found), (Ok(known), Ok(found)) if known == found)
    }

    /// The cgroup as `clone3` takes it.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Signals every process in it. `SIGKILL` goes to all at once; another signal goes to those
    /// that are found, and a process that forks meanwhile may have a child that is not.
    ///
    /// # Errors
    /// What the kernel says about the cgroup's files.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        if signal == Signal::KILL {
            return set(&self.path.join("cgroup.kill"), b"1");
        }
        for dir in self.nested() {
            let list = read_bounded(&dir.join("cgroup.procs"), MAX_PROCS_LEN)?;
            for pid in parse_procs(&list) {
                // One that has ended meanwhile needs no signal.
                let _ended = kill_process(pid, signal);
            }
        }
        Ok(())
    }

    /// This cgroup and those below it: a process may have made some.
    fn nested(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut at = 0;
        while at < found.len() && found.len() < MAX_NESTED {
            if let Ok(entries) = fs::read_dir(&found[at]) {
                let dirs = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
                found.extend(dirs.map(|entry| entry.path()).take(MAX_NESTED));
            }
            at += 1;
        }
        found
    }
}

/// Waits until a cgroup's events say what its processes do. The kernel tells of a change by an
/// exceptional condition on the file (cgroup-v2, "Core Interface Files").
fn await_freezer(events: &Path, state: Freezer, end: Instant) -> io::Result<()> {
    let mut file = File::open(events)?;
    let wanted = if state == Freezer::Frozen { "frozen 1" } else { "frozen 0" };
    loop {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0))?;
        file.by_ref().take(SMALL).read_to_string(&mut text)?;
        if text.lines().any(|line| line == wanted) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// What enables those of our controllers that are available, all in one write: each write goes
/// through the whole hierarchy.
fn enable(available: &str) -> String {
    let has = |wanted: &&&str| available.split_ascii_whitespace().any(|name| name == **wanted);
    CONTROLLERS.iter().filter(has).map(|name| format!("+{name} ")).collect()
}

/// The processes in a list, one in a line. Zero stands for one of another pid namespace.
fn parse_procs(list: &[u8]) -> impl Iterator<Item = Pid> + '_ {
    list.split(|b| *b == b'\n').filter_map(|line| {
        let number = std::str::from_utf8(line).ok()?.parse().ok().filter(|number| *number > 0)?;
        Pid::from_raw(number)
    })
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processes_are_read_with_care() {
        let pids: Vec<_> = parse_procs(b"1\n0\n42\n-7\nx\n\n99999999999\n7")
            .map(|pid| pid.as_raw_nonzero())
            .collect();
        assert_eq!(pids.iter().map(|p| p.get()).collect::<Vec<_>>(), [1, 42, 7]);
    }

    #[test]
    fn controllers_are_enabled_as_far_as_they_are_there() {
        assert_eq!(enable("cpuset cpu hugetlb pids rdma\n"), "+cpu +cpuset +pids ");
        assert_eq!(enable(""), "");
    }

    #[test]
    fn cgroups_below_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut cgroups = Cgroups::below(dir.path()).unwrap();
        let tree = cgroups.make().unwrap();
        fs::create_dir_all(tree.path.join("a/b")).unwrap();
        let names: Vec<_> =
            tree.nested().iter().map(|p| p.strip_prefix(dir.path()).unwrap().to_owned()).collect();
        let top = Path::new("banger/1");
        assert_eq!(names, [top.to_owned(), top.join("a"), top.join("a/b")]);
    }

    #[test]
    fn a_cgroup_in_use_is_removed_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut cgroups = Cgroups::below(dir.path()).unwrap();
        let tree = cgroups.make().unwrap();
        let path = tree.path.clone();
        cgroups.remove(tree);
        assert!(!path.exists() && cgroups.left.is_empty());
    }

    #[test]
    fn one_is_there_before_it_is_needed_and_another_if_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut cgroups = Cgroups::below(dir.path()).unwrap();
        fs::create_dir(dir.path().join("banger/2")).unwrap();
        let (first, second) = (cgroups.make().unwrap(), cgroups.make().unwrap());
        assert!(first.path.ends_with("1") && second.path.ends_with("3"));
        cgroups.remove(first);
        let ahead = cgroups.ahead.as_ref().map(|tree| tree.path.clone()).unwrap();
        assert_eq!(cgroups.make().unwrap().path, ahead);
        cgroups.remove(second);
        let ahead = cgroups.ahead.as_ref().map(|tree| tree.path.clone()).unwrap();
        fs::rename(&ahead, dir.path().join("away")).unwrap();
        fs::create_dir(&ahead).unwrap();
        let other = cgroups.make().unwrap();
        assert!(other.path != ahead && other.path.is_dir());
    }
}
