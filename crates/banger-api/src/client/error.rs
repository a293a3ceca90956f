//! What goes wrong between a client and the daemon.

use std::error::Error as StdError;
use std::time::Duration;

use thiserror::Error;

use super::connect::ConnectError;
use crate::types::{Problem, ProblemCode};

/// Any cause.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Why a request has no good answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no connection to the daemon.
    #[error("the daemon cannot be reached")]
    Connect(#[from] ConnectError),
    /// The daemon says no, in its own words.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// What came is no answer of a daemon.
    #[error("the daemon's answer to {request} makes no sense: {what}")]
    Protocol {
        /// The request, as method and path.
        request: String,
        /// What is wrong.
        what: String,
    },
    /// The request cannot even be asked.
    #[error("{request} cannot be asked: {what}")]
    Unaskable {
        /// The request, as method and path.
        request: String,
        /// What is wrong with it.
        what: String,
    },
    /// The connection ended before the answer did.
    #[error(
        "the connection to the daemon broke during {request}; look whether it was done before you repeat it"
    )]
    Interrupted {
        /// The request, as method and path.
        request: String,
        /// What happened to the connection.
        #[source]
        source: Option<Cause>,
    },
    /// No answer in time.
    #[error("the daemon did not answer {request} within {} s; see its log", .after.as_secs())]
    TimedOut {
        /// The request, as method and path.
        request: String,
        /// How long was waited.
        after: Duration,
    },
    /// The session has ended: nothing more comes.
    #[error("the session with the process has ended")]
    Closed,
}

impl ClientError {
    /// The daemon's code, where it was the daemon that said no.
    pub fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether a daemon that ends and is started again explains it.
    pub(crate) fn is_restart(&self) -> bool {
        match self {
            Self::Connect(error) => error.may_pass(),
            Self::Interrupted { .. } => true,
            Self::Problem(problem) => problem.code == ProblemCode::ShuttingDown,
            _ => false,
        }
    }

    /// Whether it may be over soon for a process that is known to be there: a daemon that has
    /// just started has yet to find its sandboxes' agents.
    pub(crate) fn may_pass_for_process(&self) -> bool {
        use ProblemCode::{Busy, TooMany, TooSlow, Unreachable};
        let busy = self.code().is_some_and(|c| matches!(c, Busy | TooMany | TooSlow | Unreachable));
        busy || self.is_restart() || matches!(self, Self::TimedOut { .. })
    }
}
