//! One direction of one stream: what was sent and not acknowledged, what came and was not taken.

use std::collections::VecDeque;

use crate::frame::MAX_DATA;
use crate::limits::{ACK_EVERY, MAX_OFFSET, WINDOW};

/// What a peer may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

/// Bytes in order that may lie around the end of a ring, so in two pieces.
pub(crate) type Pieces<'a> = (&'a [u8], &'a [u8]);

/// The sending end. Keeps every byte until it is acknowledged.
///
/// ```text
///   acked ... base            sent             end
///               |--- on its way ---|--- to be sent ---|      end - acked <= WINDOW
/// ```
///
/// A sender that takes up the work of another does not have the bytes between `acked` and
/// `base`, but the receiver has not taken them: they count.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    acked: u64,
    base: u64,
    sent: u64,
    kept: VecDeque<u8>,
    ended: bool,
    end_sent: bool,
}

impl SendBuffer {
    /// Goes on with a stream of which the receiver has `received` bytes and took `taken`.
    /// None when that cannot be.
    pub(crate) fn at(received: u64, taken: u64) -> Option<Self> {
        let waiting = received.checked_sub(taken)?;
        (waiting <= WINDOW as u64 && received <= MAX_OFFSET).then(|| Self {
            acked: taken,
            base: received,
            sent: received,
            ..Self::default()
        })
    }

    /// Bytes that [`SendBuffer::push`] takes now.
    pub(crate) fn room(&self) -> usize {
        let open = usize::try_from(self.end_offset() - self.acked).unwrap_or(usize::MAX);
        if self.ended { 0 } else { WINDOW.saturating_sub(open) }
    }

    /// Takes bytes to send, as many as there is room for; returns how many.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.kept.extend(&bytes[..taken]);
        taken
    }

    /// No more bytes will come.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// The oldest byte kept.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    fn end_offset(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    /// The receiver has everything before `offset`.
    pub(crate) fn ack(&mut self, offset: u64) -> Result<(), Violation> {
        if offset > self.end_offset() {
            return Err(Violation("acknowledged bytes that were never sent"));
        }
        // An acknowledgement from before a reconnect may come twice.
        if let Some(done) = offset.checked_sub(self.base) {
            let done = usize::try_from(done).unwrap_or(usize::MAX).min(self.kept.len());
            self.kept.drain(..done);
            self.base = offset;
            self.sent = self.sent.max(offset);
        }
        self.acked = self.acked.max(offset);
        Ok(())
    }

    /// Goes on from `offset` on a new connection; `false` when that byte is not kept. What the
    /// receiver has but did not acknowledge stays kept: it may still fall with its receiver.
    pub(crate) fn resume(&mut self, offset: u64) -> bool {
        if !(self.base..=self.end_offset()).contains(&offset) {
            return false;
        }
        self.sent = offset;
        self.end_sent = false;
        true
    }

    /// The next bytes to send, at most one frame of them, with their offset.
    pub(crate) fn next(&mut self) -> Option<(u64, Pieces<'_>)> {
        let offset = self.sent;
        let start = usize::try_from(self.sent - self.base).ok()?;
        let len = (self.kept.len() - start).min(MAX_DATA);
        if len == 0 {
            return None;
        }
        self.sent += len as u64;
        let (front, back) = self.kept.as_slices();
        let bounds = |from: usize, to: usize, of: &[u8]| from.min(of.len())..to.min(of.len());
        let (end, skip) = (start + len, front.len());
        let first = &front[bounds(start, end, front)];
        let second = &back[bounds(start.saturating_sub(skip), end.saturating_sub(skip), back)];
        Some((offset, (first, second)))
    }

    /// Where the stream ends, once, when everything before was sent.
    pub(crate) fn next_end(&mut self) -> Option<u64> {
        if !self.ended || self.end_sent || self.sent != self.end_offset() {
            return None;
        }
        self.end_sent = true;
        Some(self.sent)
    }

    /// Whether the end was sent on this connection.
    pub(crate) fn end_was_sent(&self) -> bool {
        self.end_sent
    }
}

/// The receiving end's account of a stream; the bytes themselves are its owner's.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    received: u64,
    taken: u64,
    acked: u64,
    end: Option<u64>,
}

impl Receipt {
    /// An account that begins at `offset`.
    pub(crate) fn at(offset: u64) -> Self {
        Self { received: offset, taken: offset, acked: offset, end: None }
    }

    /// Everything before this offset has arrived.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The offset to acknowledge on a new connection, where the last one may have been lost.
    pub(crate) fn ack_again(&mut self) -> u64 {
        self.acked = self.taken;
        self.taken
    }

    /// Whether the stream's end has arrived.
    pub(crate) fn ended(&self) -> bool {
        self.end == Some(self.received)
    }

