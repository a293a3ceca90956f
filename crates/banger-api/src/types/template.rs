//! What sandboxes are made from without booting.

use banger_model::{
    CpuCount, DiskSize, KernelName, MemorySize, TemplateId, Timestamp, WantedImage,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A machine that has booted once and was saved. Every sandbox of the same shape is made from it.
/// It is made when it is missing, so to remove it costs the next sandbox time and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// Its id: the beginning of a digest of everything that shaped it.
    #[schema(value_type = String, example = "0123456789abcdef")]
    pub id: TemplateId,
    /// The image that it has booted.
    #[schema(value_type = String, example = "debian-bookworm")]
    pub image: WantedImage,
    /// The kernel that it has booted.
    #[schema(value_type = String, example = "debian-cloud")]
    pub kernel: KernelName,
    /// Virtual CPUs.
    #[schema(value_type = u16)]
    pub cpus: CpuCount,
    /// Bytes of memory.
    #[schema(value_type = u64)]
    pub memory: MemorySize,
    /// Bytes of the writable disk, as it seems.
    #[schema(value_type = u64)]
    pub disk: DiskSize,
    /// The space that it takes on the host's disk, in bytes.
    pub size: u64,
    /// When it was made, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub made: Timestamp,
    /// When a sandbox was last made from it; nothing when none was.
    #[schema(value_type = Option<u64>)]
    pub last_used: Option<Timestamp>,
    /// How many sandboxes were made from it.
    pub hits: u64,
    /// Whether a sandbox runs that was made from it, and shares its memory.
    pub in_use: bool,
    /// Machines that were made from it ahead and wait to become sandboxes.
    #[serde(default)]
    pub spares: usize,
}

/// How templates that are not in use are to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PruneTemplatesRequest {
    /// Tell which they are and remove none.
    pub dry_run: bool,
}

/// Which templates went, or would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrunedTemplates {
    /// Which.
    pub templates: Vec<Template>,
    /// Bytes of disk they took, or take.
    pub space: u64,
}
