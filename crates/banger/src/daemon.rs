//! The daemon, started when it is needed.
//!
//! Whoever finds nobody at the socket makes a new one, starts a daemon with it, and waits for its
//! word. The socket is there before the daemon is, so nobody ever waits for it to appear; a lock
//! keeps two from doing the same.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use banger_api::client::{BoxFuture, Connect, ConnectError};
use banger_host::fs::{ensure_private_dir, open_append, read_tail, rename};
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::process::Launch;
use banger_host::socket;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;

use crate::output::notice;

/// The numbers under which the daemon inherits its socket and the pipe to tell that it is ready.
const SOCKET_FD: i32 = 3;
const READY_FD: i32 = 4;
/// A log of the daemon that is longer gets out of the way of a new one, in bytes.
const MAX_LOG_LEN: u64 = 4 * 1024 * 1024;
/// So much of a log is looked at for what a daemon said last, in bytes.
const LAST_WORDS: u64 = 4096;

/// Connects to the owner's daemon, and starts it where there is none.
#[derive(Clone, Debug)]
pub(crate) struct OnDemand {
    /// The owner's directories.
    pub(crate) home: Home,
    /// The daemon's executable.
    pub(crate) program: PathBuf,
    /// How much is said about it.
    pub(crate) verbosity: u8,
}

impl Connect for OnDemand {
    fn connect(&self) -> BoxFuture<'_, Result<UnixStream, ConnectError>> {
        Box::pin(async move {
            let this = self.clone();
            let stream = spawn_blocking(move || this.connect_or_start()).await;
            let stream = stream.map_err(anyhow::Error::from).and_then(|stream| stream);
            let stream = stream.and_then(|stream| {
                stream.set_nonblocking(true)?;
                Ok(UnixStream::from_std(stream)?)
            });
            stream
                .map_err(|error| ConnectError::Failed { what: format!("{error:#}"), source: None })
        })
    }
}

impl OnDemand {
    fn connect_or_start(&self) -> Result<std::os::unix::net::UnixStream> {
        let path = self.home.socket();
        if let Ok(stream) = socket::connect(&path) {
            return Ok(stream);
        }
        ensure_private_dir(self.home.runtime())?;
        let _starting = FileLock::acquire(&self.home.start_lock())?;
        if let Ok(stream) = socket::connect(&path) {
            return Ok(stream);
        }
        self.start()?;
        Ok(socket::connect(&path)?)
    }

    /// Starts a daemon; returns when it serves.
    fn start(&self) -> Result<()> {
        if self.verbosity > 0 {
            notice(&format!("starting {}", self.program.display()));
        }
        let listener = socket::listen_private(&self.home.socket())?;
        let (ready, tell) = std::io::pipe().context("cannot make a pipe")?;
        let log = self.home.daemon_log();
        if let Some(state) = log.parent() {
            ensure_private_dir(state)?;
        }
        if std::fs::metadata(&log).is_ok_and(|meta| meta.len() > MAX_LOG_LEN) {
            rename(&log, &log.with_extension("log.1"))?;
        }
        let mut launch = Launch::new(&self.program, std::path::Path::new("/"));
        // It works elsewhere, where a relative path would mean another place.
        if let Some(root) = self.home.root() {
            launch = launch.env("BANGER_HOME", root);
        }
        let daemon = launch
            .args(["--socket-fd", &SOCKET_FD.to_string(), "--ready-fd", &READY_FD.to_string()])
            .fd(listener, SOCKET_FD)
            .fd(tell.into(), READY_FD)
            .output(open_append(&log)?)
            .start()
            .context("cannot start the daemon; install banger anew")?;
        wait_for_word(ready).with_context(|| {
            let said = read_tail(&log, LAST_WORDS).unwrap_or_default();
            let last = said.lines().rev().find(|line| !line.trim().is_empty());
            let last = last.unwrap_or("it left no message").escape_debug().to_string();
            format!("the daemon (process {}) did not start: {last}", daemon.identity().pid)
        })
    }
}

/// Waits until the daemon is ready, or has ended.
fn wait_for_word(mut ready: std::io::PipeReader) -> Result<()> {
    let mut word = [0; 1];
    match ready.read(&mut word) {
        Ok(1..) => Ok(()),
        _ => bail!("it ended"),
    }
}
