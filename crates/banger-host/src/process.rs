//! Processes that outlive the one that starts them, and how to find them again.
//!
//! A bare pid is never trusted: the kernel hands it to another process once its owner is gone.
//! A process is known by (boot, pid, start time), and dealt with through a pidfd, which means
//! that one process and no other.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};

use crate::clock::Deadline;
use crate::error::{HostError, Result};
use crate::facts::boot_id;
use crate::fs::read_text;
use crate::spawn::Start;

/// Inherited descriptors are first moved above this number, so that no target number in use by
/// another source is overwritten while they are put into place.
const FD_STAGING: i32 = 100;

/// How long a program that was started may take to leave what it shares with its starter.
const BEGINNING: Duration = Duration::from_secs(5);

/// Longest `/proc/<pid>/stat` that makes sense: fifty numbers and a 16-byte name.
const MAX_STAT_LEN: u64 = 4096;

/// What tells one process from every other that this machine ever ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The kernel's id of the boot in which the process was started.
    pub boot_id: String,
    /// Its process id.
    pub pid: i32,
    /// Clock ticks from boot to its start: field 22 of `/proc/<pid>/stat` (proc(5)).
    pub start_time: u64,
}

/// A process held by its pidfd.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    identity: ProcessIdentity,
}

/// A program to be started in a session of its own.
#[derive(Debug)]
pub struct Launch {
    program: OsString,
    args: Vec<OsString>,
    dir: PathBuf,
    output: Option<File>,
    fds: Vec<(OwnedFd, i32)>,
    env: Vec<(OsString, OsString)>,
}

impl Launch {
    /// A program that will run in `dir`, with no input and no output.
    pub fn new(program: impl AsRef<OsStr>, dir: &Path) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            dir: dir.to_owned(),
            output: None,
            fds: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment, which else is this process's.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sends standard output and standard error to this file.
    #[must_use]
    pub fn output(mut self, file: File) -> Self {
        self.output = Some(file);
        self
    }

    /// Gives the program this descriptor under this number (0 to 99).
    #[must_use]
    pub fn fd(mut self, fd: OwnedFd, number: i32) -> Self {
        self.fds.push((fd, number));
        self
    }

    /// Starts the program. It belongs to no terminal and does not end with this process.
    ///
    /// Returns when Linux no longer takes the new process for a copy of this one, so that whoever
    /// looks for it by its command line does not see this process's.
    ///
    /// # Errors
    /// [`HostError::NoProgram`] when it is not installed, else what the system says.
    pub fn start(self) -> Result<Process> {
        let staged = self.staged_fds()?;
        let fds: Vec<_> = staged.iter().map(|(fd, number)| (fd.as_fd(), *number)).collect();
        let start = Start {
            program: &self.program,
            args: &self.args,
            env: &self.env,
            dir: &self.dir,
            output: self.output.as_ref().map(AsFd::as_fd),
            fds: &fds,
        };
        let failed = |source| spawn_error(self.program.to_string_lossy().into_owned(), source);
        let departure = Departure::new()?;
        let pid = start.spawn().map_err(failed)?;
        departure.wait()?;
        // Not waited for yet, the child keeps its pid even if it has ended already.
        Process::open(pid)?
            .ok_or_else(|| HostError::system(format!("find process {pid}"), Errno::SRCH))
    }

    fn staged_fds(&self) -> Result<Vec<(OwnedFd, i32)>> {
        self.fds
            .iter()
            .map(|(fd, number)| {
                let staged = above_targets(fd)?;
                Ok((staged, *number))
            })
            .collect()
    }
}

fn above_targets(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, FD_STAGING)
        .map_err(|error| HostError::system("duplicate a descriptor", error))
}

/// A pipe whose other end a new process holds until its program takes the place of its starter's:
/// posix_spawn(3) returns a moment earlier.
struct Departure {
    hears: OwnedFd,
    held: OwnedFd,
}

impl Departure {
    fn new() -> Result<Self> {
        let (hears, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| HostError::system("make a pipe", error))?;
        Ok(Self { hears, held: above_targets(&held)? })
    }

    /// Waits for it, and goes on after [`BEGINNING`] as well.
    fn wait(self) -> Result<()> {
        drop(self.held);
        wait_readable(self.hears.as_fd(), Deadline::after(BEGINNING))
            .map_err(|error| HostError::system("wait for a program to begin", error))?;
        Ok(())
    }
}

pub(crate) fn spawn_error(program: String, source: std::io::Error) -> HostError {
    if source.kind() == std::io::ErrorKind::NotFound {
        HostError::NoProgram { program }
    } else {
        HostError::Spawn { program, source }
    }
}

impl Process {
    /// The process that has this pid now, if there is one.
    ///
    /// # Errors
    /// When the system refuses to say.
    pub fn open(pid: i32) -> Result<Option<Self>> {
        let Some(pidfd) = open_pidfd(pid)? else { return Ok(None) };
        let Some(start_time) = start_time(pid)? else { return Ok(None) };
        Ok(Some(Self { pidfd, identity: ProcessIdentity { boot_id: boot_id()?, pid, start_time } }))
    }

    /// The process that was known by `identity`, if it still lives.
    ///
    /// # Errors
    /// When the system refuses to say.
    pub fn find(identity: &ProcessIdentity) -> Result<Option<Self>> {
        Ok(Self::open(identity.pid)?.filter(|found| found.identity == *identity))
    }

