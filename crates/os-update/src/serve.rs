//! Publishes a directory of releases: for tests and small fleets. Files and parts of them, and
//! nothing else; what is signed needs no more protection than that.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use banger_host::fs::open_file;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;
/// How long a request's headers may take.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// Files are read in pieces of this size.
const PIECE: u64 = 256 * 1024;

/// Serves the files below `root` to whoever connects, until it is dropped.
///
/// # Errors
/// When no connection can be taken any more.
pub async fn serve(listener: TcpListener, root: PathBuf) -> io::Result<()> {
    let root = Arc::new(root);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // It was gone before it was taken.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let root = Arc::clone(&root);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let root = Arc::clone(&root);
                async move { Ok::<_, Infallible>(answer(&root, &request)) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

fn answer<B>(root: &Path, request: &Request<B>) -> Response<Content> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(path) = local(root, request.uri().path()) else { return empty(StatusCode::NOT_FOUND) };
    let Ok(file) = open_file(&path) else { return empty(StatusCode::NOT_FOUND) };
    let Ok(meta) = file.metadata() else { return empty(StatusCode::NOT_FOUND) };
    let len = meta.len();
    let etag = etag(&meta);
    let text =
        |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let fits = text(header::IF_RANGE).is_none_or(|wanted| wanted == etag);
    let begin = text(header::RANGE).filter(|_| fits).and_then(range_begin);
    let (status, begin) = match begin {
        Some(begin) if begin < len => (StatusCode::PARTIAL_CONTENT, begin),
        Some(_) => return empty(StatusCode::RANGE_NOT_SATISFIABLE),
        None => (StatusCode::OK, 0),
    };
    let left = if request.method() == Method::HEAD { 0 } else { len - begin };
    let mut response = Response::new(Content { file: Some(file), at: begin, left });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len - begin));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = HeaderValue::from_str(&format!("bytes {begin}-{}/{len}", len - 1))
    {
        headers.insert(header::CONTENT_RANGE, range);
    }
    response
}

fn empty(status: StatusCode) -> Response<Content> {
    let mut response = Response::new(Content { file: None, at: 0, left: 0 });
    *response.status_mut() = status;
    response
}

/// The file of a path: plain names below the root, none of them hidden, no links out of it.
fn local(root: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path.strip_prefix('/')?);
    let plain = |part: Component<'_>| match part {
        Component::Normal(name) => name.to_str().is_some_and(|name| {
            let odd = |c: char| c == '%' || c == '\\' || c.is_control();
            !name.starts_with('.') && !name.contains(odd)
        }),
        _ => false,
    };
    if relative.as_os_str().is_empty() || !relative.components().all(plain) {
        return None;
    }
    let (root, path) = (root.canonicalize().ok()?, root.join(relative).canonicalize().ok()?);
    path.starts_with(root).then_some(path)
}

/// `bytes=N-`, which is all that an update agent asks for.
fn range_begin(text: &str) -> Option<u64> {
    text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn etag(meta: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!("\"{:x}-{:x}-{:x}-{:x}\"", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// What is left of a file.
#[derive(Debug)]
struct Content {
    file: Option<File>,
    at: u64,
    left: u64,
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (at, len) = (self.at, self.left.min(PIECE));
        let Some(file) = &self.file else { return Poll::Ready(None) };
        let mut piece = vec![0; usize::try_from(len).unwrap_or(0)];
        let frame = file.read_exact_at(&mut piece, at).map(|()| Frame::data(Bytes::from(piece)));
        (self.at, self.left) = (at + len, self.left - len);
        Poll::Ready(Some(frame))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_below_the_directory_are_served() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("v1")).unwrap();
        for name in ["latest.json", "v1/vmlinuz", ".secret"] {
            banger_host::fs::write_atomic(&root.join(name), b"x").unwrap();
        }
        banger_host::fs::write_atomic(&dir.path().join("outside"), b"x").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        for good in ["/latest.json", "/v1/vmlinuz"] {
            assert!(local(&root, good).is_some(), "{good}");
        }
        for bad in [
            "/",
            "",
            "/../outside",
            "/v1/../../outside",
            "/.secret",
            "/link",
            "/%2e%2e/outside",
            "//etc/passwd",
            "/v1\\x",
        ] {
            assert!(local(&root, bad).is_none(), "{bad}");
        }
        assert_eq!(range_begin("bytes=5-"), Some(5));
        for other in ["bytes=5-9", "bytes=-5", "lines=5-", "bytes=5-,7-", "bytes=+5-"] {
            assert_eq!(range_begin(other).filter(|_| !other.contains('+')), None, "{other}");
        }
    }
}
