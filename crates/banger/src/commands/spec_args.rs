//! What `vm run` and `vm create` have in common: what the sandbox is made of, or from.

use banger_api::types::CreateFrom;
use banger_model::{
    BootMode, CpuCount, DiskSize, InitMode, KernelName, MemorySize, NetworkMode, SandboxSpec,
    SnapshotName, SnapshotPart, VolumeError, VolumeMount, VolumeMounts, WantedImage,
};
use clap_complete::ArgValueCandidates;

use crate::commands::completion;
use crate::error::{CommandError, Kind};

/// What a sandbox is made of.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// The image that is the sandbox's root file system: its name here, or where it is in a
    /// registry
    #[arg(long, default_value = "debian-bookworm", add = ArgValueCandidates::new(completion::images))]
    image: WantedImage,
    /// The kernel that the sandbox boots; fetched if it is only in a catalog [default: the one
    /// that the image wants, mostly debian-cloud]
    #[arg(long, add = ArgValueCandidates::new(completion::kernels))]
    kernel: Option<KernelName>,
    /// Virtual CPUs [default: 2 with KVM, 1 without]
    #[arg(long)]
    cpus: Option<CpuCount>,
    /// Memory, such as 512M or 2G
    #[arg(long, default_value_t = MemorySize::DEFAULT)]
    memory: MemorySize,
    /// Size of the writable disk; it takes only the space that is written [default: what the image
    /// wishes, else 8G, or a quarter more than the image where that is more]
    #[arg(long)]
    disk: Option<DiskSize>,
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
    /// Mount a volume, which is made if it is missing and outlives the sandbox; may be repeated
    #[arg(long = "volume", value_name = "NAME:/PATH", add = ArgValueCandidates::new(completion::volumes))]
    volumes: Vec<VolumeMount>,
    /// Make it from a snapshot, whose image, kernel and sizes it has: its processes go on
    #[arg(
        long,
        value_name = "NAME@TAG",
        conflicts_with_all = ["image", "kernel", "cpus", "memory", "disk", "init", "cold", "volumes"],
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
    ///
    /// # Errors
    /// When the volumes do not go together.
    pub(crate) fn made_of(self) -> Result<MadeOf, CommandError> {
        let Self { image, kernel, cpus, memory, disk, network, init, cold, volumes, .. } = self;
        if let Some(snapshot) = self.from {
            let part = if self.disk_only { SnapshotPart::Disk } else { SnapshotPart::Machine };
            return Ok((None, Some(CreateFrom { snapshot, part, network })));
        }
        let boot = if cold { BootMode::Cold } else { BootMode::Template };
        let (network, volumes) = (network.unwrap_or_default(), made_volumes(volumes)?);
        let spec = SandboxSpec { image, kernel, cpus, memory, disk, network, boot, init, volumes };
        Ok((Some(spec), None))
    }
}

fn made_volumes(mounts: Vec<VolumeMount>) -> Result<VolumeMounts, CommandError> {
    mounts.try_into().map_err(|error: VolumeError| CommandError::new(Kind::Usage, error))
}
