//! The frames of an attached process, over a connection upgraded from HTTP. Without any I/O.
//!
//! ```text
//!   kind (1) | length (4, big endian) | payload
//! ```
//!
//! Kind 0 is a control message as JSON; 1 is data of stdin (to the daemon) or stdout (from it);
//! 2 is data of stderr. Data has no offset of its own: it goes on where the last of its stream
//! ended, and the first goes on where [`DaemonControl::Attached`] says. A connection that breaks
//! costs nothing: the next one tells both sides where to go on.

use banger_model::ProcessEnd;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::Window;

/// What a client asks HTTP to be upgraded to.
pub const PROTOCOL: &str = "banger-streams/1";
/// Most bytes of a frame's payload: large enough that headers cost nothing, small enough that a
/// signal does not wait long behind data.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 5;
/// Bytes of the largest frame.
pub const MAX_FRAME: usize = HEADER_LEN + MAX_PAYLOAD;
/// Most bytes of stdin that a client sends beyond what the daemon said it has taken. A daemon
/// that keeps as many can read on whatever the process does, so that signals always get through.
pub const STDIN_WINDOW: usize = 256 * 1024;
/// Most bytes of a sentence in a control message; the rest is cut. As JSON it can become six
/// times as long, which still fits a frame.
pub const MAX_TEXT: usize = 8 * 1024;

const KIND_CONTROL: u8 = 0;
const KIND_DATA: u8 = 1;
const KIND_STDERR: u8 = 2;

/// The streams that a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output; with a terminal, everything it shows.
    Stdout,
    /// Standard error; never used with a terminal.
    Stderr,
}

/// What a client says besides data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientControl {
    /// The client has dealt with a stream up to here: those bytes need not be kept.
    Ack {
        /// Which stream.
        stream: OutputStream,
        /// Bytes from its beginning.
        offset: u64,
    },
    /// No stdin comes any more. Said again on every connection.
    StdinEnd,
    /// The process is to get a signal.
    Signal {
        /// Its number.
        signal: u8,
    },
    /// The terminal has this size now. Said again on every connection.
    Resize(Window),
    /// Nobody reads this stream any more. Said again on every connection.
    CloseOutput {
        /// Which stream.
        stream: OutputStream,
    },
}

/// What the daemon says besides data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DaemonControl {
    /// Where the streams go on; the first thing said on a connection.
    Attached {
        /// Bytes of stdin that the guest has already.
        stdin: u64,
        /// Offset of the first byte of stdout that will come.
        stdout: u64,
        /// Offset of the first byte of stderr that will come.
        stderr: u64,
    },
    /// Stdin up to here will never be asked for again.
    StdinTaken {
        /// Bytes from its beginning.
        offset: u64,
    },
    /// No more will come of this stream.
    OutputEnded {
        /// Which stream.
        stream: OutputStream,
    },
    /// The process has ended; said after all its output.
    Exited {
        /// How.
        end: ProcessEnd,
    },
    /// Nothing more will be known of the process.
    Lost {
        /// A sentence for people.
        message: String,
    },
    /// Something that people should know; the process goes on.
    Notice {
        /// A sentence for people.
        message: String,
    },
    /// The process's sandbox has ended, and the process with it.
    SandboxEnded {
        /// A sentence for people.
        reason: String,
    },
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// A control message.
    Control(ClientControl),
    /// The next bytes of stdin.
    Stdin(Vec<u8>),
}

/// What the daemon sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonFrame {
    /// A control message.
    Control(DaemonControl),
    /// The next bytes of a stream.
    Output(OutputStream, Vec<u8>),
}

/// Why bytes are no frames. The connection they came on is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A kind that this side does not get.
    #[error("a frame of kind {0} came, which means nothing here")]
    Kind(u8),
    /// A payload that is too long.
    #[error("a frame of {0} bytes came; {MAX_PAYLOAD} are the most")]
    TooLong(u32),
    /// A control message that is none.
    #[error("a control message makes no sense: {0}")]
    Control(String),
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ClientFrame {}
    impl Sealed for super::DaemonFrame {}
}

/// The frames of one direction.
pub trait Frame: sealed::Sealed + Sized {
    /// What a frame of this kind and payload is.
    ///
    /// # Errors
    /// If it is nothing.
    fn from_parts(kind: u8, payload: &[u8]) -> Result<Self, FrameError>;

    /// Whether frames of this kind exist.
    fn has_kind(kind: u8) -> bool;

    /// Appends the frame, or several where there is more data than fits one.
    fn encode(&self, out: &mut Vec<u8>);
}

impl Frame for ClientFrame {
    fn from_parts(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        match kind {
            KIND_CONTROL => control(payload).map(Self::Control),
            KIND_DATA => Ok(Self::Stdin(payload.to_vec())),
            other => Err(FrameError::Kind(other)),
        }
    }

