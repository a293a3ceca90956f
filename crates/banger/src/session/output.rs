//! A process's output on its way to standard output and standard error.
//!
//! Each of the two has a task of its own, so that a reader of one who does not read keeps
//! neither the other nor anything else waiting. What waits here is bounded by the link: a process
//! may write only so much beyond what was acknowledged, and that is what was written.

use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};
use banger_api::attach::OutputStream;
use banger_api::client::SessionControl;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

/// This program's standard output and standard error, as a process's.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Option<mpsc::UnboundedSender<Vec<u8>>>,
    stderr: Option<mpsc::UnboundedSender<Vec<u8>>>,
    writers: JoinSet<Result<()>>,
}

impl Output {
    /// The output of the process that `control` is for.
    pub(super) fn to(control: &SessionControl) -> Self {
        let mut writers = JoinSet::new();
        let mut begin = |stream| {
            let (chunks, queue) = mpsc::unbounded_channel();
            writers.spawn(write_all(stream, queue, control.clone()));
            Some(chunks)
        };
        let (stdout, stderr) = (begin(OutputStream::Stdout), begin(OutputStream::Stderr));
        Self { stdout, stderr, writers }
    }

    /// Puts bytes on their way.
    pub(super) fn write(&mut self, stream: OutputStream, bytes: Vec<u8>) {
        let chunks = match stream {
            OutputStream::Stderr => &self.stderr,
            _ => &self.stdout,
        };
        if let Some(chunks) = chunks {
            // A writer that has failed says so by itself.
            let _ = chunks.send(bytes);
        }
    }

    /// No more bytes will come.
    pub(super) fn end(&mut self) {
        self.stdout = None;
        self.stderr = None;
    }

    /// Waits until everything is written after [`Output::end`], or a write has failed.
    pub(super) async fn written(&mut self) -> Result<()> {
        while let Some(writer) = self.writers.join_next().await {
            writer??;
        }
        if self.stdout.is_some() || self.stderr.is_some() {
            // Nobody writes any more, but more may come: there is nothing to tell yet.
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

async fn write_all(
    stream: OutputStream,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    control: SessionControl,
) -> Result<()> {
    while let Some(bytes) = queue.recv().await {
        let count = bytes.len();
        match spawn_blocking(move || write(stream, &bytes)).await? {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                // The process is to see what any would whose reader has gone.
                control.close_output(stream);
                return drop_rest(stream, queue, control, count).await;
            }
            Err(error) => return Err(error).context(format!("cannot write to {}", name(stream))),
        }
        control.consumed(stream, count);
    }
    Ok(())
}

/// Takes what was on its way when the reader went.
async fn drop_rest(
    stream: OutputStream,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    control: SessionControl,
    mut count: usize,
) -> Result<()> {
    loop {
        control.consumed(stream, count);
        match queue.recv().await {
            Some(bytes) => count = bytes.len(),
            None => return Ok(()),
        }
    }
}

fn write(stream: OutputStream, bytes: &[u8]) -> std::io::Result<()> {
    match stream {
        OutputStream::Stderr => std::io::stderr().write_all(bytes),
        _ => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
    }
}

fn name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stderr => "standard error",
        _ => "standard output",
    }
}
