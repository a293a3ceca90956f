//! HTTP as an update agent needs it: one request, its redirects, and an answer that is read under
//! bounds. Nothing is decompressed: what is signed is what is sent.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::tls::{Roots, RootsError};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::dns::{DnsError, Resolver};
use crate::url::{Forbidden, Rules, Scheme, Url};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Most bytes of headers, and of what is buffered of a body.
const BUFFER: usize = 64 * 1024;
/// Among so many addresses of a host the time for a connection is shared out.
const MAX_TURNS: u32 = 4;
/// What the agent calls itself.
const USER_AGENT: &str = concat!("os-update/", env!("CARGO_PKG_VERSION"));

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A connection, TLS included.
    pub connect: Duration,
    /// Silence.
    pub idle: Duration,
    /// So many bytes of a file have to come ...
    pub share: u64,
    /// ... in this time, each time.
    pub share_within: Duration,
    /// A small document, all of it.
    pub document: Duration,
    /// A file, all of it, with all repetitions.
    pub file: Duration,
    /// The first wait before a repetition; it doubles.
    pub back_off: Duration,
    /// The longest wait before a repetition.
    pub max_back_off: Duration,
    /// Attempts in a row that bring nothing.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            idle: Duration::from_secs(30),
            share: 64 * 1024,
            share_within: Duration::from_secs(60),
            document: Duration::from_secs(60),
            file: Duration::from_secs(6 * 3600),
            back_off: Duration::from_secs(1),
            max_back_off: Duration::from_secs(60),
            attempts: 5,
        }
    }
}

