//! One end of a relay: a stream socket on which frames travel, each behind its length.
//!
//! Security hangs on how frames are written to `passt` (0.0~git20230309). It reads what is there,
//! up to eight megabytes, and silently forgets a rest of one to four bytes; of a frame that is
//! longer than what it read it asks for the rest once, and forgets it, too, if still something is
//! missing. In both cases it takes the next bytes, which a guest wrote into a packet, for the
//! length of a frame: one that no policy has seen, to the host's own loopback for instance.
//!
//! So no cut must fall there. Where a read may end is decided by the writer: each send(2) on a
//! Unix stream socket makes buffers of its own, nothing is ever added to the last one, and a
//! reader with space enough gets whole buffers. A read by `passt` ends for want of space only if
//! its eight megabytes fill before it once finds the queue empty, which holds less than a quarter
//! of one. Hence each frame has a write of its own ([`Writing::FrameByFrame`]), and a long one
//! two, each of which is one buffer ([`PART_LEN`]); `passt` can put two parts together.

use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use banger_host::readiness::{Interest, Ready};
use banger_host::socket::send_buffer_len;

use super::error::RelayError;
use super::frame::{ETHERNET_LEN, LENGTH_LEN, MAX_FRAME_LEN};

/// Most bytes read from a side in one go.
const READ_LEN: usize = 128 * 1024;
/// Bytes waiting to be written to a side from which on nothing more is read for it.
const HIGH_WATER: usize = 512 * 1024;
/// The most that is written at once where frames are written one by one. Linux puts at least
/// 32 KiB and most of a page into one buffer of a Unix stream socket (`unix_stream_sendmsg`), and
/// takes it wholly or not at all; two such parts hold every frame.
const PART_LEN: usize = 34 * 1024;
/// The send buffer below which Linux makes smaller buffers: it cuts at the half less 64 bytes.
const MIN_SEND_BUFFER: usize = 2 * (PART_LEN + 64);

const _: () = assert!(2 * PART_LEN >= LENGTH_LEN + MAX_FRAME_LEN);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Some,
    HungUp,
}

/// How frames are handed to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// As many at once as there are: for a reader that keeps a part of a frame.
    Together,
    /// Each by itself: for `passt`, see above.
    FrameByFrame,
}

/// One of the two stream sockets, with what was read from it and not yet used, and what is to be
/// written to it.
#[derive(Debug)]
pub(crate) struct Side {
    name: &'static str,
    pub(crate) stream: UnixStream,
    writing: Writing,
    pub(crate) input: Vec<u8>,
    /// Where the first frame in `input` begins that was not yet taken.
    taken: usize,
    /// Whole frames; only the first may lack a part that is written already.
    pub(crate) output: Vec<u8>,
    /// How much of the first frame in `output` is still to be written, if a part is.
    rest: Option<usize>,
    /// Since when there is something to take, and the other end takes nothing.
    pub(crate) waiting: Option<Instant>,
}

