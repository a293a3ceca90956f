//! What `vm run` and `vm create` have in common: what the sandbox is made of.

use banger_model::{
    BootMode, CpuCount, DiskSize, ImageName, KernelName, MemorySize, NetworkMode, SandboxSpec,
};
use clap_complete::ArgValueCandidates;

use crate::commands::completion;

/// What a sandbox is made of.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// The image that is the sandbox's root file system
    #[arg(long, default_value = "debian-bookworm", add = ArgValueCandidates::new(completion::images))]
    image: ImageName,
    /// The kernel that the sandbox boots
    #[arg(long, default_value = "debian-cloud", add = ArgValueCandidates::new(completion::kernels))]
    kernel: KernelName,
    /// Virtual CPUs [default: 2 with KVM, 1 without]
    #[arg(long)]
    cpus: Option<CpuCount>,
    /// Memory, such as 512M or 2G
    #[arg(long, default_value_t = MemorySize::DEFAULT)]
    memory: MemorySize,
    /// Size of the writable disk; it takes only the space that is written
    #[arg(long, default_value_t = DiskSize::DEFAULT)]
    disk: DiskSize,
    /// How the sandbox is connected: user (a network of its own with a way out) or none
    #[arg(long, default_value_t)]
    network: NetworkMode,
    /// Boot the kernel instead of restoring a template
    #[arg(long)]
    cold: bool,
}

impl From<SpecArgs> for SandboxSpec {
    fn from(args: SpecArgs) -> Self {
        let SpecArgs { image, kernel, cpus, memory, disk, network, cold } = args;
        let boot = if cold { BootMode::Cold } else { BootMode::Template };
        Self { image, kernel, cpus, memory, disk, network, boot }
    }
}
