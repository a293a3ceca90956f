//! What a host learns from its link.

use banger_model::ProcessEnd;
use thiserror::Error;

use crate::hello::Versions;
use crate::limits::MAX_STALE;
use crate::message::{ProcessId, Refusal, Reply, Stream};
use crate::stream::Violation;

/// Why a connection is of no use.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// Host and agent have no protocol version in common.
    #[error(
        "the agent in the sandbox speaks protocol versions {} to {}, this banger {} to {}",
        agent.min, agent.max, host.min, host.max
    )]
    Version {
        /// What the agent speaks.
        agent: Versions,
        /// What this build speaks.
        host: Versions,
    },
    /// Much came, but no answer to the hello.
    #[error("no agent answered on the sandbox's link, only {MAX_STALE} bytes of something else")]
    NoAnswer,
    /// The guest broke the protocol.
    #[error("the agent in the sandbox {0}")]
    Violation(&'static str),
}

impl From<Violation> for LinkError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation.0)
    }
}

/// So much waits for replies already that no request can be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many requests to the sandbox wait for their replies")]
pub struct Busy;

/// What a host learns from its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The agent answered on this connection; it speaks this version.
    Up {
        /// The protocol version of this connection.
        version: u16,
    },
    /// The reply to a request.
    Reply {
        /// Which request.
        request: u64,
        /// The agent's reply.
        reply: Reply,
    },
    /// The streams of a process flow from now on. Comes once for each [`crate::HostLink::start`] and
    /// [`crate::HostLink::attach`].
    Attached {
        /// Which process.
        process: ProcessId,
        /// Bytes of its stdin that the guest has already: input goes on behind them.
        stdin: u64,
    },
    /// The process or a part of its output does not exist any more; it is closed.
    Lost {
        /// Which process.
        process: ProcessId,
        /// What the agent says.
        refusal: Refusal,
    },
    /// Output of a process; to be acknowledged by [`crate::HostLink::consumed`].
    Output {
        /// Which process.
        process: ProcessId,
        /// Which of its streams.
        stream: Stream,
        /// The next bytes.
        bytes: Vec<u8>,
    },
    /// An output stream has ended.
    OutputEnded {
        /// Which process.
        process: ProcessId,
        /// Which of its streams.
        stream: Stream,
    },
    /// There is room for input again, or the guest has more of it for certain
    /// ([`crate::HostLink::stdin_received`]).
    StdinRoom {
        /// Which process.
        process: ProcessId,
    },
    /// The process has ended, and all its output was sent.
    Exited {
        /// Which process.
        process: ProcessId,
        /// How it ended.
        end: ProcessEnd,
    },
}
