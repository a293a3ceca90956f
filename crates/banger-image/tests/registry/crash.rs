//! Pullers that are killed, or give up: what they leave is right, and the next one goes on there.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use banger_image::oci::{Cache, pull};
use banger_model::{Bytes, Silent};

use crate::fake::Content;
use crate::fake::Fake;
use crate::images::{TestImage, sha256};
use crate::support::{Place, assert_is, check_blobs, settings};

/// Tells the child what to do; set for it alone.
const SOURCE: &str = "BANGER_TEST_PULL";
const CACHE: &str = "BANGER_TEST_CACHE";

/// The program that is killed: this one again, with this as its only test.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is started by the test that kills it"]
async fn child() {
    let source = std::env::var(SOURCE).unwrap();
    let host = source.split('/').next().unwrap().to_owned();
    let cache = Cache::open(std::env::var_os(CACHE).unwrap().as_ref()).unwrap();
    pull(source.parse().unwrap(), &cache, &settings(&[&host]), &Silent).await.unwrap();
}

/// A registry that sends all blobs in pieces, and counts what it has sent.
async fn counting(image: &TestImage) -> (Fake, Arc<AtomicUsize>) {
    let content = Content::of("app", "1", image);
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let fake = Fake::start(move |request| {
        let mut reply = content.answer(request);
        if request.is_blob() && reply.body.len() > 32 * 1024 {
            reply.cut = Some(32 * 1024);
        }
        counted.fetch_add(1, Ordering::SeqCst);
        reply
    })
    .await;
    (fake, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_puller_leaves_nothing_wrong() {
    let image = TestImage::usual(200, 200_000);
    let (fake, sent) = counting(&image).await;
    let source = format!("{}/app:1", fake.host());
    let place = Place::new();
    for after in (1..28).step_by(3) {
        let begin = sent.load(Ordering::SeqCst);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--ignored", "--quiet"])
            .env(SOURCE, &source)
            .env(CACHE, place.cache.root())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Killed as soon as so many answers were asked for, or when it is done by itself.
        while sent.load(Ordering::SeqCst) < begin + after && child.try_wait().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        let _ = child.kill();
        child.wait().unwrap();
        place.check();
    }
    let settings = settings(&[&fake.host()]);
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
    assert!(place.partials().is_empty(), "{:?}", place.partials());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_is_taken_up_by_the_next() {
    let image = TestImage::usual(210, 200_000);
    let (fake, sent) = counting(&image).await;
    let settings = settings(&[&fake.host()]);
    let source = format!("{}/app:1", fake.host());
    let place = Place::new();
    let mut dropped = 0;
    for after in 1..40 {
        let begin = sent.load(Ordering::SeqCst);
        let enough = async {
            while sent.load(Ordering::SeqCst) < begin + after {
                tokio::task::yield_now().await;
            }
        };
        let pull = pull(source.parse().unwrap(), &place.cache, &settings, &Silent);
        tokio::select! {
            biased;
            () = enough => dropped += 1,
            done = pull => {
                assert_is(&done.unwrap(), &image);
                break;
            }
        }
        check_blobs(place.cache.root());
    }
    assert!(dropped > 3, "{dropped}");
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
    // All attempts together have fetched little twice: what was under way when they ended.
    let least: usize = image.layers.iter().map(|l| l.bytes.len().div_ceil(32 * 1024)).sum();
    let asked = fake.blob_requests().len();
    assert!(
        asked < least + 1 + 4 * (dropped + 1),
        "{asked} requests for {least}, {dropped} dropped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_is_not_pruned_and_the_oldest_goes_first() {
    let (old, new) = (TestImage::usual(220, 10_000), TestImage::usual(230, 20_000));
    let mut content = Content::of("app", "1", &old);
    content.image("app", "2", &new);
    let fake = Fake::good(content).await;
    let (place, settings) = (Place::new(), settings(&[&fake.host()]));
    let pulled = place.pull(&format!("{}/app:1", fake.host()), &settings).await.unwrap();
    drop(place.pull(&format!("{}/app:2", fake.host()), &settings).await.unwrap());
    std::fs::write(
        place.cache.root().join("partial").join(format!("sha256-{}", "0".repeat(64))),
        "x",
    )
    .unwrap();
    let listed = place.cache.list().unwrap();
    assert_eq!(listed.len(), 11);
    let whole: u64 = listed.iter().map(|entry| entry.size.get()).sum();

    let pruned = place.cache.prune(Bytes::new(whole - 1)).unwrap();
    assert_eq!(pruned.removed.len(), 1, "the oldest that is not in use");
    assert!(new.digest() == pruned.removed[0] || pruned.freed.get() > 0);
    let pruned = place.cache.prune(Bytes::new(0)).unwrap();
    assert_eq!(pruned.removed.len(), 5);
    assert!(place.partials().is_empty());
    assert_is(&pulled, &old);
    let left: Vec<_> = place.cache.list().unwrap().into_iter().map(|entry| entry.digest).collect();
    assert!(left.contains(&old.digest()) && left.contains(&sha256(&old.config)));
    drop(pulled);
    let pruned = place.cache.prune(Bytes::new(0)).unwrap();
    assert_eq!((pruned.removed.len(), pruned.left), (5, Bytes::new(0)));
    assert_eq!(std::fs::read_dir(place.cache.root().join("tags")).unwrap().count(), 0);
    // All of it can be had again.
    let source = format!("{}/app:1", fake.host());
    let again = tokio::time::timeout(Duration::from_secs(300), place.pull(&source, &settings));
    assert_is(&again.await.unwrap().unwrap(), &old);
}
