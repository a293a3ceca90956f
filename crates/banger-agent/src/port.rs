//! The descriptor to the host, and what waits to be written to it.
//!
//! In a sandbox it is a virtio-serial port. Such a port without a host behind it always polls as
//! hung up and readable, reads nothing and takes nothing; so it is watched for edges only, and
//! an agent without a host sleeps. The kernel wakes it when a host comes, goes, or sends.
//!
//! That the host is away is not told to the link, for it cannot be known: the first bytes of a
//! new host may arrive before the news that it has come, and a read after them says that nobody
//! is there. The link needs no such news. What is left to write from an old connection goes to
//! the next host, which searches for the beginning of its own.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use banger_link::AgentLink;
use rustix::io::Errno;

/// Most bytes taken from the port before requests are looked at.
const READ_BUDGET: usize = 128 * 1024;

/// Most bytes given to the port before anything else has its turn.
const WRITE_BUDGET: usize = 256 * 1024;

/// Bytes of one read. A virtio-serial port hands out a page at a time.
const READ_LEN: usize = 16 * 1024;

/// Whether there is more to do without waiting for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing until an event.
    Waits,
    /// More can be done at once.
    GoesOn,
}

/// The way to the host.
#[derive(Debug)]
pub(crate) struct Port {
    fd: OwnedFd,
    readable: Edge,
    writable: Edge,
    out: Vec<u8>,
    written: usize,
}

/// What the last event and the last attempt said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Ready,
    Blocked,
}

impl Port {
    /// A port by its descriptor, which must not block.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let ready = Edge::Ready;
        Self { fd, readable: ready, writable: ready, out: Vec::new(), written: 0 }
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Something happened to the port: whatever was blocked may not be any more.
    pub(crate) fn woken(&mut self) {
        self.readable = Edge::Ready;
        self.writable = Edge::Ready;
    }

    /// Hands to the link what the host sent.
    pub(crate) fn read_into(&mut self, link: &mut AgentLink) -> Progress {
        let mut buffer = [const { MaybeUninit::uninit() }; READ_LEN];
        let mut taken = 0;
        while self.readable == Edge::Ready && taken < READ_BUDGET {
            match rustix::io::read(&self.fd, &mut buffer).map(|(bytes, _)| &*bytes) {
                // No host is there, or not yet.
                Ok([]) => self.readable = Edge::Blocked,
                Ok(bytes) => {
                    taken += bytes.len();
                    link.receive(bytes);
                }
                Err(Errno::INTR) => {}
                // A port that fails is a host that is away; its return is an event.
                Err(_) => self.readable = Edge::Blocked,
            }
        }
        if self.readable == Edge::Ready { Progress::GoesOn } else { Progress::Waits }
    }

    /// Writes what the link has to send.
    pub(crate) fn write_from(&mut self, link: &mut AgentLink) -> Progress {
        let mut given = 0;
        while given < WRITE_BUDGET {
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
                link.transmit(&mut self.out);
            }
            if self.out.is_empty() || self.writable == Edge::Blocked {
                return Progress::Waits;
            }
            match rustix::io::write(&self.fd, &self.out[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    given += n;
                }
                Err(Errno::INTR) => {}
                Err(_) => self.writable = Edge::Blocked,
            }
        }
        Progress::GoesOn
    }

    /// Whether everything the link had to send is written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }
}
