//! A catalog made by hand, so that anything may be wrong with it, and somebody who pulls from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use banger_host::home::Home;
use banger_image::Image;
use banger_image::catalog::{
    Bundle, Catalogs, Configured, ImageEntry, Index, Install, InstallError,
};
use banger_image::oci::{Cache, Patience, Platform, Settings};
use banger_model::{ImageName, Silent, Timestamp};
use banger_testkit::bundle::bundle_of;
use banger_trust::SecretKey;
use serde_json::{Value, json};

use crate::fake::{Content, Fake, Reply, Request};
use crate::images::sha256;

pub(crate) use banger_testkit::told;

/// 2026-01-01, when everything here happens.
pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000);
pub(crate) const DAY_MS: u64 = 86_400_000;

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// A bundle of these files.
pub(crate) fn packed(members: &[(&str, &[u8])]) -> Vec<u8> {
    let file = |(name, bytes): &(_, _)| (*name, tar::EntryType::Regular, *bytes);
    bundle_of(&members.iter().map(file).collect::<Vec<_>>())
}

fn member(name: &str, bytes: &[u8]) -> Value {
    json!({ "name": name, "size": bytes.len(), "sha256": sha256(bytes).hex() })
}

pub(crate) fn image_manifest(root: &[u8], kernel: Option<&str>) -> Value {
    json!({
        "schema": "banger-bundle/1", "architecture": "amd64",
        "members": [member("root.ext4", root)],
        "image": {
            "source": "a test", "kernel": kernel,
            "config": {
                "env": { "PATH": "/bin" }, "user": "root", "workdir": "/", "shell": ["/bin/sh"],
                "init": "agent",
            },
        },
    })
}

pub(crate) fn image_bundle(root: &[u8], kernel: Option<&str>) -> Vec<u8> {
    let manifest = image_manifest(root, kernel).to_string();
    packed(&[("bundle.json", manifest.as_bytes()), ("root.ext4", root)])
}

pub(crate) const KERNEL: [(&str, &[u8]); 4] = [
    ("vmlinux", b"\x7fELF"),
    ("modules.ext4", b"modules"),
    ("boot.cpio", b"boot"),
    ("config", b"CONFIG_X=y\n"),
];

pub(crate) fn kernel_bundle() -> Vec<u8> {
    let manifest = json!({
        "schema": "banger-bundle/1", "architecture": "amd64",
        "members": KERNEL.map(|(name, bytes)| member(name, bytes)),
        "kernel": {
            "release": "6.1.0-test", "package": "linux", "version": "1",
            "package_sha256": "abc", "boot_modules": [],
        },
    })
    .to_string();
    let mut members = vec![("bundle.json", manifest.as_bytes())];
    members.extend(KERNEL);
    packed(&members)
}

pub(crate) fn bundle_entry(url: &str, bytes: &[u8]) -> Value {
    json!({ "kind": "bundle", "bundles": [
        { "architecture": "amd64", "url": url, "size": bytes.len(), "sha256": sha256(bytes).hex() },
    ]})
}

/// What is served.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) index: Value,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        let index = json!({
            "schema": "banger-catalog/1", "serial": 7, "expires": "2026-02-01T00:00:00Z",
            "images": {}, "kernels": {},
        });
        Self { index, files: BTreeMap::new() }
    }

    /// With an image called `tools`.
    pub(crate) fn with_tools(bundle: Vec<u8>) -> Self {
        let mut shelf = Self::new();
        shelf.index["images"]["tools"] = bundle_entry("b/tools.tar.zst", &bundle);
        shelf.files.insert("b/tools.tar.zst".to_owned(), bundle);
        shelf
    }

    pub(crate) fn with_kernel(mut self, name: &str) -> Self {
        let bundle = kernel_bundle();
        self.index["kernels"][name] = bundle_entry("k.tar.zst", &bundle);
        self.files.insert("k.tar.zst".to_owned(), bundle);
        self
    }

    pub(crate) fn with_serial(mut self, serial: u64) -> Self {
        self.index["serial"] = json!(serial);
        self
    }

    /// What a web server has, with the index signed by this key.
    pub(crate) fn signed_by(&self, key: &SecretKey) -> Content {
        let index = self.index.to_string().into_bytes();
        let signature = key.sign(&index).to_base64();
        let mut content = Content::default();
        let mut put = |name: &str, bytes: Vec<u8>| {
            let kind = "application/octet-stream".to_owned();
            content.by_path.insert(format!("/c/{name}"), (kind, bytes));
        };
        put("index.json", index);
        put("index.json.sig", signature.into_bytes());
        for (name, bytes) in &self.files {
            put(name, bytes.clone());
        }
        content
    }

    pub(crate) fn signed(&self) -> Content {
        self.signed_by(&key(1))
    }
}

