//! What sandboxes were at one moment.

use banger_model::{
    Accelerator, CpuCount, DiskSize, KernelName, MemorySize, SnapshotId, SnapshotName, Timestamp,
    WantedImage,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Memory, devices and disk of a sandbox at one moment, from which others can be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its id: that of the operation that has taken it.
    #[schema(value_type = String, example = "0123456789abcdef")]
    pub id: SnapshotId,
    /// Its name, `NAME@TAG`: what the sandbox was called then, and which of its snapshots it is.
    #[schema(value_type = String, example = "web@1")]
    pub name: SnapshotName,
    /// The sandbox's image.
    #[schema(value_type = String, example = "debian-bookworm")]
    pub image: WantedImage,
    /// The sandbox's kernel, where it is not the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "debian-cloud")]
    pub kernel: Option<KernelName>,
    /// Virtual CPUs.
    #[schema(value_type = u16)]
    pub cpus: CpuCount,
    /// Bytes of memory.
    #[schema(value_type = u64)]
    pub memory: MemorySize,
    /// Bytes of the writable disk, as it seems.
    #[schema(value_type = u64)]
    pub disk: DiskSize,
    /// What executed it: `kvm` or `tcg`.
    #[schema(value_type = String)]
    pub accelerator: Accelerator,
    /// The space that it takes on the host's disk, in bytes. What it shares with others counts.
    pub size: u64,
    /// Bytes of its files as they seem.
    pub apparent: u64,
    /// When it was taken, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub created: Timestamp,
    /// Why nothing can be made from it, if it is not as it was taken. Where its description is lost, only
    /// `id`, `name` and `size` tell of it, and the name stands for one that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}
