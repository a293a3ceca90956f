//! A client of QEMU's control protocol (QMP), as small as banger's needs.
//!
//! One task owns the socket. Commands wait for the answer with their own id, and no longer than
//! their deadline. Events are folded into one value ([`Observed`]) as they come: there is no
//! queue that could overflow, and nothing that happened is forgotten.

mod codec;
mod observed;

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::answered::answered;
use codec::{Decoder, Message, encode};

pub use codec::{DecodeError, count_messages};
pub(crate) use observed::{Loaded, Observed, Shutdown};

/// Commands that may wait to be sent. More callers than that wait themselves.
const QUEUE: usize = 16;
/// Bytes read in one go.
const READ_LEN: usize = 16 * 1024;

/// Why QEMU cannot be controlled.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The socket cannot be reached.
    #[error("cannot reach the control socket")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The socket failed.
    #[error("the control socket failed")]
    Socket(#[source] io::Error),
    /// The connection is over.
    #[error("the control connection was closed")]
    Closed,
    /// QEMU sent what it never should.
    #[error("the monitor sent something that makes no sense")]
    Decode(#[source] DecodeError),
    /// No answer in time.
    #[error("no answer to {command:?} within {seconds} s")]
    Late {
        /// The command.
        command: &'static str,
        /// The bound.
        seconds: u64,
    },
    /// QEMU refused.
    #[error("{command:?} was refused: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words.
        reason: String,
    },
}

struct Request {
    command: &'static str,
    arguments: Value,
    answer: oneshot::Sender<Result<Value, String>>,
}

/// A connection to QEMU. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Qmp {
    requests: mpsc::Sender<Request>,
    observed: watch::Receiver<Observed>,
}

impl Qmp {
    /// Greets QEMU on a fresh connection; must be called within a tokio runtime.
    pub(crate) async fn open(mut stream: UnixStream, patience: Duration) -> Result<Self, QmpError> {
        let mut decoder = Decoder::default();
        let late = |_| QmpError::Late { command: "greeting", seconds: patience.as_secs() };
        timeout(patience, greeted(&mut stream, &mut decoder)).await.map_err(late)??;
        let (requests, queue) = mpsc::channel(QUEUE);
        let (publish, observed) = watch::channel(Observed::default());
        tokio::spawn(Task { stream, decoder, queue, publish, waiting: HashMap::new() }.run());
        let qmp = Self { requests, observed };
        qmp.execute("qmp_capabilities", Value::Null, patience).await?;
        Ok(qmp)
    }

    /// Executes one command and returns what it returns.
    pub(crate) async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, QmpError> {
        let (answer, given) = oneshot::channel();
        let exchange = async {
            let request = Request { command, arguments, answer };
            self.requests.send(request).await.map_err(|_| QmpError::Closed)?;
            answered(&self.requests, given)
                .await
                .ok_or(QmpError::Closed)?
                .map_err(|reason| QmpError::Refused { command, reason })
        };
        timeout(patience, exchange)
            .await
            .unwrap_or(Err(QmpError::Late { command, seconds: patience.as_secs() }))
    }

    /// Loads what was saved of a machine's devices from a descriptor that QEMU has inherited, and
    /// waits until that is done.
    pub(crate) async fn load(&self, fd: i32, patience: Duration) -> Result<Loaded, QmpError> {
        // Without being asked, QEMU tells nobody how it goes.
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        self.execute("migrate-set-capabilities", events, patience).await?;
        let mut observed = self.observed();
        let uri = json!({ "uri": format!("fd:{fd}") });
        self.execute("migrate-incoming", uri, patience).await?;
        let loaded = observed.wait_for(|seen| seen.loaded.is_some());
        match timeout(patience, loaded).await {
            Ok(Ok(seen)) => seen.loaded.ok_or(QmpError::Closed),
            Ok(Err(_)) => Err(QmpError::Closed),
            Err(_) => Err(QmpError::Late { command: "load", seconds: patience.as_secs() }),
        }
    }