    /// What to remember the process by.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Sends a signal; a process that is gone already is no error.
    ///
    /// # Errors
    /// When the signal may not be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(HostError::system(format!("signal process {}", self.identity.pid), error))
            }
        }
    }

    /// Waits until the process has ended, and reaps it if it is a child. `false` when it still
    /// runs at the deadline.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn wait(&self, deadline: Deadline) -> Result<bool> {
        let ended = self.ended(deadline)?;
        if ended {
            // Another's child is reaped by its own parent: that is not ours to do, and no error.
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        Ok(ended)
    }

    /// As [`Process::wait`], but leaves a child to be reaped by another call.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn ended(&self, deadline: Deadline) -> Result<bool> {
        wait_readable(self.pidfd.as_fd(), deadline).map_err(|error| {
            HostError::system(format!("wait for process {}", self.identity.pid), error)
        })
    }

    /// Ends the process at once and waits until it is gone.
    ///
    /// # Errors
    /// When it may not be signalled, or does not go within `patience`.
    pub fn kill(&self, patience: Duration) -> Result<()> {
        self.signal(Signal::KILL)?;
        if self.wait(Deadline::after(patience))? {
            return Ok(());
        }
        Err(HostError::TimedOut {
            program: format!("the end of process {}", self.identity.pid),
            seconds: patience.as_secs(),
        })
    }
}

impl AsFd for Process {
    /// The pidfd: readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Whether the descriptor can be read from, or has ended, before the deadline.
fn wait_readable(fd: BorrowedFd<'_>, deadline: Deadline) -> std::result::Result<bool, Errno> {
    loop {
        let timeout = deadline.left().try_into().map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn open_pidfd(pid: i32) -> Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH | Errno::INVAL) => Ok(None),
        Err(error) => {
            Err(HostError::system(format!("open process {}", pid.as_raw_nonzero()), error))
        }
    }
}

fn start_time(pid: i32) -> Result<Option<u64>> {
    match read_text(Path::new(&format!("/proc/{pid}/stat")), MAX_STAT_LEN) {
        Ok(stat) => Ok(parse_start_time(&stat)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Field 22 of `/proc/<pid>/stat`; fields are counted from behind the name, which may contain
/// anything.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_start_time_is_found_behind_any_name() {
        let tail = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_start_time(&format!("7 (a) b) (c) {tail}")), Some(22));
        assert_eq!(parse_start_time("7 (x"), None);
        assert_eq!(parse_start_time("7 (x) S 1"), None);
    }

    #[test]
    fn a_launched_process_is_found_again_and_killed() {
        let process = Launch::new("sleep", Path::new("/")).args(["1000"]).start().unwrap();
        let identity = process.identity().clone();
        assert!(Process::find(&identity).unwrap().is_some());
        assert!(!process.wait(Deadline::after(Duration::ZERO)).unwrap());
        process.kill(SOON).unwrap();
        assert!(Process::find(&identity).unwrap().is_none());
    }

    #[test]
    fn another_start_time_is_another_process() {
        let process = Launch::new("sleep", Path::new("/")).args(["1000"]).start().unwrap();
        let mut identity = process.identity().clone();
        identity.start_time += 1;
        assert!(Process::find(&identity).unwrap().is_none());
        process.kill(SOON).unwrap();
    }

    #[test]
    fn descriptors_and_output_reach_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let process = Launch::new("sh", dir.path())
            .args(["-c", "echo through-fd >&7; pwd"])
            .fd(write, 7)
            .output(crate::fs::create_new(&out).unwrap())
            .start()
            .unwrap();
        assert!(process.wait(Deadline::after(SOON)).unwrap());
        let mut line = [0; 32];
        let n = rustix::io::read(&read, &mut line).unwrap();
        assert_eq!(&line[..n], b"through-fd\n");
        let printed = read_text(&out, 4096).unwrap();
        assert_eq!(Path::new(printed.trim()), dir.path().canonicalize().unwrap());
    }

    #[test]
    fn a_launched_process_leads_a_session_and_has_the_signals_of_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        // It looks at itself: a shell that starts another program blocks signals for that moment.
        let script = "while read -r name value; do case $name in SigBlk:|SigIgn:) \
                      echo $value;; esac; done </proc/$$/status; echo $HOME $ONE";
        let process = Launch::new("sh", dir.path())
            .args(["-c", script])
            .env("ONE", "1")
            .env("HOME", "/nowhere")
            .output(crate::fs::create_new(&out).unwrap())
            .start()
            .unwrap();
        let pid = Pid::from_raw(process.identity().pid).unwrap();
        assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid);
        assert!(process.wait(Deadline::after(SOON)).unwrap());
        let printed = read_text(&out, 4096).unwrap();
        let [blocked, ignored, env] = printed.lines().collect::<Vec<_>>()[..] else {
            panic!("{printed}")
        };
        let set = |mask| u64::from_str_radix(mask, 16).unwrap();
        let pipe = 1 << (Signal::PIPE.as_raw() - 1);
        assert_eq!((set(blocked), set(ignored) & pipe, env), (0, 0, "/nowhere 1"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Launch::new("no-such-program", Path::new("/")).start().unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed");
    }
}
