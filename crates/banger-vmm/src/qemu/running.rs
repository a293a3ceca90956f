//! A QEMU machine that has booted, and the task that watches over it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::memory::{copy_memfd, copy_private};
use banger_host::process::{Process, ProcessIdentity};
use banger_host::{HostError, socket};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::args::MEMORY_FILE;
use super::qmp::{Observed, Qmp, Shutdown};
use super::{CONTROL_PATIENCE, FLUSH_PATIENCE, KILL_PATIENCE, LOG_TAIL, printable};
use crate::console::{self, CONSOLE_LOG, VMM_LOG};
use crate::error::ControlError;
use crate::machine::{LINK_SOCKET, SavedMachine};
use crate::pollable::pollable;
use crate::record::Memory;
use crate::vmm::{BoxFuture, EndReason, RunState, Running};

/// How much of the console is searched for a panic, in bytes: its message with registers and
/// call trace.
const PANIC_TAIL: u64 = 32 * 1024;
/// What the kernel says before it gives up.
const PANIC: &str = "Kernel panic - not syncing: ";

/// How long QEMU's last words may take from its socket to their reader: they are there already.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A running QEMU.
#[derive(Debug)]
pub(super) struct QemuMachine {
    dir: PathBuf,
    process: Arc<Process>,
    qmp: Arc<Qmp>,
    states: watch::Receiver<RunState>,
    memory: Option<Memory>,
    /// Whether this value was told to kill the machine.
    killing: Arc<AtomicBool>,
}

impl QemuMachine {
    /// Takes charge of a machine that is in this state now.
    pub(super) fn new(
        dir: &Path,
        process: Process,
        qmp: Qmp,
        (state, memory): (RunState, Option<Memory>),
    ) -> Result<Self, HostError> {
        let pidfd =
            pollable(&process).map_err(|error| HostError::system("wait for the monitor", error))?;
        let (publish, states) = watch::channel(state);
        let machine = Self {
            dir: dir.to_owned(),
            process: Arc::new(process),
            qmp: Arc::new(qmp),
            states,
            memory,
            killing: Arc::default(),
        };
        let watcher = Watcher {
            dir: machine.dir.clone(),
            process: machine.process.clone(),
            qmp: machine.qmp.clone(),
            killing: machine.killing.clone(),
            publish,
        };
        tokio::spawn(watcher.run(pidfd));
        Ok(machine)
    }

    async fn control(
        &self,
        command: &'static str,
        operation: &'static str,
        patience: Duration,
    ) -> Result<(), ControlError> {
        self.qmp
            .execute(command, Value::Null, patience)
            .await
            .map(drop)
            .map_err(|source| ControlError::Monitor { operation, source })
    }
}

impl Running for QemuMachine {
    fn identity(&self) -> &ProcessIdentity {
        self.process.identity()
    }

    fn connect_link(&self) -> BoxFuture<'_, Result<UnixStream, ControlError>> {
        Box::pin(async {
            let host = |source| ControlError::Host { operation: "reach the agent of", source };
            let stream = socket::connect_now(&self.dir.join(LINK_SOCKET)).map_err(host)?;
            UnixStream::from_std(stream)
                .map_err(|error| host(HostError::system("use the link's socket", error)))
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(self.control("stop", "pause", FLUSH_PATIENCE))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(self.control("cont", "resume", CONTROL_PATIENCE))
    }

    fn save<'a>(&'a self, to: &'a SavedMachine) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(async {
            let memory = self.memory.clone().ok_or(ControlError::MadeByOlder)?;
            // Despite its name it has nothing to do with Xen: it writes the state of all devices
            // and no memory.
            let arguments = json!({ "filename": to.devices, "live": false });
            self.qmp
                .execute("xen-save-devices-state", arguments, FLUSH_PATIENCE)
                .await
                .map_err(|source| ControlError::Monitor { operation: "save", source })?;
            let (pid, file) = (self.process.identity().pid, to.memory.clone());
            let copied = tokio::task::spawn_blocking(move || match memory {
                Memory::Own => copy_memfd(pid, MEMORY_FILE, &file),
                Memory::Over(base) => copy_private(pid, &base, &file),
            });
            let host = |source| ControlError::Host { operation: "save", source };
            copied
                .await
                .map_err(|error| host(HostError::system("wait", io::Error::other(error))))?
                .map_err(host)
        })
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async {
            let host = |source| ControlError::Host { operation: "kill", source };
            self.killing.store(true, Ordering::Relaxed);
            let process = self.process.clone();
            // Ending a process with much memory takes a while, in which this thread has others
            // to serve.
            tokio::task::spawn_blocking(move || process.kill(KILL_PATIENCE))
                .await
                .map_err(|error| host(HostError::system("wait", io::Error::other(error))))?
                .map_err(host)
        })
    }

    fn watch(&self) -> watch::Receiver<RunState> {
        self.states.clone()
    }
}

