//! The streams of a process, over a connection that was upgraded from HTTP.
//!
//! Two tasks for each: one takes what the client says, one tells what the process does. What the
//! client sends as input waits apart from what it says besides, so that neither a process that
//! does not read nor one that waits to be read keeps an acknowledgement or a signal waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use banger_api::attach::{
    ClientControl, ClientFrame, DaemonControl, DaemonFrame, Decoder, Frame as _, OutputStream,
};
use banger_api::types::{Problem, ProblemCode};
use banger_link::Stream;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::App;
use super::error::{Failure, Query};
use super::processes::{live, parse};
use crate::driver::View;
use crate::exec;
use crate::link::{Control, LinkFailed, Process, ProcessEvent};
use crate::shared::Shared;

/// The protocol's name in `Upgrade`.
const PROTOCOL: &str = "banger-streams/1";
/// Bytes read from a client at once.
const CHUNK: usize = 64 * 1024;
/// Most bytes of input that wait for a process. A client may send so much beyond what it was told
/// is taken; one that sends more does not keep to the protocol.
const MAX_INPUT: u64 = 1024 * 1024;
/// How long a client may take to hang up after a process's end was told.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a sandbox whose link is gone may take to be seen ending.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// Where the client's output goes on.
#[derive(Debug, Deserialize)]
pub(super) struct Offsets {
    #[serde(default)]
    stdout: u64,
    #[serde(default)]
    stderr: u64,
}

/// Attach to the streams of a process
///
/// Asks for an upgrade to `banger-streams/1`. Output comes from the offsets given; who attaches
/// takes the process over from whoever was attached before.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/processes/{process}/attach", params(("sandbox" = String, Path), ("process" = String, Path), ("stdout" = Option<u64>, Query, description = "The first byte of stdout that is wanted"), ("stderr" = Option<u64>, Query, description = "The first byte of stderr that is wanted")), responses((status = 101, description = "The streams follow"), (status = "default", body = Problem)))]
pub(super) async fn attach(
    State(registry): App,
    Path((sandbox, process)): Path<(String, String)>,
    Query(offsets): Query<Offsets>,
    mut request: Request,
) -> Result<Response, Failure> {
    if !asks_for_upgrade(request.headers()) {
        let detail = format!("ask for an upgrade to {PROTOCOL}");
        return Err(Problem::new(ProblemCode::Invalid, detail).into());
    }
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(Problem::new(ProblemCode::Invalid, "the connection cannot be upgraded").into());
    };
    let id = banger_link::ProcessId(parse(&process)?.0);
    let handle = registry.resolve(&sandbox)?;
    let (live, view) = live(&handle).await?;
    let (process, stdin) = live.link.attach(id, Some(offsets.stdout), Some(offsets.stderr)).await?;
    let attached = view.activity.attach();
    let session = Session { process, stdin, offsets, views: handle.watch() };
    let shared = registry.shared().clone();
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => session.run(upgraded, shared).await,
            Err(error) => debug!(%error, "a client went before its connection was upgraded"),
        }
        drop(attached);
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

struct Session {
    process: Process,
    stdin: u64,
    offsets: Offsets,
    views: watch::Receiver<Arc<View>>,
}

impl Session {
    async fn run(self, upgraded: Upgraded, shared: Arc<Shared>) {
        let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
        let input = Input {
            control: self.process.control(),
            acked: [self.offsets.stdout, self.offsets.stderr],
            waiting: Arc::default(),
        };
        let output = Output {
            stdin_taken: self.process.stdin_received(),
            process: self.process,
            views: self.views,
            writer,
        };
        let mut listening = tokio::spawn(input.listen(reader));
        let tell = output.tell(self.stdin, &self.offsets);
        tokio::select! {
            _ = &mut listening => {}
            () = tell => {
                // What is on its way to the client is lost if the connection is closed before.
                let _ = tokio::time::timeout(FAREWELL, &mut listening).await;
            }
            () = shared.ending() => {}
        }
        listening.abort();
    }
}

/// What a client says.
struct Input {
    control: Control,
    /// What it has dealt with, of stdout and of stderr.
    acked: [u64; 2],
    /// Bytes of input that wait for the process.
    waiting: Arc<AtomicU64>,
}

