//! Carries a tar stream between the agent's tool in a sandbox and work that blocks here.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use banger_api::attach::OutputStream;
use banger_api::client::{Client, ProcessSession, SessionEvent};
use banger_api::types::{ProcessId, StartProcess};
use banger_model::{ExitCode, ProcessEnd, Progress};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use crate::error::{CommandError, Kind};
use crate::output::{notice, shown};
use crate::progress;

/// Chunks that wait between both ends. Each is a frame of the session, or [`CHUNK`] bytes.
const QUEUE: usize = 8;
/// Bytes that are handed on at once.
const CHUNK: usize = 64 * 1024;
/// A copy that is done within this needs no progress.
const SOON: Duration = Duration::from_secs(1);
/// Most bytes of complaints that are kept: the tool says a hundred lines at most.
const MAX_COMPLAINTS: usize = 64 * 1024;
/// How long a tool may take to end once it is told to.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// The signal that nothing outlives.
const SIGKILL: u8 = 9;

/// What comes out of a sandbox.
#[derive(Debug)]
pub(super) struct Incoming {
    chunks: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.chunks.blocking_recv() {
                Some(chunk) => (self.chunk, self.at) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// What goes into a sandbox.
#[derive(Debug)]
pub(super) struct Outgoing(mpsc::Sender<Vec<u8>>);

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK);
        let sent = self.0.blocking_send(bytes[..count].to_vec());
        sent.map_err(|_| io::Error::other("nobody takes it any more"))?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a tool in a sandbox whose output is taken here.
pub(super) async fn pull(
    client: &Client,
    sandbox: &str,
    tool: StartProcess,
    take: impl FnOnce(Incoming) -> Result<()> + Send + 'static,
) -> Result<(), CommandError> {
    with_process(client, sandbox, tool, async |session| {
        let (sender, chunks) = mpsc::channel(QUEUE);
        let taking = spawn_blocking(move || take(Incoming { chunks, chunk: Vec::new(), at: 0 }));
        take_in(session, sandbox, sender, taking).await
    })
    .await
}

async fn take_in(
    session: &mut ProcessSession,
    sandbox: &str,
    sender: mpsc::Sender<Vec<u8>>,
    mut taking: JoinHandle<Result<()>>,
) -> Result<(), CommandError> {
    let mut tool = Tool::new(session, sandbox);
    let mut sender = Some(sender);
    let mut taken = None;
    let end = loop {
        match tool.next().await? {
            Step::Output(bytes) => {
                let count = bytes.len();
                if let Some(chunks) = &sender
                    && chunks.send(bytes).await.is_err()
                {
                    // Whoever takes has all, or has failed.
                    sender = None;
                    let result = (&mut taking).await.map_err(anyhow::Error::from)?;
                    result.map_err(failed)?;
                    taken = Some(());
                }
                tool.consumed(OutputStream::Stdout, count);
            }
            Step::OutputEnded => sender = None,
            Step::Exited(end) => break end,
        }
    };
    drop(sender);
    let result = match taken {
        Some(()) => Ok(()),
        None => taking.await.map_err(anyhow::Error::from)?,
    };
    // What the tool complains of is the cause; what came of it here is the effect.
    tool.judge(end)?;
    result.map_err(failed)
}

/// Whoever read our output may have gone, which is no failure.
fn failed(error: anyhow::Error) -> CommandError {
    match error.downcast::<io::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}

/// Runs a tool in a sandbox whose input is given here.
pub(super) async fn push(
    client: &Client,
    sandbox: &str,
    tool: StartProcess,
    give: impl FnOnce(Outgoing) -> Result<()> + Send + 'static,
) -> Result<(), CommandError> {
    with_process(client, sandbox, tool, async |session| {
        let control = session.control();
        let meter = Meter::new();
        let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(QUEUE);
        let giving = spawn_blocking(move || give(Outgoing(sender)));
        let given = async {
            let mut meter = meter;
            while let Some(chunk) = chunks.recv().await {
                // A tool that has ended is told of elsewhere.
                if control.write(&chunk).await.is_err() {
                    std::future::pending::<()>().await;
                }
                meter.add(chunk.len());
            }
            giving.await.map_err(anyhow::Error::from)?
        };
        tokio::pin!(given);
        let mut is_given = false;
        let mut tool = Tool::new(session, sandbox);
        loop {
            tokio::select! {
                result = &mut given, if !is_given => {
                    result?;
                    is_given = true;
                    control.end_stdin();
                }
                step = tool.next() => match step? {
                    Step::Output(bytes) => tool.consumed(OutputStream::Stdout, bytes.len()),
                    Step::OutputEnded => {}
                    Step::Exited(end) => return tool.judge(end),
                },
            }
        }
    })
    .await
}

/// Starts a process, does something with it, and forgets it whatever came of that. Being
/// interrupted is one of the things that may come.
async fn with_process(
    client: &Client,
    sandbox: &str,
    tool: StartProcess,
    work: impl AsyncFnOnce(&mut ProcessSession) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let process = ProcessId(u64::from_le_bytes(banger_host::random::bytes()?));
    let mut interrupted = tokio::spawn(tokio::signal::ctrl_c());
    client.start_process(sandbox, process, &tool).await?;
    let mut session = ProcessSession::open(client, sandbox, process).await?;
    let worked = tokio::select! {
        worked = work(&mut session) => worked,
        _ = &mut interrupted => Err(interruption()),
    };
    if worked.is_err() {
        end(&mut session).await;
    }
    let released = client.release(sandbox, process).await;
    // A sandbox that is gone has forgotten it, too: what went wrong before says so.
    worked.and(released.map_err(CommandError::from))
}

fn interruption() -> CommandError {
    let error = anyhow!("the copy was interrupted; a part of it may be there");
    CommandError::new(Kind::Failed, error)
}

/// Ends a tool that may still run: first as the end of a pipe would, so that it removes what is
/// half made.
async fn end(session: &mut ProcessSession) {
    let control = session.control();
    control.end_stdin();
    control.close_output(OutputStream::Stdout);
    if tokio::time::timeout(END_PATIENCE, ended(session)).await.is_err()
        && control.signal(SIGKILL).is_ok()
    {
        // A sandbox that stands still cannot be made to forget.
        let _ = tokio::time::timeout(END_PATIENCE, ended(session)).await;
    }
}

/// Waits for the last event of a session.
async fn ended(session: &mut ProcessSession) {
    while let Ok(event) = session.next().await {
        if let SessionEvent::Output { stream, bytes } = event {
            session.control().consumed(stream, bytes.len());
        }
    }
}

/// What a tool does.
enum Step {
    Output(Vec<u8>),
    OutputEnded,
    Exited(ProcessEnd),
}

/// A tool that runs.
struct Tool<'a> {
    session: &'a mut ProcessSession,
    sandbox: &'a str,
    complaints: Vec<u8>,
    meter: Meter,
}