/// Publishes how the machine is until it is gone or nobody holds the machine any more.
struct Watcher {
    dir: PathBuf,
    process: Arc<Process>,
    qmp: Arc<Qmp>,
    killing: Arc<AtomicBool>,
    publish: watch::Sender<RunState>,
}

impl Watcher {
    async fn run(self, pidfd: AsyncFd<OwnedFd>) {
        let mut observed = self.qmp.observed();
        let mut connected = true;
        loop {
            tokio::select! {
                biased;
                changed = observed.changed(), if connected => match changed {
                    Ok(()) => {
                        let seen = *observed.borrow_and_update();
                        self.ask(seen).await;
                    }
                    // Usually QEMU is ending; the process has the last word.
                    Err(_) => connected = false,
                },
                _ = pidfd.readable() => break,
                () = self.publish.closed() => return,
            }
        }
        // What QEMU said last may still be on its way through the socket.
        let rest = async { while observed.changed().await.is_ok() {} };
        let _ = timeout(LAST_WORDS, rest).await;
        // Reaps it if it is a child of this process.
        let _ = self.process.wait(Deadline::after(Duration::ZERO));
        let shutdown = observed.borrow().shutdown;
        let reason = self.end(shutdown);
        self.publish.send_replace(RunState::Ended(reason));
    }

    /// The processors were stopped or set going: asks QEMU why.
    async fn ask(&self, observed: Observed) {
        if observed.shutdown.is_some() {
            return;
        }
        // It tells that it stops before it has written everything.
        if let Ok(status) = self.qmp.status(FLUSH_PATIENCE).await
            && let Some(state) = state_of(&status)
        {
            self.publish.send_replace(state);
        }
    }

    fn end(&self, shutdown: Option<Shutdown>) -> EndReason {
        if shutdown.is_none() && self.killing.load(Ordering::Relaxed) {
            return EndReason::Killed;
        }
        let console = || console::tail(&self.dir.join(CONSOLE_LOG), PANIC_TAIL);
        let log = || console::tail(&self.dir.join(VMM_LOG), LOG_TAIL);
        judge_end(shutdown, console, log)
    }
}

/// What a status of QEMU means; `None` for a machine that has not booted yet.
pub(super) fn state_of(status: &str) -> Option<RunState> {
    match status {
        "prelaunch" | "inmigrate" => None,
        "running" | "suspended" => Some(RunState::Running),
        "paused" | "save-vm" | "restore-vm" | "finish-migrate" | "postmigrate" => {
            Some(RunState::Paused)
        }
        // Only a full host stops a machine of ours this way: `werror=enospc`.
        "io-error" => Some(RunState::OutOfSpace),
        _ => Some(RunState::Broken),
    }
}

/// Why a machine ended that nobody here has killed.
fn judge_end(
    shutdown: Option<Shutdown>,
    console: impl FnOnce() -> String,
    log: impl FnOnce() -> String,
) -> EndReason {
    match shutdown {
        Some(Shutdown::PowerOff) => EndReason::PoweredOff,
        Some(Shutdown::Host) => EndReason::Killed,
        Some(Shutdown::Reset) => match last_panic(&console()) {
            Some(message) => EndReason::Panicked(message),
            None => EndReason::Reset,
        },
        None => {
            let log = log();
            let last = log.lines().rev().find(|line| !line.trim().is_empty());
            EndReason::Crashed(printable(last.unwrap_or("it left no message")))
        }
    }
}

/// The message of the last panic on a console.
fn last_panic(console: &str) -> Option<String> {
    let (_, rest) = console.rsplit_once(PANIC)?;
    rest.lines().next().map(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(shutdown: Option<Shutdown>, console: &str, log: &str) -> EndReason {
        judge_end(shutdown, || console.to_owned(), || log.to_owned())
    }

    #[test]
    fn every_end_has_its_reason() {
        let panic =
            "[    1.0] Kernel panic - not syncing: No working init found.\r\n[ 1.1] CPU: 0\n";
        assert_eq!(end(Some(Shutdown::PowerOff), panic, ""), EndReason::PoweredOff);
        assert_eq!(end(Some(Shutdown::Reset), "all well", ""), EndReason::Reset);
        assert_eq!(
            end(Some(Shutdown::Reset), panic, ""),
            EndReason::Panicked("No working init found.".into())
        );
        assert_eq!(end(Some(Shutdown::Host), panic, "x"), EndReason::Killed);
        assert_eq!(end(None, "", "first\nlast\n"), EndReason::Crashed("last".into()));
        assert_eq!(end(None, "", ""), EndReason::Crashed("it left no message".into()));
    }

    #[test]
    fn every_status_is_a_state_and_a_machine_before_its_boot_is_none() {
        assert_eq!(state_of("prelaunch"), None);
        assert_eq!(state_of("running"), Some(RunState::Running));
        assert_eq!(state_of("paused"), Some(RunState::Paused));
        assert_eq!(state_of("io-error"), Some(RunState::OutOfSpace));
        assert_eq!(state_of("internal-error"), Some(RunState::Broken));
        assert_eq!(state_of("what QEMU 99 invents"), Some(RunState::Broken));
    }
}
