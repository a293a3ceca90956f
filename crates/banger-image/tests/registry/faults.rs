//! Registries and networks that fail: every fault ends in the right image or in a clear error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use banger_image::oci::Settings;

use crate::fake::Content;
use crate::fake::{Fake, Reply, Request};
use crate::images::{TestImage, sha256};
use crate::support::{Place, assert_is, settings, told};

const KIB: usize = 1024;

/// A registry with one image that changes its answers: the number counts requests for blobs.
async fn faulty(
    image: &TestImage,
    change: impl Fn(usize, &Request, Reply) -> Reply + Send + Sync + 'static,
) -> (Fake, Settings, String) {
    let content = Content::of("app", "1", image);
    let count = AtomicUsize::new(0);
    let fake = Fake::start(move |request| {
        let reply = content.answer(request);
        if !request.is_blob() {
            return reply;
        }
        change(count.fetch_add(1, Ordering::SeqCst), request, reply)
    })
    .await;
    let (settings, source) = (settings(&[&fake.host()]), format!("{}/app:1", fake.host()));
    (fake, settings, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_again_and_again_is_taken_up_where_it_broke() {
    let image = TestImage::usual(1, 600 * KIB);
    let (fake, settings, source) = faulty(&image, |_, _, mut reply| {
        reply.cut = (reply.body.len() > 64 * KIB).then_some(64 * KIB);
        reply
    })
    .await;
    let place = Place::new();
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
    for layer in &image.layers {
        let path = format!("/v2/app/blobs/{}", sha256(&layer.bytes));
        let asked = fake.blob_requests().into_iter().filter(|r| r.path == path);
        let from: Vec<_> = asked.map(|r| r.from().unwrap_or(0)).collect();
        let expected: Vec<_> = (0..layer.bytes.len()).step_by(64 * KIB).collect();
        assert_eq!(from, expected, "nothing is fetched twice");
    }
    assert!(place.partials().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_cannot_resume_sends_all_again() {
    let image = TestImage::usual(2, 200 * KIB);
    let content = Content::of("app", "1", &image);
    let (_fake, settings, source) = faulty(&image, move |n, request, mut reply| {
        if request.from().is_some() {
            let whole = Request { headers: Default::default(), ..request.clone() };
            return content.answer(&whole);
        }
        reply.cut = (n < 6 && reply.body.len() > 64 * KIB).then_some(64 * KIB);
        reply
    })
    .await;
    assert_is(&Place::new().pull(&source, &settings).await.unwrap(), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_not_asked_for_is_not_taken() {
    let image = TestImage::usual(3, 200 * KIB);
    let (fake, settings, source) = faulty(&image, |_, request, mut reply| {
        if request.from().is_some() {
            for (name, value) in &mut reply.headers {
                if name == "content-range" {
                    *value = value.replace("bytes 65536", "bytes 65535");
                }
            }
        } else if request.is_blob() && reply.body.len() > 64 * KIB {
            reply.cut = Some(64 * KIB);
        }
        reply
    })
    .await;
    let place = Place::new();
    let error = place.pull(&source, &settings).await.unwrap_err();
    assert!(told(&error).contains("cannot fetch a part of"), "{}", told(&error));
    // It began anew in between, but not for ever.
    let path = format!("/v2/app/blobs/{}", sha256(&image.layers[2].bytes));
    let asked = fake.blob_requests().into_iter().filter(|r| r.path == path);
    let from: Vec<_> = asked.map(|r| r.from()).collect();
    assert!(from.contains(&Some(64 * KIB)) && from.len() <= 5, "{from:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_wrong_once_are_fetched_again() {
    let image = TestImage::usual(4, 100 * KIB);
    let (_fake, settings, source) = faulty(&image, |n, _, mut reply| {
        // The config and the layers, each the first time.
        if n == 0 || n == 2 {
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 1;
        }
        reply
    })
    .await;
    assert_is(&Place::new().pull(&source, &settings).await.unwrap(), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_stay_wrong_are_an_error_and_nothing_is_kept() {
    let image = TestImage::usual(5, 100 * KIB);
    let bad = format!("/v2/app/blobs/{}", sha256(&image.layers[1].bytes));
    let (fake, settings, source) = faulty(&image, move |_, request, mut reply| {
        if request.path == bad {
            reply.body[0] ^= 1;
        }
        reply
    })
    .await;
    let place = Place::new();
    let error = place.pull(&source, &settings).await.unwrap_err();
    assert!(told(&error).contains("sent something else than sha256:"), "{}", told(&error));
    assert!(!place.blobs().contains(&sha256(&image.layers[1].bytes).hex().to_owned()));
    let path = format!("/v2/app/blobs/{}", sha256(&image.layers[1].bytes));
    assert_eq!(fake.blob_requests().iter().filter(|r| r.path == path).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_attempt_left_wrong_is_given_up() {
    let image = TestImage::usual(6, 100 * KIB);
    let (_fake, settings, source) = faulty(&image, |_, _, reply| reply).await;
    let place = Place::new();
    let layer = &image.layers[0].bytes;
    let partial =
        place.cache.root().join("partial").join(format!("sha256-{}", sha256(layer).hex()));
    // A power cut leaves zeros, a crash of another kind more than there should be.
    for left in [vec![0; 10 * KIB], vec![1; layer.len()], vec![2; layer.len() + 1]] {
        let _ = std::fs::remove_dir_all(place.cache.root().join("blobs/sha256"));
        std::fs::create_dir(place.cache.root().join("blobs/sha256")).unwrap();
        std::fs::write(&partial, left).unwrap();
        assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_is_never_taken() {
    let image = TestImage::usual(7, 100 * KIB);
    for (announced, more) in [(-1_isize, 0), (1, 0), (0, 7)] {
        let (_fake, settings, source) = faulty(&image, move |n, _, mut reply| {
            if n == 1 {
                reply.body.extend(vec![0; more]);
                reply.length = Some(reply.body.len().checked_add_signed(announced).unwrap());
            }
            reply
        })
        .await;
        assert_is(&Place::new().pull(&source, &settings).await.unwrap(), &image);
        let (_fake, settings, source) = faulty(&image, move |n, _, mut reply| {
            if n > 0 {
                reply.body.extend(vec![0; more]);
                reply.length = Some(reply.body.len().checked_add_signed(announced).unwrap());
            }
            reply
        })
        .await;
        let error = Place::new().pull(&source, &settings).await.unwrap_err();
        assert!(told(&error).contains("were due"), "{}", told(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_asked_again_when_it_says_so() {
    let image = TestImage::usual(8, KIB);
    let (_fake, mut settings, source) = faulty(&image, |n, _, reply| match n {
        0 => Reply::new(429, "").with("retry-after", "1"),
        1 => Reply::new(503, ""),
        2 => Reply::new(500, ""),
        _ => reply,
    })
    .await;
    settings.patience.max_retry_after = Duration::from_secs(2);
    let begin = Instant::now();
    assert_is(&Place::new().pull(&source, &settings).await.unwrap(), &image);
    assert!(begin.elapsed() >= Duration::from_secs(1));

    let (fake, settings, source) = faulty(&image, |_, _, _| {
        Reply::new(429, r#"{"errors":[{"message":"too many\u0007 pulls"}]}"#)
            .with("retry-after", "3600")
    })
    .await;
    let error = told(&Place::new().pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("429") && error.contains("too many pulls"), "{error}");
    assert!(error.contains("try again in 3600 s"), "{error}");
    assert_eq!(fake.blob_requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stays_broken_is_given_up() {
    let image = TestImage::usual(9, KIB);
    let (fake, settings, source) = faulty(&image, |_, _, _| Reply::new(500, "oops")).await;
    let error = told(&Place::new().pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("cannot answer now (500"), "{error}");
    assert_eq!(fake.blob_requests().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_taken_up_elsewhere() {
    let image = TestImage::usual(10, 100 * KIB);
    let (fake, mut settings, source) = faulty(&image, |n, _, mut reply| {
        reply.stall = (n == 1).then_some(10 * KIB);
        reply
    })
    .await;
    settings.patience.idle = Duration::from_secs(2);
    assert_is(&Place::new().pull(&source, &settings).await.unwrap(), &image);
    assert!(fake.blob_requests().iter().any(|r| r.from() == Some(10 * KIB)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_takes_too_long_ends() {
    let image = TestImage::usual(11, KIB);
    let (_fake, mut settings, source) = faulty(&image, |_, _, mut reply| {
        reply.stall = Some(1);
        reply
    })
    .await;
    settings.patience.overall = Duration::from_millis(300);
    let error = told(&Place::new().pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("did not arrive within"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Place::new().pull(&format!("{host}/app:1"), &settings(&[&host])).await.unwrap_err();
    let error = told(&error);
    assert!(error.contains(&format!("cannot reach {host}: cannot connect")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_at_once_fetch_each_blob_once() {
    let image = TestImage::usual(12, 300 * KIB);
    let (fake, settings, source) = faulty(&image, |_, _, reply| reply).await;
    let place = Arc::new(Place::new());
    let other = banger_image::oci::Cache::open(place.cache.root()).unwrap();
    let pulls: Vec<_> = (0..6)
        .map(|n| {
            // Also another that knows nothing of the first, as another process would.
            let cache = if n % 2 == 0 { place.cache.clone() } else { other.clone() };
            let (settings, source) = (settings.clone(), source.parse().unwrap());
            tokio::spawn(async move {
                banger_image::oci::pull(source, &cache, &settings, &banger_model::Silent).await
            })
        })
        .collect();
    for pull in pulls {
        assert_is(&pull.await.unwrap().unwrap(), &image);
    }
    assert_eq!(fake.blob_requests().len(), 4, "a config and three layers");
    place.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_needs_no_network() {
    let image = TestImage::usual(13, KIB);
    let (fake, mut settings, source) = faulty(&image, |_, _, reply| reply).await;
    let place = Place::new();
    let first = place.pull(&source, &settings).await.unwrap();
    assert_eq!(first.manifest_digest, image.digest());
    let asked = fake.requests().len();
    let by_digest = format!("{}/app@{}", fake.host(), image.digest());
    assert_is(&place.pull(&by_digest, &settings).await.unwrap(), &image);
    assert_eq!(fake.requests().len(), asked, "a digest is not asked for");
    // A tag is asked for, and nothing else.
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
    assert_eq!(fake.requests().len(), asked + 1);
    // The registry goes away.
    let port = fake.host();
    settings.patience.connect = Duration::from_millis(200);
    settings.patience.idle = Duration::from_millis(200);
    settings.insecure.clear();
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains(&port), "{error}");
    settings.last_known = banger_image::oci::LastKnown::Allow;
    let known = place.pull(&source, &settings).await.unwrap();
    assert!(matches!(known.freshness, banger_image::oci::Freshness::LastKnown(_)));
    assert_is(&known, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_goes_before_and_the_registry_behind() {
    let image = TestImage::usual(14, 100 * KIB);
    let mirrored = Content::of("hub/team/app", "1", &image);
    let mirror = Fake::start(move |request| {
        let mut reply = mirrored.answer(request);
        // It breaks after the first layer.
        if request.is_blob() && reply.body.len() > KIB {
            reply.cut = Some(20 * KIB);
            if request.from().is_some() {
                return Reply::new(500, "");
            }
        }
        reply
    })
    .await;
    let registry = Fake::good(Content::of("team/app", "1", &image)).await;
    let mut settings = settings(&[&mirror.host(), &registry.host()]);
    let gone = "127.0.0.1:1".parse().unwrap();
    settings.insecure.insert("127.0.0.1:1".to_owned());
    let mirrors = vec![gone, format!("{}/hub", mirror.host()).parse().unwrap()];
    settings.mirrors.insert(registry.host(), mirrors);
    let source = format!("{}/team/app:1", registry.host());
    let pulled = Place::new().pull(&source, &settings).await.unwrap();
    assert_is(&pulled, &image);
    assert!(registry.requests().iter().all(|r| r.from() == Some(20 * KIB)), "only the rest");
    assert_eq!(registry.requests().len(), 3);
}
