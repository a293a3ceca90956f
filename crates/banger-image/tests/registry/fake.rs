//! A registry that does whatever a test wants: a server of HTTP with every byte in our hands.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::images::{OCI_MANIFEST, TestImage, sha256};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    /// By lowercase names.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    /// First byte that is asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range").strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

/// An answer, with what is wrong about it.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What is announced, if not the truth.
    pub(crate) length: Option<usize>,
    /// The connection is closed after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Nothing comes any more after so many bytes of the body.
    pub(crate) stall: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let (headers, body) = (Vec::new(), body.into());
        Self { status, headers, body, length: None, cut: None, stall: None }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What there is by its path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) by_path: BTreeMap<String, (String, Vec<u8>)>,
}

impl Content {
    pub(crate) fn of(repository: &str, tag: &str, image: &TestImage) -> Self {
        let mut content = Self::default();
        content.image(repository, tag, image);
        content
    }

    pub(crate) fn image(&mut self, repository: &str, tag: &str, image: &TestImage) {
        self.manifest(repository, &[tag], OCI_MANIFEST, &image.manifest);
        self.blob(repository, &image.config);
        for layer in &image.layers {
            self.blob(repository, &layer.bytes);
        }
    }

    /// Under its digest always.
    pub(crate) fn manifest(&mut self, repository: &str, tags: &[&str], kind: &str, bytes: &[u8]) {
        let digest = sha256(bytes).to_string();
        for name in tags.iter().copied().chain([digest.as_str()]) {
            let path = format!("/v2/{repository}/manifests/{name}");
            self.by_path.insert(path, (kind.to_owned(), bytes.to_vec()));
        }
    }

    pub(crate) fn blob(&mut self, repository: &str, bytes: &[u8]) {
        let path = format!("/v2/{repository}/blobs/{}", sha256(bytes));
        self.by_path.insert(path, ("application/octet-stream".to_owned(), bytes.to_vec()));
    }
}

impl Content {
    /// What a good registry answers.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let Some((kind, bytes)) = self.by_path.get(&request.path) else {
            return Reply::new(404, r#"{"errors":[{"code":"X","message":"not known here"}]}"#);
        };
        let reply = match request.from() {
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::new(206, &bytes[from..]).with("content-range", range)
            }
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, bytes.clone()),
        };
        reply.with("content-type", kind)
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on a port of loopback, as long as its runtime lives.
pub(crate) struct Fake {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Fake {
    pub(crate) async fn good(content: Content) -> Self {
        Self::start(move |request| content.answer(request)).await
    }

    pub(crate) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(handler)).await
    }

    pub(crate) async fn start_tls(
        tls: TlsAcceptor,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Some(tls), Arc::new(handler)).await
    }

    async fn serve(tls: Option<TlsAcceptor>, handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let fake = Self { address, log: log.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, handler, log) = (tls.clone(), handler.clone(), log.clone());
                tokio::spawn(async move {
                    let wire: Box<dyn Wire> = match tls {
                        None => Box::new(stream),
                        // Who does not like our certificate goes away.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    // A client that goes away ends this.
                    let _ = converse(wire, &*handler, &log).await;
                });
            }
        });
        fake
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// `localhost` with the port: a name for TLS.
    pub(crate) fn named_host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn blob_requests(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::is_blob).collect()
    }
}

async fn converse(
    mut wire: Box<dyn Wire>,
    handler: &Handler,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut wire, &mut buffer).await? {
        log.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        let length = reply.length.unwrap_or(reply.body.len());
        head += &format!("content-length: {length}\r\n");
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        wire.write_all(format!("{head}\r\n").as_bytes()).await?;
        let end = reply.cut.or(reply.stall).unwrap_or(reply.body.len()).min(reply.body.len());
        wire.write_all(&reply.body[..end]).await?;
        wire.flush().await?;
        if reply.stall.is_some() {
            std::future::pending::<()>().await;
        }
        if reply.cut.is_some() || length != reply.body.len() {
            return Pin::new(&mut wire).shutdown().await;
        }
    }
    Ok(())
}

async fn read_request(
    wire: &mut Box<dyn Wire>,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<Request>> {
    let head_len = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if wire.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer.drain(..head_len).collect()).unwrap();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    while buffer.len() < length {
        if wire.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body = buffer.drain(..length).collect();
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    Ok(Some(Request { method, path, query, headers, body }))
}
