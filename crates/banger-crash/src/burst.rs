//! Many requests at once, drawn from a seed, and what was answered to each.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use banger_api::attach::OutputStream;
use banger_api::client::{Client, ClientError, ProcessSession, SessionEvent};
use banger_api::types::{Command, ProcessId, StartProcess};
use banger_host::fs::ensure_private_dir;
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::owned;
use banger_model::{LeaseId, ProcessEnd, SnapshotPart};
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::ask::Request;
use crate::book::{Afterwards, Book, Entry, Heard, Made, Rest, Wish};
use crate::daemon::PATIENCE;
use crate::draw::Draw;
use crate::shelf::{Shelf, Shot};

/// Lines that a process in a sandbox writes: some windows of the link.
const LINES: u64 = 20_000;
/// Most copies that are made at once.
const MAX_COPIES: u64 = 3;
/// Snapshots in a home from which on more are removed than taken.
const MANY_SNAPSHOTS: usize = 4;
/// How often of a hundred times something is asked of a sandbox that can do it.
const MOSTLY: u64 = 80;
/// Longest output of a command that is kept.
const MAX_OUTPUT_LEN: usize = 1 << 20;

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

/// One request that was sent, or a command in the sandbox of this name.
pub(crate) struct Sent {
    pub(crate) name: String,
    pub(crate) request: Option<Request>,
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
    pub(crate) shelf: &'a mut Shelf,
    pub(crate) leases: &'a mut Leases,
}

impl Burst<'_> {
    /// Sends requests; their names and what they wish, with the answers that are still to come.
    pub(crate) fn send(&mut self, round: u64, size: Size) -> Result<Vec<Sent>> {
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
            sent.push(self.ask(name, &format!("{round}-{number}"), size, delay));
        }
        Ok(sent)
    }

    fn create(&mut self, name: String, delay: Duration) -> Result<Sent> {
        let snapshots: Vec<_> = self.shelf.keys().cloned().collect();
        if self.draw.chance(50)
            && let Some(snapshot) = self.draw.pick(&snapshots).cloned()
        {
            let disk_only = self.draw.chance(25);
            let part = if disk_only { SnapshotPart::Disk } else { SnapshotPart::Machine };
            let entry = Entry::made(Made::FromSnapshot(snapshot, part));
            return self.send_create(name, entry, Wish::CreateAndStart, delay);
        }
        let afterwards = if self.draw.chance(25) { Afterwards::Goes } else { Afterwards::Stays };
        let lease = self.draw.chance(25).then(|| LeaseId::from_random(self.draw.bytes()));
        if let Some(lease) = &lease {
            ensure_private_dir(&self.home.leases())?;
            self.leases.insert(name.clone(), FileLock::acquire(&self.home.lease(lease))?);
        }
        let wish = if self.draw.chance(70) { Wish::CreateAndStart } else { Wish::Create };
        self.send_create(name, Entry::new(afterwards, lease), wish, delay)
    }

    fn send_create(
        &mut self,
        name: String,
        entry: Entry,
        wish: Wish,
        delay: Duration,
    ) -> Result<Sent> {
        let request = Request::create(&name, &entry, wish)?;
        self.book.insert(name, entry);
        Ok(self.send_request(request, delay))
    }

    fn send_request(&self, request: Request, delay: Duration) -> Sent {
        let (client, asked) = (self.client.clone(), request.clone());
        let answer = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            Answer::Heard(asked.send(&client).await)
        });
        Sent { name: request.name.clone(), request: Some(request), answer }
    }

    /// Asks something of the sandbox of this name, or of one that is more likely to do it; what is
    /// new gets a name with this in it.
    fn ask(&mut self, name: String, unique: &str, size: Size, delay: Duration) -> Sent {
        let roll = self.draw.below(100);
        let name = match roll {
            56..66 | 75..90 => self.rather(Rest::Running, name),
            66..75 => self.rather(Rest::Paused, name),
            _ => name,
        };
        let entry = self.book.get(&name);
        let runs = entry.is_some_and(|entry| entry.boot.is_some());
        // The lease of a sandbox that may not be there yet is the lease of its client alone.
        let leased =
            self.leases.contains_key(&name) && entry.is_some_and(|entry| entry.was != Rest::Absent);
        let wish = match roll {
            0..12 => Wish::Start,
            12..20 => Wish::Stop,
            20..26 => Wish::Kill,
            26..34 => Wish::Restart,
            34..39 => Wish::Delete,
            39..45 => Wish::DeleteForced,
            45..50 if leased => Wish::LeaseFell,
            50..56 if runs => Wish::Dies,
            56..66 => Wish::Pause,
            66..75 => Wish::Resume,
            75..84 => return self.snapshot(&name, unique, delay),
            84..90 => return self.fork(&name, unique, size, delay),
            _ => {
                let answer = tokio::spawn(command(self.client.clone(), name.clone(), delay));
                return Sent { name, request: None, answer };
            }
        };
        match wish {
            Wish::LeaseFell | Wish::Dies => self.end(name, wish, delay),
            wish => self.send_request(Request::plain(&name, wish), delay),
        }
    }

    /// Mostly one that was so when nothing was under way, if there is one; else this one.
    fn rather(&mut self, state: Rest, name: String) -> String {
        let so = self.book.iter().filter(|(_, entry)| entry.was == state);
        let so: Vec<_> = so.map(|(name, _)| name.clone()).collect();
        if self.draw.chance(MOSTLY) {
            return self.draw.pick(&so).cloned().unwrap_or(name);
        }
        name
    }

    /// Has a snapshot taken; or has one removed, where there are many.
    fn snapshot(&mut self, name: &str, unique: &str, delay: Duration) -> Sent {
        let all: Vec<_> = self.shelf.keys().cloned().collect();
        let drops = self.draw.chance(if all.len() > MANY_SNAPSHOTS { 70 } else { 20 });
        if drops
            && let Some(snapshot) = self.draw.pick(&all)
            && let Some(shot) = self.shelf.get(snapshot)
        {
            return self.send_request(Request::drop_snapshot(&shot.source, snapshot), delay);
        }
        let request = Request::snapshot(name, unique);
        self.shelf.insert(format!("{name}@{unique}"), Shot::of(name));
        self.send_request(request, delay)
    }

    /// Has copies made, where there is room for them; else a command runs.
    fn fork(&mut self, name: &str, unique: &str, size: Size, delay: Duration) -> Sent {
        let room = size.sandboxes.saturating_sub(self.book.len()) as u64;
        let count = 1 + self.draw.below(MAX_COPIES.min(room));
        if room == 0 {
            let answer = tokio::spawn(command(self.client.clone(), name.to_owned(), delay));
            return Sent { name: name.to_owned(), request: None, answer };
        }
        let count = u16::try_from(count).unwrap_or(1);
        let request = Request::fork(name, &format!("f{unique}"), count);
        for copy in request.copies() {
            self.book.insert(copy, Entry::made(Made::Copy(name.to_owned())));
        }
        self.send_request(request, delay)
    }

    /// Nobody asks: a client or a machine ends.
    fn end(&mut self, name: String, wish: Wish, delay: Duration) -> Sent {
        let lease = match wish {
            Wish::LeaseFell => self.leases.remove(&name),
            _ => None,
        };
        let id = self.book.get(&name).and_then(|entry| entry.id.clone());
        let dir = id.filter(|_| wish == Wish::Dies).map(|id| self.home.sandbox(&id));
        let answer = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            drop(lease);
            Answer::Heard(match dir {
                Some(dir) => kill_machine(&dir).unwrap_or(Heard::Nothing),
                None => Heard::Yes(None),
            })
        });
        Sent { request: Some(Request::plain(&name, wish)), name, answer }
    }
}