impl Side {
    pub(crate) fn new(
        name: &'static str,
        fd: OwnedFd,
        writing: Writing,
    ) -> Result<Self, RelayError> {
        if writing == Writing::FrameByFrame {
            let len = send_buffer_len(&fd).map_err(RelayError::Sockets)?;
            if len < MIN_SEND_BUFFER {
                return Err(RelayError::SmallBuffer { len, needed: MIN_SEND_BUFFER });
            }
        }
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(true).map_err(|source| RelayError::Side { side: name, source })?;
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { name, stream, writing, input, taken: 0, output, rest: None, waiting: None })
    }

    pub(crate) fn has_room(&self) -> bool {
        self.output.len() < HIGH_WATER
    }

    /// What to wait for here; frames read here go to `other`.
    pub(crate) fn interest(&self, other: &Self) -> Interest {
        match (other.has_room(), self.output.is_empty()) {
            (true, true) => Interest::Reading,
            (true, false) => Interest::Both,
            (false, true) => Interest::End,
            (false, false) => Interest::Writing,
        }
    }

    /// Reads what is there, behind the part of a frame that came before.
    pub(crate) fn fill(&mut self) -> Result<Filled, RelayError> {
        self.input.drain(..self.taken);
        self.taken = 0;
        let old = self.input.len();
        self.input.resize(old + READ_LEN, 0);
        let result = self.stream.read(&mut self.input[old..]);
        self.input.truncate(old + result.as_ref().copied().unwrap_or(0));
        match result {
            Ok(0) => Ok(Filled::HungUp),
            Ok(_) => Ok(Filled::Some),
            Err(error) => self.judge_error(error).map(|()| Filled::Some),
        }
    }

    /// The next whole frame in the input, length included.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Range<usize>>, RelayError> {
        let rest = &self.input[self.taken..];
        let Some(whole) = whole_len(rest) else { return Ok(None) };
        let len = whole - LENGTH_LEN;
        if !(ETHERNET_LEN..=MAX_FRAME_LEN).contains(&len) {
            return Err(RelayError::BadFrame { side: self.name, len });
        }
        if rest.len() < whole {
            return Ok(None);
        }
        let begin = self.taken;
        self.taken += whole;
        Ok(Some(begin..self.taken))
    }

    pub(crate) fn flush_if(&mut self, ready: Ready) -> Result<(), RelayError> {
        if ready.writing { self.flush() } else { Ok(()) }
    }

    /// Writes as much of the output as the other end takes now.
    pub(crate) fn flush(&mut self) -> Result<(), RelayError> {
        let mut written = 0;
        while written < self.output.len() {
            let part = match self.writing {
                Writing::Together => self.output.len() - written,
                Writing::FrameByFrame => self.next_part(&self.output[written..]),
            };
            match self.stream.write(&self.output[written..written + part]) {
                Ok(n) if n < part && self.writing == Writing::FrameByFrame => {
                    return Err(RelayError::Torn);
                }
                Ok(n) => {
                    self.note_part(written, n);
                    written += n;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.judge_error(error)?;
                    break;
                }
            }
        }
        self.output.drain(..written);
        let since = self.waiting.filter(|_| written == 0);
        let waits = !self.output.is_empty();
        self.waiting = waits.then(|| since.unwrap_or_else(Instant::now));
        Ok(())
    }

    /// How much of `output` the next write takes: a frame, one half of it, or the other.
    fn next_part(&self, output: &[u8]) -> usize {
        self.rest.or_else(|| whole_len(output)).unwrap_or(0).min(output.len()).min(PART_LEN)
    }

    /// Remembers how much of the frame is missing of which `n` bytes were written from `at` on.
    fn note_part(&mut self, at: usize, n: usize) {
        if self.writing == Writing::FrameByFrame {
            let left = self.rest.or_else(|| whole_len(&self.output[at..])).unwrap_or(n);
            self.rest = left.checked_sub(n).filter(|left| *left > 0);
        }
    }

    fn judge_error(&self, source: io::Error) -> Result<(), RelayError> {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
            _ => Err(RelayError::Side { side: self.name, source }),
        }
    }
}

/// How long the frame is that begins here, its length included; its end need not be here.
fn whole_len(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<LENGTH_LEN>()?;
    let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    Some(len.saturating_add(LENGTH_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Vec<u8> {
        let mut frame = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        frame.resize(LENGTH_LEN + len, 7);
        frame
    }

    /// Whatever the reader's pace, a cut is at a frame's beginning or at its one seam.
    #[test]
    fn every_frame_arrives_as_one_part_or_two() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut side = Side::new("passt", writer.into(), Writing::FrameByFrame).unwrap();
        let lens = [ETHERNET_LEN, 60, 1514, PART_LEN - LENGTH_LEN, PART_LEN, MAX_FRAME_LEN];
        let mut cuts = std::collections::BTreeSet::from([0]);
        let mut end = 0;
        for len in lens.into_iter().cycle().take(120) {
            side.output.extend_from_slice(&frame(len));
            let whole = LENGTH_LEN + len;
            if whole > PART_LEN {
                cuts.insert(end + PART_LEN);
            }
            end += whole;
            cuts.insert(end);
        }
        let (mut at, mut buffer) = (0, vec![0; 8 << 20]);
        while at < end {
            side.flush().unwrap();
            while let Ok(n) = reader.read(&mut buffer) {
                at += n;
                assert!(cuts.contains(&at), "a read ended within a part, at {at}");
                // Part by part, too, as a reader does that comes in between.
                side.flush().unwrap();
            }
        }
        assert_eq!((at, side.rest), (end, None));
    }
}
