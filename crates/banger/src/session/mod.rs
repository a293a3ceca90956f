//! A terminal, or what stands in for one, attached to a process in a sandbox.

mod input;
mod output;

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use banger_api::client::{Client, ProcessSession, SessionControl, SessionEvent};
use banger_api::types::{Command, ProcessId, StartProcess, Window};
use banger_host::random;
use banger_host::terminal::{RawMode, window_size};
use banger_model::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::output::notice;
use output::Output;

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGTERM: u8 = 15;

/// The signals that a user or a system sends to end a program.
#[derive(Debug)]
pub(crate) struct Interrupts {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    window: Signal,
}

/// What a signal asks for.
enum Interrupt {
    /// To pass this signal on.
    Pass(u8),
    /// To take over the window's new size.
    Resize,
}

impl Interrupts {
    /// Takes over these signals from now on.
    pub(crate) fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            interrupt: on(SignalKind::interrupt())?,
            quit: on(SignalKind::quit())?,
            terminate: on(SignalKind::terminate())?,
            window: on(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.hangup.recv() => Interrupt::Pass(SIGHUP),
            _ = self.interrupt.recv() => Interrupt::Pass(SIGINT),
            _ = self.quit.recv() => Interrupt::Pass(SIGQUIT),
            _ = self.terminate.recv() => Interrupt::Pass(SIGTERM),
            _ = self.window.recv() => Interrupt::Resize,
        }
    }

    /// Waits for a signal that ends a program which has no process in a sandbox of which whoever sent
    /// it would know: the status to end with.
    pub(crate) async fn fatal(&mut self) -> ExitCode {
        loop {
            if let Interrupt::Pass(number) = self.next().await {
                return ExitCode(128 + number);
            }
        }
    }
}

/// Runs a command in a sandbox with this program's standard streams as its own; returns its
/// status.
///
/// # Errors
/// When the command does not start, or the sandbox ends first.
pub(crate) async fn run(
    client: &Client,
    sandbox: &str,
    command: Command,
    mut interrupts: Interrupts,
) -> Result<ExitCode> {
    let terminal = command.terminal.is_some();
    let process = ProcessId(u64::from_ne_bytes(random::bytes()?));
    let session = tokio::select! {
        session = begin(client, sandbox, process, command) => session?,
        code = interrupts.fatal() => return Ok(code),
    };
    // From here to the end of the function, whatever the way out.
    let raw = terminal.then(|| RawMode::enter(std::io::stdin())).transpose()?;
    let code = attend(session, interrupts).await?;
    drop(raw);
    // The sandbox may go with its last process: then there is nothing to forget.
    let _ = client.release(sandbox, process).await;
    Ok(code)
}

async fn begin(
    client: &Client,
    sandbox: &str,
    process: ProcessId,
    command: Command,
) -> Result<ProcessSession> {
    client.start_process(sandbox, process, &StartProcess::Command(command)).await?;
    Ok(ProcessSession::open(client, sandbox, process).await?)
}

/// Carries streams and signals until the process has ended.
async fn attend(mut session: ProcessSession, mut interrupts: Interrupts) -> Result<ExitCode> {
    let control = session.control();
    let input = tokio::spawn(input::pump(control.clone()));
    let mut output = Output::to(&control);
    let mut patience = Patience::default();
    let mut ended = None;
    // Nothing in this loop waits for anything but the next event: a reader that does not read
    // must not keep a signal from its command.
    let code = loop {
        tokio::select! {
            event = session.next(), if ended.is_none() => match event? {
                SessionEvent::Output { stream, bytes } => output.write(stream, bytes),
                SessionEvent::OutputEnded { .. } => {}
                SessionEvent::Exited(end) => {
                    ended = Some(end.exit_code());
                    output.end();
                }
                SessionEvent::Notice(message) => notice(&message),
                SessionEvent::Lost(message) => {
                    return Err(anyhow!("the command is gone: {message}"));
                }
                SessionEvent::SandboxEnded(reason) => {
                    return Err(anyhow!("the sandbox ended before its command: {reason}"));
                }
            },
            written = output.written() => {
                written?;
                if let Some(code) = ended {
                    break code;
                }
            }
            interrupt = interrupts.next() => {
                patience.begin(&interrupt);
                pass_on(&control, &interrupt);
            }
            code = patience.over() => break code,
        }
    };
    input.abort();
    Ok(code)
}

/// A command that was told to end has so long to do it.
const GRACE: Duration = Duration::from_secs(10);

/// How long a command that was told to end is still waited for.
#[derive(Debug, Default)]
struct Patience(Option<(Instant, ExitCode)>);

impl Patience {
    /// Being told to end by whoever runs us counts; what a user types is the command's affair.
    fn begin(&mut self, interrupt: &Interrupt) {
        if let Interrupt::Pass(number @ (SIGTERM | SIGHUP)) = interrupt {
            self.0.get_or_insert((Instant::now() + GRACE, ExitCode(128 + number)));
        }
    }

    /// Waits until it is over: the status to end with.
    async fn over(&self) -> ExitCode {
        match self.0 {
            Some((end, code)) => {
                tokio::time::sleep_until(end).await;
                code
            }
            None => std::future::pending().await,
        }
    }
}

/// Passes a signal or a size on. What comes too late has nobody left to reach.
fn pass_on(control: &SessionControl, interrupt: &Interrupt) {
    match interrupt {
        Interrupt::Pass(number) => {
            if let Err(error) = control.signal(*number) {
                notice(&format!("the signal is not passed on: {error}"));
            }
        }
        Interrupt::Resize => {
            if let Some(size) = window_size(std::io::stdout()) {
                control.resize(Window { rows: size.rows, cols: size.cols });
            }
        }
    }
}
