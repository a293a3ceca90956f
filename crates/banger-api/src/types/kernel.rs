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
    /// The kernel's file: ELF or bzImage. An absolute path, or `kernel:NAME` for that of a kernel which is
    /// here or in a catalog.
    #[schema(example = "kernel:debian-cloud")]
    pub vmlinux: String,
    /// The directory of its modules. An absolute path; none for a kernel that has everything built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
}

impl ImportKernel {
    /// Stands before the name of a kernel whose file is meant.
    pub const KERNEL: &str = "kernel:";

    /// How the kernel that comes out says where it comes from.
    pub fn source(&self) -> String {
        match (self.vmlinux.strip_prefix(Self::KERNEL), &self.modules) {
            (Some(kernel), Some(modules)) => format!("{kernel} with the modules of {modules}"),
            (Some(kernel), None) => format!("{kernel} without modules"),
            (None, _) => self.vmlinux.clone(),
        }
    }
}
