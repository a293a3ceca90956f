//! Disks that outlive sandboxes.

use banger_model::{DiskSize, VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A disk with a name, which is mounted in sandboxes and outlives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// What it is called.
    #[schema(value_type = String, example = "data")]
    pub name: VolumeName,
    /// What fits in, in bytes.
    pub size: u64,
    /// The space that it takes on the host's disk, in bytes.
    pub used: u64,
    /// The sandbox whose machine has it, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use_by: Option<String>,
    /// Sandboxes that are made with it, by name.
    pub used_by: Vec<String>,
}

/// A volume that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateVolume {
    /// What it is to be called.
    #[schema(value_type = String, example = "data")]
    pub name: VolumeName,
    /// What is to fit in, in bytes; 8 GiB when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub size: Option<DiskSize>,
}

/// How large a volume is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResizeVolume {
    /// What is to fit in, in bytes: not less than it has.
    #[schema(value_type = u64)]
    pub size: DiskSize,
}
