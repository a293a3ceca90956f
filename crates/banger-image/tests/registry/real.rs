//! The registry that everybody runs, filled by the tool that everybody copies images with.

use std::path::Path;

use banger_image::oci::{Cache, Source, pull};
use banger_model::Silent;
use banger_testkit::oci::registry::{Auth, CREDENTIALS, Registry, lay_out, skopeo};
use serde_json::json;

use crate::images::{TestImage, gzip, sha256, zstd};
use crate::support::{Place, amd64, assert_is, settings, told, unpacked};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_a_real_registry() {
    let (place, image) = (Place::new(), TestImage::usual(100, 300_000));
    let layout = place.dir.path().join("layout");
    lay_out(&layout, "v1", &image);
    let Some(registry) = Registry::start(place.dir.path(), Auth::None) else { return };
    let from = format!("oci:{}:v1", layout.display());
    let to = format!("docker://{}/team/app:v1", registry.host);
    let Some(()) = skopeo(&["--dest-tls-verify=false", &from, &to]) else { return };
    let settings = settings(&[&registry.host]);
    let source = format!("{}/team/app:v1", registry.host);
    let pulled = place.pull(&source, &settings).await.unwrap();
    assert_is(&pulled, &image);
    // Not the one that was laid out: skopeo compresses what is not.
    let by_digest = format!("{}/team/app@{}", registry.host, pulled.manifest_digest);
    assert_is(&Place::new().pull(&by_digest, &settings).await.unwrap(), &image);
    let error =
        told(&place.pull(&format!("{}/team/app:v2", registry.host), &settings).await.unwrap_err());
    assert!(error.contains("has no image with the tag v2"), "{error}");
    // What skopeo makes of it for Docker: another manifest, another config, the same layers.
    let to = format!("docker://{}/team/docker:v1", registry.host);
    // Layers of zstd are not for Docker's own manifests.
    let plain = TestImage::new(vec![image.layers[0].clone()]);
    lay_out(&layout, "plain", &plain);
    let from = format!("oci:{}:plain", layout.display());
    skopeo(&["--format=v2s2", "--dest-tls-verify=false", &from, &to]).unwrap();
    let pulled = place.pull(&format!("{}/team/docker:v1", registry.host), &settings).await.unwrap();
    assert!(unpacked(&pulled.layers[0]).unwrap() == plain.layers[0].tar);
    assert_eq!(pulled.config.env, ["A=b"]);
    assert_ne!(pulled.manifest_digest, plain.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_with_a_password_wants_it() {
    let (place, image) = (Place::new(), TestImage::usual(110, 300_000));
    let layout = place.dir.path().join("layout");
    lay_out(&layout, "v1", &image);
    let Some(registry) = Registry::start(place.dir.path(), Auth::Basic) else { return };
    let from = format!("oci:{}:v1", layout.display());
    let to = format!("docker://{}/app:v1", registry.host);
    let dest = ["--dest-creds", CREDENTIALS, "--dest-tls-verify=false"];
    let Some(()) = skopeo(&[dest[0], dest[1], dest[2], &from, &to]) else { return };
    let mut settings = settings(&[&registry.host]);
    let source = format!("{}/app:v1", registry.host);
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("docker login"), "{error}");
    let config = place.dir.path().join("config.json");
    let write = |password: &str| {
        let entry = json!({ "username": "someone", "password": password });
        let json = json!({ "auths": { registry.host.clone(): entry } });
        std::fs::write(&config, json.to_string()).unwrap();
    };
    settings.credentials = Some(config.clone());
    write("wrong");
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("docker login") && !error.contains("wrong"), "{error}");
    write("pass:word");
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_from_layouts_and_archives_of_skopeo() {
    let (place, image) = (Place::new(), TestImage::usual(120, 300_000));
    let other = TestImage::usual(130, 1000);
    let dir = place.dir.path();
    lay_out(&dir.join("layout"), "v1", &image);
    lay_out(&dir.join("layout"), "v2", &other);
    let settings = settings(&[]);
    let at = |kind: &str, file: &str| format!("{kind}:{}", dir.join(file).display());
    let layout = at("oci", "layout");
    assert_is(&place.pull(&format!("{layout}:v1"), &settings).await.unwrap(), &image);
    assert_is(&place.pull(&format!("{layout}:v2"), &settings).await.unwrap(), &other);
    let error = told(&place.pull(&layout, &settings).await.unwrap_err());
    assert!(error.contains("it has several images, add : and one of: v1, v2"), "{error}");
    let error = told(&place.pull(&format!("{layout}:v3"), &settings).await.unwrap_err());
    assert!(error.contains("no image of that name, only: v1, v2"), "{error}");

    let (from, to) = (format!("{layout}:v1"), at("oci-archive", "oci.tar"));
    let Some(()) = skopeo(&[&from, &format!("{to}:v1")]) else { return };
    assert_is(&Place::new().pull(&to, &settings).await.unwrap(), &image);

    // Docker's archives know nothing of zstd.
    let image = TestImage::new(vec![image.layers[0].clone(), image.layers[2].clone()]);
    lay_out(&dir.join("layout"), "v3", &image);
    let to = at("docker-archive", "docker.tar");
    skopeo(&[&format!("{layout}:v3"), &format!("{to}:example.com/app:v9")]).unwrap();
    let pulled = Place::new().pull(&to, &settings).await.unwrap();
    assert_eq!(pulled.reference.as_ref().unwrap().to_string(), "example.com/app:v9");
    for (layer, expected) in pulled.layers.iter().zip(&image.layers) {
        assert!(unpacked(layer).unwrap() == expected.tar);
    }
    let named = Place::new().pull(&format!("{to}:example.com/app:v9"), &settings).await.unwrap();
    assert_eq!(named.manifest_digest, pulled.manifest_digest);
    let error =
        told(&place.pull(&format!("{to}:example.com/app:v1"), &settings).await.unwrap_err());
    assert!(error.contains("only: example.com/app:v9"), "{error}");
    let error = told(&place.pull(&at("docker-archive", "oci.tar"), &settings).await.unwrap_err());
    assert!(error.contains("it has no manifest.json, so it is no image"), "{error}");
    open_archives(dir).await;
}

/// Both archives as they are, compressed, and through a pipe.
async fn open_archives(dir: &Path) {
    for name in ["oci.tar", "docker.tar"] {
        let tar = std::fs::read(dir.join(name)).unwrap();
        let mut digests = Vec::new();
        for bytes in [tar.clone(), gzip(&tar), zstd(&tar)] {
            std::fs::write(dir.join("archive"), &bytes).unwrap();
            let file = std::fs::File::open(dir.join("archive")).unwrap();
            digests.push(from_open(file).await);
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let write = move || {
                let _ = std::io::Write::write_all(&mut std::fs::File::from(writer), &bytes);
            };
            std::thread::spawn(write);
            digests.push(from_open(reader.into()).await);
        }
        digests.dedup();
        assert_eq!(digests.len(), 1, "{name}");
    }
}

async fn from_open(file: std::fs::File) -> banger_model::Digest {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("oci")).unwrap();
    let source = Source::Open { file, name: "standard input".to_owned() };
    let pulled = pull(source, &cache, &settings(&[]), &Silent).await.unwrap();
    for layer in &pulled.layers {
        unpacked(layer).unwrap();
    }
    pulled.manifest_digest
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layouts_are_refused() {
    let (place, image) = (Place::new(), TestImage::usual(140, 1000));
    let layout = place.dir.path().join("layout");
    lay_out(&layout, "v1", &image);
    let source = format!("oci:{}", layout.display());
    let layer = layout.join("blobs/sha256").join(sha256(&image.layers[0].bytes).hex());
    let good = std::fs::read(&layer).unwrap();
    let mut wrong = good.clone();
    wrong[10] ^= 1;
    let settings = settings(&[]);
    for (bytes, expected) in [(wrong, "is something else"), (good[1..].to_vec(), "were due")] {
        std::fs::write(&layer, bytes).unwrap();
        let error = told(&place.pull(&source, &settings).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
        // Others may still be copied.
        let name = layer.file_name().unwrap().to_str().unwrap();
        assert!(place.partials().iter().all(|partial| !partial.contains(name)));
    }
    std::fs::remove_file(&layer).unwrap();
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("though its index names it"), "{error}");
    std::os::unix::fs::symlink("/dev/zero", &layer).unwrap();
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("is not a file"), "{error}");
    let file = tempfile::NamedTempFile::new_in(place.dir.path()).unwrap();
    std::fs::write(file.path(), "no tar").unwrap();
    for kind in ["oci-archive", "docker-archive"] {
        let source = format!("{kind}:{}", file.path().display());
        let error = told(&place.pull(&source, &settings).await.unwrap_err());
        assert!(error.contains("no tar"), "{error}");
    }
    assert_eq!(settings.platform, amd64());
}