    /// Bytes have arrived: the part of them that is new.
    pub(crate) fn accept<'a>(
        &mut self,
        offset: u64,
        bytes: &'a [u8],
    ) -> Result<&'a [u8], Violation> {
        if offset > self.received {
            return Err(Violation("left out a part of a stream"));
        }
        let known = usize::try_from(self.received - offset).unwrap_or(usize::MAX);
        let Some(new) = bytes.get(known..).filter(|new| !new.is_empty()) else { return Ok(&[]) };
        let received = self.received.checked_add(new.len() as u64);
        let Some(received) = received.filter(|r| r - self.taken <= WINDOW as u64) else {
            return Err(Violation("sent more of a stream than the window allows"));
        };
        if self.end.is_some_and(|end| received > end) {
            return Err(Violation("sent more of a stream after its end"));
        }
        self.received = received;
        Ok(new)
    }

    /// The stream ends at `offset`. Returns whether that is news.
    pub(crate) fn accept_end(&mut self, offset: u64) -> Result<bool, Violation> {
        if offset != self.received || self.end.is_some_and(|end| end != offset) {
            return Err(Violation("ended a stream at another place than its last byte"));
        }
        Ok(self.end.replace(offset).is_none())
    }

    /// The owner has taken `n` more bytes.
    pub(crate) fn take(&mut self, n: usize) {
        self.taken = (self.taken + n as u64).min(self.received);
    }

    /// The offset to acknowledge, if it is time to.
    pub(crate) fn next_ack(&mut self) -> Option<u64> {
        if self.taken - self.acked < ACK_EVERY as u64 {
            return None;
        }
        self.acked = self.taken;
        Some(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(buffer: &mut SendBuffer) -> (u64, Vec<u8>) {
        let (offset, (a, b)) = buffer.next().unwrap();
        (offset, [a, b].concat())
    }

    #[test]
    fn bytes_are_kept_until_acknowledged_and_sent_again_from_any_kept_offset() {
        let mut buffer = SendBuffer::default();
        assert_eq!(buffer.push(b"hello world"), 11);
        assert_eq!(sent(&mut buffer), (0, b"hello world".to_vec()));
        assert!(buffer.next().is_none());
        buffer.ack(6).unwrap();
        assert!(buffer.resume(8));
        assert_eq!(sent(&mut buffer), (8, b"rld".to_vec()));
        assert!(buffer.resume(6), "a resume acknowledges nothing");
        assert!(!buffer.resume(5));
        assert!(!buffer.resume(12));
        assert!(buffer.ack(12).is_err());
    }

    #[test]
    fn the_window_bounds_what_is_kept() {
        let mut buffer = SendBuffer::default();
        assert_eq!(buffer.push(&vec![7; WINDOW + 1]), WINDOW);
        assert_eq!(buffer.room(), 0);
        buffer.ack(10).unwrap();
        assert_eq!(buffer.push(&[8; 20]), 10);
        // Pieces that lie around the ring's end come out in order.
        assert!(buffer.resume(WINDOW as u64 - 5));
        assert_eq!(sent(&mut buffer), (WINDOW as u64 - 5, [[7; 5].to_vec(), vec![8; 10]].concat()));
    }

    #[test]
    fn a_successor_counts_what_its_receiver_has_not_taken() {
        let mut buffer = SendBuffer::at(1000, 400).unwrap();
        assert_eq!(buffer.room(), WINDOW - 600);
        buffer.push(b"x");
        assert_eq!(sent(&mut buffer), (1000, b"x".to_vec()));
        buffer.ack(1000).unwrap();
        assert_eq!(buffer.room(), WINDOW - 1);
        assert!(SendBuffer::at(1, 2).is_none());
        assert!(SendBuffer::at(WINDOW as u64 + 1, 0).is_none());
        assert!(SendBuffer::at(u64::MAX, u64::MAX).is_none());
    }

    #[test]
    fn the_end_comes_once_per_connection_and_after_the_last_byte() {
        let mut buffer = SendBuffer::default();
        buffer.push(b"x");
        buffer.end();
        assert_eq!(buffer.next_end(), None);
        buffer.next();
        assert_eq!(buffer.next_end(), Some(1));
        assert_eq!(buffer.next_end(), None);
        assert!(buffer.resume(1));
        assert_eq!(buffer.next_end(), Some(1));
    }

    #[test]
    fn a_receipt_takes_each_byte_once() {
        let mut receipt = Receipt::default();
        assert_eq!(receipt.accept(0, b"abc"), Ok(&b"abc"[..]));
        assert_eq!(receipt.accept(0, b"abc"), Ok(&b""[..]));
        assert_eq!(receipt.accept(1, b"bcde"), Ok(&b"de"[..]));
        assert!(receipt.accept(6, b"x").is_err());
        assert_eq!(receipt.accept_end(5), Ok(true));
        assert_eq!(receipt.accept_end(5), Ok(false));
        assert!(receipt.accept(5, b"x").is_err());
        assert!(receipt.accept_end(4).is_err());
    }

    #[test]
    fn a_receipt_refuses_more_than_the_window() {
        let mut receipt = Receipt::default();
        receipt.accept(0, &vec![0; WINDOW]).unwrap();
        assert!(receipt.accept(WINDOW as u64, b"x").is_err());
        receipt.take(1);
        assert!(receipt.accept(WINDOW as u64, b"x").is_ok());
        assert_eq!(receipt.next_ack(), None);
        receipt.take(ACK_EVERY);
        assert_eq!(receipt.next_ack(), Some(ACK_EVERY as u64 + 1));
        assert!(receipt.accept(u64::MAX, b"x").is_err());
    }
}
