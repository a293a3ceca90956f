//! What is remembered of a sandbox and of an operation.

use serde::{Deserialize, Serialize};

use crate::id::{OperationId, SandboxId, SnapshotId};
use crate::label::Labels;
use crate::lifecycle::State;
use crate::lifetime::Lifetime;
use crate::name::{SandboxName, SnapshotTag};
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
    /// What it was made from, if that is a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FromSnapshot>,
}

impl SandboxRecord {
    /// The snapshot that it begins with, as long as it was never up.
    pub fn begins_with(&self) -> Option<&FromSnapshot> {
        self.from.as_ref().filter(|from| from.up.is_none())
    }
}

/// How a sandbox was made from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromSnapshot {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What of it.
    pub part: SnapshotPart,
    /// When it first was up. Until then each start begins with the snapshot; from then on the
    /// sandbox needs it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Timestamp>,
}

/// What of a snapshot a sandbox is made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPart {
    /// All of it: its processes go on.
    #[default]
    Machine,
    /// Its disk alone: it boots.
    Disk,
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
    /// The tag of the snapshot that is taken, if it is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<SnapshotTag>,
}
