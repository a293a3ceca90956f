//! What `vm run` and `vm create` have in common: what the sandbox is made of, or from.

use banger_api::types::CreateFrom;
use banger_model::{
    BootMode, CpuCount, DiskSize, InitMode, KernelName, MemorySize, NetworkMode, SandboxSpec,
    SnapshotName, SnapshotPart, WantedImage,
};
use clap_complete::ArgValueCandidates;

use crate::commands::completion;

/// What a sandbox is made of.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// The image that is the sandbox's root file system: its name here, or where it is in a
    /// registry
    #[arg(long, default_value = "debian-bookworm", add = ArgValueCandidates::new(completion::images))]
    image: WantedImage,
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
    /// How the sandbox is connected: user (a network of its own with a way out) or none [default:
    /// user, or as the snapshot was]
    #[arg(long)]
    network: Option<NetworkMode>,
    /// Who is the first process: agent (ours) or systemd (the image's own, with all that it brings
    /// up) [default: systemd where the image's /sbin/init is that, else agent]
    #[arg(long, value_name = "MODE")]
    init: Option<InitMode>,
    /// Boot the kernel instead of restoring a template
    #[arg(long)]
    cold: bool,
    /// Make it from a snapshot, whose image, kernel and sizes it has: its processes go on
    #[arg(
        long,
        value_name = "NAME@TAG",
        conflicts_with_all = ["image", "kernel", "cpus", "memory", "disk", "init", "cold"],
        add = ArgValueCandidates::new(completion::snapshots)
    )]
    from: Option<SnapshotName>,
    /// Take only the disk of the snapshot, and boot from it: it has what was on the disk by then,
    /// as after a power cut
    #[arg(long, requires = "from")]
    disk_only: bool,
}

/// What a sandbox is made of, or the snapshot that it is made from: one of both.
pub(crate) type MadeOf = (Option<SandboxSpec>, Option<CreateFrom>);

impl SpecArgs {
    /// What was asked for.
    pub(crate) fn made_of(self) -> MadeOf {
        let Self { image, kernel, cpus, memory, disk, network, init, cold, from, disk_only } = self;
        if let Some(snapshot) = from {
            let part = if disk_only { SnapshotPart::Disk } else { SnapshotPart::Machine };
            return (None, Some(CreateFrom { snapshot, part, network }));
        }
        let boot = if cold { BootMode::Cold } else { BootMode::Template };
        let network = network.unwrap_or_default();
        (Some(SandboxSpec { image, kernel, cpus, memory, disk, network, boot, init }), None)
    }
}
