//! Waiting for the first of several descriptors to become ready, and for files to change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::error::{AtPath as _, HostError, Result};

/// What is waited for on one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing but its end: a hang-up or an error.
    End,
    /// Something to read.
    Reading,
    /// Room to write.
    Writing,
    /// Either of the two.
    Both,
}

/// What a descriptor is ready for. A descriptor that failed or hung up is ready for everything:
/// the next read or write tells what happened to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read will not block.
    pub reading: bool,
    /// A write will not block.
    pub writing: bool,
}

/// Waits until one of the descriptors is ready or `timeout` has passed (`None`: for ever), and
/// tells of each, in the order given, what it is ready for.
///
/// # Errors
/// When the system refuses to wait, for want of memory or for too many descriptors.
pub fn wait(fds: &[(BorrowedFd<'_>, Interest)], timeout: Option<Duration>) -> Result<Vec<Ready>> {
    let failed = |error: Errno| HostError::system("wait for file descriptors", error);
    let timeout = match timeout {
        Some(duration) => Some(duration.try_into().map_err(|_| failed(Errno::INVAL))?),
        None => None,
    };
    let mut polled: Vec<_> =
        fds.iter().map(|(fd, interest)| PollFd::from_borrowed_fd(*fd, flags(*interest))).collect();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(polled.iter().map(|fd| ready(fd.revents())).collect()),
        Err(error) => Err(failed(error)),
    }
}

/// A descriptor that becomes readable when one of some files is written to.
#[derive(Debug)]
pub struct WriteWatch(OwnedFd);

impl WriteWatch {
    /// Watches these files, which must exist.
    ///
    /// # Errors
    /// When one cannot be watched, or the user watches too many files.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| HostError::system("watch files", error))?;
        for path in paths {
            inotify::add_watch(&fd, path, WatchFlags::MODIFY).at("watch", path)?;
        }
        Ok(Self(fd))
    }

    /// Forgets the writes there were until now, so that the next one is waited for.
    pub fn clear(&self) {
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|len| len > 0) {}
    }
}

impl AsFd for WriteWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn flags(interest: Interest) -> PollFlags {
    match interest {
        Interest::End => PollFlags::empty(),
        Interest::Reading => PollFlags::IN,
        Interest::Writing => PollFlags::OUT,
        Interest::Both => PollFlags::IN | PollFlags::OUT,
    }
}

fn ready(events: PollFlags) -> Ready {
    let ended = events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
    Ready {
        reading: ended || events.contains(PollFlags::IN),
        writing: ended || events.contains(PollFlags::OUT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_descriptor_with_bytes_is_ready_and_the_other_is_not() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (_c, d) = UnixStream::pair().unwrap();
        let both = [(b.as_fd(), Interest::Reading), (d.as_fd(), Interest::Reading)];
        assert_eq!(wait(&both, Some(Duration::ZERO)).unwrap(), [Ready::default(); 2]);
        a.write_all(b"x").unwrap();
        let ready = wait(&both, None).unwrap();
        assert_eq!((ready[0].reading, ready[1].reading), (true, false));
    }

    #[test]
    fn a_write_to_a_watched_file_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = crate::fs::open_append(&path).unwrap();
        let watch = WriteWatch::new([path.as_path()]).unwrap();
        let written = || wait(&[(watch.as_fd(), Interest::Reading)], Some(Duration::ZERO)).unwrap();
        assert!(!written()[0].reading);
        file.write_all(b"x").unwrap();
        assert!(written()[0].reading);
        watch.clear();
        assert!(!written()[0].reading);
    }

    #[test]
    fn a_hang_up_ends_every_wait() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        let ready = wait(&[(b.as_fd(), Interest::End)], None).unwrap();
        assert_eq!(ready, [Ready { reading: true, writing: true }]);
    }
}
