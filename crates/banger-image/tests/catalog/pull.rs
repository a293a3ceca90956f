//! Pulling by a name of a catalog, and which index is believed.

use std::sync::atomic::{AtomicUsize, Ordering};

use banger_image::catalog::ImageEntry;
use banger_image::{Image, Kernel};
use banger_model::Timestamp;
use serde_json::json;

use crate::images::noise;
use crate::support::{
    DAY_MS, KERNEL, NOW, Owner, Shelf, Site, image_bundle, kernel_bundle, key, told,
};

fn root() -> Vec<u8> {
    let mut root = noise(3, 300_000);
    root.resize(2_000_000, 0);
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_becomes_an_image_and_brings_its_kernel() {
    let root = root();
    let shelf = Shelf::with_tools(image_bundle(&root, Some("fast"))).with_kernel("fast");
    let site = Site::serve(shelf.signed()).await;
    let owner = Owner::of(&site);
    let image = owner.pull("tools").await.unwrap();
    assert!(std::fs::read(image.root()).unwrap() == root);
    assert_eq!(image.name(), Some("tools".parse().unwrap()));
    assert_eq!(image.config().shell, ["/bin/sh"]);
    assert_eq!(image.info().kernel, Some("fast".parse().unwrap()));
    image.verify().unwrap();
    let kernel = Kernel::open(&owner.home, &"fast".parse().unwrap()).unwrap();
    assert_eq!(kernel.release(), "6.1.0-test");
    assert_eq!(std::fs::read(kernel.vmlinux()).unwrap(), KERNEL[0].1);
    let paths = ["/c/index.json", "/c/index.json.sig", "/c/b/tools.tar.zst", "/c/k.tar.zst"];
    assert_eq!(site.asked(), paths);
    // Again: nothing is asked for, and the image stays as it is.
    site.goes_away();
    assert_eq!(owner.pull("tools").await.unwrap().id(), image.id());
    assert_eq!(site.asked().len(), paths.len());
    // Under another name it is made of what is in the cache.
    let also = owner.pull_as("tools", "also").await.unwrap();
    assert_eq!(also.name(), Some("also".parse().unwrap()));
    assert_eq!(owner.images(), ["also", "tools"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_bundle_of_the_same_name_takes_its_place() {
    let site = Site::serve(Shelf::with_tools(image_bundle(b"old", None)).signed()).await;
    let owner = Owner::of(&site);
    let old = owner.pull("tools").await.unwrap();
    site.replace(Shelf::with_tools(image_bundle(b"new", None)).with_serial(8).signed());
    assert_eq!(owner.pull("tools").await.unwrap().id(), old.id(), "the index is still fresh");
    owner.index().await.unwrap();
    let new = owner.pull("tools").await.unwrap();
    assert_eq!(std::fs::read(new.root()).unwrap(), b"new");
    assert_eq!(std::fs::read(old.root()).unwrap(), b"old", "who has the old one keeps it");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_something_else_are_not_taken() {
    let mut shelf = Shelf::with_tools(image_bundle(b"x", None));
    shelf.index["images"]["other"] = shelf.index["images"]["tools"].clone();
    let site = Site::serve(shelf.signed()).await;
    let owner = Owner::of(&site);
    owner.pull("tools").await.unwrap();
    let said = owner.pull_as("other", "debian-bookworm").await.unwrap_err();
    assert!(said.contains("already, of this host's own making"), "{said}");
    owner.pull("other").await.unwrap();
    site.replace({
        let mut shelf = Shelf::with_tools(image_bundle(b"y", None)).with_serial(8);
        shelf.index["images"]["other"] = shelf.index["images"]["tools"].clone();
        shelf.signed()
    });
    owner.index().await.unwrap();
    let said = owner.pull_as("other", "tools").await.unwrap_err();
    assert!(said.contains("there is an image tools already"), "{said}");
    assert!(said.contains("--name"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_in_the_program_needs_no_server_and_cannot_be_redefined() {
    let mut shelf = Shelf::with_tools(image_bundle(b"evil", None));
    shelf.index["images"]["debian-bookworm"] = shelf.index["images"]["tools"].clone();
    let site = Site::serve(shelf.signed()).await;
    let owner = Owner::of(&site);
    let entry = owner.entry("debian-bookworm").await.unwrap();
    assert!(matches!(entry, Some(ImageEntry::Recipe(_))), "{entry:?}");
    assert_eq!(site.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_images_and_unknown_fields_and_kinds() {
    let mut shelf = Shelf::new();
    let pinned = format!("docker.io/library/alpine@sha256:{}", "ab".repeat(32));
    shelf.index["images"]["alpine"] = json!({ "kind": "oci", "reference": pinned, "x": 1 });
    shelf.index["images"]["later"] = json!({ "kind": "later" });
    shelf.index["mirrors"] = json!(["x"]);
    let site = Site::serve(shelf.signed()).await;
    let owner = Owner::of(&site);
    match owner.entry("alpine").await.unwrap() {
        Some(ImageEntry::Oci(reference)) => assert_eq!(reference.to_string(), pinned),
        other => panic!("{other:?}"),
    }
    let later = owner.entry("later").await.unwrap();
    assert_eq!(later, Some(ImageEntry::Unknown("later".to_owned())));
    assert_eq!(owner.entry("nothing").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_resumed_where_it_broke() {
    let bundle = image_bundle(&noise(5, 400_000), None);
    let cuts = AtomicUsize::new(0);
    let content = Shelf::with_tools(bundle).signed();
    let site = Site::with(content, move |request, mut reply| {
        let is_bundle = request.path.ends_with(".zst");
        if is_bundle && cuts.fetch_add(1, Ordering::SeqCst) < 3 {
            reply.cut = Some(64 * 1024);
        }
        reply
    })
    .await;
    Owner::of(&site).pull("tools").await.unwrap();
    let asked = site.fake.requests();
    let from: Vec<_> = asked.iter().filter_map(|request| request.from()).collect();
    assert_eq!(from.len(), 3, "{from:?}");
    assert!(from.is_sorted() && from[0] > 0, "{from:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_index_is_refused_also_by_the_next_daemon() {
    let shelf = Shelf::with_tools(image_bundle(b"x", None));
    let site = Site::serve(shelf.signed()).await;
    let owner = Owner::of(&site);
    owner.index().await.unwrap();
    site.replace(shelf.clone().with_serial(6).signed());
    let said = owner.index().await.unwrap_err();
    assert!(said.contains("serial 6 is lower than 7"), "{said}");
    // The last one is still believed, and a new one is as soon as there is one.
    owner.pull("tools").await.unwrap();
    site.replace(shelf.with_serial(8).signed());
    assert_eq!(owner.index().await.unwrap().serial, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_kept_back_expires() {
    let shelf = Shelf::with_tools(image_bundle(b"x", None));
    let site = Site::serve(shelf.signed()).await;
    let mut owner = Owner::of(&site);
    owner.index().await.unwrap();
    owner.now = Timestamp(NOW.0 + 40 * DAY_MS);
    let said = owner.pull("tools").await.unwrap_err();
    assert!(said.contains("expired at 2026-02-01"), "{said}");
    // Setting the clock back does not help whoever keeps it back.
    let mut newer = shelf.clone().with_serial(8);
    newer.index["expires"] = json!("2026-03-01T00:00:00Z");
    site.replace(newer.signed());
    owner.index().await.unwrap();
    owner.now = NOW;
    site.replace(shelf.with_serial(9).signed());
    let said = owner.index().await.unwrap_err();
    assert!(said.contains("expired at 2026-02-01"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_server_the_last_index_does_until_it_expires() {
    let site = Site::serve(Shelf::with_tools(image_bundle(b"x", None)).signed()).await;
    let mut owner = Owner::of(&site);
    owner.pull("tools").await.unwrap();
    site.goes_away();
    owner.now = Timestamp(NOW.0 + 2 * DAY_MS);
    let image = owner.pull("tools").await.unwrap();
    assert_eq!(Image::open(&owner.home, &"tools".parse().unwrap()).unwrap().id(), image.id());
    owner.now = Timestamp(NOW.0 + 40 * DAY_MS);
    let said = owner.pull("tools").await.unwrap_err();
    assert!(said.contains("cannot fetch the catalog"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_never_not_in_the_catalog() {
    let site = Site::serve(Shelf::new().signed()).await;
    site.goes_away();
    let owner = Owner::of(&site);
    let said = told(&owner.entry("tools").await.unwrap_err());
    assert!(said.contains("cannot fetch the catalog"), "{said}");
    // A file that cannot be read, and one that is damaged.
    let known = owner.home.catalog().join("known.json");
    std::fs::create_dir_all(&known).unwrap();
    let said = told(&owner.entry("tools").await.unwrap_err());
    assert!(said.contains("what was seen of the catalog"), "{said}");
    std::fs::remove_dir(&known).unwrap();
    std::fs::write(&known, "{").unwrap();
    let said = told(&owner.entry("tools").await.unwrap_err());
    assert!(said.contains("remove it to begin anew"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_the_kernel_that_it_wants_is_not_there() {
    let site = Site::serve(Shelf::with_tools(image_bundle(b"x", Some("gone"))).signed()).await;
    let owner = Owner::of(&site);
    let said = owner.pull("tools").await.unwrap_err();
    assert!(said.contains("wants the kernel gone"), "{said}");
    assert_eq!(owner.images(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_of_what_the_index_says_and_for_this_machine() {
    let mut shelf = Shelf::with_tools(kernel_bundle());
    let site = Site::serve(shelf.signed()).await;
    let said = Owner::of(&site).pull("tools").await.unwrap_err();
    assert!(said.contains("not of an image for amd64"), "{said}");
    shelf.index["images"]["tools"]["bundles"][0]["architecture"] = json!("arm64");
    let site = Site::serve(shelf.signed()).await;
    let said = Owner::of(&site).pull("tools").await.unwrap_err();
    assert!(said.contains("for arm64, and this host is amd64"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_and_an_index_replaced_between_its_parts_is_fetched_again() {
    let shelf = Shelf::new();
    let (old, new) = (shelf.signed(), shelf.clone().with_serial(8).signed());
    let (asked, first) = (AtomicUsize::new(0), old.by_path["/c/index.json"].1.clone());
    let site = Site::with(new, move |request, mut reply| {
        let is_index = request.path.ends_with("index.json");
        if is_index && asked.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.body = first.clone();
        }
        reply
    })
    .await;
    let owner = Owner::of(&site);
    assert_eq!(owner.index().await.unwrap().serial, 8);
    // Two keys while one replaces the other.
    let site = Site::serve(shelf.signed_by(&key(2))).await;
    let keys = format!("{}{}", key(1).public().to_pem(), key(2).public().to_pem());
    let url = format!("http://{}/c/index.json", site.fake.host());
    assert_eq!(Owner::at(&url, &keys).index().await.unwrap().serial, 7);
}
