//! HTTP as registries need it: one request, its redirects, and an answer that is read under
//! bounds.
//!
//! **Invariants:** no host is spoken to without TLS unless its user listed it; a redirect never
//! leaves TLS; credentials go to the origin they were made for and nowhere else.

mod connect;
pub(crate) mod retry;
pub(crate) mod url;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes as Chunk;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;
use tokio::time::timeout;
use tokio_rustls::rustls;

use super::settings::{Patience, Settings};
pub use connect::RootsError;
use connect::{ConnectError, Connector};
use url::{Scheme, Url};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Most bytes of headers, and of one piece of a body.
const BUFFER: usize = 256 * 1024;
/// Connections that wait for their next request, for each host.
const MAX_IDLE: usize = 4;
/// Connections that waited this long are closed: most servers do so after a minute.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// What banger calls itself.
const USER_AGENT: &str = concat!("banger/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer, or not all of one.
#[derive(Debug, Error)]
pub enum HttpError {
    /// No connection.
    #[error("cannot reach {host}")]
    Connect {
        /// Where to.
        host: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing came for too long.
    #[error("{host} sent nothing for {} s", waited.as_secs_f32())]
    Idle {
        /// Who.
        host: String,
        /// How long.
        waited: Duration,
    },
    /// Something came, but not all in time.
    #[error("{host} did not finish its answer within {} s", waited.as_secs_f32())]
    TooSlow {
        /// Who.
        host: String,
        /// How long.
        waited: Duration,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to {host} broke")]
    Broken {
        /// Where to.
        host: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// More than makes sense.
    #[error("{host} sent more than the {max} bytes that make sense for this")]
    TooLarge {
        /// Who.
        host: String,
        /// The bound.
        max: u64,
    },
    /// One redirect after the other.
    #[error("{host} redirects more than {MAX_REDIRECTS} times")]
    Redirects {
        /// Who was asked first.
        host: String,
    },
    /// A redirect to nowhere.
    #[error("{host} redirects to something that is no address")]
    BadRedirect {
        /// Who.
        host: String,
    },
    /// A redirect that would give up TLS.
    #[error("{from} redirects to {to}, which is without TLS: that is not followed")]
    Downgrade {
        /// Who.
        from: String,
        /// Where to.
        to: String,
    },
    /// A host that is not listed as one without TLS.
    #[error("{host} would be spoken to without TLS: list it as insecure if that is wanted")]
    NotListed {
        /// The host with its port.
        host: String,
    },
    /// What was to be sent is no request.
    #[error("cannot ask {host} for that")]
    Request {
        /// Who.
        host: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl HttpError {
    /// Whether trying again may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !is_lasting(source.as_ref()),
            Self::Idle { .. } | Self::TooSlow { .. } | Self::Broken { .. } => true,
            _ => false,
        }
    }
}

/// Whether a connection will fail in the same way next time.
fn is_lasting(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<ConnectError>() {
        Some(ConnectError::NoRoots | ConnectError::NoHost) => true,
        // What rustls itself refuses; a connection that only broke is an error of the system.
        Some(ConnectError::Tls(source)) => {
            source.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
        }
        _ => false,
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// For the origin of the address alone.
    pub(crate) authorization: Option<HeaderValue>,
    /// A form to send; without one something is asked for.
    pub(crate) form: Option<String>,
}

impl Outgoing {
    /// Asks for what is there.
    pub(crate) fn get(url: Url) -> Self {
        Self { url, headers: Vec::new(), authorization: None, form: None }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn build(&self, url: &Url) -> Result<Request<Full<Chunk>>, hyper::http::Error> {
        let method = if self.form.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(url.to_string());
        request = request.header(hyper::header::USER_AGENT, USER_AGENT);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(value) = self.authorization.as_ref().filter(|_| url.has_origin_of(&self.url)) {
            let mut value = value.clone();
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if self.form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        request.body(Full::from(self.form.clone().unwrap_or_default()))
    }
}

/// Sends requests, over connections that it keeps for the next ones.
#[derive(Clone)]
pub(crate) struct Client {
    inner: legacy::Client<Connector, Full<Chunk>>,
    patience: Patience,
    insecure: BTreeSet<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self, RootsError> {
        let patience = settings.patience.clone();
        let connector = Connector::new(settings.roots.as_deref(), patience.connect)?;
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(BUFFER)
            .build(connector);
        let plain = |host: &String| host.strip_suffix(":80").unwrap_or(host).to_ascii_lowercase();
        let insecure = settings.insecure.iter().map(plain).collect();
        Ok(Self { inner, patience, insecure })
    }

    /// How this host is to be spoken to.
    pub(crate) fn scheme_for(&self, host: &str) -> Scheme {
        let plain = host.strip_suffix(":80").unwrap_or(host);
        if self.insecure.contains(plain) { Scheme::Http } else { Scheme::Https }
    }

    /// Sends a request, follows its redirects, and returns as soon as the answer begins.
    pub(crate) async fn send(&self, request: &Outgoing) -> Result<Answer, HttpError> {
        let mut url = request.url.clone();
        for hops in 0..=MAX_REDIRECTS {
            let answer = self.hop(request, &url, hops).await?;
            let redirects = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirects || request.form.is_some() {
                return Ok(answer);
            }
            url = next_hop(&url, &answer)?;
        }
        Err(HttpError::Redirects { host: request.url.authority().to_owned() })
    }

    async fn hop(&self, request: &Outgoing, url: &Url, hops: usize) -> Result<Answer, HttpError> {
        let host = url.authority().to_owned();
        if url.scheme() == Scheme::Http && !self.insecure.contains(&host) {
            return Err(HttpError::NotListed { host });
        }
        let built = request.build(url);
        let built =
            built.map_err(|e| HttpError::Request { host: host.clone(), source: e.into() })?;
        // Connecting has its own bound.
        let waited = self.patience.idle;
        let patience = waited.saturating_add(self.patience.connect);
        let response = match timeout(patience, self.inner.request(built)).await {
            Err(_) => return Err(HttpError::Idle { host, waited }),
            Ok(Err(error)) => return Err(send_error(host, error)),
            Ok(Ok(response)) => response,
        };
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status, head.headers);
        Ok(Answer { status, headers, hops, body, host, patience: self.patience.clone() })
    }
}

fn next_hop(url: &Url, answer: &Answer) -> Result<Url, HttpError> {
    let host = url.authority().to_owned();
    let location = answer.header(&LOCATION);
    let Some(Ok(next)) = location.map(|location| url.join(location)) else {
        return Err(HttpError::BadRedirect { host });
    };
    if url.scheme() == Scheme::Https && next.scheme() == Scheme::Http {
        return Err(HttpError::Downgrade { from: host, to: next.shown() });
    }
    Ok(next)
}

/// What a failed request means: the library hides it under errors of its own.
fn send_error(host: String, error: legacy::Error) -> HttpError {
    if !error.is_connect() {
        return HttpError::Broken { host, source: error.into() };
    }
    // The connector's own error is the cause, and the only thing that is worth telling.
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(known) = inner.downcast_ref::<ConnectError>() {
            let source = known.owned();
            return HttpError::Connect { host, source: source.into() };
        }
        cause = inner.source();
    }
    HttpError::Connect { host, source: error.into() }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    /// Redirects before it.
    pub(crate) hops: usize,
    body: Incoming,
    /// Who sends it.
    pub(crate) host: String,
    patience: Patience,
}

impl Answer {
    /// A header, if it is text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All headers of this name that are text.
    pub(crate) fn headers(&self, name: &HeaderName) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// The next bytes of the body; none at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Chunk>, HttpError> {
        let waited = self.patience.idle;
        let host = || self.host.clone();
        loop {
            return match timeout(waited, self.body.frame()).await {
                Err(_) => Err(HttpError::Idle { host: host(), waited }),
                Ok(None) => Ok(None),
                Ok(Some(Err(error))) => {
                    Err(HttpError::Broken { host: host(), source: error.into() })
                }
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(chunk) if chunk.is_empty() => continue,
                    Ok(chunk) => Ok(Some(chunk)),
                    // Trailers.
                    Err(_) => continue,
                },
            };
        }
    }

    /// The whole body of a small document.
    pub(crate) async fn collect(&mut self, max: u64) -> Result<Vec<u8>, HttpError> {
        let waited = self.patience.document;
        let too_slow = HttpError::TooSlow { host: self.host.clone(), waited };
        timeout(waited, self.collect_all(max)).await.unwrap_or(Err(too_slow))
    }

    async fn collect_all(&mut self, max: u64) -> Result<Vec<u8>, HttpError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > max {
                return Err(HttpError::TooLarge { host: self.host.clone(), max });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}