/// Why there is no answer, or not all of one.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The name has no address.
    #[error("cannot find {host}")]
    Dns {
        /// The host.
        host: String,
        /// Why not.
        source: DnsError,
    },
    /// No connection.
    #[error("cannot reach {host}")]
    Connect {
        /// Where to.
        host: String,
        /// Why not.
        source: std::io::Error,
    },
    /// There is nobody whose word on certificates is taken.
    #[error("there are no certificates to trust: set ca_file, or install ca-certificates")]
    NoRoots,
    /// The file of certificates is of no use.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to {host} broke")]
    Broken {
        /// Where to.
        host: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing came for too long, or not all in time.
    #[error("{host} is too slow: {what} took more than {} s", .after.as_secs())]
    TooSlow {
        /// Who.
        host: String,
        /// What.
        what: &'static str,
        /// The bound.
        after: Duration,
    },
    /// More than makes sense.
    #[error("{host} sent more than the {max} bytes that make sense for this")]
    TooLarge {
        /// Who.
        host: String,
        /// The bound.
        max: u64,
    },
    /// An address that is not asked.
    #[error("that address is not asked")]
    Forbidden(#[from] Forbidden),
    /// A redirect to nowhere, or one too many.
    #[error("{host} redirects to nowhere, or without end")]
    Redirects {
        /// Who.
        host: String,
    },
    /// Another answer than the wanted one.
    #[error("{url} answered {status}")]
    Status {
        /// The address.
        url: String,
        /// The answer.
        status: u16,
        /// How long to wait, as the server said.
        retry_after: Option<Duration>,
    },
    /// An answer that contradicts itself or the question.
    #[error("{url} answered with another part of the file than was asked for")]
    WrongPart {
        /// The address.
        url: String,
    },
}

impl HttpError {
    /// Whether trying again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Dns { source, .. } => !matches!(source, DnsError::Name(_)),
            // A certificate that is not trusted today is not trusted in a second.
            Self::Connect { source, .. } => source.kind() != std::io::ErrorKind::InvalidData,
            Self::Broken { .. } | Self::TooSlow { .. } | Self::WrongPart { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What a connection is made of.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Sends requests.
#[derive(Clone)]
pub struct Client {
    tls: Option<TlsConnector>,
    resolver: Resolver,
    patience: Patience,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Client {
    /// One that trusts the certificates in `roots`, or else those of the system, or else, where
    /// there are none as in an initramfs, those that Mozilla trusts.
    ///
    /// # Errors
    /// When a file of certificates cannot be read, or has none.
    pub fn new(
        roots: Option<&Path>,
        resolver: Resolver,
        patience: Patience,
    ) -> Result<Self, HttpError> {
        let roots = match roots {
            Some(path) => Roots::of_file(path)?,
            None => Some(Roots::of_system()?)
                .filter(|system| !system.is_empty())
                .unwrap_or_else(|| Roots::embedded(webpki_roots::TLS_SERVER_ROOTS)),
        };
        let tls = roots.connector();
        Ok(Self { tls, resolver, patience })
    }

    /// The bounds on time.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Asks for something, and returns as soon as the answer begins. Every hop keeps to the rules.
    ///
    /// # Errors
    /// When there is no answer, or one that leads nowhere.
    pub async fn get(
        &self,
        url: &Url,
        rules: &Rules,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, HttpError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            rules.admit(&url)?;
            let answer = self.hop(&url, headers).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let nowhere = || HttpError::Redirects { host: url.authority() };
            let location = answer.header(&header::LOCATION).ok_or_else(nowhere)?;
            url = url.join(location).map_err(|_| nowhere())?;
        }
        Err(HttpError::Redirects { host: url.authority() })
    }

    async fn hop(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, HttpError> {
        let host = url.authority();
        let slow = |what, after| HttpError::TooSlow { host: host.clone(), what, after };
        let broken =
            |source: hyper::Error| HttpError::Broken { host: host.clone(), source: source.into() };
        let Patience { connect, idle, .. } = self.patience;
        let io = timeout(connect, self.connect(url)).await;
        let io = io.map_err(|_| slow("connecting", connect))??;
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(BUFFER);
        let (mut sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(broken)?;
        // It ends with the answer: the request's half of it is dropped then.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::get(url.target())
            .header(header::HOST, &host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|source| HttpError::Broken { host: host.clone(), source: source.into() })?;
        let response = timeout(idle, sender.send_request(request)).await;
        let response = response.map_err(|_| slow("the answer", idle))?.map_err(broken)?;
        let (head, body) = response.into_parts();
        let (status, headers, patience) = (head.status, head.headers, self.patience);
        Ok(Answer { status, headers, url: url.clone(), body, patience })
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Io>, HttpError> {
        let host = url.authority();
        let resolved = self.resolver.resolve(url.bare_host()).await;
        let addresses = resolved.map_err(|source| HttpError::Dns { host: host.clone(), source })?;
        let mut refused = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        let mut found = None;
        // One that does not answer leaves time for the others.
        let each = self.patience.connect
            / (u32::try_from(addresses.len()).unwrap_or(MAX_TURNS).min(MAX_TURNS) + 1);
        for address in addresses {
            match timeout(each, TcpStream::connect((address, url.port()))).await {
                Ok(Ok(stream)) => {
                    found = Some(stream);
                    break;
                }
                Ok(Err(error)) => refused = error,
                Err(_) => refused = std::io::ErrorKind::TimedOut.into(),
            }
        }
        let failed = |source| HttpError::Connect { host: host.clone(), source };
        let stream = found.ok_or_else(|| failed(refused))?;
        if url.scheme() == Scheme::Http {
            return Ok(Box::new(stream));
        }
        let tls = self.tls.as_ref().ok_or(HttpError::NoRoots)?;
        let name = ServerName::try_from(url.bare_host().to_owned());
        let name = name.map_err(|error| failed(std::io::Error::other(error)))?;
        Ok(Box::new(tls.connect(name, stream).await.map_err(failed)?))
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    headers: HeaderMap,
    url: Url,
    body: Incoming,
    patience: Patience,
}

impl Answer {
    /// A header, if it is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// That this answer is not what was wanted.
    pub fn refused(&self) -> HttpError {
        let after = self.header(&header::RETRY_AFTER).and_then(|text| text.parse().ok());
        HttpError::Status {
            url: self.url.to_string(),
            status: self.status.as_u16(),
            retry_after: after.map(Duration::from_secs),
        }
    }

    /// The next bytes of the body; none at its end.
    ///
    /// # Errors
    /// When the connection breaks, or nothing comes for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let after = self.patience.idle;
        let host = || self.url.authority();
        loop {
            let frame = timeout(after, self.body.frame()).await;
            let slow = |_| HttpError::TooSlow { host: host(), what: "the next byte", after };
            match frame.map_err(slow)? {
                None => return Ok(None),
                Some(Err(source)) => {
                    return Err(HttpError::Broken { host: host(), source: source.into() });
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    // Trailers say nothing.
                    _ => {}
                },
            }
        }
    }

    /// The whole body of a small document.
    ///
    /// # Errors
    /// When it is too large, or does not come in time.
    pub async fn collect(mut self, max: usize) -> Result<Vec<u8>, HttpError> {
        let (host, after) = (self.url.authority(), self.patience.document);
        let deadline = Deadline::after(after);
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > max {
                return Err(HttpError::TooLarge { host, max: max as u64 });
            }
            if deadline.passed() {
                return Err(HttpError::TooSlow { host, what: "the whole answer", after });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}
