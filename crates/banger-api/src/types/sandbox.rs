//! Sandboxes as they are asked for and shown.

use std::fmt;

use banger_model::{
    DiskSize, FromSnapshot, KernelName, Labels, Lifetime, NetworkMode, OperationId, SandboxId,
    SandboxName, SandboxSpec, SnapshotName, SnapshotPart, TemplateId, Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GuestProcess, Operation, Text};

/// What this daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since when it serves, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub since: Timestamp,
}

/// A sandbox that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateSandbox {
    /// Its name; one is made up where none is given.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub name: Option<SandboxName>,
    /// What it is made of; none of what is made from a snapshot.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SandboxSpec>,
    /// The snapshot that it is made from, instead of `spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<CreateFrom>,
    /// Labels.
    #[schema(value_type = Object)]
    #[serde(default)]
    pub labels: Labels,
    /// How long it is to live.
    #[schema(value_type = Object)]
    #[serde(default)]
    pub lifetime: Lifetime,
    /// Whether it is started, too.
    #[serde(default = "yes")]
    pub start: bool,
}

/// A snapshot that a sandbox is to be made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateFrom {
    /// Its name, `NAME@TAG`.
    #[schema(value_type = String, example = "web@1")]
    pub snapshot: SnapshotName,
    /// `machine`: its processes go on; `disk`: it boots from its disk alone.
    #[schema(value_type = String)]
    #[serde(default)]
    pub part: SnapshotPart,
    /// How the new sandbox is connected; none means as the old one was.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub network: Option<NetworkMode>,
}

/// Copies that are wanted of a sandbox that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForkSandbox {
    /// How many.
    #[serde(default = "one")]
    pub count: u16,
    /// What their names begin with, a number behind it; none means their source's name.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub name: Option<SandboxName>,
}

fn one() -> u16 {
    1
}

/// A sandbox that was forked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forked {
    /// The operation that takes the snapshot which the copies are made from.
    pub operation: Operation,
    /// The copies, each with the operation that starts it.
    pub copies: Vec<Created>,
}

fn yes() -> bool {
    true
}

/// A sandbox that was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Created {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The operation that starts it; none when it is not started.
    #[schema(value_type = Option<String>)]
    pub operation: Option<OperationId>,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// Its id.
    #[schema(value_type = String, example = "0123456789ab")]
    pub id: SandboxId,
    /// Its name.
    #[schema(value_type = String, example = "web")]
    pub name: SandboxName,
    /// `created`, `starting`, `running`, `stopping`, `stopped`, `pausing`, `paused`, `failed` or
    /// `deleting`.
    pub state: String,
    /// Since when, in milliseconds since 1970, where that is known.
    #[schema(value_type = Option<u64>)]
    pub since: Option<Timestamp>,
    /// Why it is so, where there is more to say.
    pub reason: Option<String>,
    /// What it is made of.
    #[schema(value_type = Object)]
    pub spec: SandboxSpec,
    /// Labels.
    #[schema(value_type = Object)]
    pub labels: Labels,
    /// How long it is to live.
    #[schema(value_type = Object)]
    pub lifetime: Lifetime,
    /// When it was created, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub created: Timestamp,
    /// When it will be deleted for its age.
    #[schema(value_type = Option<u64>)]
    pub expires: Option<Timestamp>,
    /// How often it has begun to start.
    pub boots: u64,
    /// Restarts by its policy in a row.
    #[serde(default)]
    pub restarts: u32,
    /// When its policy starts it again.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub restart_at: Option<Timestamp>,
    /// The snapshot that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub from: Option<FromSnapshot>,
    /// What is not as it should be.
    pub conditions: Vec<Condition>,
    /// What its image's own check says, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What is costly to find out: only when one sandbox is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<SandboxDetail>,
}

/// What the image's own check says of a sandbox that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// How it is.
    pub status: HealthStatus,
    /// How often the check has failed in a row.
    pub failures: u32,
    /// When it was last checked, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub checked: Option<Timestamp>,
    /// What the check said last.
    pub output: String,
}

/// How a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nothing is known yet.
    Starting,
    /// It does what it should.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What programs go by.
    pub kind: ConditionKind,
    /// A sentence for people.
    pub message: String,
}

/// What is not as it should be.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ConditionKind {
    /// The host has no way out, so the sandbox has none.
    NetworkOffline,
    /// The sandbox's network has ended.
    NetworkFailed,
    /// The host's disk is full: the sandbox stands still until there is space.
    HostDiskFull,
    /// The guest does not answer.
    Unreachable,
    /// Its processors cannot go on.
    Broken,
}

/// What is costly to find out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxDetail {
    /// Its directory on the host.
    #[schema(value_type = String)]
    pub dir: Text,
    /// Its writable disk; none before its first start.
    pub disk: Option<DiskUsage>,
    /// The process of its virtual machine monitor.
    pub vmm_pid: Option<i32>,
    /// Its IPv4 address in its own network.
    pub address: Option<String>,
    /// What executes it: `kvm` or `tcg`.
    pub accelerator: Option<String>,
    /// The kernel that it boots, if that can be told: its own choice or the image's.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "debian-cloud")]
    pub kernel: Option<KernelName>,
    /// Bytes of its writable disk, whether it has one yet or not, if that can be told: its own choice or the
    /// image's.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub disk_size: Option<DiskSize>,
    /// The guest kernel's id of its boot.
    pub boot_id: Option<String>,
    /// The template that its machine was made from; none when it has booted.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub template: Option<TemplateId>,
    /// What was started in it from outside.
    pub processes: Vec<GuestProcess>,
}

/// Bytes of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskUsage {
    /// Its size as it seems.
    pub apparent: u64,
    /// The space it takes on the host.
    pub real: u64,
}

/// Which stopped sandboxes are to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PruneRequest {
    /// Only those with all of these labels, each as `KEY` or `KEY=VALUE`.
    pub labels: Vec<String>,
    /// Tell which they are and remove none.
    pub dry_run: bool,
}

/// What was pruned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// Who goes.
    pub sandboxes: Vec<Sandbox>,
    /// The operations that remove them.
    #[schema(value_type = Vec<String>)]
    pub operations: Vec<OperationId>,
    /// Bytes of disk they take.
    pub space: u64,
}

/// Where a line of a log comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// What the guest's kernel and the agent write to the console.
    #[default]
    Console,
    /// Only what the agent writes there.
    Agent,
    /// What the virtual machine monitor complains of.
    Vmm,
}

/// A piece of a log. The event's id is the cursor behind it: a client that comes back gives it as
/// `Last-Event-ID` and goes on from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogChunk {
    /// When it was noticed, in milliseconds since 1970; later than it was written by up to the
    /// time that the daemon was away.
    #[schema(value_type = Option<u64>)]
    pub at: Option<Timestamp>,
    /// Whole lines, as the guest wrote them.
    #[schema(value_type = String)]
    pub text: Text,
}
