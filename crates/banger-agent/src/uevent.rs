//! Waiting for devices that the kernel has not found yet.
//!
//! A driver may go on looking for its devices after its module is loaded. The kernel tells on a
//! netlink socket when a device appears, so nobody needs to sleep and look again.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The group of listeners to which the kernel itself talks.
const KERNEL_GROUP: u32 = 1;

/// What `probe` finds, now or after events of the kernel; nothing if it does not by `timeout`.
///
/// The socket is opened only when the first look finds nothing, and followed by another look:
/// whatever appears in between is seen by one or the other.
///
/// # Errors
/// What `probe` says, and what the socket does.
pub(crate) fn wait_for<T>(
    timeout: Duration,
    mut probe: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    if let Some(found) = probe()? {
        return Ok(Some(found));
    }
    let socket = listen()?;
    let end = Instant::now() + timeout;
    loop {
        if let Some(found) = probe()? {
            return Ok(Some(found));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        wait_readable(&socket, left)?;
        drain(&socket)?;
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

fn wait_readable(socket: &OwnedFd, left: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes every message there is. What they say does not matter: the caller looks for itself,
/// so lost ones (`ENOBUFS`) do not matter either.
fn drain(socket: &OwnedFd) -> io::Result<()> {
    let mut message = [0; 4096];
    loop {
        match recv(socket, &mut message, RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_without_waiting() {
        assert_eq!(wait_for(Duration::ZERO, || Ok(Some(1))).unwrap(), Some(1));
    }

    #[test]
    fn what_never_comes_is_given_up_in_time() {
        let mut looks = 0;
        let found = wait_for(Duration::from_millis(20), || {
            looks += 1;
            Ok(None::<()>)
        });
        match found {
            Ok(found) => assert!(found.is_none() && looks >= 2),
            Err(error) => banger_testkit::skipped_on_this_machine(&format!(
                "no uevent socket can be opened: {error}"
            )),
        }
    }
}
