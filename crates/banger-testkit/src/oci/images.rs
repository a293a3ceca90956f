//! Images made up by tests, and what a registry would serve of them.

use std::io::Write as _;

use banger_model::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(bytes).into())
}

/// Bytes that do not compress, always the same for one seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A tar with one file.
pub fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// One layer as it is served, and what it unpacks to.
#[derive(Clone, Debug)]
pub struct TestLayer {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
    pub tar: Vec<u8>,
}

impl TestLayer {
    pub fn plain(tar: Vec<u8>) -> Self {
        Self { media_type: LAYER, bytes: tar.clone(), tar }
    }

    pub fn gzip(tar: Vec<u8>) -> Self {
        Self { media_type: LAYER_GZIP, bytes: gzip(&tar), tar }
    }

    pub fn zstd(tar: Vec<u8>) -> Self {
        Self { media_type: LAYER_ZSTD, bytes: zstd(&tar), tar }
    }
}

/// An image for one kind of machine.
#[derive(Clone, Debug)]
pub struct TestImage {
    pub config: Vec<u8>,
    pub layers: Vec<TestLayer>,
    pub manifest: Vec<u8>,
}

impl TestImage {
    pub fn new(layers: Vec<TestLayer>) -> Self {
        Self::with_config(layers, |_| {})
    }

    pub fn with_config(layers: Vec<TestLayer>, change: impl FnOnce(&mut Value)) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|l| sha256(&l.tar).to_string()).collect();
        let mut config = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Env": ["A=b"], "Entrypoint": null, "Cmd": ["/bin/sh"], "User": "1000:1000",
                "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}}, "Labels": {"x": "y"} },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        change(&mut config);
        let config = serde_json::to_vec(&config).unwrap();
        let mut image = Self { config, layers, manifest: Vec::new() };
        image.remake(|_| {});
        image
    }

    /// Three layers of the three kinds of compression, with this much in each.
    pub fn usual(seed: u64, len: usize) -> Self {
        Self::new(vec![
            TestLayer::gzip(tar_of("one", &noise(seed, len))),
            TestLayer::zstd(tar_of("two", &noise(seed + 1, len))),
            TestLayer::plain(tar_of("three", &noise(seed + 2, len))),
        ])
    }

    pub fn remake(&mut self, change: impl FnOnce(&mut Value)) {
        let layers: Vec<_> =
            self.layers.iter().map(|layer| descriptor(layer.media_type, &layer.bytes)).collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &self.config), "layers": layers,
        });
        change(&mut manifest);
        self.manifest = serde_json::to_vec(&manifest).unwrap();
    }

    pub fn changed(mut self, change: impl FnOnce(&mut Value)) -> Self {
        self.remake(change);
        self
    }

    pub fn digest(&self) -> Digest {
        sha256(&self.manifest)
    }
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(bytes).to_string(), "size": bytes.len() })
}

/// An index that names manifests for kinds of machines.
pub fn index(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(platform, manifest)| {
            let mut entry = descriptor(OCI_MANIFEST, manifest);
            let mut parts = platform.split('/');
            entry["platform"] = json!({ "os": parts.next(), "architecture": parts.next() });
            if let Some(variant) = parts.next() {
                entry["platform"]["variant"] = json!(variant);
            }
            entry
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    serde_json::to_vec(&index).unwrap()
}
