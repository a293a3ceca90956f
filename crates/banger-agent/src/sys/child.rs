//! Starting a program in a child that borrows the agent's memory until the program runs.
//!
//! `fork` would copy the agent's page tables and then fault in both processes, which under
//! emulation costs more than everything else in an exec. So the child shares the memory
//! (`CLONE_VM`) on a stack of its own while the agent stands still (`CLONE_VFORK`), as
//! `posix_spawn` does it; beyond that the child is born in its cgroup, and what keeps it from
//! executing is a value in memory: no pipe, and nothing to race with the reaper. The price is
//! that the agent waits while the kernel reads the program's first pages.
//!
//! Between clone and exec the child may not allocate, lock, panic or touch thread-local data:
//! everything it needs is prepared before, and it makes only system calls.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Resource, Rlimit, Uid};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the agent starts children with a few instructions that are written for x86-64");

/// Bytes of the child's stack. The calls it makes nest a few levels.
const STACK_LEN: usize = 64 * 1024;

/// Open files a program may have at first, as login managers set it: `select` breaks beyond.
const SOFT_NOFILE: u64 = 1024;

/// Ids to take on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// Everything a child needs, made before it is.
#[derive(Debug)]
pub(crate) struct Preparation<'a> {
    /// Paths to try, in this order.
    pub(crate) candidates: &'a [CString],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    /// Directories to try, in this order.
    pub(crate) dirs: &'a [CString],
    pub(crate) credentials: Option<&'a Credentials>,
    /// Standard input, output and error. All three are the terminal where there is one.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    pub(crate) terminal: Terminal,
    /// The cgroup to be born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// Whether standard input is to be the controlling terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    None,
    Controlling,
}

/// What a child did last before it gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Session,
    Terminal,
    Streams,
    Credentials,
    Directory,
    Limits,
    Signals,
    /// Executing the candidate of this number.
    Execute(usize),
}

/// Why no program runs.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The kernel makes no process.
    Clone(io::Error),
    /// It made one, which could not become the program. It is gone again.
    Child(Step, Errno),
}

/// The stack on which children run until they execute; one, since there is one at a time.
#[derive(Debug)]
pub(crate) struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    pub(crate) fn new() -> Self {
        Self(Box::new_uninit_slice(STACK_LEN / size_of::<u128>()))
    }
}

/// What the child reads and where it leaves its failure.
struct Shared<'a> {
    plan: &'a Preparation<'a>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    hard_nofile: u64,
    failure: Cell<Option<(Step, Errno)>>,
}

/// Starts the program. When this returns the child has executed it, or is no more.
///
/// # Errors
/// [`StartError`].
pub(crate) fn start(stack: &mut Stack, plan: &Preparation<'_>) -> Result<Pid, StartError> {
    let shared = Shared {
        plan,
        argv: pointers(plan.argv),
        env: pointers(plan.env),
        hard_nofile: rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        failure: Cell::new(None),
    };
    let pid = clone(stack, &shared).map_err(StartError::Clone)?;
    match shared.failure.get() {
        None => Ok(pid),
        Some((step, errno)) => {
            // The child has left; only its status is still there.
            let _status =
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(StartError::Child(step, errno))
        }
    }
}

/// A list of strings as `execve` takes it. It is valid for as long as the strings are.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

fn clone(stack: &mut Stack, shared: &Shared<'_>) -> io::Result<Pid> {
    let vfork = libc::CLONE_VM | libc::CLONE_VFORK;
    let mut flags = u64::from(vfork.unsigned_abs()) | CLONE_CLEAR_SIGHAND;
    // SAFETY: `clone_args` is numbers only, and zero means "not used" for each of them.
    // JUSTIFICATION: libc's structure has no constructor.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(cgroup) = shared.plan.cgroup {
        flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    args.flags = flags;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    args.stack = stack.0.as_mut_ptr() as u64;
    args.stack_size = STACK_LEN as u64;
    let result: i64;
    // SAFETY: `args` is a valid clone_args of the size given. The child runs on `stack`, which
    // nothing else uses while this function holds it, and which is 16-byte aligned at its top, as
    // the call needs it. It enters `child` with a reference that stays valid, since CLONE_VFORK
    // lets this thread continue only when the child has executed or ended. The child never
    // returns here. The kernel clobbers rcx and r11.
    // JUSTIFICATION: no library wraps clone3, which alone can place a child in a cgroup; and
    // a function that returns twice on one stack cannot be called from Rust.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") ptr::from_ref(shared),
            in("r13") child as extern "C" fn(&Shared<'_>) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match i32::try_from(result).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) {
        Some(pid) => Ok(pid),
        None => Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO))),
    }
}

