//! A terminal, or what stands in for one, attached to a process in a sandbox.

mod input;
mod output;

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use banger_host::terminal::{RawMode, window_size};
use banger_link::{Command, Window};
use banger_model::ExitCode;
use banger_vmm::{EndReason, RunState};
use bangerd::link::{Control, LinkFailed, ProcessEvent};
use bangerd::sandbox::Sandbox;
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

    /// Waits for a signal that ends a program which has no sandbox yet: the status to end with.
    pub(crate) async fn fatal(&mut self) -> ExitCode {
        loop {
            if let Interrupt::Pass(number) = self.next().await {
                return ExitCode(128 + number);
            }
        }
    }
}

/// Runs a command in the sandbox with this program's standard streams as its own; returns its
/// status.
///
/// # Errors
/// When the command does not start, or the sandbox ends first.
pub(crate) async fn attach(
    sandbox: &Sandbox,
    command: Command,
    mut interrupts: Interrupts,
) -> Result<ExitCode> {
    let terminal = command.terminal.is_some();
    let mut process = tokio::select! {
        started = sandbox.link().start(command) => started?,
        code = interrupts.fatal() => return Ok(code),
    };
    // From here to the end of the function, whatever the way out.
    let _raw = terminal.then(|| RawMode::enter(std::io::stdin())).transpose()?;
    let control = process.control();
    let input = tokio::spawn(input::pump(control.clone()));
    let mut output = Output::to(&control);
    let mut patience = Patience::default();
    let overseen = oversee(sandbox);
    let network = report_network(sandbox);
    tokio::pin!(overseen, network);
    let mut ended = None;
    // Nothing in this loop waits for anything but the next event: a reader that does not read
    // must not keep a signal from its command.
    let code = loop {
        tokio::select! {
            event = process.next(), if ended.is_none() => match event {
                Ok(ProcessEvent::Output(stream, bytes)) => output.write(stream, bytes),
                Ok(ProcessEvent::OutputEnded(_)) => {}
                Ok(ProcessEvent::Exited(end)) => {
                    ended = Some(end.exit_code());
                    output.end();
                }
                Ok(ProcessEvent::Lost(refusal)) => bail!("the command is gone: {refusal}"),
                Err(failed) => return Err(why_it_ended(failed, &mut overseen).await),
            },
            written = output.written() => {
                written?;
                if let Some(code) = ended {
                    break code;
                }
            }
            interrupt = interrupts.next() => {
                patience.begin(&interrupt);
                pass_on(&control, interrupt);
            }
            code = patience.over() => break code,
            error = &mut overseen => return Err(error),
            () = &mut network => {}
        }
    };
    input.abort();
    Ok(code)
}

/// How long a machine whose link is gone may take to be seen ending.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A link mostly fails because its machine has ended: that is the better thing to say.
async fn why_it_ended(
    failed: LinkFailed,
    overseen: &mut (impl Future<Output = anyhow::Error> + Unpin),
) -> anyhow::Error {
    match tokio::time::timeout(END_PATIENCE, overseen).await {
        Ok(reason) => reason,
        Err(_) => failed.into(),
    }
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

/// Tells when the network ends. Never returns: the sandbox goes on without.
async fn report_network(sandbox: &Sandbox) {
    let ended = sandbox.network_ended().await;
    notice(&format!("the sandbox has no network any more: {ended}"));
    std::future::pending().await
}

/// Looks after the machine: tells when it stands still because the host's disk is full, and lets
/// it go on when it is not. Returns when it cannot go on, with the reason.
async fn oversee(sandbox: &Sandbox) -> anyhow::Error {
    let mut machine = sandbox.watch();
    loop {
        let standing = |state: &RunState| !matches!(state, RunState::Running | RunState::Paused);
        let state = machine.wait_for(standing).await.map(|state| state.clone());
        match state.unwrap_or(RunState::Ended(EndReason::Unseen)) {
            RunState::Ended(reason) => {
                return anyhow!("the sandbox ended before its command: {reason}");
            }
            RunState::OutOfSpace => {}
            _ => return anyhow!("the sandbox's processors cannot go on"),
        }
        notice(&format!(
            "the host's disk is full: the sandbox stands still until there is space on the file \
             system of {}",
            sandbox.dir().display()
        ));
        if let Err(error) = sandbox.resume_when_there_is_space().await {
            return error;
        }
        let moved = |state: &RunState| *state != RunState::OutOfSpace;
        // When that fails the machine is gone, which the next turn tells.
        let _ = machine.wait_for(moved).await;
        notice("there is space again: the sandbox goes on");
    }
}

/// Passes a signal or a size on, without waiting for a guest that may stand still. What comes
/// too late has nobody left to reach.
fn pass_on(control: &Control, interrupt: Interrupt) {
    let control = control.clone();
    tokio::spawn(async move {
        let _: Result<(), LinkFailed> = match interrupt {
            Interrupt::Pass(number) => control.signal(number).await,
            Interrupt::Resize => match window_size(std::io::stdout()) {
                Some(size) => control.resize(Window { rows: size.rows, cols: size.cols }).await,
                None => Ok(()),
            },
        };
    });
}
