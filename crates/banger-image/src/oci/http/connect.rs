//! Connections: TCP, and TLS over it, with a bound on the time that takes.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use banger_host::tls::Roots;
pub use banger_host::tls::RootsError;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, pki_types::ServerName};

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error("no connection within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("cannot connect")]
    Tcp(#[source] io::Error),
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("there are no certificates to trust on this host: install the package ca-certificates")]
    NoRoots,
    #[error("it is no host")]
    NoHost,
}

impl ConnectError {
    /// The same again: the library only lends the error that it was given.
    pub(super) fn owned(&self) -> Self {
        let again = |error: &io::Error| match error
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>())
        {
            Some(refused) => io::Error::other(refused.clone()),
            None => match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            },
        };
        match self {
            Self::TimedOut(after) => Self::TimedOut(*after),
            Self::Tcp(error) => Self::Tcp(again(error)),
            Self::Tls(error) => Self::Tls(again(error)),
            Self::NoRoots => Self::NoRoots,
            Self::NoHost => Self::NoHost,
        }
    }
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Option<TlsConnector>,
    patience: Duration,
}

/// What a connection is made of.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connection for Box<dyn Io> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Connector {
    /// `extra` is a file of certificates to trust besides those of the system.
    pub(super) fn new(extra: Option<&Path>, patience: Duration) -> Result<Self, RootsError> {
        let system = Roots::of_system()?;
        let roots = match extra {
            Some(path) => system.and_file(path)?,
            None => system,
        };
        let tls = roots.connector();
        Ok(Self { tls, patience })
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Box<dyn Io>>, ConnectError> {
        let host = uri.host().ok_or(ConnectError::NoHost)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tcp = TcpStream::connect((bare.as_str(), port)).await.map_err(ConnectError::Tcp)?;
        // Requests are small and wait for answers.
        let _ = tcp.set_nodelay(true);
        if !is_tls {
            return Ok(TokioIo::new(Box::new(tcp)));
        }
        let name = ServerName::try_from(bare).map_err(|_| ConnectError::NoHost)?;
        let tls = self.tls.ok_or(ConnectError::NoRoots)?;
        let stream = tls.connect(name, tcp).await.map_err(ConnectError::Tls)?;
        Ok(TokioIo::new(Box::new(stream)))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (this, patience) = (self.clone(), self.patience);
        Box::pin(async move {
            let connected = tokio::time::timeout(patience, this.connect(uri)).await;
            connected.unwrap_or(Err(ConnectError::TimedOut(patience)))
        })
    }
}