impl Input {
    /// Takes what the client says until it hangs up or makes no sense.
    async fn listen(mut self, mut reader: ReadHalf<TokioIo<Upgraded>>) {
        let (stdin, queue) = mpsc::unbounded_channel();
        let feeding = tokio::spawn(feed(self.control.clone(), queue, self.waiting.clone()));
        let mut decoder = Decoder::<ClientFrame>::default();
        let mut chunk = vec![0; CHUNK];
        'connection: while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            let mut rest = &chunk[..count];
            loop {
                match decoder.next(&mut rest) {
                    Ok(Some(frame)) => {
                        if let Err(Nonsense) = self.take(frame, &stdin).await {
                            break 'connection;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        debug!(%error, "a client makes no sense");
                        break 'connection;
                    }
                }
            }
        }
        feeding.abort();
    }

    async fn take(
        &mut self,
        frame: ClientFrame,
        stdin: &mpsc::UnboundedSender<Fed>,
    ) -> Result<(), Nonsense> {
        match frame {
            ClientFrame::Stdin(bytes) => {
                let count = bytes.len() as u64;
                if self.waiting.fetch_add(count, Ordering::Relaxed) + count > MAX_INPUT {
                    return Err(Nonsense);
                }
                let _ = stdin.send(Fed::Bytes(bytes));
            }
            ClientFrame::Control(ClientControl::StdinEnd) => drop(stdin.send(Fed::End)),
            ClientFrame::Control(ClientControl::Ack { stream, offset }) => {
                self.ack(stream, offset).await?;
            }
            // These wait for the guest's answer, which must not keep acknowledgements waiting.
            ClientFrame::Control(ClientControl::Signal { signal }) => {
                self.aside(async move |control| control.signal(signal).await);
            }
            ClientFrame::Control(ClientControl::Resize(window)) => {
                let window = exec::window(window);
                self.aside(async move |control| control.resize(window).await);
            }
            ClientFrame::Control(ClientControl::CloseOutput { stream }) => {
                let stream = link_stream(stream);
                self.aside(async move |control| control.close_output(stream).await);
            }
        }
        Ok(())
    }

    fn aside<F>(&self, order: impl FnOnce(Control) -> F)
    where
        F: Future<Output = Result<(), LinkFailed>> + Send + 'static,
    {
        let order = order(self.control.clone());
        tokio::spawn(async move {
            // A process that has ended needs nothing any more.
            if let Err(error) = order.await {
                debug!(%error, "an order came to nothing");
            }
        });
    }

    async fn ack(&mut self, stream: OutputStream, offset: u64) -> Result<(), Nonsense> {
        let acked = match stream {
            OutputStream::Stdout => &mut self.acked[0],
            OutputStream::Stderr => &mut self.acked[1],
        };
        let more = offset.checked_sub(*acked).ok_or(Nonsense)?;
        *acked = offset;
        let count = usize::try_from(more).map_err(|_| Nonsense)?;
        // A link that is gone is told of by the other task.
        let _ = self.control.consumed(link_stream(stream), count).await;
        Ok(())
    }
}

/// The client does not keep to the protocol.
struct Nonsense;

enum Fed {
    Bytes(Vec<u8>),
    End,
}

/// Hands input to the process as it takes it.
async fn feed(control: Control, mut queue: mpsc::UnboundedReceiver<Fed>, waiting: Arc<AtomicU64>) {
    while let Some(fed) = queue.recv().await {
        let handed = match fed {
            Fed::Bytes(bytes) => {
                let count = bytes.len() as u64;
                let handed = control.write(bytes).await;
                waiting.fetch_sub(count, Ordering::Relaxed);
                handed
            }
            Fed::End => control.end().await,
        };
        if handed.is_err() {
            return;
        }
    }
}

/// What the daemon says.
struct Output {
    process: Process,
    stdin_taken: watch::Receiver<u64>,
    views: watch::Receiver<Arc<View>>,
    writer: WriteHalf<TokioIo<Upgraded>>,
}

