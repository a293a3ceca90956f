//! A directory that is made to be served, verified, and pulled from.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use banger_image::catalog::{Build, Index, PublishError, generate_key, sign, verify};
use banger_model::{Silent, Timestamp};

use crate::fake::Content;
use crate::support::{DAY_MS, NOW, Owner, Shelf, Site, image_bundle, told};

/// Somebody who has an image `tools` with its kernel.
async fn publisher() -> Owner {
    let shelf = Shelf::with_tools(image_bundle(b"a root", Some("fast"))).with_kernel("fast");
    let site = Site::serve(shelf.signed()).await;
    let owner = Owner::of(&site);
    owner.pull("tools").await.unwrap();
    owner
}

fn build<'a>(owner: &'a Owner, dir: &'a Path) -> Build<'a> {
    Build {
        home: &owner.home,
        dir,
        images: vec!["tools=kit".parse().unwrap()],
        kernels: Vec::new(),
        pinned: vec![format!("alpine=alpine@sha256:{}", "ab".repeat(32)).parse().unwrap()],
        serial: None,
        expires: Timestamp(NOW.0 + DAY_MS),
    }
}

fn served(dir: &Path) -> Content {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let by_path = files.map(|file| {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{:?} cannot be served", file.path());
        let path = format!("/c/{}", file.file_name().into_string().unwrap());
        (path, ("application/octet-stream".to_owned(), std::fs::read(file.path()).unwrap()))
    });
    Content { by_path: by_path.collect::<BTreeMap<_, _>>() }
}

fn check(dir: &Path, key: &str, now: Timestamp) -> Result<Index, String> {
    verify(dir, key, now, &Silent).map_err(|error| told(&error))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_and_signed_can_be_verified_and_pulled() {
    let owner = publisher().await;
    let dir = tempfile::tempdir().unwrap();
    let (out, secret) = (dir.path().join("out"), dir.path().join("key.pem"));
    let public = generate_key(&secret).unwrap();
    let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(generate_key(&secret).is_err(), "a key is never replaced");
    let built = build(&owner, &out).run(&Silent).unwrap();
    assert_eq!(built.serial, 1);
    assert!(check(&out, &public, NOW).unwrap_err().contains("not signed"));
    assert_eq!(sign(&out, &secret).unwrap(), public);
    assert_eq!(check(&out, &public, NOW).unwrap(), built);

    let site = Site::serve(served(&out)).await;
    let other = Owner::at(&format!("http://{}/c/", site.fake.host()), &public);
    let image = other.pull("kit").await.unwrap();
    assert_eq!(std::fs::read(image.root()).unwrap(), b"a root");
    assert_eq!(image.info().kernel, Some("fast".parse().unwrap()));
    assert_eq!(image.info().source, "a test");

    // Built anew it is one more, with the same bundles, and not signed any more.
    let before = names(&out);
    assert_eq!(build(&owner, &out).run(&Silent).unwrap().serial, 2);
    assert!(!out.join("index.json.sig").exists());
    sign(&out, &secret).unwrap();
    assert_eq!(names(&out), before);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_afterwards_is_found() {
    let owner = publisher().await;
    let dir = tempfile::tempdir().unwrap();
    let (out, secret) = (dir.path().join("out"), dir.path().join("key.pem"));
    let public = generate_key(&secret).unwrap();
    build(&owner, &out).run(&Silent).unwrap();
    sign(&out, &secret).unwrap();
    let later = Timestamp(NOW.0 + DAY_MS);
    assert!(check(&out, &public, later).unwrap_err().contains("expired at"));
    let other = generate_key(&dir.path().join("other.pem")).unwrap();
    assert!(check(&out, &other, NOW).unwrap_err().contains("by a trusted key"));
    for name in names(&out) {
        let path = out.join(&name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        check(&out, &public, NOW).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        check(&out, &public, NOW).unwrap_err();
        std::fs::write(&path, &good).unwrap();
    }
    check(&out, &public, NOW).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_offered_is_told() {
    let owner = publisher().await;
    let dir = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut Build<'_>)| {
        let mut it = build(&owner, dir.path());
        change(&mut it);
        it.run(&Silent)
    };
    let said = |change: &dyn Fn(&mut Build<'_>)| told(&with(change).unwrap_err());
    let own = said(&|it| it.images = vec!["tools=debian-bookworm".parse().unwrap()]);
    assert!(own.contains("debian-bookworm=NAME"), "{own}");
    let kernel = said(&|it| it.kernels = vec!["fast=debian-cloud".parse().unwrap()]);
    assert!(kernel.contains("debian-cloud=NAME"), "{kernel}");
    let missing = said(&|it| it.images = vec!["nothing".parse().unwrap()]);
    assert!(missing.contains("no image nothing"), "{missing}");
    let twice = said(&|it| it.images = vec!["tools".parse().unwrap(), "tools".parse().unwrap()]);
    assert!(twice.contains("offered twice"), "{twice}");
    with(&|it| it.serial = Some(5)).unwrap();
    let refused = with(&|it| it.serial = Some(5)).unwrap_err();
    assert!(matches!(refused, PublishError::Serial { wanted: 5, last: 5 }), "{refused}");
    type Pinned =
        banger_image::catalog::Offered<banger_model::ImageReference, banger_model::ImageName>;
    let unpinned = "a=alpine:3.20".parse::<Pinned>().unwrap_err().to_string();
    assert!(unpinned.contains("@sha256:"), "{unpinned}");
    // A root file system that has changed is not given to others.
    let image = banger_image::Image::open(&owner.home, &"tools".parse().unwrap()).unwrap();
    std::fs::write(image.root(), b"A root").unwrap();
    assert!(build(&owner, dir.path()).run(&Silent).is_err());
}
