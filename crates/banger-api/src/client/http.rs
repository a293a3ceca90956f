//! One request on one connection: asked, answered, bounded.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::connect::Connect;
use super::error::{Cause, ClientError};
use super::target::Target;
use crate::types::Problem;

/// Most bytes of an answer: thousands of sandboxes with all their labels.
pub(crate) const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Most bytes of a problem.
const MAX_PROBLEM: usize = 1024 * 1024;
/// Most bytes of an answer's head; the daemon's take a few hundred.
const MAX_HEAD: usize = 16 * 1024;
/// Most header lines of an answer.
const MAX_HEADERS: usize = 64;
/// Longest time for one answer. What takes long is an operation mostly, so this only ends what hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const PROBLEM_TYPE: &str = "application/problem+json";

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: Method,
    target: Target,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
    repeatable: bool,
    deadline: Duration,
}

impl Ask {
    pub(crate) fn new(method: Method, target: Target) -> Self {
        let repeatable = method == Method::GET || method == Method::PUT;
        let (body, headers) = (Bytes::new(), Vec::new());
        Self { method, target, body, headers, repeatable, deadline: DEADLINE }
    }

    pub(crate) fn get(target: Target) -> Self {
        Self::new(Method::GET, target)
    }

    pub(crate) fn post(target: Target) -> Self {
        Self::new(Method::POST, target)
    }

    /// With this as JSON.
    pub(crate) fn json<T: Serialize>(mut self, body: &T) -> Result<Self, ClientError> {
        let json = serde_json::to_vec(body).map_err(|error| self.unaskable(&error))?;
        self.body = json.into();
        Ok(self.header(CONTENT_TYPE, HeaderValue::from_static("application/json")))
    }

    /// For events, those behind the cursor if there is one.
    pub(crate) fn events(self, cursor: Option<&str>) -> Result<Self, ClientError> {
        let cursor = cursor.map(HeaderValue::from_str).transpose();
        let cursor = cursor.map_err(|error| self.unaskable(&error))?;
        let ask = self.header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        Ok(match cursor {
            Some(cursor) => ask.header(LAST_EVENT_ID, cursor),
            None => ask,
        })
    }

    /// For a change to this protocol.
    pub(crate) fn upgrade(self, protocol: &'static str) -> Self {
        self.header(CONNECTION, HeaderValue::from_static("upgrade"))
            .header(UPGRADE, HeaderValue::from_static(protocol))
    }

    /// Though its method does not say so, asking twice is asking once.
    pub(crate) fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// What it is about takes so long at most, where that is no operation.
    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Whether the daemon is another after it, and it matters whether it was asked.
    pub(crate) fn changes(&self) -> bool {
        self.method == Method::POST || self.method == Method::DELETE
    }

    /// Whether asking twice is asking once.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.repeatable
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.target.path())
    }

    fn unaskable(&self, what: &dyn std::fmt::Display) -> ClientError {
        ClientError::Unaskable { request: self.name(), what: what.to_string() }
    }

    pub(crate) fn protocol(&self, what: impl Into<String>) -> ClientError {
        ClientError::Protocol { request: self.name(), what: what.into() }
    }

    pub(crate) fn interrupted(&self, source: Option<Cause>) -> ClientError {
        ClientError::Interrupted { request: self.name(), source }
    }

    pub(crate) fn late(&self, after: Duration) -> ClientError {
        ClientError::TimedOut { request: self.name(), after }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.target.as_str())
            // There is one host behind a Unix socket; HTTP/1.1 wants its name all the same.
            .header(HOST, "banger");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone())).map_err(|error| self.unaskable(&error))
    }

    /// What a failure of HTTP means.
    fn failed(&self, error: hyper::Error) -> ClientError {
        let nonsense =
            |kind| matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        if error.is_parse() || cause.is_some_and(|cause| nonsense(cause.kind())) {
            let why = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            return self.protocol(format!("{error}{why}"));
        }
        self.interrupted(Some(error.into()))
    }
}

/// An answer whose head has come.
#[derive(Debug)]
pub(crate) struct Answer {
    ask: Ask,
    response: Response<Incoming>,
    connection: Driver,
}

