//! Starting a command: its user, its streams, its cgroup, its process.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use banger_link::{Command, Refusal, Tool, Window};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};

use crate::cgroup::{Cgroups, Tree};
use crate::program::Program;
use crate::sys::child::{self, Credentials, Preparation, Stack, StartError, Step, Terminal};
use crate::users::{Accounts, User};

/// The group that owns terminals, the same number in every distribution (and in the options
/// with which `/dev/pts` is mounted).
const TTY_GROUP: u32 = 5;

/// The agent's ends of a process's streams, none of which ever blocks.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    /// None with a terminal.
    pub(crate) stderr: Option<OwnedFd>,
    /// Another descriptor for the terminal, if there is one: its size outlives its streams.
    pub(crate) terminal: Option<OwnedFd>,
}

/// A command that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: Pid,
    pub(crate) streams: Streams,
    pub(crate) tree: Option<Tree>,
}

/// Starts commands.
#[derive(Debug)]
pub(crate) struct Spawner {
    stack: Stack,
    etc: PathBuf,
}

impl Spawner {
    /// One for a system whose users are in `etc`.
    pub(crate) fn new(etc: &Path) -> Self {
        Self { stack: Stack::new(), etc: etc.to_owned() }
    }

    /// Starts a command.
    ///
    /// # Errors
    /// Every [`Refusal`] that a start may be answered with.
    pub(crate) fn start(
        &mut self,
        command: &Command,
        cgroups: Option<&mut Cgroups>,
    ) -> Result<Started, Refusal> {
        let user = Accounts::read(&self.etc).resolve(command.user.as_deref())?;
        let program = Program::new(command, &user)?;
        self.launch((program, &user, command.terminal), cgroups)
    }

    /// Starts this program as one of its tools. It is as privileged as it is here.
    ///
    /// # Errors
    /// Every [`Refusal`] that a start may be answered with.
    pub(crate) fn start_tool(
        &mut self,
        tool: &Tool,
        cgroups: Option<&mut Cgroups>,
    ) -> Result<Started, Refusal> {
        self.launch((Program::of_tool(tool)?, &own_user(), None), cgroups)
    }

    fn launch(
        &mut self,
        (program, user, terminal): (Program, &User, Option<Window>),
        cgroups: Option<&mut Cgroups>,
    ) -> Result<Started, Refusal> {
        let (streams, far) = open_streams(terminal, user)
            .map_err(|errno| Refusal::Failed(format!("cannot make the streams: {errno}")))?;
        let Some(cgroups) = cgroups else {
            return Ok(Started {
                pid: self.execute(program, user, &far, None)?,
                streams,
                tree: None,
            });
        };
        let tree = cgroups
            .make()
            .map_err(|error| Refusal::Failed(format!("cannot make a cgroup: {error}")))?;
        match self.execute(program, user, &far, Some(tree.fd())) {
            Ok(pid) => Ok(Started { pid, streams, tree: Some(tree) }),
            Err(refusal) => {
                cgroups.remove(tree);
                Err(refusal)
            }
        }
    }

    fn execute(
        &mut self,
        program: Program,
        user: &User,
        far: &FarEnds,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Pid, Refusal> {
        let credentials = credentials(user);
        let terminal = match far {
            FarEnds::Terminal(_) => Terminal::Controlling,
            FarEnds::Pipes(_) => Terminal::None,
        };
        let mut run = |program: &Program| {
            let plan = Preparation {
                candidates: &program.candidates,
                argv: &program.argv,
                env: &program.env,
                dirs: &program.dirs,
                credentials: credentials.as_ref(),
                stdio: far.stdio(),
                terminal,
                cgroup,
            };
            child::start(&mut self.stack, &plan)
        };
        match run(&program) {
            Ok(pid) => Ok(pid),
            Err(StartError::Child(Step::Execute(script), Errno::NOEXEC)) => {
                let program = program.by_shell(script);
                run(&program).map_err(|error| refusal(&program, &error))
            }
            Err(error) => Err(refusal(&program, &error)),
        }
    }
}

/// The user that the agent is itself.
fn own_user() -> User {
    User {
        name: None,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: Vec::new(),
        home: b"/".to_vec(),
        shell: Vec::new(),
    }
}

/// The ids a child has to take on; none where they are the agent's own.
fn credentials(user: &User) -> Option<Credentials> {
    let own = |group: &u32| *group == user.gid;
    let same = rustix::process::geteuid().as_raw() == user.uid
        && rustix::process::getegid().as_raw() == user.gid
        && user.groups.iter().all(own);
    let User { uid, gid, groups, .. } = user;
    (!same).then(|| Credentials { uid: *uid, gid: *gid, groups: groups.clone() })
}

/// The process's ends of its streams.
#[derive(Debug)]
enum FarEnds {
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
}

impl FarEnds {
    fn stdio(&self) -> [BorrowedFd<'_>; 3] {
        match self {
            Self::Pipes(pipes) => pipes.each_ref().map(|pipe| pipe.as_fd()),
            Self::Terminal(terminal) => [terminal.as_fd(); 3],
        }
    }
}

fn open_streams(terminal: Option<Window>, user: &User) -> Result<(Streams, FarEnds), Errno> {
    match terminal {
        Some(window) => open_terminal(window, user),
        None => open_pipes(user),
    }
}

/// Three pipes. Each belongs to the user, who may open `/dev/stdout` by its name.
fn open_pipes(user: &User) -> Result<(Streams, FarEnds), Errno> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let ((far_stdin, stdin), (stdout, far_stdout), (stderr, far_stderr)) =
        (pipe()?, pipe()?, pipe()?);
    let far = [far_stdin, far_stdout, far_stderr];
    if credentials(user).is_some() {
        for end in &far {
            give(end, user.uid, user.gid)?;
        }
    }
    for near in [&stdin, &stdout, &stderr] {
        rustix::fs::fcntl_setfl(near, OFlags::NONBLOCK)?;
    }
    let streams = Streams { stdin, stdout, stderr: Some(stderr), terminal: None };
    Ok((streams, FarEnds::Pipes(far)))
}

