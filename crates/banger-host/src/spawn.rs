//! Starts a program in a session of its own, with descriptors under chosen numbers, without copying
//! this process.
//!
//! posix_spawn(3) shares the memory until the program is there, as vfork(2) does. A fork of a
//! process with many threads copies its page tables and stops each of those threads at its next
//! write: fifty machines at once are fifty of those.
#![expect(unsafe_code, reason = "std can neither start a session nor pass descriptors on")]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use libc::{c_char, c_int, c_short};

unsafe extern "C" {
    // glibc 2.29 and musl 1.1.24 have it; the crate does not name it.
    fn posix_spawn_file_actions_addchdir_np(
        actions: *mut libc::posix_spawn_file_actions_t,
        path: *const c_char,
    ) -> c_int;
}

/// What a program is started with.
pub(crate) struct Start<'a> {
    /// A path, or a name that is looked for along `PATH`.
    pub(crate) program: &'a OsStr,
    /// Without the program's own name.
    pub(crate) args: &'a [OsString],
    /// Added to the environment of this process.
    pub(crate) env: &'a [(OsString, OsString)],
    /// Where it runs.
    pub(crate) dir: &'a Path,
    /// Where standard output and standard error go; else nowhere.
    pub(crate) output: Option<BorrowedFd<'a>>,
    /// Descriptors, and the numbers they are to have there. No number is that of another one here.
    pub(crate) fds: &'a [(BorrowedFd<'a>, i32)],
}

impl Start<'_> {
    /// Starts it; its process id.
    ///
    /// # Errors
    /// What the system says, `NotFound` when there is no such program.
    pub(crate) fn spawn(&self) -> io::Result<i32> {
        let program = text(self.program)?;
        let args = Strings::of(
            std::iter::once(self.program)
                .chain(self.args.iter().map(OsString::as_os_str))
                .map(text),
        )?;
        let mut env: BTreeMap<_, _> = std::env::vars_os().collect();
        env.extend(self.env.iter().cloned());
        let env = Strings::of(env.into_iter().map(|(name, value)| {
            Ok(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?)
        }))?;
        let actions = self.actions()?;
        let attributes = Attributes::new()?;
        let mut pid = 0;
        // SAFETY: all pointers are to what lives until the end of this call; `args` and `env` end
        // with a null pointer.
        // JUSTIFICATION: see the module.
        check(unsafe {
            libc::posix_spawnp(
                &raw mut pid,
                program.as_ptr(),
                &raw const actions.0,
                &raw const attributes.0,
                args.pointers(),
                env.pointers(),
            )
        })?;
        Ok(pid)
    }

    fn actions(&self) -> io::Result<Actions> {
        let mut actions = Actions::new()?;
        let null = c"/dev/null";
        actions.open(0, null, libc::O_RDONLY)?;
        match self.output {
            Some(output) => {
                actions.dup(output, 1)?;
                actions.dup(output, 2)?;
            }
            None => {
                actions.open(1, null, libc::O_WRONLY)?;
                actions.open(2, null, libc::O_WRONLY)?;
            }
        }
        for (fd, number) in self.fds {
            actions.dup(*fd, *number)?;
        }
        actions.chdir(&text(self.dir.as_os_str())?)?;
        Ok(actions)
    }
}

/// Texts as execve(2) takes them.
struct Strings {
    pointers: Vec<*mut c_char>,
    _texts: Vec<CString>,
}

impl Strings {
    fn of(texts: impl Iterator<Item = io::Result<CString>>) -> io::Result<Self> {
        let texts = texts.collect::<io::Result<Vec<_>>>()?;
        let pointers = texts.iter().map(|text| text.as_ptr().cast_mut());
        Ok(Self { pointers: pointers.chain([ptr::null_mut()]).collect(), _texts: texts })
    }

    fn pointers(&self) -> *const *mut c_char {
        self.pointers.as_ptr()
    }
}

/// What is done in the new process before the program begins.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call makes a whole value of it, or says that it did not.
        // JUSTIFICATION: see the module.
        unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Self(actions.assume_init()))
        }
    }

    fn open(&mut self, number: c_int, path: &std::ffi::CStr, flags: c_int) -> io::Result<()> {
        // SAFETY: `self.0` is whole, and the path is copied (glibc) or static (all callers).
        // JUSTIFICATION: see the module.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, number, path.as_ptr(), flags, 0)
        })
    }

    fn dup(&mut self, fd: BorrowedFd<'_>, number: c_int) -> io::Result<()> {
        // SAFETY: `self.0` is whole; numbers are only looked at when the program is started.
        // JUSTIFICATION: see the module.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd.as_raw_fd(), number)
        })
    }

    fn chdir(&mut self, dir: &CString) -> io::Result<()> {
        // SAFETY: `self.0` is whole, and both glibc and musl copy the path.
        // JUSTIFICATION: see the module.
        check(unsafe { posix_spawn_file_actions_addchdir_np(&raw mut self.0, dir.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: `self.0` is whole and not used again.
        // JUSTIFICATION: see the module.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// How the new process differs from this one.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A session of its own, no signal blocked, and SIGPIPE, which Rust ignores, as programs expect it.
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call makes a whole value of it, or says that it did not.
        // JUSTIFICATION: see the module.
        let mut attributes = unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            Self(attributes.assume_init())
        };
        // The crate gives them different types, on different C libraries.
        let flags = i64::from(libc::POSIX_SPAWN_SETSID)
            | i64::from(libc::POSIX_SPAWN_SETSIGMASK)
            | i64::from(libc::POSIX_SPAWN_SETSIGDEF);
        let flags = c_short::try_from(flags).map_err(io::Error::other)?;
        let mut signals = MaybeUninit::uninit();
        // SAFETY: `attributes.0` is whole; `signals` is made whole by sigemptyset(3) before it is read,
        // and both are copied.
        // JUSTIFICATION: see the module.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, signals.as_ptr()))?;
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, signals.as_ptr()))?;
            check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: `self.0` is whole and not used again.
        // JUSTIFICATION: see the module.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

fn text(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// These calls return the error's number.
fn check(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
