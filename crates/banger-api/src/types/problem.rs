//! What goes wrong, as a problem document (RFC 9457).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// What programs go by.
    pub code: ProblemCode,
    /// The HTTP status.
    pub status: u16,
    /// One sentence for people: what failed, on what.
    pub detail: String,
    /// What may be done about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// What programs go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request makes no sense.
    Invalid,
    /// The request is larger than any may be.
    TooLarge,
    /// The request did not come in time.
    TooSlow,
    /// Not the owner's process.
    Forbidden,
    /// No such sandbox, operation, process, template or snapshot.
    NotFound,
    /// The id prefix means more than one.
    Ambiguous,
    /// Another sandbox or snapshot has the name.
    NameTaken,
    /// Not in the state that the sandbox is in.
    Denied,
    /// Something that runs needs it.
    InUse,
    /// There are as many as there may be.
    TooMany,
    /// The command does not exist in the sandbox.
    CommandNotFound,
    /// The command exists in the sandbox and cannot be executed.
    CommandNotExecutable,
    /// The guest refuses.
    Refused,
    /// The sandbox does not answer.
    Unreachable,
    /// Too much waits already.
    Busy,
    /// The daemon is about to end.
    ShuttingDown,
    /// A fault of the host or of banger.
    Failed,
}

impl ProblemCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::TooSlow => 408,
            Self::Ambiguous | Self::NameTaken | Self::Denied | Self::InUse => 409,
            Self::TooLarge => 413,
            Self::CommandNotFound | Self::CommandNotExecutable | Self::Refused => 422,
            Self::TooMany | Self::Busy => 429,
            Self::Failed => 500,
            Self::Unreachable => 502,
            Self::ShuttingDown => 503,
        }
    }
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, status: code.status(), detail: detail.into(), hints: Vec::new() }
    }

    /// Adds what may be done about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}
