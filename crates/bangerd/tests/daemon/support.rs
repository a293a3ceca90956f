//! The real daemon with a home of its own, and one request at a time to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use banger_host::home::Home;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the daemon may take to answer somebody who does nothing wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A daemon. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    root: TempDir,
}

/// What the daemon answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Daemon {
    /// Starts one where nothing was ever made, and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// Kills it and starts another in its place, once `meanwhile` has been done to its home.
    pub(crate) fn replace(mut self, meanwhile: impl FnOnce(&Home)) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let root = std::mem::replace(&mut self.root, tempfile::tempdir().unwrap());
        meanwhile(&Home::under(root.path()));
        Self::start_in(root)
    }

    fn start_in(root: TempDir) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bangerd"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", root.path())
            .env("BANGER_HOME", root.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (ready, is_ready) = mpsc::channel();
        // The log is read to its end: a daemon whose log is full would stand still.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains(" ready ") {
                    let _ = ready.send(());
                }
            }
        });
        is_ready.recv_timeout(PATIENCE).unwrap();
        Self { child, root }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home().socket()
    }

    pub(crate) fn home(&self) -> Home {
        Home::under(self.root.path())
    }

    /// A connection to it, on which nobody waits for ever.
    pub(crate) fn connect(&self) -> UnixStream {
        connect(&self.socket())
    }

    /// Asks for something on a connection of its own.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Answer {
        self.try_to_ask(method, path).unwrap()
    }

    /// As [`Daemon::ask`], where it may hang up without an answer.
    pub(crate) fn try_to_ask(&self, method: &str, path: &str) -> Option<Answer> {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"))
    }

    /// Sends a request and reads what is answered until it hangs up.
    pub(crate) fn send(&self, request: &str) -> Option<Answer> {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Answer::parse(&answer)
    }
}

/// Asks for a sandbox that is not started; the status and what is answered.
pub(crate) fn create(daemon: &Daemon, lifetime: Value) -> (u16, Value) {
    let wanted = json!({
        "spec": {
            "image": "debian-bookworm",
            "kernel": "debian-cloud",
            "memory": 256 << 20,
            "disk": 1 << 30,
            "network": "none",
        },
        "lifetime": lifetime,
        "start": false,
    });
    let wanted = wanted.to_string();
    let length = wanted.len();
    let request = format!(
        "POST /v1/sandboxes HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{wanted}"
    );
    let answer = daemon.send(&request).unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    /// The answer that these bytes begin with, all of whose body they are.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some(Self { status, head: head.to_owned(), body: body.to_owned() })
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}
