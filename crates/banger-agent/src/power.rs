//! The end of a sandbox: nothing runs any more, everything is on the disk, the power is off.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{
    FsPickFlags, MountFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick,
    mount_remount, unmount,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group};
use rustix::system::{RebootCommand, reboot};

use crate::boot::Disk;
use crate::files::read_bounded;
use crate::sys::signals::wait_for_child;

/// How long processes may take to end when they are asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How long the kernel may take to end those that did not.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest list of mounts that is read.
const MAX_MOUNTS_LEN: u64 = 16 * 1024 * 1024;

/// Ends everything. Each step is best effort: the next one comes after it, and the power goes in
/// any case. What a failed step costs is that the disk's journal is replayed when it is mounted.
pub(crate) fn off(disk: &Disk) -> Errno {
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, KILL_TIMEOUT)] {
        if signal_everyone(signal) == Left::Nobody || await_end(patience) == Left::Nobody {
            break;
        }
    }
    rustix::fs::sync();
    unmount_all();
    let _replayed_later = mount_remount("/", MountFlags::RDONLY, c"");
    let _replayed_later = close(disk);
    halt()
}

/// Turns the power off at once. Returns when the kernel refuses.
pub(crate) fn halt() -> Errno {
    reboot(RebootCommand::PowerOff).err().unwrap_or(Errno::AGAIN)
}

/// Who still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Somebody,
    Nobody,
}

/// Signals every process but this one, which is the first (kill(2) with -1).
fn signal_everyone(signal: Signal) -> Left {
    let sent = kill_process_group(Pid::INIT, signal);
    // A process that is stopped would take no notice.
    match sent.and_then(|()| kill_process_group(Pid::INIT, Signal::CONT)) {
        Ok(()) => Left::Somebody,
        Err(_) => Left::Nobody,
    }
}

/// Waits until every process has ended, at most so long. All of them are children of the first
/// process, or will be when their parents have ended.
fn await_end(patience: Duration) -> Left {
    let end = Instant::now() + patience;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => continue,
            Ok(None) => {}
            Err(_) => return Left::Nobody,
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Left::Somebody;
        }
        wait_for_child(left);
    }
}

/// Unmounts whatever is mounted over the root, last mounted first.
fn unmount_all() {
    let mounts = read_bounded(Path::new("/proc/self/mounts"), MAX_MOUNTS_LEN).unwrap_or_default();
    for target in targets(&mounts).into_iter().rev() {
        // What is still in use stays; the disk below it is closed all the same.
        let _in_use = unmount(target, UnmountFlags::empty());
    }
}

/// The mount points in a list as in `/proc/mounts`, without the root. One with an escaped
/// character (a space) is not found by its escaped name and stays mounted.
fn targets(mounts: &[u8]) -> Vec<&[u8]> {
    mounts
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(1))
        .filter(|target| *target != b"/" && *target != b"/proc")
        .collect()
}

/// Makes the disk's file system read-only, which writes its last transaction and marks it clean.
/// No path leads to it: it is under the overlay, which is under everything.
fn close(disk: &Disk) -> Result<(), Errno> {
    let context =
        fspick(&disk.root, "", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_reconfigure(&context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_over_the_root_is_unmounted_but_what_tells_about_it() {
        let mounts = b"overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n\
            tmpfs /run tmpfs rw 0 0\nbroken\nx /run/a\\040b ext4 rw 0 0\n";
        assert_eq!(targets(mounts), [&b"/run"[..], b"/run/a\\040b"]);
    }
}