/// A web server whose files may be replaced.
pub(crate) struct Site {
    pub(crate) fake: Fake,
    content: Arc<Mutex<Content>>,
    /// Answers from now on that are 503.
    refusals: Arc<AtomicUsize>,
}

impl Site {
    pub(crate) async fn serve(content: Content) -> Self {
        Self::with(content, |_, reply| reply).await
    }

    /// `spoil` may do anything to each answer.
    pub(crate) async fn with(
        content: Content,
        spoil: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let content = Arc::new(Mutex::new(content));
        let refusals = Arc::new(AtomicUsize::new(0));
        let (served, left) = (content.clone(), refusals.clone());
        let fake = Fake::start(move |request| {
            let one_less = |n: usize| n.checked_sub(1);
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                return Reply::new(503, "");
            }
            spoil(request, served.lock().unwrap().answer(request))
        })
        .await;
        Self { fake, content, refusals }
    }

    pub(crate) fn replace(&self, content: Content) {
        *self.content.lock().unwrap() = content;
    }

    pub(crate) fn goes_away(&self) {
        self.refusals.store(usize::MAX, Ordering::SeqCst);
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.fake.requests().into_iter().map(|request| request.path).collect()
    }
}

/// Somebody who has configured a catalog.
pub(crate) struct Owner {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) home: Home,
    pub(crate) catalogs: Catalogs,
    pub(crate) now: Timestamp,
}

impl Owner {
    pub(crate) fn of(site: &Site) -> Self {
        Self::trusting(site, &key(1))
    }

    pub(crate) fn trusting(site: &Site, key: &SecretKey) -> Self {
        let url = format!("http://{}/c/", site.fake.host());
        Self::at(&url, &key.public().to_base64())
    }

    pub(crate) fn at(url: &str, key: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        let configured = Configured::parse(url, key).unwrap();
        let catalogs = Catalogs::new(&home, Some(configured), &settings());
        Self { dir, home, catalogs, now: NOW }
    }

    pub(crate) async fn entry(
        &self,
        name: &str,
    ) -> Result<Option<ImageEntry>, banger_image::catalog::CatalogError> {
        self.catalogs.image(&name.parse().unwrap(), self.now).await
    }

    /// Has the image of this name here, by way of its bundles.
    pub(crate) async fn pull(&self, name: &str) -> Result<Image, String> {
        self.pull_as(name, name).await
    }

    pub(crate) async fn pull_as(&self, name: &str, called: &str) -> Result<Image, String> {
        let pulled = match self.entry(name).await {
            Ok(Some(ImageEntry::Bundles(bundles))) => {
                let name: ImageName = name.parse().unwrap();
                self.install(&name, &bundles, &called.parse().unwrap())
                    .await
                    .map_err(|error| told(&error))
            }
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(told(&error)),
        };
        self.check();
        pulled
    }

    async fn install(
        &self,
        name: &ImageName,
        bundles: &[Bundle],
        called: &ImageName,
    ) -> Result<Image, InstallError> {
        let install = Install {
            catalogs: self.catalogs.clone(),
            cache: Cache::open(&self.home.cache().join("oci")).unwrap(),
            now: self.now,
            called_off: Arc::default(),
            progress: Arc::new(Silent),
        };
        install.image(name, bundles, called).await
    }

    /// Nothing is half here, and nothing is where nothing belongs.
    pub(crate) fn check(&self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(["data", "state", "cache"].contains(&name.as_str()), "{name} is new");
        }
        for dir in ["data/image-store", "data/kernels", "data/images"] {
            for name in names(&self.dir.path().join(dir)) {
                assert!(!name.ends_with(".new"), "{name} was left in {dir}");
            }
        }
    }

    /// Names of images that are here.
    pub(crate) fn images(&self) -> Vec<String> {
        Image::list(&self.home).unwrap().iter().map(ToString::to_string).collect()
    }

    pub(crate) async fn index(&self) -> Result<Index, String> {
        match self.catalogs.update(self.now).await {
            Ok(current) => Ok(current.unwrap().index),
            Err(error) => Err(told(&error)),
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub(crate) fn settings() -> Settings {
    Settings {
        patience: Patience {
            connect: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            back_off: Duration::from_millis(1),
            max_back_off: Duration::from_millis(5),
            ..Patience::default()
        },
        platform: Platform { architecture: "amd64".to_owned(), variant: None },
        ..Settings::default()
    }
}
