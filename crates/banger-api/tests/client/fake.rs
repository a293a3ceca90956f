//! A daemon made up by hand: it gives out connections and says what a test wants, byte for byte.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use banger_api::client::{BoxFuture, Client, Connect, ConnectError};
use banger_api::types::Problem;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

struct Connector(mpsc::UnboundedSender<UnixStream>);

impl Connect for Connector {
    fn connect(&self) -> BoxFuture<'_, Result<UnixStream, ConnectError>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let source = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let path = || PathBuf::from("/fake");
            let nobody = |_| ConnectError::NobodyListens { path: path(), source: source() };
            self.0.send(theirs).map_err(nobody)?;
            Ok(ours)
        })
    }
}

/// A daemon made up by hand. Once dropped, nobody listens.
pub(crate) struct Fake(mpsc::UnboundedReceiver<UnixStream>);

impl Fake {
    pub(crate) fn new() -> (Client, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Client::new(Arc::new(Connector(sender))), Self(receiver))
    }

    /// The next connection.
    pub(crate) async fn connection(&mut self) -> UnixStream {
        soon(self.0.recv()).await.expect("the client is gone")
    }

    /// The next request.
    pub(crate) async fn request(&mut self) -> Asked {
        Asked::read(self.connection().await).await.expect("a whole request")
    }

    /// Answers the next request, which is to be this one.
    pub(crate) async fn answer<T: Serialize>(&mut self, line: &str, value: &T) -> Asked {
        let mut asked = self.request().await;
        assert_eq!(asked.named().0, line);
        asked.json("200 OK", "application/json", value).await;
        asked
    }
}

/// A request that has come.
pub(crate) struct Asked {
    /// Method and target.
    pub(crate) line: String,
    head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) stream: UnixStream,
}

impl Asked {
    /// The line without the operation's id that the client has made up, and that id.
    pub(crate) fn named(&self) -> (String, Option<String>) {
        match self.line.split_once("operation=") {
            Some((line, id)) => (line.trim_end_matches(['?', '&']).to_owned(), Some(id.to_owned())),
            None => (self.line.clone(), None),
        }
    }

    pub(crate) async fn read(mut stream: UnixStream) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next()?.strip_suffix(" HTTP/1.1")?.to_owned();
        let mut asked = Self { line, head, body: Vec::new(), stream };
        let len = asked.header("content-length").map_or(0, |len| len.parse().unwrap());
        asked.body = vec![0; len];
        asked.stream.read_exact(&mut asked.body).await.ok()?;
        Some(asked)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    /// Sends bytes as they are; a client that has gone does not mind.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    pub(crate) async fn json<T: Serialize>(&mut self, status: &str, kind: &str, value: &T) {
        let json = serde_json::to_string(value).unwrap();
        let len = json.len();
        self.send(format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n{json}"
        ))
        .await;
    }

    pub(crate) async fn problem(&mut self, problem: Problem) {
        let status = format!("{} Whatever", problem.status);
        self.json(&status, "application/problem+json", &problem).await;
    }

    /// Begins an answer of events.
    pub(crate) async fn events(&mut self) {
        self.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    }

    /// Sends a piece of an answer that was begun; an empty one ends it.
    pub(crate) async fn chunk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.send(format!("{:x}\r\n", bytes.len())).await;
        self.send(bytes).await;
        self.send("\r\n").await;
    }
}

/// Runs a test whose waiting takes no time.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(soon(test))
}

/// Ends what would never end, where waiting takes no time.
pub(crate) async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    let hour = std::time::Duration::from_secs(3600);
    tokio::time::timeout(hour, waiting).await.expect("nothing happens any more")
}
