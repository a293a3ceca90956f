//! One process that a host started: its streams, and when they end.
//!
//! A process is over when it has ended, not when its streams have: a program that it left in the
//! background may hold them for ever. So at its end the agent takes what it wrote, which is in
//! the pipe, and no more. From then on whatever comes is read and dropped, so that those in the
//! background do not die of a broken pipe.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use banger_link::{AgentLink, ProcessId, Stdin, Stream};
use banger_model::ProcessEnd;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::termios::{LocalModes, SpecialCodeIndex};

use crate::cgroup::Tree;
use crate::port::Progress;

/// Most bytes moved for one stream before another has its turn.
const CHUNK: usize = 32 * 1024;

/// Most bytes that a terminal still shows after its process has ended: more than the kernel
/// buffers, so nothing is lost; a program in the background cannot make the end wait for ever.
const TERMINAL_REST: usize = 256 * 1024;

/// A process, from its start until the host releases it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// The program's name, cut.
    pub(crate) program: Vec<u8>,
    pub(crate) tree: Option<Tree>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    pub(crate) end: Option<ProcessEnd>,
    /// What it is asked to end with when the machine goes off, before all others.
    pub(crate) ends_with: Option<Signal>,
}

impl Process {
    pub(crate) fn output(&mut self, stream: Stream) -> Option<&mut Option<Output>> {
        match stream {
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
            Stream::Stdin => None,
        }
    }
}

/// Where a process's input goes.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) fd: OwnedFd,
    /// The last byte that was written; a terminal's end of input depends on it.
    last: Option<u8>,
}

/// Whether anything more can come of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It can, when there is data or room.
    Open,
    /// It cannot, ever again.
    Closed,
}

impl Input {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, last: None }
    }

    /// Gives the process what has come for it.
    pub(crate) fn feed(&mut self, link: &mut AgentLink, id: ProcessId) -> State {
        loop {
            let bytes = match link.stdin(id) {
                Stdin::Data(bytes) => bytes,
                Stdin::Empty => return State::Open,
                Stdin::Ended => return self.end(),
            };
            match rustix::io::write(&self.fd, bytes) {
                Ok(n) => {
                    self.last =
                        n.checked_sub(1).and_then(|at| bytes.get(at)).copied().or(self.last);
                    link.consume_stdin(id, n);
                }
                Err(Errno::AGAIN) => return State::Open,
                Err(Errno::INTR) => {}
                Err(_) => return State::Closed,
            }
        }
    }

    /// There is nothing more to come. A pipe says so by being closed, a terminal by its
    /// end-of-file character, which ends the input at the beginning of a line and only hands over
    /// what was typed in the middle of one.
    fn end(&self) -> State {
        if let Ok(modes) = rustix::termios::tcgetattr(&self.fd)
            && modes.local_modes.contains(LocalModes::ICANON)
        {
            let eof = modes.special_codes[SpecialCodeIndex::VEOF];
            let times = if matches!(self.last, None | Some(b'\n')) { 1 } else { 2 };
            // A terminal that takes no more input has nobody who waits for its end.
            let _full = rustix::io::write(&self.fd, &[eof; 2][..times]);
        }
        State::Closed
    }
}

/// Where a process's output comes from.
#[derive(Debug)]
pub(crate) struct Output {
    fd: OwnedFd,
    has_data: HasData,
    /// How many bytes are still the process's own, once it has ended.
    rest: Option<usize>,
}

/// What the last event and the last read said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HasData {
    Perhaps,
    No,
}

/// How far an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// There may be more.
    Open(Progress),
    /// It has ended; nobody can write to it any more.
    Closed,
    /// The process's part of it has ended; others may write to it.
    Left,
}

impl Output {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, has_data: HasData::Perhaps, rest: None }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// There may be data.
    pub(crate) fn woken(&mut self) {
        self.has_data = HasData::Perhaps;
    }

    /// The process has ended: what it wrote is in the pipe now.
    pub(crate) fn process_ended(&mut self) {
        let is_terminal = rustix::termios::isatty(&self.fd);
        let waiting = rustix::io::ioctl_fionread(&self.fd).ok();
        let exact = waiting.and_then(|n| usize::try_from(n).ok()).filter(|_| !is_terminal);
        self.rest = Some(exact.unwrap_or(TERMINAL_REST));
        self.woken();
    }

    /// Moves output to the link as far as there is some, and room for it.
    pub(crate) fn pump(&mut self, link: &mut AgentLink, id: ProcessId, stream: Stream) -> Pumped {
        if self.rest == Some(0) {
            return Pumped::Left;
        }
        let room = link.output_room(id, stream).min(CHUNK).min(self.rest.unwrap_or(CHUNK));
        if room == 0 || self.has_data == HasData::No {
            return Pumped::Open(Progress::Waits);
        }
        let mut buffer = [const { MaybeUninit::uninit() }; CHUNK];
        match rustix::io::read(&self.fd, &mut buffer[..room]).map(|(bytes, _)| &*bytes) {
            Ok([]) | Err(Errno::IO) => Pumped::Closed,
            Ok(bytes) => {
                link.push_output(id, stream, bytes);
                self.rest = self.rest.map(|rest| rest - bytes.len());
                Pumped::Open(Progress::GoesOn)
            }
            Err(Errno::INTR) => Pumped::Open(Progress::GoesOn),
            // Empty: an ended process wrote nothing more.
            Err(Errno::AGAIN) if self.rest.is_some() => Pumped::Left,
            Err(Errno::AGAIN) => {
                self.has_data = HasData::No;
                Pumped::Open(Progress::Waits)
            }
            Err(_) => Pumped::Closed,
        }
    }
}

/// Reads and drops what a program in the background writes to an output whose process has
/// ended.
pub(crate) fn drop_output(fd: &OwnedFd) -> State {
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; CHUNK];
    match rustix::io::read(fd, &mut buffer).map(|(bytes, _)| bytes.len()) {
        Ok(0) => State::Closed,
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => State::Open,
        Err(_) => State::Closed,
    }
}
