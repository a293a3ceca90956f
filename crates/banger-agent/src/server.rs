//! The agent's one loop: events in, requests carried out, output on its way.
//!
//! A single thread owns everything and nothing is shared, so there is no lock, no queue between
//! tasks and no order of events that could not be read here. Every descriptor is non-blocking,
//! and every turn does a bounded piece of work for each stream before the next turn begins.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_link::limits::MAX_PROCESSES;
use banger_link::{
    AgentInfo, AgentLink, Identity, PathKind, ProcessId, Refusal, Reply, Request, SignalScope,
    Window,
};
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::Signal;
use thiserror::Error;

use crate::cgroup::{Cgroups, Freezer};
use crate::files::read_line;
use crate::poller::{Interest, Poller, Token};
use crate::port::{Port, Progress};
use crate::process::Process;
use crate::program::TOOL_NAME;
use crate::spawn::{self, Spawner, Started};
use crate::stats;
use crate::sys::signals::Signals;
use crate::table::Table;

/// How long the reply to a power-off may take to leave before the agent powers off all the same.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long processes that have a signal of their own to end with may take: what container engines
/// allow.
const ENDING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an agent cannot serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The signals cannot be taken.
    #[error("cannot take signals")]
    Signals(#[source] io::Error),
    /// The descriptors cannot be watched.
    #[error("cannot wait for events")]
    Poll(#[source] Errno),
}

/// The machine that the agent is in charge of, as far as requests change it.
pub trait Machine {
    /// Takes on an identity; `processes` tells of those that live through this.
    ///
    /// # Errors
    /// What went wrong, in one line for the host's user.
    fn take_on(&mut self, identity: &Identity, processes: Freezer) -> Result<(), String>;

    /// Makes itself small, for it is to be saved.
    ///
    /// # Errors
    /// What went wrong, in one line for the host's user.
    fn settle(&mut self) -> Result<(), String>;

    /// Moves its clock by so many nanoseconds, and tells what it says then: nanoseconds since 1970.
    ///
    /// # Errors
    /// What went wrong, in one line for the host's user.
    fn adjust_clock(&mut self, by_ns: i64) -> Result<u64, String>;

    /// Its processes go on that were frozen.
    fn thawed(&mut self);

    /// Is to power itself off.
    ///
    /// # Errors
    /// What went wrong, in one line for the host's user.
    fn power_off(&mut self) -> Result<PowersOff, String>;
}

/// Who turns a machine's power off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowersOff {
    /// Whoever runs the server, when that has ended.
    Server,
    /// Somebody else, who ends the server, too.
    Init,
}

/// What a server works on.
#[derive(Debug)]
pub struct Setting<M> {
    /// The descriptor to the host; it must not block.
    pub port: OwnedFd,
    /// The machine.
    pub machine: M,
    /// Where process trees get their cgroups; none where there are none.
    pub cgroups: Option<Cgroups>,
    /// Microseconds from the kernel's start to the agent's readiness.
    pub ready_us: u64,
}

/// The agent while it serves a host.
#[derive(Debug)]
pub struct Server<M> {
    link: AgentLink,
    port: Port,
    port_token: Token,
    signals: Signals,
    signals_token: Token,
    poller: Poller,
    table: Table,
    spawner: Spawner,
    machine: M,
    cgroups: Option<Cgroups>,
    ready_us: u64,
    /// How processes are: frozen ones live through whatever becomes of their machine.
    processes: Freezer,
    stop: Stop,
}

/// Whether the agent is to stop serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// When those have ended that were asked before all others, or at this time.
    Ending(Instant),
    /// When the last reply has left, or at this time.
    By(Instant),
}

