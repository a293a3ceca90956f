//! A guest of a few lines: it answers as the agent does, and its programs are made up.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use banger_link::{
    AgentInfo, AgentLink, GuestStats, PathKind, ProcessId, ProcessInfo, Refusal, Reply, Request,
    Stdin, Stream,
};
use banger_model::ProcessEnd;

use super::memory::{Hears, Memory, Word};
use super::{LIFE_SCRIPT, Machine, Origin, Status};

/// Bytes read from the link in one go.
const READ_LEN: usize = 64 * 1024;
/// The pid of the first process: those before are the guest's own.
const FIRST_PID: u32 = 100;

/// What a made up program does.
enum Program {
    /// Writes the numbers from one to another, each on a line.
    Sequence { next: u64, last: u64 },
    /// Writes what it reads, until that ends.
    Echo,
    /// Waits for a signal.
    Wait,
    /// Tells which life this is.
    Life,
}

struct Process {
    pid: u32,
    name: Vec<u8>,
    program: Program,
    /// What it wrote and nobody has taken yet.
    rest: Vec<u8>,
    end: Option<ProcessEnd>,
}

struct Guest<'a> {
    machine: &'a Machine,
    link: AgentLink,
    /// What was wrong with its memory when it came to be.
    misfit: Option<String>,
    processes: BTreeMap<ProcessId, Process>,
    next_pid: u32,
    goes: bool,
}

/// Boots when the machine is set going, and serves one host after the other.
pub(super) fn serve(listener: &UnixListener, machine: &Machine) {
    machine.wait_for(Status::Running);
    std::thread::sleep(machine.delay);
    let begun = machine.execute(|memory| match machine.origin {
        Origin::Kernel => memory.boot(),
        Origin::Saved => memory.misfit(),
    });
    let misfit = match begun {
        Ok(misfit) => misfit,
        Err(error) => Some(error.to_string()),
    };
    let mut guest = Guest {
        machine,
        link: AgentLink::new(),
        misfit,
        processes: BTreeMap::new(),
        next_pid: FIRST_PID,
        goes: false,
    };
    std::thread::scope(|scope| {
        // Not before it was looked whether memory and disk fit each other.
        scope.spawn(|| machine.tick.map(|period| tick(machine, period)));
        guest.serve_all(listener);
    });
}

/// Writes again and again, as long as the guest's processes do not stand still, so that a disk and
/// memory of two moments do not fit each other.
fn tick(machine: &Machine, period: Duration) {
    loop {
        std::thread::sleep(period);
        let ticked = machine.execute(|memory| match memory.is_up() {
            true => memory.write(),
            false => Ok(()),
        });
        if ticked.is_err() {
            return;
        }
    }
}

