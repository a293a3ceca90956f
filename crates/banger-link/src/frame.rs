//! Frames: what a connection consists of after its hello.
//!
//! ```text
//!   tag (4) | kind (1) | 0 | length (2, little endian) | payload | tag (4)
//! ```
//!
//! The tag belongs to the connection and has no zero byte. It stands at both ends, so a frame
//! whose tail was lost, and whose place the zeros of the next connection took, is recognised.

use crate::limits::MAX_PAYLOAD;
use crate::message::{ProcessId, Stream};
use crate::stream::Pieces;

const HEADER_LEN: usize = 8;
const TRAILER_LEN: usize = 4;
/// Bytes of the largest frame.
pub(crate) const MAX_FRAME: usize = HEADER_LEN + MAX_PAYLOAD + TRAILER_LEN;

/// Process (8), stream (1) and offset (8) before the bytes of a data frame.
const DATA_HEADER_LEN: usize = 17;
/// Most stream bytes of one frame.
pub(crate) const MAX_DATA: usize = MAX_PAYLOAD - DATA_HEADER_LEN;

/// The mark of one connection's frames; no byte of it is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag([u8; 4]);

impl Tag {
    pub(crate) fn from_random(bytes: [u8; 4]) -> Self {
        Self(bytes.map(|b| b | 1))
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    /// A piece of a control message that goes on in the next control frame.
    ControlPart(&'a [u8]),
    /// The last piece of a control message, or all of it.
    ControlLast(&'a [u8]),
    /// A piece of a stream.
    Data { process: ProcessId, stream: Stream, offset: u64, bytes: &'a [u8] },
}

/// What the beginning of an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// The beginning of a frame.
    Incomplete,
    /// A frame of so many bytes.
    Frame(Payload<'a>, usize),
    /// No frame of this connection.
    Bad,
}

const KIND_CONTROL_PART: u8 = 1;
const KIND_CONTROL_LAST: u8 = 2;
const KIND_DATA: u8 = 3;

/// Appends the frames of one control message.
pub(crate) fn put_control(out: &mut Vec<u8>, tag: Tag, message: &[u8]) {
    let mut pieces = message.chunks(MAX_PAYLOAD).peekable();
    while let Some(piece) = pieces.next() {
        let kind = if pieces.peek().is_some() { KIND_CONTROL_PART } else { KIND_CONTROL_LAST };
        put(out, tag, kind, &[piece]);
    }
}

/// Appends one frame with at most [`MAX_DATA`] bytes of a stream, given in two pieces.
pub(crate) fn put_data(
    out: &mut Vec<u8>,
    tag: Tag,
    (process, stream): (ProcessId, Stream),
    offset: u64,
    bytes: Pieces<'_>,
) {
    let number = [stream_number(stream)];
    let parts = [&process.0.to_le_bytes()[..], &number, &offset.to_le_bytes(), bytes.0, bytes.1];
    put(out, tag, KIND_DATA, &parts);
}

fn put(out: &mut Vec<u8>, tag: Tag, kind: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(len <= MAX_PAYLOAD, "callers cut payloads to size");
    let len = u16::try_from(len).unwrap_or(u16::MAX);
    out.reserve(HEADER_LEN + usize::from(len) + TRAILER_LEN);
    out.extend(tag.0);
    out.extend([kind, 0]);
    out.extend(len.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend(tag.0);
}

/// Reads the frame at the beginning of `input`.
pub(crate) fn parse(input: &[u8], tag: Tag) -> Parsed<'_> {
    let Some(header) = input.first_chunk::<HEADER_LEN>() else {
        let known = input.len().min(tag.0.len());
        return if input[..known] == tag.0[..known] { Parsed::Incomplete } else { Parsed::Bad };
    };
    let [t0, t1, t2, t3, kind, zero, len0, len1] = *header;
    let len = usize::from(u16::from_le_bytes([len0, len1]));
    if [t0, t1, t2, t3] != tag.0 || zero != 0 || len > MAX_PAYLOAD {
        return Parsed::Bad;
    }
    let whole = HEADER_LEN + len + TRAILER_LEN;
    let Some(frame) = input.get(..whole) else { return Parsed::Incomplete };
    let (payload, trailer) = frame[HEADER_LEN..].split_at(len);
    if trailer != tag.0 {
        return Parsed::Bad;
    }
    match payload_of(kind, payload) {
        Some(payload) => Parsed::Frame(payload, whole),
        None => Parsed::Bad,
    }
}

fn payload_of(kind: u8, payload: &[u8]) -> Option<Payload<'_>> {
    match kind {
        KIND_CONTROL_PART => Some(Payload::ControlPart(payload)),
        KIND_CONTROL_LAST => Some(Payload::ControlLast(payload)),
        KIND_DATA => {
            let (process, rest) = payload.split_first_chunk()?;
            let (stream, rest) = rest.split_first()?;
            let (offset, bytes) = rest.split_first_chunk()?;
            Some(Payload::Data {
                process: ProcessId(u64::from_le_bytes(*process)),
                stream: stream_of(*stream)?,
                offset: u64::from_le_bytes(*offset),
                bytes,
            })
        }
        _ => None,
    }
}

fn stream_number(stream: Stream) -> u8 {
    match stream {
        Stream::Stdin => 0,
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

fn stream_of(number: u8) -> Option<Stream> {
    match number {
        0 => Some(Stream::Stdin),
        1 => Some(Stream::Stdout),
        2 => Some(Stream::Stderr),
        _ => None,
    }
}

/// Decodes any bytes as a frame of the connection whose tag they begin with, and says how many
/// bytes it takes; none when they are no frame. A door for fuzzing: links decode by themselves.
pub fn decode(input: &[u8]) -> Option<usize> {
    let tag = Tag::from_random(*input.first_chunk()?);
    match parse(input, tag) {
        Parsed::Frame(_, len) => Some(len),
        Parsed::Incomplete | Parsed::Bad => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag([1, 3, 5, 7]);

    fn data_frame() -> Vec<u8> {
        let mut out = Vec::new();
        put_data(&mut out, TAG, (ProcessId(9), Stream::Stderr), 1 << 40, (b"ab", b"cd"));
        out
    }

    #[test]
    fn a_data_frame_comes_back() {
        let bytes = data_frame();
        let payload = Payload::Data {
            process: ProcessId(9),
            stream: Stream::Stderr,
            offset: 1 << 40,
            bytes: b"abcd",
        };
        assert_eq!(parse(&bytes, TAG), Parsed::Frame(payload, bytes.len()));
    }

    #[test]
    fn a_frame_is_incomplete_at_every_cut_and_bad_once_zeros_follow() {
        let bytes = data_frame();
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut], TAG), Parsed::Incomplete, "cut at {cut}");
            let mut broken = bytes[..cut].to_vec();
            broken.extend([0; MAX_FRAME]);
            assert_eq!(parse(&broken, TAG), Parsed::Bad, "cut at {cut}");
        }
    }

    #[test]
    fn another_connections_frame_is_bad() {
        assert_eq!(parse(&data_frame(), Tag([1, 3, 5, 9])), Parsed::Bad);
    }

    #[test]
    fn a_long_message_takes_several_frames() {
        let message: Vec<u8> = (0..40_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut bytes = Vec::new();
        put_control(&mut bytes, TAG, &message);
        let (mut read, mut rest, mut last) = (Vec::new(), &bytes[..], 0);
        while let Parsed::Frame(payload, len) = parse(rest, TAG) {
            match payload {
                Payload::ControlPart(part) => read.extend_from_slice(part),
                Payload::ControlLast(part) => {
                    read.extend_from_slice(part);
                    last += 1;
                }
                Payload::Data { .. } => panic!("no data was sent"),
            }
            rest = &rest[len..];
        }
        assert_eq!((read, last, rest.len()), (message, 1, 0));
    }
}
