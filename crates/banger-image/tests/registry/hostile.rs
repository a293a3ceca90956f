//! Registries and images that mean harm, or are something else than images.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use banger_host::home::Home;
use banger_image::image::{Import, Naming, SandboxWishes};
use banger_image::oci::{Allowance, Pulled, UnpackError};
use banger_model::{Bytes, Silent, Timestamp};
use serde_json::{Value, json};

use crate::fake::{Content, Fake, Reply};
use crate::images::{
    LAYER, LAYER_GZIP, OCI_INDEX, TestImage, TestLayer, gzip, index, noise, sha256, tar_of, zstd,
};
use crate::support::{Place, assert_is, settings, told, unpacked};

/// What the pull of `app:1` ends with.
async fn refusal(content: Content) -> String {
    let fake = Fake::good(content).await;
    let source = format!("{}/app:1", fake.host());
    let place = Place::new();
    let error = place.pull(&source, &settings(&[&fake.host()])).await.unwrap_err();
    assert!(place.partials().is_empty(), "{:?}", place.partials());
    told(&error)
}

async fn refusal_of(image: &TestImage) -> String {
    refusal(Content::of("app", "1", image)).await
}

fn small() -> TestImage {
    TestImage::usual(30, 1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_is_refused_by_its_name() {
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 12] = [
        (|m| m["schemaVersion"] = json!(1), "of the old schema 1"),
        (|m| m["schemaVersion"] = json!(3), "of schema 3"),
        (|m| m["manifests"] = json!([]), "could be taken for either"),
        (|m| m["mediaType"] = json!(OCI_INDEX), "calls itself"),
        (
            |m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"),
            "an artifact of the type \"application/vnd.cncf.helm.config.v1+json\"",
        ),
        (
            |m| {
                m["layers"][1]["mediaType"] =
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
            },
            "may not be distributed",
        ),
        (
            |m| m["layers"][1]["mediaType"] = json!("application/x-zip"),
            "unknown type \"application/x-zip\"",
        ),
        (
            |m| m["layers"][1]["digest"] = json!("md5:00"),
            "digests of the kind \"md5\" are not supported",
        ),
        (|m| m["layers"][1]["digest"] = json!("sha256:../../../etc/passwd"), "is not a digest"),
        (|m| m["layers"][1]["size"] = json!(u64::MAX), "are taken"),
        (|m| m["layers"][1]["size"] = json!(-1), "cannot be read"),
        (
            |m| {
                m["layers"].as_array_mut().unwrap().pop();
            },
            "has 2 layers, but its config has the digests of 3",
        ),
    ];
    for (change, expected) in cases {
        let error = refusal_of(&small().changed(change)).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let mut deep = small();
    for at in ["x", "config", "annotations"] {
        deep.manifest = format!(r#"{{"schemaVersion":2,"{at}":{nested}}}"#).into_bytes();
        let error = refusal_of(&deep).await;
        assert!(error.contains("cannot be read"), "{error}");
    }
    let many = small().changed(|m| {
        let layer = m["layers"][0].clone();
        m["layers"] = json!(vec![layer; 1000]);
    });
    assert!(refusal_of(&many).await.contains("1000 layers, and at most 256"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_end_is_not_read_to_the_end() {
    let fake = Fake::start(|_| Reply::new(200, vec![b' '; 100 << 20])).await;
    let source = format!("{}/app:1", fake.host());
    let error = told(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap_err());
    assert!(error.contains("more than the 4194304 bytes"), "{error}");
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_contradicts_itself_is_not_believed() {
    let image = small();
    for told_digest in [sha256(b"other").to_string(), "nonsense".to_owned()] {
        let content = Content::of("app", "1", &image);
        let fake = Fake::start(move |request| {
            content.answer(request).with("docker-content-digest", told_digest.clone())
        })
        .await;
        let source = format!("{}/app:1", fake.host());
        let error =
            told(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap_err());
        assert!(error.contains("says of what it sends that it is"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_manifest_or_config_than_was_named_is_refused() {
    let (image, other) = (small(), TestImage::usual(40, 10));
    // By digest.
    let mut content = Content::of("app", "1", &image);
    let path = format!("/v2/app/manifests/{}", image.digest());
    content.by_path.get_mut(&path).unwrap().1 = other.manifest.clone();
    let fake = Fake::good(content).await;
    let source = format!("{}/app@{}", fake.host(), image.digest());
    let error = told(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap_err());
    assert!(error.contains("sent something else than"), "{error}");
    // Of a size that is another than the index says.
    let mut content = Content::of("app", "x", &image);
    let list = index(&[("linux/amd64", &image.manifest)]);
    let list = String::from_utf8(list).unwrap();
    let size = format!("\"size\":{}", image.manifest.len());
    let list = list.replace(&size, "\"size\":5");
    content.manifest("app", &["1"], OCI_INDEX, list.as_bytes());
    let error = refusal(content).await;
    assert!(error.contains("where 5 were due"), "{error}");
    // A config.
    let mut content = Content::of("app", "1", &image);
    let path = format!("/v2/app/blobs/{}", sha256(&image.config));
    let mut bytes = image.config.clone();
    bytes[3] ^= 1;
    content.by_path.get_mut(&path).unwrap().1 = bytes;
    let error = refusal(content).await;
    assert!(error.contains("sent something else than"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_lies_is_refused_also_for_what_is_here() {
    let image = small();
    let fake = Fake::good({
        let mut content = Content::of("app", "1", &image);
        let lying = image.clone().changed(|m| m["layers"][0]["size"] = json!(7));
        content.image("app", "2", &lying);
        content
    })
    .await;
    let (place, settings) = (Place::new(), settings(&[&fake.host()]));
    let pulled = place.pull(&format!("{}/app:1", fake.host()), &settings).await.unwrap();
    let error = told(&place.pull(&format!("{}/app:2", fake.host()), &settings).await.unwrap_err());
    assert!(error.contains("but 7 according to the manifest"), "{error}");
    assert_is(&pulled, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_image_is_taken_of_several() {
    let (mine, other, arm) = (small(), TestImage::usual(50, 10), TestImage::usual(60, 10));
    let list = index(&[
        ("unknown/unknown", &other.manifest),
        ("windows/amd64", &other.manifest),
        ("linux/arm64/v8", &arm.manifest),
        ("linux/amd64/v3", &other.manifest),
        ("linux/amd64", &mine.manifest),
    ]);
    let mut content = Content::of("app", "x", &mine);
    content.manifest("app", &["1"], OCI_INDEX, &list);
    let outer = index(&[("linux/amd64", &list)]);
    let outer =
        String::from_utf8(outer).unwrap().replacen(crate::images::OCI_MANIFEST, OCI_INDEX, 1);
    content.manifest("app", &["2"], OCI_INDEX, outer.as_bytes());
    let fake = Fake::good(content).await;
    let mut settings = settings(&[&fake.host()]);
    for tag in ["1", "2"] {
        let pulled =
            Place::new().pull(&format!("{}/app:{tag}", fake.host()), &settings).await.unwrap();
        assert_is(&pulled, &mine);
        let expected = if tag == "1" { sha256(&list) } else { sha256(outer.as_bytes()) };
        assert_eq!((pulled.manifest_digest, pulled.index_digest), (mine.digest(), Some(expected)));
        assert_eq!(
            (pulled.config.env.as_slice(), pulled.config.user.as_str()),
            (["A=b".to_owned()].as_slice(), "1000:1000")
        );
        assert_eq!(pulled.config.cmd, ["/bin/sh"]);
        assert_eq!(pulled.config.exposed_ports, ["80/tcp"]);
    }
    settings.platform.architecture = "riscv64".to_owned();
    let error = Place::new().pull(&format!("{}/app:1", fake.host()), &settings).await.unwrap_err();
    assert!(told(&error).contains("no image for linux/riscv64 in it, only for: windows/amd64, linux/arm64/v8, linux/amd64/v3, linux/amd64"), "{}", told(&error));
    settings.platform.architecture = "arm64".to_owned();
    let error = Place::new().pull(&format!("{}/app:x", fake.host()), &settings).await.unwrap_err();
    assert!(told(&error).contains("it is for linux/amd64, and this host needs linux/arm64"));
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_in_circles_end() {
    // A circle cannot be made of digests; a long chain can.
    let image = small();
    let mut content = Content::of("app", "x", &image);
    let mut inner = image.manifest.clone();
    for _ in 0..6 {
        inner = index(&[("linux/amd64", &inner)]);
        content.manifest("app", &["1"], OCI_INDEX, &inner);
    }
    let fake = Fake::start(move |request| {
        let mut reply = content.answer(request);
        reply.headers.clear();
        reply
    })
    .await;
    let source = format!("{}/app:1", fake.host());
    let error = told(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap_err());
    assert!(
        error.contains("its indexes name each other") || error.contains("calls itself"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compression_that_is_named_wrong_harms_nobody() {
    let tar = tar_of("file", &noise(70, 100_000));
    let layers = vec![
        TestLayer { media_type: LAYER, bytes: gzip(&tar), tar: tar.clone() },
        TestLayer { media_type: LAYER_GZIP, bytes: zstd(&tar), tar: tar.clone() },
        TestLayer { media_type: LAYER_GZIP, bytes: tar.clone(), tar: tar.clone() },
        // Two members, and two frames.
        TestLayer {
            media_type: LAYER_GZIP,
            bytes: [gzip(&tar[..5000]), gzip(&tar[5000..])].concat(),
            tar: tar.clone(),
        },
        TestLayer {
            media_type: LAYER,
            bytes: [zstd(&tar[..5000]), zstd(&tar[5000..])].concat(),
            tar,
        },
    ];
    let image = TestImage::new(layers);
    let fake = Fake::good(Content::of("app", "1", &image)).await;
    let source = format!("{}/app:1", fake.host());
    assert_is(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap(), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_something_else_is_refused() {
    let tar = tar_of("file", &noise(71, 10_000));
    let other = tar_of("file", b"other");
    for bytes in [gzip(&other), b"no tar, but nobody looks".to_vec(), gzip(&tar)[..5000].to_vec()] {
        let image =
            TestImage::new(vec![TestLayer { media_type: LAYER_GZIP, bytes, tar: tar.clone() }]);
        let fake = Fake::good(Content::of("app", "1", &image)).await;
        let source = format!("{}/app:1", fake.host());
        let place = Place::new();
        let pulled = place.pull(&source, &settings(&[&fake.host()])).await.unwrap();
        let error = unpacked(&pulled.layers[0]).unwrap_err();
        assert!(
            matches!(error, UnpackError::DiffId { .. } | UnpackError::Decompress { .. }),
            "{}",
            told(&error)
        );
        // The blob is what was promised: it stays.
        assert!(place.blobs().contains(&pulled.layers[0].digest().hex().to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_does_not_fill_the_disk() {
    let zeros = vec![0; 64 << 20];
    for bytes in [gzip(&zeros), zstd(&zeros)] {
        let image =
            TestImage::new(vec![TestLayer { media_type: LAYER_GZIP, bytes, tar: zeros.clone() }]);
        let fake = Fake::good(Content::of("app", "1", &image)).await;
        let source = format!("{}/app:1", fake.host());
        let mut settings = settings(&[&fake.host()]);
        // What many zeros make is usual up to a point.
        let pulled = Place::new().pull(&source, &settings).await.unwrap();
        assert_eq!(unpacked(&pulled.layers[0]).unwrap().len(), zeros.len());
        settings.limits.ratio_free = Bytes::mib(1);
        settings.limits.max_ratio = 20;
        let pulled = Place::new().pull(&source, &settings).await.unwrap();
        let file = tempfile::tempfile().unwrap();
        let error =
            pulled.layers[0].unpack_into(&file, &Allowance::of(&pulled.layers)).unwrap_err();
        assert!(matches!(error, UnpackError::Bomb { .. }), "{}", told(&error));
        assert!(file.metadata().unwrap().len() < 40 << 20);
        settings.limits.ratio_free = Bytes::gib(1);
        settings.limits.max_unpacked = Bytes::mib(10);
        let pulled = Place::new().pull(&source, &settings).await.unwrap();
        let file = tempfile::tempfile().unwrap();
        let error =
            pulled.layers[0].unpack_into(&file, &Allowance::of(&pulled.layers)).unwrap_err();
        assert!(matches!(error, UnpackError::ImageTooLarge { .. }), "{}", told(&error));
        assert!(file.metadata().unwrap().len() <= 10 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_layer_that_is_named_again_and_again_does_not_fill_the_disk() {
    let zeros = vec![0; 4 << 20];
    let layer = TestLayer { media_type: LAYER_GZIP, bytes: gzip(&zeros), tar: zeros };
    let image = TestImage::new(vec![layer; 64]);
    let fake = Fake::good(Content::of("app", "1", &image)).await;
    let source = format!("{}/app:1", fake.host());
    let mut settings = settings(&[&fake.host()]);
    settings.limits.ratio_free = Bytes::mib(5);
    settings.limits.max_ratio = 20;
    let place = Place::new();
    let pulled = place.pull(&source, &settings).await.unwrap();
    assert_eq!(pulled.layers.len(), 64);
    let told = stopped(&pulled);
    assert!(told.0 < 6 && told.1.contains("more than 20 times what was fetched"), "{told:?}");
    settings.limits.ratio_free = Bytes::gib(1);
    settings.limits.max_unpacked = Bytes::mib(10);
    let told = stopped(&place.pull(&source, &settings).await.unwrap());
    assert!(told.0 == 2 && told.1.contains("`max_unpacked` in config.toml"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_of_all_layers_count_together() {
    let hole = |name: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let size = (40u64 << 30).to_string();
        let records = [("path", name), ("GNU.sparse.size", &size), ("GNU.sparse.map", "0,0")];
        tar.append_pax_extensions(records.map(|(key, value)| (key, value.as_bytes()))).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(0);
        header.set_path(name).unwrap();
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
        TestLayer::gzip(tar.into_inner().unwrap())
    };
    for holes in [[hole("one"), hole("two")], [hole("one"), hole("one")]] {
        let image = TestImage::new(holes.to_vec());
        let fake = Fake::good(Content::of("app", "1", &image)).await;
        let (place, source) = (Place::new(), format!("{}/app:1", fake.host()));
        let pulled = place.pull(&source, &settings(&[&fake.host()])).await.unwrap();
        let import = Import {
            wishes: &SandboxWishes::default(),
            home: &Home::under(&place.dir.path().join("home")),
            pulled: &pulled,
            source: "a test",
            now: Timestamp(0),
            called_off: &AtomicBool::new(false),
        };
        let naming = Naming::Exactly("app".parse().unwrap());
        let said = told(&import.run(&naming, &Silent).unwrap_err());
        assert!(
            said.contains("the image has more than 64 GiB of holes in all its layers"),
            "{said}"
        );
    }
}

/// How many layers are unpacked before it is too much, and what is said then.
fn stopped(pulled: &Pulled) -> (usize, String) {
    let allowance = Allowance::of(&pulled.layers);
    for (number, layer) in pulled.layers.iter().enumerate() {
        if let Err(error) = layer.unpack_into(&tempfile::tempfile().unwrap(), &allowance) {
            return (number, told(&error));
        }
    }
    panic!("all of it was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_occurs_twice_is_fetched_once() {
    let layer = TestLayer::gzip(tar_of("file", &noise(72, 1000)));
    let image = TestImage::new(vec![layer.clone(), TestLayer::plain(tar_of("x", b"y")), layer]);
    let fake = Fake::good(Content::of("app", "1", &image)).await;
    let source = format!("{}/app:1", fake.host());
    assert_is(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap(), &image);
    assert_eq!(fake.blob_requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longer_digest_will_do_too() {
    use sha2::Digest as _;
    let image = small();
    let bytes = &image.layers[0].bytes;
    let digest = banger_model::Digest::sha512(sha2::Sha512::digest(bytes).into());
    let named = image.clone().changed(|m| m["layers"][0]["digest"] = json!(digest.to_string()));
    for damage in [0, 1] {
        let mut content = Content::of("app", "1", &named);
        let mut bytes = bytes.clone();
        bytes[9] ^= damage;
        let path = format!("/v2/app/blobs/{digest}");
        content.by_path.insert(path, ("application/octet-stream".to_owned(), bytes));
        let fake = Fake::good(content).await;
        let source = format!("{}/app:1", fake.host());
        match Place::new().pull(&source, &settings(&[&fake.host()])).await {
            Ok(pulled) => {
                assert_eq!((damage, pulled.layers[0].digest()), (0, &digest));
                assert_is(&pulled, &image);
            }
            Err(error) => assert_eq!(damage, 1, "{}", told(&error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_mixes_nothing() {
    let (old, new) = (small(), TestImage::usual(80, 2000));
    let contents = [&old, &new].map(|image| {
        let mut content = Content::of("app", "x", image);
        let list = index(&[("linux/amd64", &image.manifest)]);
        content.manifest("app", &["1"], OCI_INDEX, &list);
        content
    });
    let asked = AtomicUsize::new(0);
    let fake = Fake::start(move |request| {
        // It moves as soon as somebody has asked for it.
        if request.path.ends_with("/manifests/1") {
            return contents[asked.fetch_add(1, Ordering::SeqCst).min(1)].answer(request);
        }
        let answers = contents.each_ref().map(|content| content.answer(request));
        answers.into_iter().find(|reply| reply.status != 404).unwrap_or(Reply::new(404, ""))
    })
    .await;
    let (place, settings) = (Place::new(), settings(&[&fake.host()]));
    let source = format!("{}/app:1", fake.host());
    assert_is(&place.pull(&source, &settings).await.unwrap(), &old);
    assert_is(&place.pull(&source, &settings).await.unwrap(), &new);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_in_the_cache_is_found_and_fetched_again() {
    let image = small();
    let fake = Fake::good(Content::of("app", "1", &image)).await;
    let (place, settings) = (Place::new(), settings(&[&fake.host()]));
    let source = format!("{}/app:1", fake.host());
    let pulled = place.pull(&source, &settings).await.unwrap();
    let blobs = place.cache.root().join("blobs/sha256");
    for digest in [&pulled.config_digest, &pulled.manifest_digest, pulled.layers[0].digest()] {
        let path = blobs.join(digest.hex());
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let by_digest = format!("{}/app@{}", fake.host(), image.digest());
    let source = by_digest.parse().unwrap();
    let again = banger_image::oci::pull(source, &place.cache, &settings, &banger_model::Silent);
    let again = again.await.unwrap();
    let error = unpacked(&again.layers[0]).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged { .. }), "{}", told(&error));
    drop((again, pulled));
    assert_is(&place.pull(&by_digest, &settings).await.unwrap(), &image);
}