impl Guest<'_> {
    fn serve_all(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            // Whatever ends a connection, the next host finds everything as it was.
            let _ = self.serve(stream);
            if self.goes {
                std::thread::sleep(self.machine.delay);
                self.machine.end("guest-shutdown");
                return;
            }
        }
    }

    fn serve(&mut self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut input = vec![0; READ_LEN];
        let mut output = Vec::new();
        loop {
            let len = stream.read(&mut input)?;
            if len == 0 {
                return Ok(());
            }
            // A machine that stands still answers nobody.
            self.machine.execute(|_| Ok(()))?;
            self.link.receive(&input[..len]);
            while let Some((id, request)) = self.link.next_request() {
                let reply = self.carry_out(request);
                self.link.reply(id, reply);
            }
            loop {
                self.work();
                self.link.transmit(&mut output);
                if output.is_empty() {
                    break;
                }
                stream.write_all(&output)?;
                output.clear();
            }
            if self.goes {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, request: Request) -> Reply {
        match request {
            Request::Info => Reply::Info(AgentInfo {
                version: "scripted".to_owned(),
                boot_id: format!("scripted-{:016x}", self.machine.memory.get(Word::Boot)),
                ready_us: 1000,
            }),
            Request::Start { process, command } => self.start(process, &command.argv),
            Request::Signal { process, signal, .. } => match self.processes.get_mut(&process) {
                Some(found) => {
                    end(&mut self.link, process, found, ProcessEnd::Signaled(signal));
                    Reply::Done
                }
                None => Reply::Refused(Refusal::UnknownProcess),
            },
            Request::List => Reply::Processes(self.processes.iter().map(info).collect()),
            Request::Release { process } => match self.processes.remove(&process) {
                Some(_) => {
                    self.link.close(process);
                    Reply::Done
                }
                None => Reply::Refused(Refusal::UnknownProcess),
            },
            Request::PowerOff => {
                self.goes = true;
                Reply::Done
            }
            // A guest of these few lines has the host's clock.
            Request::Clock { .. } => Reply::Clock { wall_clock_ns: banger_host::clock::wall_ns() },
            Request::Stats => Reply::Stats(GuestStats { cpus: 1, ..GuestStats::default() }),
            Request::Look { path } if path == b"/" => Reply::Looked(PathKind::Directory),
            Request::Look { .. } => Reply::Looked(PathKind::Missing),
            Request::Configure(identity) => match self.machine.memory.hears() {
                Hears::All => self.remember(|memory| memory.belong_to(identity.machine_id)),
                Hears::Nothing => {
                    self.machine.wait_for(Status::Over);
                    Reply::Refused(Refusal::Unsupported)
                }
                Hears::AndRefuses => Reply::Refused(Refusal::Failed("it cannot".to_owned())),
            },
            Request::Freeze => self.remember(|memory| memory.freeze(1)),
            Request::Thaw => self.remember(|memory| memory.freeze(0)),
            Request::Settle
            | Request::Resize { .. }
            | Request::CloseOutput { .. }
            | Request::EndWith { .. } => Reply::Done,
            // The link answers the first itself.
            Request::Attach { .. } | Request::StartTool { .. } => {
                Reply::Refused(Refusal::Unsupported)
            }
        }
    }

    fn remember(&self, what: impl FnOnce(&Memory) -> std::io::Result<()>) -> Reply {
        match self.machine.execute(what) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(Refusal::Failed(error.to_string())),
        }
    }

    fn hear(&self, hears: Hears) -> Program {
        let _ = self.machine.execute(|memory| memory.hear(hears));
        Program::Sequence { next: 1, last: 0 }
    }

    fn start(&mut self, id: ProcessId, argv: &[Vec<u8>]) -> Reply {
        if self.processes.contains_key(&id) {
            return Reply::Refused(Refusal::WrongState("is there already".to_owned()));
        }
        let words: Vec<_> = argv.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let program = match words.as_slice() {
            ["true"] => Program::Sequence { next: 1, last: 0 },
            ["seq", first, last] => Program::Sequence {
                next: first.parse().unwrap_or(1),
                last: last.parse().unwrap_or(0),
            },
            ["cat"] => Program::Echo,
            ["wait"] => Program::Wait,
            // An agent that waits for what never comes, or cannot write, as the files of its guest
            // can have it do.
            ["deafen"] => self.hear(Hears::Nothing),
            ["defy"] => self.hear(Hears::AndRefuses),
            ["sh", "-c", script] if *script == LIFE_SCRIPT => Program::Life,
            other => {
                let name = other.first().copied().unwrap_or_default().to_owned();
                return Reply::Refused(Refusal::NotFound(name));
            }
        };
        if !self.link.open(id) {
            return Reply::Refused(Refusal::TooManyProcesses(0));
        }
        let pid = self.next_pid;
        self.next_pid += 1;
        let name = argv.first().cloned().unwrap_or_default();
        self.processes.insert(id, Process { pid, name, program, rest: Vec::new(), end: None });
        Reply::Started { pid }
    }

    /// Lets every program go on as far as it can, unless they stand still.
    fn work(&mut self) {
        while self.link.next_stdin().is_some() {}
        if self.machine.memory.get(Word::Frozen) != 0 {
            return;
        }
        if self.processes.values().any(|process| process.end.is_none()) {
            // What they do leaves traces.
            let _ = self.machine.execute(Memory::write);
        }
        self.tell_life();
        for (id, process) in &mut self.processes {
            while process.end.is_none() && go_on(&mut self.link, *id, process) {}
        }
    }

    /// What the programs say that tell which life this is; from then on they have nothing to do.
    fn tell_life(&mut self) {
        let (machine, misfit) = (self.machine, &self.misfit);
        for process in self.processes.values_mut() {
            if !matches!(process.program, Program::Life) {
                continue;
            }
            let told = machine.execute(|memory| {
                memory.write()?;
                memory.flush()?;
                let fits = misfit.clone().or(memory.misfit()?).unwrap_or("fits".to_owned());
                Ok(format!("{:016x} {} {fits}\n", memory.life()?, memory.get(Word::Written)))
            });
            process.rest = told.unwrap_or_else(|error| format!("{error}\n")).into_bytes();
            process.program = Program::Sequence { next: 1, last: 0 };
        }
    }
}

/// One step of a program; whether there may be another now.
fn go_on(link: &mut AgentLink, id: ProcessId, process: &mut Process) -> bool {
    if !process.rest.is_empty() {
        let taken = link.push_output(id, Stream::Stdout, &process.rest);
        process.rest.drain(..taken);
        return process.rest.is_empty();
    }
    match &mut process.program {
        Program::Sequence { next, last } if *next <= *last => {
            process.rest = format!("{next}\n").into_bytes();
            *next += 1;
            true
        }
        Program::Sequence { .. } => {
            end(link, id, process, ProcessEnd::Exited(0));
            false
        }
        Program::Echo => match link.stdin(id) {
            Stdin::Data(bytes) => {
                process.rest = bytes.to_vec();
                link.consume_stdin(id, process.rest.len());
                true
            }
            Stdin::Empty => false,
            Stdin::Ended => {
                end(link, id, process, ProcessEnd::Exited(0));
                false
            }
        },
        Program::Wait | Program::Life => false,
    }
}

fn end(link: &mut AgentLink, id: ProcessId, process: &mut Process, how: ProcessEnd) {
    if process.end.is_none() {
        process.end = Some(how);
        link.end_output(id, Stream::Stdout);
        link.end_output(id, Stream::Stderr);
        link.exited(id, how);
    }
}

fn info((id, process): (&ProcessId, &Process)) -> ProcessInfo {
    let (program, end) = (process.name.clone(), process.end);
    ProcessInfo { process: *id, pid: process.pid, program, end }
}
