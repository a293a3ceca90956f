//! How a connection begins, and how both ends find its beginning among older bytes.
//!
//! A new connection may reach the agent in the middle of a frame whose end was lost. So a host
//! begins with a **run of zeros** longer than any frame: it completes whatever the agent was
//! reading, and because a frame ends with its connection's tag, which has no zero byte, the
//! agent sees that this one is broken. It goes back and searches for a run of that length, which
//! no frame can contain, followed by the hello. The agent's answer repeats the hello's nonce,
//! which no older byte can contain; the host discards everything before it.

use crate::frame::{MAX_FRAME, Tag};

/// Zeros before a hello: more than any frame holds.
const SYNC_RUN: usize = MAX_FRAME + 64;

const HELLO_MAGIC: [u8; 8] = *b"BangerH>";
const HELLO_END: [u8; 4] = *b"<H\r\n";
const ANSWER_MAGIC: [u8; 8] = *b"BangerA>";
const ANSWER_END: [u8; 4] = *b"<A\r\n";

const HELLO_LEN: usize = 8 + 2 + 2 + 8 + 16 + 4;
const ANSWER_LEN: usize = 8 + 2 + 2 + 2 + 16 + 4;

/// Random bytes that tell one connection from all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// The mark of this connection's frames.
    pub(crate) fn tag(self) -> Tag {
        Tag::from_random([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

/// A range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl Versions {
    /// The newest version that both ends speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// The first words of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) versions: Versions,
    /// The host's session: requests are counted within it, across connections.
    pub(crate) session: u64,
    pub(crate) nonce: Nonce,
}

/// The first words of an agent. No version means that the two have none in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: Option<u16>,
    pub(crate) versions: Versions,
    pub(crate) nonce: Nonce,
}

impl Hello {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + SYNC_RUN, 0);
        out.extend(HELLO_MAGIC);
        out.extend(self.versions.min.to_le_bytes());
        out.extend(self.versions.max.to_le_bytes());
        out.extend(self.session.to_le_bytes());
        out.extend(self.nonce.0);
        out.extend(HELLO_END);
    }

    fn parse(bytes: &[u8; HELLO_LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.take() != HELLO_MAGIC {
            return None;
        }
        let versions = fields.versions();
        let session = u64::from_le_bytes(fields.take());
        let nonce = Nonce(fields.take());
        (fields.take() == HELLO_END).then_some(Self { versions, session, nonce })
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ANSWER_LEN);
        out.extend(ANSWER_MAGIC);
        out.extend(self.version.unwrap_or(0).to_le_bytes());
        out.extend(self.versions.min.to_le_bytes());
        out.extend(self.versions.max.to_le_bytes());
        out.extend(self.nonce.0);
        out.extend(ANSWER_END);
        out
    }

    fn parse(bytes: &[u8; ANSWER_LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.take() != ANSWER_MAGIC {
            return None;
        }
        let version = Some(u16::from_le_bytes(fields.take())).filter(|version| *version != 0);
        let versions = fields.versions();
        let nonce = Nonce(fields.take());
        (fields.take() == ANSWER_END).then_some(Self { version, versions, nonce })
    }

    /// Searches `input` for the answer to `nonce`: how many bytes are done with, and the answer
    /// if it was among them. What might be the beginning of one is kept.
    pub(crate) fn search(input: &[u8], nonce: Nonce) -> (usize, Option<Self>) {
        let mut from = 0;
        while let Some(at) = input[from..].iter().position(|b| *b == ANSWER_MAGIC[0]) {
            let start = from + at;
            let Some(bytes) = input[start..].first_chunk() else {
                return (start, None);
            };
            if let Some(answer) = Self::parse(bytes).filter(|answer| answer.nonce == nonce) {
                return (start + ANSWER_LEN, Some(answer));
            }
            from = start + 1;
        }
        (input.len(), None)
    }
}

