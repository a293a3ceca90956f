//! Servers of these tests: one that serves a directory as `os-update serve` does, and one that
//! answers each request as a test wants it to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A request, as far as tests look at it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
}

/// Writes whatever it wants to a connection.
pub(crate) type Answer = dyn Fn(&Asked, &mut TcpStream) + Send + Sync;

/// A server that ends with its test.
pub(crate) struct Server {
    pub(crate) url: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Server {
    /// Answers each request by this function.
    pub(crate) fn answering(
        answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let answer: Arc<Answer> = Arc::new(answer);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let answer = Arc::clone(&answer);
                    std::thread::spawn(move || {
                        let mut stream = stream.unwrap();
                        if let Some(asked) = read_request(&stream) {
                            answer(&asked, &mut stream);
                        }
                    });
                }
            }
        });
        Self { url: format!("http://127.0.0.1:{port}"), stop, thread: Some(thread), port }
    }

    /// Serves the files of a directory.
    pub(crate) fn of(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self::answering(move |asked, stream| send_file(&dir, asked, stream))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // So that it looks.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut range = None;
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: ") {
            range = Some(value.to_owned());
        }
    }
    Some(Asked { path, range })
}

/// Sends a file, or the part of it that was asked for.
pub(crate) fn send_file(dir: &Path, asked: &Asked, stream: &mut TcpStream) {
    let Ok(content) = std::fs::read(dir.join(asked.path.trim_start_matches('/'))) else {
        return send(stream, "404 Not Found", "", b"");
    };
    let begin = asked.range.as_ref().map(|range| {
        range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap()
    });
    match begin {
        None => send(stream, "200 OK", "", &content),
        Some(begin) => {
            let range = format!("Content-Range: bytes {begin}-{0}/{0}\r\n", content.len());
            send(stream, "206 Partial Content", &range, &content[begin..]);
        }
    }
}

/// Sends a whole answer.
pub(crate) fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let len = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\n\r\n");
    // Whoever asked may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