/// The child's whole life before it is another program.
extern "C" fn child(shared: &Shared<'_>) -> ! {
    let Err(failure) = become_program(shared);
    shared.failure.set(Some(failure));
    // SAFETY: it ends this process, without running anything of the agent's.
    // JUSTIFICATION: the safe form runs the exit handlers of the agent, whose memory this is.
    unsafe { libc::_exit(127) }
}

fn become_program(shared: &Shared<'_>) -> Result<Infallible, (Step, Errno)> {
    let plan = shared.plan;
    let at = |step| move |errno| (step, errno);
    rustix::process::setsid().map_err(at(Step::Session))?;
    if plan.terminal == Terminal::Controlling {
        rustix::process::ioctl_tiocsctty(plan.stdio[0]).map_err(at(Step::Terminal))?;
    }
    streams(plan.stdio).map_err(at(Step::Streams))?;
    let limit = Rlimit { current: Some(SOFT_NOFILE), maximum: Some(shared.hard_nofile) };
    rustix::process::setrlimit(Resource::Nofile, limit).map_err(at(Step::Limits))?;
    if let Some(credentials) = plan.credentials {
        take_on(credentials).map_err(at(Step::Credentials))?;
    }
    enter(plan.dirs).map_err(at(Step::Directory))?;
    default_signals().map_err(at(Step::Signals))?;
    Err(execute(shared))
}

/// Puts the streams where programs look for them. The sources are above 2, where the agent
/// keeps its console, so none is overwritten before it is copied; the copies outlive the exec.
fn streams(stdio: [BorrowedFd<'_>; 3]) -> Result<(), Errno> {
    for (from, to) in stdio.into_iter().zip(0..) {
        // SAFETY: dup3 takes any two numbers and fails on a wrong one.
        // JUSTIFICATION: rustix's dup3 wants to own the target, and nobody owns 0, 1 and 2 here.
        if unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, 0) } < 0 {
            return Err(Errno::BADF);
        }
    }
    Ok(())
}

fn take_on(credentials: &Credentials) -> Result<(), Errno> {
    let Credentials { uid, gid, groups } = credentials;
    // SAFETY: the pointer and the count describe one slice of gid_t, which is u32.
    // JUSTIFICATION: rustix wants a slice of its own type, which cannot be made here without
    // allocating. The raw call changes this one process, which is all that is meant.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if done != 0 {
        return Err(Errno::PERM);
    }
    let gid = Gid::from_raw(*gid);
    let uid = Uid::from_raw(*uid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Enters the first directory that can be entered.
fn enter(dirs: &[CString]) -> Result<(), Errno> {
    let mut result = Ok(());
    for dir in dirs {
        result = rustix::process::chdir(dir.as_c_str());
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Those that this process may ignore: one by Rust's start-up, the others by its starter, as a shell
/// has it for what runs in the background, and Python for itself.
const IGNORED: [libc::c_int; 4] = [libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT, libc::SIGXFSZ];

/// Signals as a program expects them. `CLONE_CLEAR_SIGHAND` did it for those that were caught;
/// those that are ignored are left.
fn default_signals() -> Result<(), Errno> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the default action runs no code of this process; sigemptyset makes the set that
    // sigprocmask then takes; the mask is this child's own.
    // JUSTIFICATION: no safe library offers them.
    let done = unsafe {
        IGNORED.iter().all(|signal| libc::signal(*signal, libc::SIG_DFL) != libc::SIG_ERR)
            && libc::sigemptyset(none.as_mut_ptr()) == 0
            && libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) == 0
    };
    if done { Ok(()) } else { Err(Errno::INVAL) }
}

/// Tries the candidates as execvp(3) does: one that is missing is passed over, one that may not
/// be executed is remembered. Before the kernel looks whether there is a program it makes the memory
/// for it, so it is only asked to execute what is there.
fn execute(shared: &Shared<'_>) -> (Step, Errno) {
    let mut failure = (Step::Execute(0), Errno::NOENT);
    for (number, candidate) in shared.plan.candidates.iter().enumerate() {
        let errno = match access(candidate.as_c_str(), Access::EXISTS) {
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => errno,
            _ => execve(candidate, shared),
        };
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
            Errno::ACCESS => failure = (Step::Execute(number), errno),
            _ => return (Step::Execute(number), errno),
        }
    }
    failure
}

fn execve(path: &CString, shared: &Shared<'_>) -> Errno {
    // SAFETY: both lists end with a null pointer, and their strings with a NUL; they are
    // borrowed for as long as `shared` is. A call that succeeds does not return.
    // JUSTIFICATION: execve has no safe form.
    unsafe { libc::execve(path.as_ptr(), shared.argv.as_ptr(), shared.env.as_ptr()) };
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `CLONE_INTO_CGROUP` and `CLONE_CLEAR_SIGHAND` of `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
