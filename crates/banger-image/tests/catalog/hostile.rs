//! Servers and catalogs that mean harm: nothing of them is ever believed, half here, or anywhere
//! but where it belongs.

use serde_json::{Value, json};

use crate::fake::{Content, Reply, Request};
use crate::images::noise;
use crate::support::{Owner, Shelf, Site, bundle_entry, image_bundle, image_manifest, key, packed};

/// What is said of a catalog that is served so.
async fn refusal(content: Content) -> String {
    let site = Site::serve(content).await;
    let owner = Owner::of(&site);
    let said = owner.index().await.unwrap_err();
    assert!(!owner.home.catalog().join("known.json").exists(), "it is remembered");
    said
}

fn changed(change: impl Fn(&mut Value)) -> Content {
    let mut shelf = Shelf::with_tools(image_bundle(b"x", None));
    change(&mut shelf.index);
    shelf.signed()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_configured_key_signed_is_believed() {
    let shelf = Shelf::with_tools(image_bundle(b"x", None));
    let said = refusal(shelf.signed_by(&key(2))).await;
    assert!(said.contains("not of these bytes by a trusted key"), "{said}");
    let mut unsigned = shelf.signed();
    unsigned.by_path.remove("/c/index.json.sig");
    let said = refusal(unsigned).await;
    assert!(said.contains("it is not signed, and a key is configured"), "{said}");
    for nonsense in ["", "AAAA", "not base64 at all"] {
        let mut bad = shelf.signed();
        bad.by_path.get_mut("/c/index.json.sig").unwrap().1 = nonsense.into();
        let said = refusal(bad).await;
        assert!(said.contains("not of these bytes"), "{said}");
    }
    for at in [0, 20, 100] {
        let mut changed = shelf.signed();
        changed.by_path.get_mut("/c/index.json").unwrap().1[at] ^= 1;
        let said = refusal(changed).await;
        assert!(said.contains("not of these bytes"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_are_old_newer_than_known_or_nonsense_are_refused_with_words() {
    let expired = refusal(changed(|it| it["expires"] = json!("2025-12-31T23:59:59Z"))).await;
    assert!(expired.contains("expired at 2025-12-31"), "{expired}");
    let newer = refusal(changed(|it| it["schema"] = json!("banger-catalog/2"))).await;
    assert!(newer.ends_with("update banger"), "{newer}");
    let other = refusal(changed(|it| it["schema"] = json!("os-release/1"))).await;
    assert!(other.contains("instead of banger-catalog/1"), "{other}");
    let endless = refusal(changed(|it| drop(it.as_object_mut().unwrap().remove("expires")))).await;
    assert!(endless.contains("expires"), "{endless}");
    let tag = refusal(changed(|it| {
        it["images"]["a"] = json!({ "kind": "oci", "reference": "alpine:3.20" });
    }))
    .await;
    assert!(tag.contains("has no digest"), "{tag}");
    let url = |url: &'static str| {
        changed(move |it| it["images"]["tools"]["bundles"][0]["url"] = json!(url))
    };
    for bad in ["../../x", "/etc/passwd", "https://evil.example.com/x", "a/../../x", "x?y"] {
        let said = refusal(url(bad)).await;
        assert!(said.contains("no place below the index"), "{bad}: {said}");
    }
    let large = refusal(changed(|it| it["x"] = json!("x".repeat(5 << 20)))).await;
    assert!(large.contains("more than the 4194304 bytes"), "{large}");
}

/// What a pull ends with when each answer with a bundle is spoilt so.
async fn spoilt(spoil: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> String {
    let bundle = image_bundle(&noise(7, 200_000), None);
    let site = Site::with(Shelf::with_tools(bundle).signed(), move |request, reply| {
        if request.path.ends_with(".zst") { spoil(request, reply) } else { reply }
    })
    .await;
    let owner = Owner::of(&site);
    let said = owner.pull("tools").await.unwrap_err();
    assert_eq!(owner.images(), Vec::<String>::new());
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_the_bundle_make_no_image() {
    let wrong = spoilt(|_, mut reply| {
        if let Some(byte) = reply.body.last_mut() {
            *byte ^= 1;
        }
        reply
    })
    .await;
    assert!(wrong.contains("something else than sha256:"), "{wrong}");
    let truncated = spoilt(|_, mut reply| {
        reply.body.truncate(reply.body.len() / 2);
        reply
    })
    .await;
    assert!(truncated.contains("bytes"), "{truncated}");
    let longer = spoilt(|_, mut reply| {
        reply.body.extend([0; 10]);
        reply
    })
    .await;
    assert!(longer.contains("bytes of sha256:"), "{longer}");
    let cut = spoilt(|_, mut reply| {
        reply.cut = Some(0);
        reply
    })
    .await;
    assert!(cut.contains("broke") || cut.contains("bytes of"), "{cut}");
    let gone = spoilt(|_, _| Reply::new(404, "")).await;
    assert!(gone.contains("has no http"), "{gone}");
    let login = spoilt(|_, _| Reply::new(401, "").with("www-authenticate", "Basic")).await;
    assert!(login.contains("403") && !login.contains("docker login"), "{login}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_a_wrong_size_or_digest_makes_no_image() {
    let bundle = image_bundle(b"x", None);
    let mut shelf = Shelf::with_tools(bundle.clone());
    shelf.index["images"]["tools"]["bundles"][0]["size"] = json!(bundle.len() + 1);
    let site = Site::serve(shelf.signed()).await;
    let said = Owner::of(&site).pull("tools").await.unwrap_err();
    assert!(said.contains("bytes of sha256:"), "{said}");
    shelf.index["images"]["tools"] = bundle_entry("b/tools.tar.zst", b"something else");
    shelf.index["images"]["tools"]["bundles"][0]["size"] = json!(bundle.len());
    let site = Site::serve(shelf.signed()).await;
    let said = Owner::of(&site).pull("tools").await.unwrap_err();
    assert!(said.contains("something else than sha256:"), "{said}");
}

/// What the pull of a signed bundle ends with.
async fn refusal_of(bundle: Vec<u8>) -> String {
    let site = Site::serve(Shelf::with_tools(bundle).signed()).await;
    let owner = Owner::of(&site);
    let said = owner.pull("tools").await.unwrap_err();
    assert_eq!(owner.images(), Vec::<String>::new());
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_writes_nothing_but_its_own_file() {
    let manifest = image_manifest(b"x", None).to_string();
    for name in ["../../../etc/passwd", "/etc/passwd", "root.ext4/../../x", "./root.ext4", "x"] {
        let bundle = packed(&[("bundle.json", manifest.as_bytes()), (name, b"x")]);
        let said = refusal_of(bundle).await;
        assert!(said.contains("where root.ext4 is due"), "{name}: {said}");
    }
    let mut evil = image_manifest(b"x", None);
    evil["members"][0]["name"] = json!("../../../x");
    let evil = evil.to_string();
    let said = refusal_of(packed(&[("bundle.json", evil.as_bytes()), ("../../../x", b"x")])).await;
    assert!(said.contains("not root.ext4 in this order"), "{said}");
    let said = refusal_of(packed(&[("bundle.json", manifest.as_bytes()), ("root.ext4", b"y")]));
    assert!(said.await.contains("instead of sha256:"));
    let said = refusal_of(b"neither zstd nor a tar".to_vec()).await;
    assert!(said.contains("cannot use the bundle of tools"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_fills_no_disk() {
    let mut huge = image_manifest(b"", None);
    huge["members"][0]["size"] = json!(1_u64 << 50);
    let said = refusal_of(packed(&[("bundle.json", huge.to_string().as_bytes())])).await;
    assert!(said.contains("images.max_unpacked"), "{said}");
    // 400 MiB of one letter are some 40 KiB, and a tar that says so is honest.
    let root = vec![b'a'; 400 << 20];
    let said = refusal_of(image_bundle(&root, None)).await;
    assert!(said.contains("times its size"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_damaged_in_the_cache_is_removed_from_it() {
    let site = Site::serve(Shelf::with_tools(image_bundle(b"x", None)).signed()).await;
    let owner = Owner::of(&site);
    owner.pull("tools").await.unwrap();
    let blobs = owner.home.cache().join("oci/blobs/sha256");
    let blob = std::fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&blob, bytes).unwrap();
    let said = owner.pull_as("tools", "again").await.unwrap_err();
    assert!(said.contains("was damaged in the cache"), "{said}");
    owner.pull_as("tools", "again").await.unwrap();
}