/// An agent's search for a hello.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    zeros: usize,
}

impl Search {
    /// Goes on searching: how many bytes of `input` are done with, and the hello if it was among
    /// them. What might be the beginning of one is kept.
    pub(crate) fn advance(&mut self, input: &[u8]) -> (usize, Option<Hello>) {
        let mut at = 0;
        while at < input.len() {
            if input[at] == 0 {
                self.zeros += 1;
                at += 1;
                continue;
            }
            if self.zeros >= SYNC_RUN {
                let Some(bytes) = input[at..].first_chunk() else {
                    return (at, None);
                };
                if let Some(hello) = Hello::parse(bytes) {
                    return (at + HELLO_LEN, Some(hello));
                }
            }
            self.zeros = 0;
            at += 1;
        }
        (at, None)
    }
}

/// Fields of fixed size, taken one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        // A short input reads as zeros, which no magic matches; callers pass arrays that fit.
        let Some((head, tail)) = self.0.split_first_chunk() else {
            self.0 = &[];
            return [0; N];
        };
        self.0 = tail;
        *head
    }

    fn versions(&mut self) -> Versions {
        Versions { min: u16::from_le_bytes(self.take()), max: u16::from_le_bytes(self.take()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(nonce: u8) -> Hello {
        Hello { versions: Versions { min: 1, max: 3 }, session: 7, nonce: Nonce([nonce; 16]) }
    }

    fn search_all(bytes: &[u8], chunk: usize) -> Vec<Hello> {
        let (mut search, mut input, mut found) = (Search::default(), Vec::new(), Vec::new());
        for part in bytes.chunks(chunk) {
            input.extend_from_slice(part);
            loop {
                let (done, hello) = search.advance(&input);
                input.drain(..done);
                match hello {
                    Some(hello) => {
                        found.push(hello);
                        search = Search::default();
                    }
                    None => break,
                }
            }
        }
        found
    }

    #[test]
    fn a_hello_is_found_behind_anything_and_in_any_pieces() {
        let mut bytes = b"BangerH> stale bytes\0\0".to_vec();
        bytes.extend(vec![0; SYNC_RUN - 1]);
        bytes.push(1);
        hello(9).encode(&mut bytes);
        for chunk in [1, 7, 4096, bytes.len()] {
            assert_eq!(search_all(&bytes, chunk), [hello(9)]);
        }
    }

    #[test]
    fn a_hello_cut_at_any_byte_does_not_hide_the_next() {
        let mut first = Vec::new();
        hello(1).encode(&mut first);
        for cut in SYNC_RUN - 2..first.len() {
            let mut bytes = first[..cut].to_vec();
            hello(2).encode(&mut bytes);
            assert_eq!(search_all(&bytes, 4096), [hello(2)], "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_is_found_by_its_nonce_alone() {
        let answer = |nonce| Answer {
            version: Some(2),
            versions: Versions { min: 1, max: 2 },
            nonce: Nonce([nonce; 16]),
        };
        let mut bytes = b"BBangerA>".to_vec();
        bytes.extend(answer(1).encode());
        bytes.extend(answer(2).encode());
        let (done, found) = Answer::search(&bytes, Nonce([2; 16]));
        assert_eq!((done, found), (bytes.len(), Some(answer(2))));
        for cut in 0..bytes.len() {
            let (done, found) = Answer::search(&bytes[..cut], Nonce([2; 16]));
            assert_eq!(found, None);
            assert!(done <= bytes.len() - ANSWER_LEN || cut < bytes.len() - ANSWER_LEN + 1);
        }
    }

    #[test]
    fn versions_meet_at_the_newest_common_one() {
        let v = |min, max| Versions { min, max };
        assert_eq!(v(1, 3).common(v(2, 5)), Some(3));
        assert_eq!(v(2, 5).common(v(1, 3)), Some(3));
        assert_eq!(v(1, 2).common(v(3, 4)), None);
    }
}
