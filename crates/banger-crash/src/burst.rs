//! Many requests at once, drawn from a seed, and what was answered to each.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use banger_api::attach::OutputStream;
use banger_api::client::{Client, ClientError, Force, ProcessSession, SandboxAction, SessionEvent};
use banger_api::types::{Command, CreateSandbox, ProcessId, StartProcess};
use banger_host::fs::ensure_private_dir;
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::owned;
use banger_model::{
    BootMode, Disposal, Labels, LeaseId, Lifetime, Limits, NetworkMode, ProcessEnd, SandboxSpec,
};
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::book::{Afterwards, Book, Entry, Heard, Rest, Wish};
use crate::draw::Draw;

/// Lines that a process in a sandbox writes: some windows of the link.
const LINES: u64 = 20_000;
/// How large a burst is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Requests.
    pub(crate) requests: u64,
    /// Sandboxes, about.
    pub(crate) sandboxes: usize,
    /// How far apart the first and the last request may be sent, in microseconds.
    pub(crate) spread: u64,
}

/// One request that was sent.
pub(crate) struct Sent<T> {
    pub(crate) name: String,
    pub(crate) wish: T,
    pub(crate) answer: JoinHandle<Answer>,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To a wish.
    Heard(Heard),
    /// To a command.
    Ran(Result<(), RunFailed>),
}

/// Why a command did not run to its end.
#[derive(Debug)]
pub(crate) enum RunFailed {
    /// There was no daemon when it was begun.
    NoDaemon,
    /// It came to another end than it should.
    Otherwise(String),
}

/// The locks by which leases are held, by the name of their sandbox.
pub(crate) type Leases = BTreeMap<String, FileLock>;

/// Draws a burst and sends it.
pub(crate) struct Burst<'a> {
    pub(crate) client: &'a Client,
    pub(crate) home: &'a Home,
    pub(crate) draw: &'a mut Draw,
    pub(crate) book: &'a mut Book,
    pub(crate) leases: &'a mut Leases,
}

impl Burst<'_> {
    /// Sends requests; their names and what they wish, with the answers that are still to come.
    pub(crate) fn send(&mut self, round: u64, size: Size) -> Result<Vec<Sent<Option<Wish>>>> {
        let mut sent = Vec::new();
        for number in 0..size.requests {
            let delay = Duration::from_micros(self.draw.below(size.spread));
            let there = self.book.values().filter(|entry| entry.was != Rest::Absent).count();
            let made = self.book.len() - there;
            let full = there + made >= size.sandboxes;
            let roll = self.draw.below(100);
            if self.book.is_empty() || (!full && roll < 40) || roll < 5 {
                sent.push(self.create(format!("r{round}-{number}"), delay)?);
                continue;
            }
            let names: Vec<_> = self.book.keys().cloned().collect();
            let Some(name) = self.draw.pick(&names).cloned() else { continue };
            sent.push(self.ask(name, delay));
        }
        Ok(sent)
    }

    fn create(&mut self, name: String, delay: Duration) -> Result<Sent<Option<Wish>>> {
        let afterwards = if self.draw.chance(25) { Afterwards::Goes } else { Afterwards::Stays };
        let lease = self.draw.chance(25).then(|| LeaseId::from_random(self.draw.bytes()));
        if let Some(lease) = &lease {
            ensure_private_dir(&self.home.leases())?;
            self.leases.insert(name.clone(), FileLock::acquire(&self.home.lease(lease))?);
        }
        let wish = if self.draw.chance(70) { Wish::CreateAndStart } else { Wish::Create };
        let entry = Entry::new(afterwards, lease);
        let wanted = wanted(&name, &entry, wish)?;
        self.book.insert(name.clone(), entry);
        let client = self.client.clone();
        let answer = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            Answer::Heard(heard(client.create(&wanted).await.map(|made| made.operation)))
        });
        Ok(Sent { name, wish: Some(wish), answer })
    }

    fn ask(&mut self, name: String, delay: Duration) -> Sent<Option<Wish>> {
        // The lease of a sandbox that may not be there yet is the lease of its client alone.
        let leased = self.leases.contains_key(&name)
            && self.book.get(&name).is_some_and(|entry| entry.was != Rest::Absent);
        let wish = match self.draw.below(100) {
            0..18 => Wish::Start,
            18..32 => Wish::Stop,
            32..42 => Wish::Kill,
            42..55 => Wish::Restart,
            55..62 => Wish::Delete,
            62..70 => Wish::DeleteForced,
            76..84 if self.book.get(&name).is_some_and(|entry| entry.boot.is_some()) => Wish::Dies,
            70..76 if leased => Wish::LeaseFell,
            _ => {
                let answer = tokio::spawn(command(self.client.clone(), name.clone(), delay));
                return Sent { name, wish: None, answer };
            }
        };
        let lease = match wish {
            Wish::LeaseFell => self.leases.remove(&name),
            _ => None,
        };
        let (client, target) = (self.client.clone(), name.clone());
        let id = self.book.get(&name).and_then(|entry| entry.id.clone());
        let dir = id.filter(|_| wish == Wish::Dies).map(|id| self.home.sandbox(&id));
        let answer = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            drop(lease);
            if let Some(dir) = dir {
                return Answer::Heard(kill_machine(&dir).unwrap_or(Heard::Nothing));
            }
            Answer::Heard(ask(&client, &target, wish).await)
        });
        Sent { name, wish: Some(wish), answer }
    }
}