impl<M: Machine> Server<M> {
    /// A server that takes over signals and children of this process.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn new(setting: Setting<M>) -> Result<Self, ServeError> {
        let signals = Signals::take().map_err(ServeError::Signals)?;
        let port = Port::new(setting.port);
        let mut poller = Poller::new().map_err(ServeError::Poll)?;
        let watched = poller.watch(port.fd(), Interest::Both);
        let port_token = watched.map_err(ServeError::Poll)?;
        let watched = poller.watch(signals.fd(), Interest::DataStill);
        let signals_token = watched.map_err(ServeError::Poll)?;
        Ok(Self {
            link: AgentLink::new(),
            port,
            port_token,
            signals,
            signals_token,
            poller,
            table: Table::default(),
            spawner: Spawner::new(Path::new("/etc")),
            machine: setting.machine,
            cgroups: setting.cgroups,
            ready_us: setting.ready_us,
            processes: Freezer::Thawed,
            stop: Stop::No,
        })
    }

    /// Serves until the host or a signal asks for the end of the machine.
    ///
    /// # Errors
    /// [`ServeError::Poll`].
    pub fn run(mut self) -> Result<(), ServeError> {
        let mut progress = Progress::GoesOn;
        loop {
            self.go_on_ending(progress);
            let timeout = match (progress, self.stop) {
                (_, Stop::By(end)) if self.port.is_flushed() || Instant::now() >= end => {
                    return Ok(());
                }
                (Progress::GoesOn, _) => Some(Timespec::default()),
                (Progress::Waits, Stop::No) => None,
                (Progress::Waits, Stop::Ending(end) | Stop::By(end)) => {
                    Timespec::try_from(end.saturating_duration_since(Instant::now())).ok()
                }
            };
            for token in self.poller.wait(timeout.as_ref()).map_err(ServeError::Poll)? {
                self.event(token);
            }
            progress = self.turn();
        }
    }

    fn event(&mut self, token: Token) {
        if token == self.port_token {
            self.port.woken();
        } else if token == self.signals_token {
            let received = self.signals.read();
            if received.children {
                self.table.reap(&mut self.link, &self.poller);
            }
            if received.stop {
                self.stop();
            }
        } else {
            self.table.woken(token, &mut self.link, &self.poller);
        }
    }

    /// Everything that can be done now, each a bounded piece of it.
    fn turn(&mut self) -> Progress {
        let read = self.port.read_into(&mut self.link);
        while let Some((id, request)) = self.link.next_request() {
            let reply = self.carry_out(request);
            self.link.reply(id, reply);
        }
        while let Some(process) = self.link.next_stdin() {
            self.table.feed(process, &mut self.link, &self.poller);
        }
        let pumped = self.table.pump(&mut self.link, &mut self.poller);
        let written = self.port.write_from(&mut self.link);
        if [read, pumped, written].contains(&Progress::GoesOn) {
            Progress::GoesOn
        } else {
            Progress::Waits
        }
    }

    fn stop(&mut self) {
        if self.stop != Stop::No {
            return;
        }
        let now = Instant::now();
        self.stop = Stop::By(now + FLUSH_TIMEOUT);
        for (pid, signal) in self.table.ending() {
            self.stop = Stop::Ending(now + ENDING_TIMEOUT);
            // One that takes no notice ends with all others.
            let _unheard = spawn::signal_group(pid, signal);
        }
    }

    /// Those that were asked have ended when their last words are said, too; who never stops talking
    /// holds nothing up.
    fn go_on_ending(&mut self, progress: Progress) {
        let Stop::Ending(end) = self.stop else { return };
        let now = Instant::now();
        let ended = self.table.ending().next().is_none() && progress == Progress::Waits;
        if ended || now >= end {
            self.stop = Stop::By(now + FLUSH_TIMEOUT);
        }
    }

    fn carry_out(&mut self, request: Request) -> Reply {
        let result = match request {
            Request::Configure(identity) => {
                let taken_on = self.machine.take_on(&identity, self.processes);
                taken_on.map(|()| Reply::Done).map_err(Refusal::Failed)
            }
            Request::Start { process, command } => {
                let program = command.argv.first().map_or(&[][..], |name| name);
                self.start(process, program, |spawner, cgroups| spawner.start(&command, cgroups))
            }
            Request::StartTool { process, tool } => {
                self.start(process, TOOL_NAME.as_bytes(), |spawner, cgroups| {
                    spawner.start_tool(&tool, cgroups)
                })
            }
            Request::Signal { process, signal, scope } => self.signal(process, signal, scope),
            Request::EndWith { process, signal } => self.end_with(process, signal),
            Request::Resize { process, window } => self.resize(process, window),
            Request::List => Ok(Reply::Processes(self.table.list())),
            Request::Release { process } => self.release(process),
            Request::CloseOutput { process, stream } => self.known(process).map(drop).map(|()| {
                self.table.close_output(process, stream, &mut self.link, &mut self.poller);
                Reply::Done
            }),
            Request::Info => Ok(Reply::Info(self.info())),
            Request::Stats => Ok(Reply::Stats(stats::gather())),
            Request::Look { path } => look(&path).map(Reply::Looked),
            Request::Settle => self.machine.settle().map(|()| Reply::Done).map_err(Refusal::Failed),
            Request::Freeze => self.freeze(Freezer::Frozen),
            Request::Thaw => self.freeze(Freezer::Thawed),
            Request::Clock { adjust_ns } => {
                let now = self.machine.adjust_clock(adjust_ns);
                now.map(|wall_clock_ns| Reply::Clock { wall_clock_ns }).map_err(Refusal::Failed)
            }
            Request::PowerOff => self.power_off(),
            // The link answers it itself.
            Request::Attach { .. } => Err(Refusal::Unsupported),
        };
        result.unwrap_or_else(Reply::Refused)
    }

    fn start(
        &mut self,
        id: ProcessId,
        program: &[u8],
        spawn: impl FnOnce(&mut Spawner, Option<&mut Cgroups>) -> Result<Started, Refusal>,
    ) -> Result<Reply, Refusal> {
        if self.table.get(id).is_some() {
            return Err(Refusal::WrongState("was already started".to_owned()));
        }
        if self.table.len() >= MAX_PROCESSES || !self.link.open(id) {
            let most = u32::try_from(MAX_PROCESSES).unwrap_or(u32::MAX);
            return Err(Refusal::TooManyProcesses(most));
        }
        let started = spawn(&mut self.spawner, self.cgroups.as_mut());
        let taken_in = started.and_then(|started| self.take_in(id, program, started));
        if taken_in.is_err() {
            self.link.close(id);
        }
        taken_in
    }

    fn take_in(
        &mut self,
        id: ProcessId,
        program: &[u8],
        started: Started,
    ) -> Result<Reply, Refusal> {
        let pid = started.pid;
        let process = (pid, started.streams, started.tree);
        let ends = (&mut self.link, &mut self.poller);
        match self.table.insert(id, program, process, ends) {
            Ok(()) => Ok(Reply::Started { pid: pid.as_raw_nonzero().get().unsigned_abs() }),
            Err(errno) => {
                // It is not ours to lose: nobody could see what it does.
                let _ended_already = spawn::signal_group(pid, Signal::KILL);
                Err(Refusal::Failed(format!("cannot watch the streams: {errno}")))
            }
        }
    }

    /// Without cgroups nothing can be frozen, and nothing would be thawed.
    fn freeze(&mut self, state: Freezer) -> Result<Reply, Refusal> {
        let Some(cgroups) = &self.cgroups else { return Err(Refusal::Unsupported) };
        let frozen = cgroups.freeze(state);
        // What stands still in part is to be thawed, too.
        if frozen.is_ok() || state == Freezer::Frozen {
            self.processes = state;
        }
        if frozen.is_ok() && state == Freezer::Thawed {
            self.machine.thawed();
        }
        frozen
            .map(|()| Reply::Done)
            .map_err(|error| Refusal::Failed(format!("cannot make processes {state}: {error}")))
    }

    fn power_off(&mut self) -> Result<Reply, Refusal> {
        if self.machine.power_off().map_err(Refusal::Failed)? == PowersOff::Server {
            self.stop();
        }
        Ok(Reply::Done)
    }

    fn known(&self, id: ProcessId) -> Result<&Process, Refusal> {
        self.table.get(id).ok_or(Refusal::UnknownProcess)
    }

    fn end_with(&mut self, id: ProcessId, signal: u8) -> Result<Reply, Refusal> {
        match self.table.end_with(id, named(signal)?) {
            true => Ok(Reply::Done),
            false => Err(Refusal::UnknownProcess),
        }
    }

    fn signal(&self, id: ProcessId, signal: u8, scope: SignalScope) -> Result<Reply, Refusal> {
        let process = self.known(id)?;
        let signal = named(signal)?;
        // The number of an ended process may be another's by now; its cgroup is still its own.
        let sent = match (scope, &process.tree, process.end) {
            (SignalScope::Tree, Some(tree), _) => tree.signal(signal),
            (_, _, None) => spawn::signal_group(process.pid, signal),
            (_, _, Some(_)) => return Err(Refusal::WrongState("has ended".to_owned())),
        };
        sent.map(|()| Reply::Done)
            .map_err(|error| Refusal::Failed(format!("cannot signal the process: {error}")))
    }

    fn resize(&self, id: ProcessId, window: Window) -> Result<Reply, Refusal> {
        let Some(terminal) = &self.known(id)?.terminal else {
            return Err(Refusal::WrongState("has no terminal".to_owned()));
        };
        spawn::resize(terminal.as_fd(), window)
            .map(|()| Reply::Done)
            .map_err(|errno| Refusal::Failed(format!("cannot resize the terminal: {errno}")))
    }

    fn release(&mut self, id: ProcessId) -> Result<Reply, Refusal> {
        if self.known(id)?.end.is_none() {
            return Err(Refusal::WrongState("still runs".to_owned()));
        }
        let process = self.table.remove(id, &mut self.poller);
        self.link.close(id);
        let tree = process.and_then(|process| process.tree);
        if let (Some(cgroups), Some(tree)) = (&mut self.cgroups, tree) {
            cgroups.remove(tree);
        }
        Ok(Reply::Done)
    }

    /// The kernel makes up its boot id when it is first asked for it; so a template whose
    /// agent was never asked leaves every sandbox made from it an id of its own.
    fn info(&self) -> AgentInfo {
        let boot_id = read_line(Path::new("/proc/sys/kernel/random/boot_id"));
        AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: boot_id.unwrap_or_default(),
            ready_us: self.ready_us,
        }
    }
}

fn named(signal: u8) -> Result<Signal, Refusal> {
    Signal::from_named_raw(i32::from(signal))
        .ok_or_else(|| Refusal::Failed(format!("there is no signal {signal}")))
}

/// What is at a path, which counts from the root.
fn look(path: &[u8]) -> Result<PathKind, Refusal> {
    let path = Path::new("/").join(OsStr::from_bytes(path));
    match fs::metadata(&path) {
        Ok(about) if about.is_dir() => Ok(PathKind::Directory),
        Ok(about) if about.is_file() => Ok(PathKind::File),
        Ok(_) => Ok(PathKind::Other),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(PathKind::Missing)
        }
        Err(error) => Err(Refusal::Failed(format!("cannot look at {}: {error}", path.display()))),
    }
}