impl<'a> Tool<'a> {
    fn new(session: &'a mut ProcessSession, sandbox: &'a str) -> Self {
        Self { session, sandbox, complaints: Vec::new(), meter: Meter::new() }
    }

    /// What it does next. May be cancelled.
    async fn next(&mut self) -> Result<Step, CommandError> {
        let sandbox = self.sandbox;
        loop {
            match self.session.next().await? {
                SessionEvent::Output { stream: OutputStream::Stdout, bytes } => {
                    self.meter.add(bytes.len());
                    return Ok(Step::Output(bytes));
                }
                SessionEvent::Output { stream, bytes } => {
                    let room = MAX_COMPLAINTS.saturating_sub(self.complaints.len());
                    self.complaints.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    self.consumed(stream, bytes.len());
                }
                SessionEvent::OutputEnded { stream: OutputStream::Stdout } => {
                    return Ok(Step::OutputEnded);
                }
                SessionEvent::OutputEnded { .. } => {}
                SessionEvent::Exited(end) => return Ok(Step::Exited(end)),
                SessionEvent::Notice(text) => notice(&format!("{sandbox}: {text}")),
                SessionEvent::SandboxEnded(why) => {
                    let error = anyhow!("sandbox {sandbox} ended before the copy did: {why}");
                    return Err(CommandError::new(Kind::Failed, error));
                }
                SessionEvent::Lost(why) => {
                    let error = anyhow!("the copy cannot go on: {why}");
                    return Err(CommandError::new(Kind::Failed, error));
                }
            }
        }
    }

    fn consumed(&self, stream: OutputStream, bytes: usize) {
        self.session.control().consumed(stream, bytes);
    }

    /// What it has complained of is said; it may be the reason why it failed.
    fn judge(&self, end: ProcessEnd) -> Result<(), CommandError> {
        let lines = self.complaints.split(|byte| *byte == b'\n');
        let mut lines: Vec<String> = lines.filter(|l| !l.is_empty()).map(shown).collect();
        let code = end.exit_code();
        let last = if code == ExitCode::SUCCESS { None } else { lines.pop() };
        for line in &lines {
            notice(&format!("{}: {line}", self.sandbox));
        }
        if code == ExitCode::SUCCESS {
            return Ok(());
        }
        let last = last.unwrap_or_else(|| format!("it ended with status {}", code.0));
        let error = anyhow!("not everything is copied: {}: {last}", self.sandbox);
        Err(CommandError::new(Kind::Failed, error))
    }
}

/// Tells how much was carried, once that takes long.
struct Meter {
    progress: Arc<dyn Progress>,
    tell_at: Instant,
    told: bool,
    bytes: u64,
}

impl Meter {
    fn new() -> Self {
        let tell_at = Instant::now() + progress::patience().max(SOON);
        Self { progress: progress::to_stderr(), tell_at, told: false, bytes: 0 }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if Instant::now() < self.tell_at {
            return;
        }
        if !std::mem::replace(&mut self.told, true) {
            self.progress.stage("copying");
        }
        self.progress.advance(self.bytes, None);
    }
}
