//! Connections: TCP, and TLS over it, with a bound on the time that takes.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use banger_host::HostError;
use banger_host::fs::read_bounded;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Where distributions keep the certificates that they trust; the first that is there is taken.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Most bytes of a file of certificates: those of Debian have 230 KiB.
const MAX_ROOTS: u64 = 8 * 1024 * 1024;

/// Why certificates to trust cannot be had.
#[derive(Debug, Error)]
pub enum RootsError {
    /// A file of certificates.
    #[error("cannot read the certificates to trust")]
    Read(#[from] HostError),
    /// One without any.
    #[error("{0} has no certificate in it: it should be in PEM")]
    Empty(String),
}

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
        let mut roots = RootCertStore::empty();
        for path in SYSTEM_ROOTS.iter().map(Path::new) {
            if path.exists() {
                add_roots(&mut roots, path)?;
                break;
            }
        }
        if let Some(path) = extra
            && add_roots(&mut roots, path)? == 0
        {
            return Err(RootsError::Empty(path.display().to_string()));
        }
        let tls = (!roots.is_empty()).then(|| tls(roots)).flatten();
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

fn tls(roots: RootCertStore) -> Option<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    // The versions that the provider has are always there.
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions.ok()?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(TlsConnector::from(Arc::new(config)))
}

/// Adds what can be used of a file, and tells how many that are.
fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<usize, RootsError> {
    let pem = read_bounded(path, MAX_ROOTS)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
    // One strange certificate among many must not keep the others from being trusted.
    Ok(roots.add_parsable_certificates(certificates).0)
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
