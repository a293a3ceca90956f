//! What all drivers and all requests share.

use std::path::PathBuf;
use std::sync::Arc;

use banger_host::home::Home;
use banger_model::SandboxId;
use tokio::sync::{Semaphore, watch};

use crate::arsenal::Arsenal;
use crate::checkpoint::Checkpoints;
use crate::images::Images;
use crate::machine::{HelperProgram, HostSize};
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::registry::Reservations;
use crate::snapshots::Snapshots;
use crate::spares::Spares;
use crate::store::Memory;
use crate::templates::Templates;
use crate::volumes::Volumes;

/// Sandboxes that may boot at the same time: more would only make each other slow. It is many
/// more than there are processors, so that some that hang do not hold up the rest.
pub(crate) const MAX_BOOTS: usize = 16;

/// What all drivers and all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The owner's directories.
    pub home: Home,
    /// How large machines may be.
    pub host: HostSize,
    /// What sandboxes are made from.
    pub arsenal: Arsenal,
    /// Images that are fetched.
    pub images: Arc<Images>,
    /// What sandboxes are restored from.
    pub templates: Arc<Templates>,
    /// Machines that wait to become sandboxes.
    pub spares: Spares,
    /// What sandboxes were at one moment.
    pub snapshots: Arc<Snapshots>,
    /// Disks that outlive sandboxes.
    pub volumes: Volumes,
    /// The program that stands before a sandbox's network.
    pub relay: HelperProgram,
    /// What is remembered.
    pub store: Memory,
    /// What was asked and takes its time.
    pub operations: Operations,
    /// What is counted.
    pub metrics: Metrics,
    /// Where a test stops the daemon.
    pub checkpoints: Checkpoints,
    /// Who waits to be told that a sandbox is theirs.
    pub reservations: Reservations,
    /// Turns to boot.
    pub boots: Semaphore,
    /// Becomes true when the daemon ends.
    pub shutdown: watch::Sender<bool>,
}

impl Shared {
    /// The directory of a sandbox.
    pub(crate) fn dir(&self, id: &SandboxId) -> PathBuf {
        // QEMU is told a tag of the real path, and what is looked for must be the same.
        let root = self.home.sandboxes();
        root.canonicalize().unwrap_or(root).join(id.as_str())
    }

    /// Waits until the daemon ends.
    pub(crate) async fn ending(self: Arc<Self>) {
        // The sender is in `self`: there is no error.
        let _ = self.shutdown.subscribe().wait_for(|down| *down).await;
    }
}
