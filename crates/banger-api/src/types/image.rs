//! What sandboxes are made of, and what was fetched for that.

use std::collections::BTreeMap;

use banger_model::{DiskSize, ImageId, ImageName, InitMode, KernelName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A read-only root file system with the wishes of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// What it is called here. An image may have several names.
    #[schema(value_type = String, example = "debian-bookworm")]
    pub name: ImageName,
    /// Its id, which never comes to mean another.
    #[schema(value_type = String)]
    pub id: ImageId,
    /// Where it comes from, for people to read.
    pub source: String,
    /// Digest of its manifest, if it comes from a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The space that it takes on the host's disk, in bytes.
    pub size: u64,
    /// When it was made, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub made: Option<Timestamp>,
    /// The kernel that its sandboxes boot, if it wants a certain one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "debian-cloud")]
    pub kernel: Option<KernelName>,
    /// Who needs it: sandboxes and snapshots by name.
    pub used_by: Vec<String>,
    /// How it wants to be run.
    pub config: ImageWishes,
}

/// How an image wants to be run. What its user says goes before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageWishes {
    /// Environment of every process.
    pub env: BTreeMap<String, String>,
    /// Who runs processes; empty for root.
    pub user: String,
    /// Where processes begin; empty for `/`.
    pub workdir: String,
    /// What goes before the arguments of a sandbox's main command.
    pub entrypoint: Vec<String>,
    /// The arguments where its user gives none.
    pub cmd: Vec<String>,
    /// An interactive shell, if there is one.
    pub shell: Vec<String>,
    /// Who is the first process: `agent` or `systemd`.
    #[schema(value_type = String, example = "agent")]
    pub init: InitMode,
    /// The signal that asks its command to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Ports that it serves, such as `80/tcp`.
    pub ports: Vec<String>,
    /// Directories whose content is meant to outlive a sandbox.
    pub volumes: Vec<String>,
    /// Bytes of the writable disk of its sandboxes, if somebody said how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk: Option<DiskSize>,
    /// What its maker wrote on it.
    pub labels: BTreeMap<String, String>,
}

/// An image that is to be here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullImage {
    /// Where from: a reference to a registry, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:REFERENCE]`, `archive:FILE` for an archive of either kind, `rootfs:PATH`
    /// for a directory, a tar or a file with ext4 that is a root file system, `sandbox:SANDBOX` for
    /// what is in a sandbox at rest. Paths are absolute.
    #[schema(example = "alpine:3.20")]
    pub source: String,
    /// What it is to be called; made from the source when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<ImageName>,
    /// The kernel that its sandboxes are to boot; it is fetched if it is missing. An image from a
    /// catalog brings its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub kernel: Option<KernelName>,
    /// Bytes of the writable disk that its sandboxes are to get where nobody says otherwise. An image
    /// from a catalog says that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk: Option<DiskSize>,
    /// What it was made of, for people to read, where its source is a file that was put there for
    /// this alone. An image of that name is replaced if it was made of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<String>,
}

impl PullImage {
    /// Longest text of what an image was made of, in bytes: room for two paths.
    pub const MAX_MADE_OF: usize = 2 * 4096 + 64;
}

/// Something in the cache of what was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachedBlob {
    /// Its digest.
    pub digest: String,
    /// Its bytes, as far as they are here.
    pub size: u64,
    /// When it was last used, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub last_used: Timestamp,
    /// Whether all of it is here; the rest of others is fetched when they are needed.
    pub whole: bool,
}

/// How much is to stay in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PruneCacheRequest {
    /// Bytes that may stay, what was used last first.
    pub keep: u64,
}

/// What went from the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrunedCache {
    /// Digests of what went.
    pub removed: Vec<String>,
    /// Bytes that are free again.
    pub space: u64,
}
