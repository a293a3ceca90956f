//! How a client gets a connection.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use thiserror::Error;
use tokio::net::UnixStream;

use super::error::Cause;

/// A future in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes connections to the daemon, one for each request. Bounds its own time.
pub trait Connect: Send + Sync {
    /// A new connection.
    fn connect(&self) -> BoxFuture<'_, Result<UnixStream, ConnectError>>;
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody listens there. Where a connection was before, it is worth trying again.
    #[error("nobody listens on {}; start the daemon", .path.display())]
    NobodyListens {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no use trying again.
    #[error("{what}")]
    Failed {
        /// What failed, on what, and what to do.
        what: String,
        /// Why.
        #[source]
        source: Option<Cause>,
    },
}

impl ConnectError {
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::NobodyListens { .. })
    }
}

/// Connects to a socket that somebody else looks after.
#[derive(Clone, Debug)]
pub struct SocketPath(pub PathBuf);

impl Connect for SocketPath {
    fn connect(&self) -> BoxFuture<'_, Result<UnixStream, ConnectError>> {
        Box::pin(async move {
            UnixStream::connect(&self.0).await.map_err(|source| match source.kind() {
                // EAGAIN is a full queue of connections that wait to be accepted.
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::WouldBlock => {
                    ConnectError::NobodyListens { path: self.0.clone(), source }
                }
                _ => ConnectError::Failed {
                    what: format!("cannot connect to {}", self.0.display()),
                    source: Some(source.into()),
                },
            })
        })
    }
}
