//! Waiting for many descriptors at once.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Most events taken at once.
const MAX_EVENTS: usize = 64;

/// Names a watched descriptor in the events about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(u64);

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Data and room, told when they come.
    Both,
    /// Data to read, told when it comes.
    Data,
    /// Room to write, told when it comes.
    Room,
    /// Data to read, told as long as there is some.
    DataStill,
}

/// The descriptors that are watched.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    next: u64,
}

impl Poller {
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, next: 0 })
    }

    /// Watches a descriptor. Each gets a token that no other ever had, so an event that comes
    /// late is about nothing rather than about the wrong thing.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn watch(&mut self, fd: impl AsFd, interest: Interest) -> Result<Token, Errno> {
        let flags = match interest {
            Interest::Both => EventFlags::IN | EventFlags::OUT | EventFlags::ET,
            Interest::Data => EventFlags::IN | EventFlags::ET,
            Interest::Room => EventFlags::OUT | EventFlags::ET,
            Interest::DataStill => EventFlags::IN,
        };
        let token = Token(self.next);
        self.next += 1;
        epoll::add(&self.epoll, fd, EventData::new_u64(token.0), flags)?;
        Ok(token)
    }

    /// Watches it no more. A descriptor is taken out before it is closed: what it refers to may
    /// have another one, for which events would go on to come.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        // It fails for one that is not watched, which is what is wanted.
        let _not_watched = epoll::delete(&self.epoll, fd);
    }

    /// Waits for events, for ever or for some time, and returns whom they are about.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn wait(&self, timeout: Option<&Timespec>) -> Result<Vec<Token>, Errno> {
        let mut buffer = [const { MaybeUninit::<Event>::uninit() }; MAX_EVENTS];
        match epoll::wait(&self.epoll, &mut buffer, timeout) {
            Ok((events, _)) => Ok(events.iter().map(|event| Token(event.data.u64())).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }
}
