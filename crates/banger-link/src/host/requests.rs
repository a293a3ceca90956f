//! The requests that wait for their replies.

use std::collections::BTreeMap;

use super::event::Busy;
use crate::control::encode;
use crate::limits::{MAX_PENDING_BYTES, MAX_PENDING_REQUESTS};
use crate::message::{ProcessId, Reply, Request};
use crate::stream::Violation;

/// A request without its reply.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    /// Encoded bytes, as far as they count.
    size: usize,
    /// The connection on which it was first sent, if it was.
    pub(super) sent_on: Option<u64>,
    answered: Answered,
}

/// Who takes the reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    ToOwner,
    ToLink,
}

/// All of them, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, Waiting>,
    bytes: usize,
    next: u64,
}

impl Requests {
    /// Takes in a request of the link's owner; returns its number.
    pub(super) fn add(&mut self, request: Request) -> Result<u64, Busy> {
        let size = encode(&request).len();
        let full =
            self.waiting.len() >= MAX_PENDING_REQUESTS || self.bytes + size > MAX_PENDING_BYTES;
        if full {
            return Err(Busy);
        }
        Ok(self.insert(Waiting { request, size, sent_on: None, answered: Answered::ToOwner }))
    }

    /// Takes in a request to attach, which the link makes by itself. There is one for each
    /// process at most, so it needs no other bound.
    pub(super) fn add_attach(
        &mut self,
        process: ProcessId,
        stdout: Option<u64>,
        stderr: Option<u64>,
    ) -> u64 {
        let request = Request::Attach { process, stdout, stderr };
        self.insert(Waiting { request, size: 0, sent_on: None, answered: Answered::ToLink })
    }

    fn insert(&mut self, waiting: Waiting) -> u64 {
        let id = self.next;
        self.next += 1;
        self.bytes += waiting.size;
        self.waiting.insert(id, waiting);
        id
    }

    /// Takes out the request of this number.
    pub(super) fn remove(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.bytes -= waiting.size;
        Some(waiting)
    }

    /// Takes out the request of this number, unless this cannot be its reply: then it stays, to be
    /// repeated on the next connection.
    pub(super) fn remove_if_answered_by(
        &mut self,
        id: u64,
        reply: &Reply,
    ) -> Result<Option<Waiting>, Violation> {
        match self.waiting.get(&id) {
            Some(waiting) if !waiting.request.is_answered_by(reply) => {
                Err(Violation("gave a reply that does not fit its request"))
            }
            _ => Ok(self.remove(id)),
        }
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Waiting> {
        self.waiting.get_mut(&id)
    }

    /// Replies to requests before this one have all arrived.
    pub(super) fn settled(&self) -> u64 {
        self.waiting.keys().next().copied().unwrap_or(self.next)
    }

    /// Whether a request to attach this process is on its way.
    pub(super) fn attaches(&self, process: ProcessId) -> bool {
        self.waiting.values().any(|waiting| {
            waiting.answered == Answered::ToLink
                && matches!(waiting.request, Request::Attach { process: of, .. } if of == process)
        })
    }

    /// What a new connection repeats. Requests to attach are not among them: they are made anew.
    pub(super) fn repeated(&mut self) -> Vec<u64> {
        self.waiting.retain(|_, waiting| waiting.answered == Answered::ToOwner);
        self.waiting.keys().copied().collect()
    }
}