/// Asks for something that is not a new sandbox.
pub(crate) async fn ask(client: &Client, name: &str, wish: Wish) -> Heard {
    let asked = match wish {
        Wish::Start => client.act(name, SandboxAction::Start).await,
        Wish::Stop => client.act(name, SandboxAction::Stop).await,
        Wish::Kill => client.act(name, SandboxAction::Kill).await,
        Wish::Restart => client.act(name, SandboxAction::Restart).await,
        Wish::Delete => client.delete(name, Force::No).await,
        Wish::DeleteForced => client.delete(name, Force::Yes).await,
        Wish::LeaseFell => return Heard::Yes(None),
        Wish::Create | Wish::CreateAndStart | Wish::Dies => return Heard::No,
    };
    heard(asked.map(|operation| Some(operation.id)))
}

/// Kills the monitor of the sandbox that has this directory, if it has one at this moment.
fn kill_machine(dir: &Path) -> Result<Heard> {
    for process in owned::find(&dir.canonicalize()?)? {
        process.signal(Signal::KILL)?;
    }
    Ok(Heard::Nothing)
}

/// What an answer means. The daemon's own no is one; anything else leaves it open.
pub(crate) fn heard(answer: Result<Option<banger_model::OperationId>, ClientError>) -> Heard {
    match answer {
        Ok(operation) => Heard::Yes(operation),
        Err(ClientError::Problem(_) | ClientError::Connect(_)) => Heard::No,
        Err(_) => Heard::Nothing,
    }
}

/// The sandbox that this entry is about.
pub(crate) fn wanted(name: &str, entry: &Entry, wish: Wish) -> Result<CreateSandbox> {
    let parse = |error: &dyn std::fmt::Display| anyhow!("{error}");
    let spec = SandboxSpec {
        image: "debian-bookworm".parse().map_err(|e| parse(&e))?,
        kernel: "debian-cloud".parse().map_err(|e| parse(&e))?,
        cpus: None,
        memory: "256M".parse().map_err(|e| parse(&e))?,
        disk: Limits::MIN_DISK.try_into().map_err(|e| parse(&e))?,
        network: NetworkMode::None,
        boot: BootMode::Template,
    };
    let disposal = match entry.afterwards {
        Afterwards::Stays => Disposal::Keep,
        Afterwards::Goes => Disposal::Remove,
    };
    Ok(CreateSandbox {
        name: Some(name.parse().map_err(|e| parse(&e))?),
        spec: Some(spec),
        from: None,
        labels: Labels::default(),
        lifetime: Lifetime { disposal, lease: entry.lease.clone(), ..Lifetime::default() },
        start: wish == Wish::CreateAndStart,
    })
}

async fn command(client: Client, name: String, delay: Duration) -> Answer {
    tokio::time::sleep(delay).await;
    Answer::Ran(run(&client, &name, &["seq", "1", &LINES.to_string()], &numbers()).await)
}

fn numbers() -> Vec<u8> {
    (1..=LINES).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

/// Runs a command in a sandbox; it has to write this and end well.
pub(crate) async fn run(
    client: &Client,
    name: &str,
    argv: &[&str],
    writes: &[u8],
) -> Result<(), RunFailed> {
    let failed = |error: ClientError| match error {
        // What may be asked again was, and nobody was there.
        ClientError::Connect(_) | ClientError::Interrupted { .. } => RunFailed::NoDaemon,
        error => RunFailed::Otherwise(format!("{error}: {error:?}")),
    };
    let id = banger_host::random::bytes().map_err(|e| RunFailed::Otherwise(e.to_string()))?;
    let process = ProcessId(u64::from_ne_bytes(id));
    let argv = argv.iter().map(|word| (*word).into()).collect();
    let what = StartProcess::Command(Command { argv, ..Command::default() });
    client.start_process(name, process, &what).await.map_err(failed)?;
    let mut session = ProcessSession::open(client, name, process).await.map_err(failed)?;
    let mut output = Vec::new();
    loop {
        match session.next().await.map_err(failed)? {
            SessionEvent::Output { stream, bytes } => {
                session.control().consumed(stream, bytes.len());
                if stream == OutputStream::Stdout {
                    output.extend(bytes);
                }
            }
            SessionEvent::Exited(ProcessEnd::Exited(0)) if output == writes => break,
            SessionEvent::OutputEnded { .. } | SessionEvent::Notice(_) => {}
            other => {
                let len = output.len();
                return Err(RunFailed::Otherwise(format!("{other:?} after {len} bytes")));
            }
        }
    }
    client.release(name, process).await.map_err(failed)
}
