//! Media types: what a registry says that some bytes are.

/// An index of the OCI.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A manifest of the OCI.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index of Docker, there called a manifest list.
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A manifest of Docker, schema 2.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A config of the OCI.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A config of Docker.
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A layer that is a plain tar.
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer that is a tar, compressed by gzip.
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer that is a tar, compressed by zstd.
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Everything that is understood where a manifest is asked for, as a header `Accept` has it.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What a manifest may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ManifestType {
    Index,
    Manifest,
    /// Docker's schema 1, which nothing writes any more.
    SchemaOne,
}

impl ManifestType {
    /// `None` for everything else.
    pub(super) fn of(media_type: &str) -> Option<Self> {
        match media_type {
            OCI_INDEX | DOCKER_INDEX => Some(Self::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => Some(Self::Manifest),
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Some(Self::SchemaOne),
            _ => None,
        }
    }
}

/// How a layer's tar is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// By gzip, possibly in several members.
    Gzip,
    /// By zstd, possibly in several frames.
    Zstd,
}

impl Compression {
    /// What the first bytes of some content tell; a tar begins with a name, which no sane one
    /// has these bytes in.
    pub(crate) fn sniff(begin: &[u8]) -> Self {
        match begin {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A frame to skip, which some writers begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// What a layer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerType {
    Here(Compression),
    /// To be fetched from somewhere else than the registry, as its licence wants it.
    Foreign,
    Unknown,
}

impl LayerType {
    pub(super) fn of(media_type: &str) -> Self {
        match media_type {
            OCI_LAYER | "application/vnd.docker.image.rootfs.diff.tar" => {
                Self::Here(Compression::Plain)
            }
            OCI_LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Self::Here(Compression::Gzip)
            }
            OCI_LAYER_ZSTD | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Self::Here(Compression::Zstd)
            }
            other if other.starts_with("application/vnd.docker.image.rootfs.foreign.") => {
                Self::Foreign
            }
            other if other.starts_with("application/vnd.oci.image.layer.nondistributable.") => {
                Self::Foreign
            }
            _ => Self::Unknown,
        }
    }
}

/// Whether this is the config of an image, and not of something else that registries keep.
pub(super) fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}