/// A terminal. It belongs to the user, who may open it by its name.
fn open_terminal(window: Window, user: &User) -> Result<(Streams, FarEnds), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let near = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&near)?;
    let far = rustix::pty::ioctl_tiocgptpeer(&near, flags)?;
    if credentials(user).is_some() {
        give(&far, user.uid, TTY_GROUP)?;
        rustix::fs::fchmod(&far, Mode::from_raw_mode(0o620))?;
    }
    resize(near.as_fd(), window)?;
    // Erasing a character of several bytes must erase all of them.
    let mut modes = rustix::termios::tcgetattr(&far)?;
    modes.input_modes |= InputModes::IUTF8;
    rustix::termios::tcsetattr(&far, OptionalActions::Now, &modes)?;
    rustix::fs::fcntl_setfl(&near, OFlags::RDWR | OFlags::NONBLOCK)?;
    let another = || rustix::io::fcntl_dupfd_cloexec(&near, 0);
    let streams =
        Streams { stdin: another()?, terminal: Some(another()?), stdout: near, stderr: None };
    Ok((streams, FarEnds::Terminal(far)))
}

fn give(end: &OwnedFd, uid: u32, gid: u32) -> Result<(), Errno> {
    rustix::fs::fchown(end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Tells a terminal its size; the kernel tells the programs on it.
///
/// # Errors
/// What the kernel says.
pub(crate) fn resize(terminal: BorrowedFd<'_>, window: Window) -> Result<(), Errno> {
    let size = Winsize { ws_row: window.rows, ws_col: window.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// What a failed start is answered with.
fn refusal(program: &Program, error: &StartError) -> Refusal {
    let name = program.name.clone();
    match error {
        StartError::Child(Step::Execute(_), Errno::NOENT) => missing(program),
        StartError::Child(Step::Execute(candidate), errno) => {
            let is_dir = program.candidates.get(*candidate).is_some_and(|p| path(p).is_dir());
            let errno = if is_dir { Errno::ISDIR } else { *errno };
            Refusal::CannotInvoke(name, errno.to_string())
        }
        StartError::Child(Step::Directory, errno) => {
            let dir = program.dirs.first().map(|dir| dir.to_string_lossy().into_owned());
            Refusal::WorkingDirectory(dir.unwrap_or_default(), errno.to_string())
        }
        StartError::Child(step, errno) => {
            Refusal::Failed(format!("cannot start {name}: {step:?}: {errno}"))
        }
        StartError::Clone(error) => Refusal::Failed(format!("cannot start {name}: {error}")),
    }
}

/// No candidate could be executed for lack of a file: of the program, or of what runs it. The
/// kernel tells both in the same way.
fn missing(program: &Program) -> Refusal {
    let dir = program.dirs.first().map_or(Path::new("/"), |dir| path(dir));
    let there = |candidate: &CString| fs::metadata(dir.join(path(candidate))).is_ok();
    if program.candidates.iter().any(there) {
        let why = "its interpreter or loader is not in the image".to_owned();
        Refusal::CannotInvoke(program.name.clone(), why)
    } else {
        Refusal::NotFound(program.name.clone())
    }
}

fn path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// Signals the process group that a started process leads.
///
/// # Errors
/// What the kernel says; that nobody is left is no error.
pub(crate) fn signal_group(leader: Pid, signal: rustix::process::Signal) -> io::Result<()> {
    match rustix::process::kill_process_group(leader, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
