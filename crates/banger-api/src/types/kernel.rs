//! Kernels that sandboxes boot.

use banger_model::KernelName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kernel with its modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kernel {
    /// What it is called here.
    #[schema(value_type = String, example = "debian-cloud")]
    pub name: KernelName,
    /// The release that `uname -r` shows.
    pub release: String,
    /// Where it comes from, for people to read.
    pub source: String,
    /// The space that it takes on the host's disk, in bytes.
    pub size: u64,
    /// Who needs it: sandboxes by name, and images that want it.
    pub used_by: Vec<String>,
}

/// A kernel that is to be made of files on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportKernel {
    /// What it is to be called.
    #[schema(value_type = String)]
    pub name: KernelName,
    /// The kernel's file: ELF or bzImage. An absolute path.
    pub vmlinux: String,
    /// The directory of its modules. An absolute path; none for a kernel that has everything built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
}