/// Drives a connection as long as somebody wants something of it.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ask {
    /// Asks, and waits for the head of the answer. Errors of the daemon are errors here.
    pub(crate) async fn open(self, connector: &dyn Connect) -> Result<Answer, ClientError> {
        let request = self.request()?;
        let stream = connector.connect().await?;
        let (deadline, late) = (self.deadline, self.late(self.deadline));
        timeout(deadline, self.exchange(stream, request)).await.unwrap_or(Err(late))
    }

    /// Asks, and reads the whole answer.
    pub(crate) async fn fetch_bytes(self, connector: &dyn Connect) -> Result<Vec<u8>, ClientError> {
        let late = self.late(DEADLINE);
        let answer = self.open(connector).await?;
        let body = timeout(DEADLINE, answer.body().read_all(MAX_ANSWER)).await;
        body.unwrap_or(Err(late))
    }

    async fn exchange(
        self,
        stream: UnixStream,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, ClientError> {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failed(error))?;
        // What goes wrong on the connection is told by the request and the body.
        let task = tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let connection = Driver(task.abort_handle());
        let response = sender.send_request(request).await.map_err(|error| self.failed(error))?;
        let status = response.status();
        let answer = Answer { ask: self, response, connection };
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        Err(answer.into_problem().await)
    }
}

impl Answer {
    pub(crate) fn ask(&self) -> &Ask {
        &self.ask
    }

    pub(crate) fn body(self) -> Body {
        let announced = self.response.headers().get(CONTENT_LENGTH).cloned();
        let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
        let incoming = self.response.into_body();
        Body { ask: self.ask, incoming, announced, _connection: self.connection }
    }

    /// Whether the answer is of this type.
    pub(crate) fn is_of_type(&self, wanted: &str) -> bool {
        let value = self.response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        value.and_then(|v| v.split(';').next()).is_some_and(|v| v.trim() == wanted)
    }

    /// The connection, if it was changed to this protocol, and the bytes that came after the
    /// answer already.
    pub(crate) async fn upgraded(self, protocol: &str) -> Result<(UnixStream, Bytes), ClientError> {
        let to = self.response.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
        let agreed = to.is_some_and(|to| to.eq_ignore_ascii_case(protocol));
        if self.response.status() != StatusCode::SWITCHING_PROTOCOLS || !agreed {
            return Err(self.ask.protocol(format!("it does not change to {protocol}")));
        }
        let late = self.ask.late(DEADLINE);
        let upgraded = timeout(DEADLINE, hyper::upgrade::on(self.response)).await;
        let upgraded = upgraded.map_err(|_| late)?.map_err(|error| self.ask.failed(error))?;
        match upgraded.downcast::<TokioIo<UnixStream>>() {
            Ok(parts) => Ok((parts.io.into_inner(), parts.read_buf)),
            Err(_) => Err(self.ask.protocol("the connection is of another kind than it was")),
        }
    }

    async fn into_problem(self) -> ClientError {
        let (status, ask) = (self.response.status(), self.ask.clone());
        let is_problem = self.is_of_type(PROBLEM_TYPE);
        let bytes = match self.body().read_all(MAX_PROBLEM).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) if is_problem => problem.into(),
            _ => ask.protocol(format!("status {status} without a problem that says why")),
        }
    }
}

/// The body of an answer, piece by piece.
#[derive(Debug)]
pub(crate) struct Body {
    ask: Ask,
    incoming: Incoming,
    announced: Option<usize>,
    _connection: Driver,
}

impl Body {
    /// The next bytes; nothing at the end. May be cancelled.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| self.ask.failed(error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    async fn read_all(mut self, most: usize) -> Result<Vec<u8>, ClientError> {
        let too_long = |ask: &Ask| ask.protocol(format!("it is longer than {most} bytes"));
        if self.announced.is_some_and(|len| len > most) {
            return Err(too_long(&self.ask));
        }
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            if whole.len() + piece.len() > most {
                return Err(too_long(&self.ask));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }
}
