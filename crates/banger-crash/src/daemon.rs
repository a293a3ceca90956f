//! One life of the real daemon.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use banger_api::client::{BoxFuture, Client, Connect, ConnectError, SocketPath};
use banger_host::clock::Deadline;
use banger_host::process::Process;
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::place::Place;
use crate::scripted::DELAY_VARIABLE;

/// How long anything may take: seconds where guests are real, times what else the host does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How long one attempt to get an answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two looks at what nothing announces.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Longest boot of a scripted guest, in milliseconds: long enough to be killed in its midst.
const GUEST_DELAY: &str = "60";

/// Machines that wait to become sandboxes, where the daemon is not stopped at a checkpoint.
const SPARES: &str = "2";

/// A daemon. Dropped, it is killed.
pub(crate) struct Daemon {
    process: Arc<Process>,
    child: Mutex<Child>,
    client: Client,
    log: PathBuf,
}

impl Daemon {
    /// Starts one; it may not answer yet.
    pub(crate) fn spawn(place: &Place, life: &str, args: &[String]) -> Result<Self> {
        let log = place.log(life);
        let output: File = OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(&place.tools().daemon)
            .args(args)
            .env_clear()
            .env("PATH", place.path())
            .env("HOME", place.root())
            .env("BANGER_HOME", place.banger_home())
            .env(DELAY_VARIABLE, GUEST_DELAY)
            .env("BANGER_SPARES", if args.is_empty() { SPARES } else { "0" })
            .current_dir(place.root())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start bangerd")?;
        let pid = i32::try_from(child.id())?;
        // Not waited for yet, it keeps its pid even if it has ended already.
        let process = Process::open(pid)?.context("bangerd is gone")?;
        let client = Client::new(Arc::new(OnlyNow(SocketPath(place.home().socket()))));
        Ok(Self { process: Arc::new(process), child: Mutex::new(child), client, log })
    }

    /// Starts one and waits until it answers.
    pub(crate) async fn start(place: &Place, life: &str) -> Result<Self> {
        let daemon = Self::spawn(place, life, &[])?;
        ensure!(daemon.answers().await?, "bangerd ended at once: see {}", daemon.log.display());
        Ok(daemon)
    }

    /// Waits until it answers; whether it does, for it may end before.
    pub(crate) async fn answers(&self) -> Result<bool> {
        let deadline = Deadline::after(PATIENCE);
        while !deadline.passed() {
            // Another's socket may still be there, and one that ends is not to be waited for.
            if let Ok(Ok(version)) = timeout(ANSWER, self.client.version()).await
                && i64::from(version.pid) == i64::from(self.pid())
            {
                return Ok(true);
            }
            if self.has_ended()? {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        bail!("bangerd does not answer: see {}", self.log.display())
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.identity().pid
    }

    /// What comes of this, unless the daemon ends before: its client would wait for the next.
    pub(crate) async fn unless_it_ends<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let ends = async {
            while !self.has_ended().unwrap_or(true) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            result = work => Some(result),
            () = ends => None,
        }
    }

    pub(crate) fn has_ended(&self) -> Result<bool> {
        Ok(self.status()?.is_some())
    }

    /// How it ended, if it has.
    pub(crate) fn status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?)
    }

    /// Kills it as a fault would.
    pub(crate) async fn kill(&self) -> Result<()> {
        self.end(Signal::KILL).await
    }

    /// Ends it in order.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.end(Signal::TERM).await
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        self.ended().await
    }

    /// Waits until it stands still, as it does by itself at a checkpoint.
    pub(crate) async fn stands_still(&self) -> Result<()> {
        let (path, deadline) = (format!("/proc/{}/stat", self.pid()), Deadline::after(PATIENCE));
        loop {
            if !is_active(&path)? {
                return Ok(());
            }
            ensure!(!deadline.passed(), "bangerd does not stand still: {}", self.log.display());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Has it stand still, unless it has ended; when this returns, it does nothing any more.
    pub(crate) async fn stand_still(&self) -> Result<()> {
        self.process.signal(Signal::STOP)?;
        let (path, deadline) = (format!("/proc/{}/stat", self.pid()), Deadline::after(PATIENCE));
        // Its threads go on until one of them has seen the signal: then all are told at once.
        while is_active(&path)? && !self.has_ended()? {
            ensure!(!deadline.passed(), "bangerd does not stand still: {}", self.log.display());
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) -> Result<()> {
        Ok(self.process.signal(Signal::CONT)?)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> Result<()> {
        let process = self.process.clone();
        let ended = spawn_blocking(move || process.ended(Deadline::after(PATIENCE))).await??;
        ensure!(ended, "bangerd does not end: see {}", self.log.display());
        // A child that has ended is laid to rest.
        self.status()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill(PATIENCE);
    }
}

/// Whether the process of this `/proc/<pid>/stat` does not stand still.
fn is_active(stat: &str) -> Result<bool> {
    let stat = std::fs::read_to_string(stat)?;
    // Its name is in brackets; what follows is its state.
    Ok(stat.rsplit_once(") ").is_none_or(|(_, state)| !state.starts_with('T')))
}

/// Connects to the daemon that there is. One that is gone is not waited for: what its clients have
/// not heard is what is looked at.
struct OnlyNow(SocketPath);

impl Connect for OnlyNow {
    fn connect(&self) -> BoxFuture<'_, Result<UnixStream, ConnectError>> {
        Box::pin(async {
            self.0.connect().await.map_err(|error| ConnectError::Failed {
                what: "the daemon is gone".to_owned(),
                source: Some(error.into()),
            })
        })
    }
}
