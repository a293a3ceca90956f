//! The task that has the connection of a session, and gets another one when it breaks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{SessionEvent, Shared};
use crate::client::attachment::{AttachmentReader, AttachmentWriter};
use crate::client::error::ClientError;
use crate::client::http::DEADLINE;
use crate::client::patience::Patience;
use crate::client::{Attachment, Client};
use crate::types::ProcessId;

use super::state::State;

/// How long a connection is still read that cannot be written any more.
const LAST_WORDS: Duration = Duration::from_secs(5);

type Events = mpsc::Sender<Result<SessionEvent, ClientError>>;

/// What the task of a session works with.
pub(super) struct Task {
    client: Client,
    sandbox: String,
    process: ProcessId,
    shared: Arc<Shared>,
    events: Events,
    /// Told once, when the first connection is there or there will be none.
    ready: Option<oneshot::Sender<Result<(), ClientError>>>,
    patience: Patience,
}

impl Task {
    pub(super) fn new(
        client: Client,
        sandbox: &str,
        process: ProcessId,
        shared: Arc<Shared>,
        events: Events,
        ready: oneshot::Sender<Result<(), ClientError>>,
    ) -> Self {
        let (sandbox, patience) = (sandbox.to_owned(), Patience::default());
        Self { client, sandbox, process, shared, events, ready: Some(ready), patience }
    }

    /// Runs until the process has ended, or there is no use in going on.
    pub(super) async fn run(mut self) {
        loop {
            let Err(error) = self.connection().await else { break };
            self.shared.change(State::detached);
            if !error.may_pass_for_process() || !self.patience.wait().await {
                self.give_up(error).await;
                break;
            }
        }
        self.shared.change(State::close);
    }

    async fn give_up(&mut self, error: ClientError) {
        // Writers are not to wait for an owner who has yet to look.
        self.shared.change(State::close);
        // Whoever does not wait for either has gone.
        match self.ready.take() {
            Some(ready) => drop(ready.send(Err(error))),
            None => drop(self.events.send(Err(error)).await),
        }
    }

    /// One connection, to its end; `Ok` if that is the end of the session, too.
    async fn connection(&mut self) -> Result<(), ClientError> {
        let (stdout, stderr) = self.shared.look(|state| state.offsets());
        let attachment = self.client.attach(&self.sandbox, self.process, stdout, stderr).await?;
        let Attachment { reader, writer } = attachment;
        let shared = Arc::clone(&self.shared);
        let receive = self.receive(reader);
        tokio::pin!(receive);
        let error = tokio::select! {
            end = &mut receive => return end,
            error = send(&shared, writer) => error,
        };
        // How the process ended may have come before the connection did.
        timeout(LAST_WORDS, receive).await.unwrap_or(Err(error))
    }

    async fn receive(&mut self, mut reader: AttachmentReader) -> Result<(), ClientError> {
        loop {
            // First a place for the event: what has been counted must not get lost.
            let Ok(place) = self.events.reserve().await else { return Ok(()) };
            let attached = self.shared.look(|state| state.is_attached());
            let frame = if attached {
                reader.next().await?
            } else {
                timeout(DEADLINE, reader.next()).await.map_err(|_| reader.late(DEADLINE))??
            };
            let event = self.shared.change(|state| state.on_frame(frame));
            let event = event.map_err(|what| reader.nonsense(what))?;
            if attached {
                self.patience.progress();
            } else {
                self.patience.connected();
            }
            if let Some(event) = event {
                place.send(Ok(event));
            }
            if let Some(ready) = self.ready.take() {
                drop(ready.send(Ok(())));
            }
            if self.shared.look(|state| state.is_over()) {
                return Ok(());
            }
        }
    }
}

/// Sends what there is to send, for ever.
async fn send(shared: &Shared, mut writer: AttachmentWriter) -> ClientError {
    let mut out = Vec::new();
    loop {
        out.clear();
        shared.look(|state| state.fill(&mut out));
        if out.is_empty() {
            shared.work().await;
            continue;
        }
        if let Err(error) = writer.send_bytes(&out).await {
            return error;
        }
        shared.look(State::flushed);
    }
}
