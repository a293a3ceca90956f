//! A terminal, or what stands in for one, attached to a process in a sandbox.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use banger_host::terminal::{RawMode, window_size};
use banger_link::{Command, Stream, Window};
use banger_model::ExitCode;
use banger_vmm::{EndReason, RunState};
use bangerd::link::{Control, LinkFailed, ProcessEvent};
use bangerd::sandbox::Sandbox;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::output::notice;

/// Bytes read from standard input at once.
const STDIN_CHUNK: usize = 64 * 1024;
/// Chunks of standard input that wait for the sandbox.
const STDIN_QUEUE: usize = 4;

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
    let mut process = sandbox.link().start(command).await?;
    // From here to the end of the function, whatever the way out.
    let _raw = terminal.then(|| RawMode::enter(std::io::stdin())).transpose()?;
    let control = process.control();
    let input = tokio::spawn(pump_stdin(control.clone()));
    let mut output = Output::default();
    let mut patience = Patience::default();
    let mut machine = sandbox.watch();
    let code = loop {
        tokio::select! {
            event = process.next() => match event? {
                ProcessEvent::Output(stream, bytes) => output.write(stream, bytes).await?,
                ProcessEvent::OutputEnded(_) => {}
                ProcessEvent::Exited(end) => break end.exit_code(),
                ProcessEvent::Lost(refusal) => bail!("the command is gone: {refusal}"),
            },
            interrupt = interrupts.next() => {
                patience.begin(&interrupt);
                pass_on(&control, interrupt);
            }
            code = patience.over() => break code,
            space = wait_for_space(sandbox, &mut machine) => space?,
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

/// Tells when the machine stands still because the host's disk is full, and lets it go on when
/// it is not. Returns when it goes on.
async fn wait_for_space(sandbox: &Sandbox, machine: &mut watch::Receiver<RunState>) -> Result<()> {
    let stuck = |state: &RunState| {
        matches!(state, RunState::OutOfSpace | RunState::Broken | RunState::Ended(_))
    };
    let state = machine.wait_for(stuck).await.map(|state| state.clone());
    match state.unwrap_or(RunState::Ended(EndReason::Unseen)) {
        RunState::OutOfSpace => {
            let dir = sandbox.dir().display();
            notice(&format!(
                "the host's disk is full: the sandbox stands still until there is space on the \
                 file system of {dir}"
            ));
            sandbox.resume_when_there_is_space().await?;
            notice("there is space again: the sandbox goes on");
            Ok(())
        }
        RunState::Ended(reason) => bail!("the sandbox ended before its command: {reason:?}"),
        _ => bail!("the sandbox's processors cannot go on"),
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

/// Hands standard input to the process until either ends.
async fn pump_stdin(control: Control) {
    let (chunks, mut queue) = mpsc::channel::<Vec<u8>>(STDIN_QUEUE);
    // A read of a terminal cannot be given up: its thread ends with the process.
    std::thread::spawn(move || read_stdin(&chunks));
    while let Some(chunk) = queue.recv().await {
        if control.write(chunk).await.is_err() {
            return;
        }
    }
    let _ = control.end().await;
}

fn read_stdin(chunks: &mpsc::Sender<Vec<u8>>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; STDIN_CHUNK];
    // A standard input that is closed or cannot be read is one that has ended.
    while let Ok(n @ 1..) = stdin.read(&mut buffer) {
        if chunks.blocking_send(buffer[..n].to_vec()).is_err() {
            return;
        }
    }
}

/// This program's standard output and standard error. When a reader has gone, what is for it is
/// dropped, and the process told so by a hang-up of that stream's reader would be too late: it
/// runs on.
#[derive(Debug, Default)]
struct Output {
    stdout_gone: bool,
    stderr_gone: bool,
}

impl Output {
    async fn write(&mut self, stream: Stream, bytes: Vec<u8>) -> Result<()> {
        let gone = match stream {
            Stream::Stderr => &mut self.stderr_gone,
            _ => &mut self.stdout_gone,
        };
        if *gone {
            return Ok(());
        }
        let written = tokio::task::spawn_blocking(move || match stream {
            Stream::Stderr => std::io::stderr().write_all(&bytes),
            _ => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())
            }
        })
        .await?;
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                *gone = true;
                Ok(())
            }
            Err(error) => Err(error).context("cannot write the command's output"),
        }
    }
}