    /// Gives the network device of this name a carrier, or takes it.
    pub(crate) async fn set_carrier(
        &self,
        device: &str,
        carrier: Carrier,
        patience: Duration,
    ) -> Result<(), QmpError> {
        let arguments = json!({ "name": device, "up": carrier == Carrier::There });
        self.execute("set_link", arguments, patience).await.map(drop)
    }

    /// Tells the guest that the block device of this name has so many bytes: it was saved with none.
    pub(crate) async fn announce_size(
        &self,
        node: &str,
        size: u64,
        patience: Duration,
    ) -> Result<(), QmpError> {
        let arguments = json!({ "node-name": node, "size": size });
        self.execute("block_resize", arguments, patience).await.map(drop)
    }

    /// The state in which QEMU says its machine is.
    pub(crate) async fn status(&self, patience: Duration) -> Result<String, QmpError> {
        let status = self.execute("query-status", Value::Null, patience).await?;
        match status.get("status").and_then(Value::as_str) {
            Some(text) => Ok(text.to_owned()),
            None => {
                let what = format!("a status without a status: {status}");
                Err(QmpError::Decode(DecodeError::Malformed(what)))
            }
        }
    }

    /// What has happened so far. The sender is gone once the connection is over.
    pub(crate) fn observed(&self) -> watch::Receiver<Observed> {
        self.observed.clone()
    }
}

/// Whether a network device is connected to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    There,
    Missing,
}

/// Waits for the greeting, which is the first message.
async fn greeted(stream: &mut UnixStream, decoder: &mut Decoder) -> Result<(), QmpError> {
    loop {
        match decoder.next().map_err(QmpError::Decode)? {
            Some(Message::Greeting) => return Ok(()),
            Some(other) => {
                let what = format!("no greeting but {other:?}");
                return Err(QmpError::Decode(DecodeError::Malformed(what)));
            }
            None => read_into(decoder, stream).await?,
        }
    }
}

async fn read_into(decoder: &mut Decoder, stream: &mut UnixStream) -> Result<(), QmpError> {
    let mut buffer = [0; READ_LEN];
    match stream.read(&mut buffer).await.map_err(QmpError::Socket)? {
        0 => Err(QmpError::Closed),
        len => {
            decoder.push(&buffer[..len]);
            Ok(())
        }
    }
}

/// The owner of the socket. Whatever ends it, everyone who waits is told by a closed channel.
struct Task {
    stream: UnixStream,
    decoder: Decoder,
    queue: mpsc::Receiver<Request>,
    publish: watch::Sender<Observed>,
    waiting: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
}

impl Task {
    async fn run(mut self) {
        let mut next_id = 1;
        loop {
            match self.decoder.next() {
                Ok(Some(message)) => {
                    self.take(message);
                    continue;
                }
                Ok(None) => {}
                Err(_) => return,
            }
            // Both branches may be dropped half-way without loss: a read that has not returned
            // has taken nothing, a request that was not received stays in the queue.
            tokio::select! {
                read = read_into(&mut self.decoder, &mut self.stream) => {
                    if read.is_err() {
                        return;
                    }
                }
                request = self.queue.recv() => {
                    let Some(Request { command, arguments, answer }) = request else { return };
                    self.waiting.retain(|_, waiter| !waiter.is_closed());
                    self.waiting.insert(next_id, answer);
                    let line = encode(next_id, command, &arguments);
                    next_id += 1;
                    if self.stream.write_all(&line).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        let (id, outcome) = match message {
            Message::Event { name, data } => {
                self.publish.send_if_modified(|observed| observed.fold(&name, &data));
                return;
            }
            Message::Return { id, value } => (id, Ok(value)),
            Message::Refusal { id: Some(id), reason } => (id, Err(reason)),
            // Nobody can be told; whoever waits for it runs into the deadline.
            Message::Refusal { id: None, .. } | Message::Greeting => return,
        };
        // An answer that nobody waits for any more came too late.
        if let Some(waiter) = self.waiting.remove(&id) {
            let _ = waiter.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests;
