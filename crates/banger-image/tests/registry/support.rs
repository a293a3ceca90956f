//! Pulling in tests, and looking at what that left.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use banger_image::oci::{
    Allowance, Cache, Layer, Patience, PullError, Pulled, Settings, Source, pull,
};
use banger_model::Silent;

use crate::images::{TestImage, sha256};

pub(crate) use banger_testkit::told;

/// Settings for a registry without TLS, and without the patience that people need.
pub(crate) fn settings(hosts: &[&str]) -> Settings {
    Settings {
        insecure: hosts.iter().map(|host| (*host).to_owned()).collect(),
        patience: Patience {
            connect: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            back_off: Duration::from_millis(1),
            max_back_off: Duration::from_millis(5),
            ..Patience::default()
        },
        platform: amd64(),
        ..Settings::default()
    }
}

pub(crate) fn amd64() -> banger_image::oci::Platform {
    banger_image::oci::Platform { architecture: "amd64".to_owned(), variant: None }
}

/// A cache in a directory of its own.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cache: Cache,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("oci")).unwrap();
        Self { dir, cache }
    }

    pub(crate) async fn pull(
        &self,
        source: &str,
        settings: &Settings,
    ) -> Result<Pulled, PullError> {
        let source: Source = source.parse().unwrap();
        let pulled = pull(source, &self.cache, settings, &Silent).await;
        self.check();
        pulled
    }

    /// Nothing has a name that is not right.
    pub(crate) fn check(&self) {
        check_blobs(self.cache.root());
    }

    /// The digits of what is in it whole.
    pub(crate) fn blobs(&self) -> Vec<String> {
        names(&self.cache.root().join("blobs/sha256"))
    }

    pub(crate) fn partials(&self) -> Vec<String> {
        names(&self.cache.root().join("partial"))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn check_blobs(root: &Path) {
    let dir = root.join("blobs/sha256");
    for name in names(&dir).into_iter().filter(|name| !name.starts_with('.')) {
        let bytes = std::fs::read(dir.join(&name)).unwrap();
        assert_eq!(sha256(&bytes).hex(), name, "a wrong blob in the cache");
    }
}

/// What a layer unpacks to.
pub(crate) fn unpacked(layer: &Layer) -> Result<Vec<u8>, banger_image::oci::UnpackError> {
    let mut file = tempfile::tempfile().unwrap();
    let unpacked = layer.unpack_into(&file, &Allowance::of(std::slice::from_ref(layer)))?;
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(unpacked.size.get(), bytes.len() as u64);
    Ok(bytes)
}

/// Whether this is that image, to the last byte.
pub(crate) fn assert_is(pulled: &Pulled, image: &TestImage) {
    assert_eq!(pulled.config_digest, sha256(&image.config));
    assert_eq!(pulled.layers.len(), image.layers.len());
    for (layer, expected) in pulled.layers.iter().zip(&image.layers) {
        assert_eq!(*layer.diff_id(), sha256(&expected.tar));
        assert!(unpacked(layer).unwrap() == expected.tar, "a layer unpacks to something else");
    }
}
