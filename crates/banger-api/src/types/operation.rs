//! What takes long.

use banger_model::policy::Action;
use banger_model::{OperationId, OperationStatus, SandboxId, SnapshotTag, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was asked, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    /// Of a sandbox.
    Sandbox(Action),
    /// Of an image or a kernel.
    Image(ImageAction),
}

/// What is asked of an image or a kernel and takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageAction {
    /// To be here.
    Pull,
    /// To be made of a sandbox.
    Promote,
}

impl PartialEq<Action> for Asked {
    fn eq(&self, action: &Action) -> bool {
        matches!(self, Self::Sandbox(asked) if asked == action)
    }
}

/// Something that was asked and takes its time. It goes on whoever looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    #[schema(value_type = String, example = "0123456789abcdef")]
    pub id: OperationId,
    /// What was asked.
    #[schema(value_type = String, example = "start")]
    pub action: Asked,
    /// The sandbox it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sandbox: Option<SandboxId>,
    /// The name of the sandbox, the image or the kernel.
    pub name: String,
    /// When it was asked, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub started: Timestamp,
    /// `status` is `running`, `succeeded`, `failed` (with `error`) or `cancelled`; when it is not
    /// running any more, `at` tells since when.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub status: OperationStatus,
    /// What was done so far, one after the other; the last is under way.
    pub stages: Vec<Stage>,
    /// What is worth telling, oldest first.
    pub log: Vec<String>,
    /// The tag of the snapshot that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tag: Option<SnapshotTag>,
    /// How long the processes of the sandbox stood still for it, in milliseconds; known to the
    /// daemon that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stood_still_ms: Option<u64>,
}

/// One part of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// What is done, such as `booting`.
    pub what: String,
    /// Since when, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub since: Timestamp,
    /// How far it is, where that is known.
    pub progress: Option<StageProgress>,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StageProgress {
    /// So much is done, mostly in bytes.
    pub done: u64,
    /// Of so much, where that is known.
    pub whole: Option<u64>,
}