impl Output {
    /// Tells what the process does until it ends or nobody listens.
    async fn tell(mut self, stdin: u64, offsets: &Offsets) {
        let Offsets { stdout, stderr } = *offsets;
        let begin = DaemonControl::Attached { stdin, stdout, stderr };
        if self.say(begin).await.is_err() {
            return;
        }
        let mut told = Vec::new();
        loop {
            let said = tokio::select! {
                biased;
                event = self.process.next() => match event {
                    Ok(event) => self.event(event).await,
                    Err(error) => {
                        self.say_why(error).await;
                        return;
                    }
                },
                changed = self.stdin_taken.changed() => match changed {
                    Ok(()) => {
                        let offset = *self.stdin_taken.borrow_and_update();
                        self.say(DaemonControl::StdinTaken { offset }).await.map(|()| Next::GoOn)
                    }
                    // The link is gone, which the process tells better.
                    Err(_) => std::future::pending().await,
                },
                changed = self.views.changed() => match changed {
                    Ok(()) => self.conditions(&mut told).await,
                    Err(_) => std::future::pending().await,
                },
            };
            match said {
                Ok(Next::GoOn) => {}
                Ok(Next::Over) | Err(_) => return,
            }
        }
    }

    async fn event(&mut self, event: ProcessEvent) -> std::io::Result<Next> {
        match event {
            ProcessEvent::Output(stream, bytes) => {
                let frame = DaemonFrame::Output(output_stream(stream), bytes);
                self.send(&frame).await?;
                Ok(Next::GoOn)
            }
            ProcessEvent::OutputEnded(stream) => {
                self.say(DaemonControl::OutputEnded { stream: output_stream(stream) }).await?;
                Ok(Next::GoOn)
            }
            ProcessEvent::Exited(end) => {
                self.say(DaemonControl::Exited { end }).await?;
                Ok(Next::Over)
            }
            ProcessEvent::Lost(refusal) => {
                self.say(DaemonControl::Lost { message: refusal.to_string() }).await?;
                Ok(Next::Over)
            }
        }
    }

    /// Tells what is not as it should be, once each.
    async fn conditions(&mut self, told: &mut Vec<String>) -> std::io::Result<Next> {
        let conditions = self.views.borrow_and_update().conditions.clone();
        let now: Vec<String> = conditions.into_iter().map(|condition| condition.message).collect();
        for message in now.iter().filter(|message| !told.contains(message)) {
            self.say(DaemonControl::Notice { message: message.clone() }).await?;
        }
        if !told.is_empty() && now.is_empty() {
            let message = "all is well again: the sandbox goes on".to_owned();
            self.say(DaemonControl::Notice { message }).await?;
        }
        *told = now;
        Ok(Next::GoOn)
    }

    /// A link mostly fails because its machine has ended: that is the better thing to say.
    async fn say_why(&mut self, error: LinkFailed) {
        let message = match error {
            LinkFailed::Replaced => "somebody else has attached to the process".to_owned(),
            other => {
                if let Some(reason) = self.end_of_sandbox().await {
                    let _ = self.say(DaemonControl::SandboxEnded { reason }).await;
                    return;
                }
                other.to_string()
            }
        };
        let _ = self.say(DaemonControl::Lost { message }).await;
    }

    /// Why the sandbox has no machine any more, if that is so.
    async fn end_of_sandbox(&mut self) -> Option<String> {
        let down = |view: &Arc<View>| !view.record.state.has_machine();
        let ended = tokio::time::timeout(END_PATIENCE, self.views.wait_for(down)).await;
        match ended {
            Ok(Ok(view)) => view.sandbox().reason,
            Ok(Err(_)) => Some("it was deleted".to_owned()),
            Err(_) => None,
        }
    }

    async fn say(&mut self, control: DaemonControl) -> std::io::Result<()> {
        self.send(&DaemonFrame::Control(control)).await
    }

    async fn send(&mut self, frame: &DaemonFrame) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.writer.write_all(&bytes).await?;
        self.writer.flush().await
    }
}

/// Whether there is more to tell.
enum Next {
    GoOn,
    Over,
}

fn link_stream(stream: OutputStream) -> Stream {
    match stream {
        OutputStream::Stdout => Stream::Stdout,
        OutputStream::Stderr => Stream::Stderr,
    }
}

fn output_stream(stream: Stream) -> OutputStream {
    match stream {
        Stream::Stderr => OutputStream::Stderr,
        Stream::Stdin | Stream::Stdout => OutputStream::Stdout,
    }
}