    fn has_kind(kind: u8) -> bool {
        matches!(kind, KIND_CONTROL | KIND_DATA)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Control(message) => put_control(out, message),
            Self::Stdin(bytes) => put_stdin(out, bytes),
        }
    }
}

impl Frame for DaemonFrame {
    fn from_parts(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        match kind {
            KIND_CONTROL => control(payload).map(Self::Control),
            KIND_DATA => Ok(Self::Output(OutputStream::Stdout, payload.to_vec())),
            KIND_STDERR => Ok(Self::Output(OutputStream::Stderr, payload.to_vec())),
            other => Err(FrameError::Kind(other)),
        }
    }

    fn has_kind(kind: u8) -> bool {
        matches!(kind, KIND_CONTROL | KIND_DATA | KIND_STDERR)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Control(message) => put_control(out, &message.clone().cut()),
            Self::Output(stream, bytes) => put_output(out, *stream, bytes),
        }
    }
}

impl DaemonControl {
    /// The same with no sentence longer than [`MAX_TEXT`].
    fn cut(mut self) -> Self {
        let (Self::Lost { message: text }
        | Self::Notice { message: text }
        | Self::SandboxEnded { reason: text }) = &mut self
        else {
            return self;
        };
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        self
    }
}

/// Appends the next bytes of stdin, as frames of a client.
pub fn put_stdin(out: &mut Vec<u8>, bytes: &[u8]) {
    put_data(out, KIND_DATA, bytes);
}

/// Appends the next bytes of an output stream, as frames of the daemon.
pub fn put_output(out: &mut Vec<u8>, stream: OutputStream, bytes: &[u8]) {
    let kind = match stream {
        OutputStream::Stdout => KIND_DATA,
        OutputStream::Stderr => KIND_STDERR,
    };
    put_data(out, kind, bytes);
}

fn put_data(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    for piece in bytes.chunks(MAX_PAYLOAD) {
        put(out, kind, piece);
    }
}

fn put_control<T: Serialize>(out: &mut Vec<u8>, message: &T) {
    // Plain structs of numbers and text always have a JSON form.
    let json = serde_json::to_vec(message).unwrap_or_default();
    put(out, KIND_CONTROL, &json);
}

fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD, "callers cut payloads to size");
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.reserve(HEADER_LEN + payload.len());
    out.push(kind);
    out.extend(len.to_be_bytes());
    out.extend_from_slice(payload);
}

fn control<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|error| FrameError::Control(error.to_string()))
}

/// Makes frames of bytes that arrive in any pieces. Holds one unfinished frame at most.
#[derive(Debug)]
pub struct Decoder<F> {
    partial: Vec<u8>,
    broken: Option<FrameError>,
    frames: std::marker::PhantomData<fn() -> F>,
}

impl<F> Default for Decoder<F> {
    fn default() -> Self {
        Self { partial: Vec::new(), broken: None, frames: std::marker::PhantomData }
    }
}

impl<F: Frame> Decoder<F> {
    /// Takes bytes from the front of `input` until a frame is whole or nothing is left; to be
    /// called again while it returns frames.
    ///
    /// # Errors
    /// If the bytes are no frames; from then on always the same.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<F>, FrameError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let result = self.step(input);
        if let Err(error) = &result {
            self.broken = Some(error.clone());
            self.partial = Vec::new();
        }
        result
    }

    /// Whether a frame has begun and is not whole.
    pub fn is_within(&self) -> bool {
        !self.partial.is_empty()
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<F>, FrameError> {
        self.take(input, HEADER_LEN);
        let Some(&[kind, a, b, c, d]) = self.partial.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        if !F::has_kind(kind) {
            return Err(FrameError::Kind(kind));
        }
        let announced = u32::from_be_bytes([a, b, c, d]);
        let len = usize::try_from(announced).unwrap_or(usize::MAX);
        if len > MAX_PAYLOAD {
            return Err(FrameError::TooLong(announced));
        }
        self.take(input, HEADER_LEN + len);
        if self.partial.len() < HEADER_LEN + len {
            return Ok(None);
        }
        let frame = F::from_parts(kind, &self.partial[HEADER_LEN..])?;
        self.partial.clear();
        Ok(Some(frame))
    }

    /// Moves bytes over until there are `wanted`.
    fn take(&mut self, input: &mut &[u8], wanted: usize) {
        let missing = wanted.saturating_sub(self.partial.len());
        let (piece, rest) = input.split_at(missing.min(input.len()));
        self.partial.extend_from_slice(piece);
        *input = rest;
    }
}

/// Decodes all of `input` as it would arrive in pieces of this size, until an error. A door for
/// fuzzing: the outcome must not depend on the size of the pieces.
pub fn decode_all<F: Frame>(input: &[u8], piece: usize) -> (Vec<F>, Option<FrameError>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for mut piece in input.chunks(piece.max(1)) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

#[cfg(test)]
mod tests;
