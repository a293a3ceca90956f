//! Signals as something to be read, not as something that interrupts.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr;
use std::time::Duration;

use rustix::process::Pid;

/// The signals that the agent takes: a child has ended, or someone wants the machine to end. The
/// user-defined ones are how BusyBox's `halt` and `poweroff` tell PID 1.
const TAKEN: [i32; 6] =
    [libc::SIGCHLD, libc::SIGINT, libc::SIGPWR, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// What signals said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Some children have ended.
    pub(crate) children: bool,
    /// The machine is to end.
    pub(crate) stop: bool,
}

/// Signals that wait to be read.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Takes the signals from now on. They stay blocked for this thread; children get a mask of
    /// their own.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn take() -> io::Result<Self> {
        let set = set_of(&TAKEN);
        // SAFETY: both calls take a valid set; signalfd returns a new descriptor that nobody
        // else owns, or -1.
        // JUSTIFICATION: no safe library offers them.
        let fd = unsafe {
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let fd = libc::signalfd(-1, &raw const set, flags);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { fd })
    }

    /// The descriptor that is readable when signals wait.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Takes every signal that waits.
    pub(crate) fn read(&self) -> Received {
        let mut received = Received::default();
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.fd, &mut record).is_ok_and(|n| n == record.len()) {
            // The number of the signal is the first field (signalfd(2)).
            let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            if number == libc::SIGCHLD.unsigned_abs() {
                received.children = true;
            } else {
                received.stop = true;
            }
        }
        received
    }
}

/// Waits until a child ends, at most so long. The signals must have been taken.
pub(crate) fn wait_for_child(timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let set = set_of(&[libc::SIGCHLD]);
    // SAFETY: the set and the time are valid, and nothing is to be written to the null pointer.
    // JUSTIFICATION: no safe library offers it.
    unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const timeout) };
}

/// Sends a signal that has a number and no name.
///
/// # Errors
/// What the kernel says.
pub(crate) fn send_realtime(process: Pid, number: i32) -> io::Result<()> {
    // SAFETY: nothing is handed over but two numbers.
    // JUSTIFICATION: no safe library sends what it has no name for.
    match unsafe { libc::kill(process.as_raw_nonzero().get(), number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset makes the set, and sigaddset takes it then.
    // JUSTIFICATION: libc's type has no constructor.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}
