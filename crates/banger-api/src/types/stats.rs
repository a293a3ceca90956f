//! What a sandbox uses.

use banger_model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DiskUsage;

/// What a running sandbox uses at one moment. Counters grow from its boot on; two of these make a
/// rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// When, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub at: Timestamp,
    /// What the host sees.
    pub host: HostUse,
    /// What the guest says; nothing while it does not answer. It could lie.
    pub guest: Option<GuestUse>,
}

/// What a sandbox takes of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostUse {
    /// Milliseconds of one processor that the virtual machine monitor has used.
    pub cpu_ms: u64,
    /// Bytes of memory of the virtual machine monitor that are in RAM.
    pub memory: u64,
    /// The writable disk.
    pub disk: DiskUsage,
}

/// What a guest says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestUse {
    /// Milliseconds since its boot.
    pub uptime_ms: u64,
    /// Milliseconds of all its CPUs that were not idle.
    pub cpu_busy_ms: u64,
    /// Its CPUs.
    pub cpus: u16,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes of it that programs could still get.
    pub memory_available: u64,
    /// Bytes of its disk.
    pub disk_total: u64,
    /// Bytes of it that are free.
    pub disk_free: u64,
    /// Bytes received over the network.
    pub net_rx: u64,
    /// Bytes sent over the network.
    pub net_tx: u64,
    /// Its processes, threads of the kernel included.
    pub processes: u32,
}