/// Kills the monitor of the sandbox that has this directory, if it has one at this moment.
pub(crate) fn kill_machine(dir: &Path) -> Result<Heard> {
    for process in owned::find(&dir.canonicalize()?)? {
        process.signal(Signal::KILL)?;
    }
    Ok(Heard::Nothing)
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
    let output = output(client, name, argv).await?;
    if output != writes {
        return Err(RunFailed::Otherwise(format!("it wrote {} other bytes", output.len())));
    }
    Ok(())
}

/// Runs a command in a sandbox that has to end well, and in time; what it wrote.
pub(crate) async fn output(
    client: &Client,
    name: &str,
    argv: &[&str],
) -> Result<Vec<u8>, RunFailed> {
    let late = || RunFailed::Otherwise(format!("it did not end in {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, output_in_time(client, name, argv)).await.map_err(|_| late())?
}

async fn output_in_time(client: &Client, name: &str, argv: &[&str]) -> Result<Vec<u8>, RunFailed> {
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
                if stream == OutputStream::Stdout && output.len() < MAX_OUTPUT_LEN {
                    output.extend(bytes);
                }
            }
            SessionEvent::Exited(ProcessEnd::Exited(0)) => break,
            SessionEvent::OutputEnded { .. } | SessionEvent::Notice(_) => {}
            other => {
                let len = output.len();
                return Err(RunFailed::Otherwise(format!("{other:?} after {len} bytes")));
            }
        }
    }
    client.release(name, process).await.map_err(failed)?;
    Ok(output)
}
