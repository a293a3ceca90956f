//! One daemon for each home: the lock that says which, and the socket on which it is asked.
//!
//! Who starts a daemon on demand makes the socket, under the lock of those who start one, and waits
//! for the daemon with that in hand. The daemon waits for the lock of the home, which one that is
//! ending may still have. So whoever has the lock of the home must never wait for the other.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use banger_host::fs::ensure_private_dir;
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::socket;
use tokio::net::UnixListener;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long a daemon that is ending may keep this one waiting.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for the right to work on a home, and for the socket that is asked: `inherited` from whoever
/// started this daemon, or made here.
///
/// # Errors
/// When another daemon works on the home, or there can be no socket.
pub(crate) async fn take(
    home: &Home,
    inherited: Option<OwnedFd>,
) -> Result<(UnixListener, FileLock)> {
    for dir in [home.runtime(), home.daemon_lock().parent().unwrap_or(home.runtime())] {
        ensure_private_dir(dir)?;
    }
    let until = Instant::now() + PATIENCE;
    let (socket, lock) = match inherited {
        Some(socket) => (socket, wait(home, until).await?),
        None => loop {
            if let Some(seat) = try_bind(home).await? {
                break seat;
            }
            // Not kept: nobody is to wait for it while this one waits to make a socket.
            drop(wait(home, until).await?);
        },
    };
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true).context("cannot use the socket")?;
    Ok((UnixListener::from_std(listener).context("cannot use the socket")?, lock))
}

/// A new socket and the home, if nobody else works on that: a socket that is there then belongs
/// to a daemon that died, even if somebody still listens.
async fn try_bind(home: &Home) -> Result<Option<(OwnedFd, FileLock)>> {
    let home = home.clone();
    let bound = spawn_blocking(move || {
        let _starting = FileLock::acquire(&home.start_lock())?;
        let Some(lock) = FileLock::try_acquire(&home.daemon_lock())? else { return Ok(None) };
        Ok::<_, anyhow::Error>(Some((socket::listen_private(&home.socket())?, lock)))
    });
    bound.await?
}

async fn wait(home: &Home, until: Instant) -> Result<FileLock> {
    let path = home.daemon_lock();
    let waited = spawn_blocking({
        let path = path.clone();
        move || FileLock::acquire(&path)
    });
    match timeout(until.saturating_duration_since(Instant::now()), waited).await {
        Ok(lock) => Ok(lock??),
        Err(_) => bail!("another bangerd works on this home: it holds {}", path.display()),
    }
}
