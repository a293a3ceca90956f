//! What is remembered of a sandbox and of an operation.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

use crate::id::SandboxId;
use crate::label::Labels;
use crate::lifecycle::State;
use crate::lifetime::Lifetime;
use crate::name::SandboxName;
use crate::policy::{Action, Goal};
use crate::spec::SandboxSpec;
use crate::time::Timestamp;

/// Everything that is remembered of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id, for ever.
    pub id: SandboxId,
    /// Its name, unique among those that are there.
    pub name: SandboxName,
    /// What it is made of.
    pub spec: SandboxSpec,
    /// What its user wrote on it.
    pub labels: Labels,
    /// How long it is to live.
    pub lifetime: Lifetime,
    /// When it was created.
    pub created: Timestamp,
    /// How it is.
    pub state: State,
    /// How often it has begun to start.
    pub boots: u64,
    /// Restarts by its policy in a row.
    pub restarts: u32,
    /// When its policy starts it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Timestamp>,
}

/// The id of an operation: sixteen lowercase hex digits, chosen at random.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId(String);

/// Why a text is no id of an operation.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not an operation's id: 16 lowercase hex digits are one")]
pub struct ParseOperationError;

impl OperationId {
    /// The id that these random bytes make.
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OperationId {
    type Err = ParseOperationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 16 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseOperationError)
        }
    }
}

impl TryFrom<String> for OperationId {
    type Error = ParseOperationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an operation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum OperationStatus {
    /// Under way.
    Running,
    /// Its goal is reached.
    Succeeded {
        /// Since then.
        at: Timestamp,
    },
    /// Its goal cannot be reached.
    Failed {
        /// Since then.
        at: Timestamp,
        /// For this reason.
        error: String,
    },
    /// Somebody called it off.
    Cancelled {
        /// Since then.
        at: Timestamp,
    },
}

impl OperationStatus {
    /// Whether nothing more will come of it.
    pub fn is_final(&self) -> bool {
        *self != Self::Running
    }
}

/// Everything that is remembered of an operation: something asked of a sandbox that takes its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Its id.
    pub id: OperationId,
    /// The sandbox it is about; it may be gone by now.
    pub sandbox: SandboxId,
    /// What was asked.
    pub action: Action,
    /// What it is to lead to.
    pub goal: Goal,
    /// When it was asked.
    pub started: Timestamp,
    /// How it is.
    pub status: OperationStatus,
}
