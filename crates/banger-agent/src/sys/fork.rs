//! Becoming two processes.

use std::io;

use rustix::process::Pid;

/// Which of the two a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The one that was there before; the other has this number.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Goes on as two processes with the same memory, files and place in the program. There must be no
/// other thread: the agent has none.
///
/// # Errors
/// What the kernel says; then there is one.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: this process has one thread, so that nothing is locked that nobody unlocks.
    // JUSTIFICATION: no safe library offers it.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .map(Forked::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}
