//! The frames of one attached process on one connection.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::error::ClientError;
use super::http::Ask;
use crate::attach::{ClientFrame, DaemonFrame, Decoder, Frame as _, MAX_FRAME};

/// The streams of a process on one connection: what comes, and what is sent.
#[derive(Debug)]
pub struct Attachment {
    /// What comes.
    pub reader: AttachmentReader,
    /// What is sent.
    pub writer: AttachmentWriter,
}

impl Attachment {
    pub(crate) fn new(ask: Ask, stream: UnixStream, received: Bytes) -> Self {
        let (read, write) = stream.into_split();
        let (buffer, decoder) = (vec![0; MAX_FRAME], Decoder::default());
        Self {
            reader: AttachmentReader { ask: ask.clone(), read, decoder, received, buffer },
            writer: AttachmentWriter { ask, write },
        }
    }
}

/// What comes on a connection.
#[derive(Debug)]
pub struct AttachmentReader {
    ask: Ask,
    read: OwnedReadHalf,
    decoder: Decoder<DaemonFrame>,
    /// What the decoder has not had yet.
    received: Bytes,
    buffer: Vec<u8>,
}

impl AttachmentReader {
    /// The next frame. May be cancelled.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`] at the end of the connection, in order or not;
    /// [`ClientError::Protocol`] for bytes that are no frames.
    pub async fn next(&mut self) -> Result<DaemonFrame, ClientError> {
        loop {
            let mut rest = &self.received[..];
            let frame = self.decoder.next(&mut rest);
            let frame = frame.map_err(|error| self.ask.protocol(error.to_string()))?;
            let taken = self.received.len() - rest.len();
            self.received = self.received.slice(taken..);
            if let Some(frame) = frame {
                return Ok(frame);
            }
            let len = self.read.read(&mut self.buffer).await;
            let len = len.map_err(|error| self.ask.interrupted(Some(error.into())))?;
            if len == 0 {
                return Err(self.ask.interrupted(None));
            }
            self.received = Bytes::copy_from_slice(&self.buffer[..len]);
        }
    }

    /// The error for frames that do not come.
    pub(crate) fn late(&self, after: Duration) -> ClientError {
        self.ask.late(after)
    }

    /// The error for frames that are well formed and make no sense.
    pub(crate) fn nonsense(&self, what: String) -> ClientError {
        self.ask.protocol(what)
    }
}

/// What is sent on a connection.
#[derive(Debug)]
pub struct AttachmentWriter {
    ask: Ask,
    write: OwnedWriteHalf,
}

impl AttachmentWriter {
    /// Sends a frame. Not to be cancelled: half a frame may have been sent.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`] if the connection has ended.
    pub async fn send(&mut self, frame: &ClientFrame) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send_bytes(&bytes).await
    }

    /// Sends frames that are encoded already.
    pub(crate) async fn send_bytes(&mut self, frames: &[u8]) -> Result<(), ClientError> {
        let sent = self.write.write_all(frames).await;
        sent.map_err(|error| self.ask.interrupted(Some(error.into())))
    }
}
