//! The processes that a host started, and every descriptor that belongs to one.
//!
//! The table keeps three things in step: the process, the link's streams for it, and what the
//! poller watches.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use banger_link::{AgentLink, ProcessId, ProcessInfo, Stream};
use banger_model::ProcessEnd;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::cgroup::Tree;
use crate::poller::{Interest, Poller, Token};
use crate::port::Progress;
use crate::process::{Input, Output, Process, Pumped, State, drop_output};
use crate::spawn::Streams;

/// Most bytes of a program's name that are kept.
const MAX_PROGRAM_LEN: usize = 256;

/// What a watched descriptor is.
#[derive(Debug)]
enum Watched {
    Stdin(ProcessId),
    Output(ProcessId, Stream),
    /// What an ended process left behind: read and dropped until nobody writes to it.
    Left(OwnedFd),
}

/// The processes by the host's names for them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    processes: BTreeMap<ProcessId, Process>,
    watched: BTreeMap<Token, Watched>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.processes.len()
    }

    pub(crate) fn get(&self, id: ProcessId) -> Option<&Process> {
        self.processes.get(&id)
    }

    /// Remembers what a process is to end with; whether there is one of this name.
    pub(crate) fn end_with(&mut self, id: ProcessId, signal: Signal) -> bool {
        let process = self.processes.get_mut(&id);
        process.map(|process| process.ends_with = Some(signal)).is_some()
    }

    /// The processes that have a signal of their own to end with, and have not ended.
    pub(crate) fn ending(&self) -> impl Iterator<Item = (Pid, Signal)> {
        let lives = self.processes.values().filter(|process| process.end.is_none());
        lives.filter_map(|process| Some((process.pid, process.ends_with?)))
    }

    /// Every process as the host sees it.
    pub(crate) fn list(&self) -> Vec<ProcessInfo> {
        let info = |(id, process): (&ProcessId, &Process)| ProcessInfo {
            process: *id,
            pid: process.pid.as_raw_nonzero().get().unsigned_abs(),
            program: process.program.clone(),
            end: process.end,
        };
        self.processes.iter().map(info).collect()
    }

    /// Takes in a process that was just started; the link has its streams already.
    ///
    /// # Errors
    /// When its streams cannot be watched. They are closed then.
    pub(crate) fn insert(
        &mut self,
        id: ProcessId,
        program: &[u8],
        (pid, streams, tree): (Pid, Streams, Option<Tree>),
        (link, poller): (&mut AgentLink, &mut Poller),
    ) -> Result<(), Errno> {
        let stdin = poller.watch(&streams.stdin, Interest::Room)?;
        let stdout = poller.watch(&streams.stdout, Interest::Data)?;
        match &streams.stderr {
            Some(stderr) => {
                let stderr = poller.watch(stderr, Interest::Data)?;
                self.watched.insert(stderr, Watched::Output(id, Stream::Stderr));
            }
            None => link.end_output(id, Stream::Stderr),
        }
        self.watched.insert(stdin, Watched::Stdin(id));
        self.watched.insert(stdout, Watched::Output(id, Stream::Stdout));
        let process = Process {
            pid,
            program: program[..program.len().min(MAX_PROGRAM_LEN)].to_vec(),
            tree,
            terminal: streams.terminal,
            stdin: Some(Input::new(streams.stdin)),
            stdout: Some(Output::new(streams.stdout)),
            stderr: streams.stderr.map(Output::new),
            end: None,
            ends_with: None,
        };
        self.processes.insert(id, process);
        Ok(())
    }

    /// Forgets a process that has ended. What it left in the background keeps its streams.
    pub(crate) fn remove(&mut self, id: ProcessId, poller: &mut Poller) -> Option<Process> {
        let mut process = self.processes.remove(&id)?;
        for output in [process.stdout.take(), process.stderr.take()].into_iter().flatten() {
            self.leave(output, poller);
        }
        if let Some(input) = process.stdin.take() {
            poller.forget(&input.fd);
        }
        self.watched.retain(|_, what| !what.is_of(id));
        Some(process)
    }

    /// Something happened to a watched descriptor.
    pub(crate) fn woken(&mut self, token: Token, link: &mut AgentLink, poller: &Poller) {
        match self.watched.get(&token) {
            Some(Watched::Stdin(id)) => self.feed(*id, link, poller),
            Some(Watched::Output(id, stream)) => {
                let process = self.processes.get_mut(id);
                if let Some(Some(output)) = process.and_then(|process| process.output(*stream)) {
                    output.woken();
                }
            }
            Some(Watched::Left(fd)) if drop_output(fd) == State::Closed => {
                poller.forget(fd);
                self.watched.remove(&token);
            }
            Some(Watched::Left(_)) | None => {}
        }
    }

    /// Gives a process the input that has come for it.
    pub(crate) fn feed(&mut self, id: ProcessId, link: &mut AgentLink, poller: &Poller) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let state = match &mut process.stdin {
            Some(input) => input.feed(link, id),
            None => State::Closed,
        };
        if state == State::Closed {
            close_stdin(process, id, link, poller);
        }
    }

    /// Moves output of every process that has some, a bounded piece of each.
    pub(crate) fn pump(&mut self, link: &mut AgentLink, poller: &mut Poller) -> Progress {
        let mut progress = Progress::Waits;
        let mut left = Vec::new();
        for (id, process) in &mut self.processes {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let Some(slot) = process.output(stream) else { continue };
                let Some(output) = slot else { continue };
                match output.pump(link, *id, stream) {
                    Pumped::Open(Progress::Waits) => continue,
                    Pumped::Open(Progress::GoesOn) => {}
                    Pumped::Closed => {
                        link.end_output(*id, stream);
                        poller.forget(output.fd());
                        *slot = None;
                    }
                    Pumped::Left => {
                        link.end_output(*id, stream);
                        left.extend(slot.take());
                    }
                }
                progress = Progress::GoesOn;
            }
        }
        for output in left {
            self.leave(output, poller);
        }
        progress
    }

    /// Nobody reads this output any more. Whoever writes to a pipe learns it from the kernel; a
    /// terminal stays, and what is shown on it is dropped.
    pub(crate) fn close_output(
        &mut self,
        id: ProcessId,
        stream: Stream,
        link: &mut AgentLink,
        poller: &mut Poller,
    ) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let has_terminal = process.terminal.is_some();
        let Some(output) = process.output(stream).and_then(Option::take) else { return };
        link.end_output(id, stream);
        if has_terminal {
            self.leave(output, poller);
        } else {
            poller.forget(output.fd());
        }
    }

    /// From now on, what comes from this output is dropped.
    fn leave(&mut self, output: Output, poller: &mut Poller) {
        let fd = output.into_fd();
        poller.forget(&fd);
        if let Ok(token) = poller.watch(&fd, Interest::DataStill) {
            self.watched.insert(token, Watched::Left(fd));
        }
    }

    /// Takes the status of every child that has ended. Those that nobody knows are orphans
    /// whose parents left them to PID 1.
    pub(crate) fn reap(&mut self, link: &mut AgentLink, poller: &Poller) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let of_pid =
                        |(_, p): &(&ProcessId, &mut Process)| p.pid == pid && p.end.is_none();
                    if let Some(end) = end_of(status)
                        && let Some((id, process)) = self.processes.iter_mut().find(of_pid)
                    {
                        ended(process, *id, end, link, poller);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

impl Watched {
    fn is_of(&self, id: ProcessId) -> bool {
        match self {
            Self::Stdin(of) | Self::Output(of, _) => *of == id,
            Self::Left(_) => false,
        }
    }
}

fn end_of(status: WaitStatus) -> Option<ProcessEnd> {
    let number = |n: Option<i32>| n.and_then(|n| u8::try_from(n).ok());
    let exited = number(status.exit_status()).map(ProcessEnd::Exited);
    exited.or_else(|| number(status.terminating_signal()).map(ProcessEnd::Signaled))
}

fn ended(
    process: &mut Process,
    id: ProcessId,
    end: ProcessEnd,
    link: &mut AgentLink,
    poller: &Poller,
) {
    process.end = Some(end);
    link.exited(id, end);
    close_stdin(process, id, link, poller);
    for output in [&mut process.stdout, &mut process.stderr].into_iter().flatten() {
        output.process_ended();
    }
}

fn close_stdin(process: &mut Process, id: ProcessId, link: &mut AgentLink, poller: &Poller) {
    if let Some(input) = process.stdin.take() {
        poller.forget(&input.fd);
    }
    link.discard_stdin(id);
}
