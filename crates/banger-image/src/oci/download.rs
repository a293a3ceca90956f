//! One blob from whoever has it into the cache, however often the connection breaks.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use banger_host::HostError;
use banger_model::Digest;
use bytes::Bytes as Chunk;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use super::cache::{Blob, Cache, Claim, Partial, Written, in_thread};
use super::http::Answer;
use super::http::retry::MAX_RESUMES;
use super::registry::{Endpoint, FetchError};

/// Pieces that wait to be written: each has some 100 KiB.
const QUEUE: usize = 8;
/// How often one endpoint may send a whole blob that is wrong.
const MAX_WRONG: u32 = 2;

/// Why a blob is not in the cache.
#[derive(Debug, Error)]
pub enum BlobError {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It could not be kept.
    #[error(transparent)]
    Cache(#[from] HostError),
    /// What is here under its name has another size than the manifest says.
    #[error("{digest} has {found} bytes, but {expected} according to the manifest")]
    Size {
        /// The blob.
        digest: Digest,
        /// What the manifest says.
        expected: u64,
        /// What it has.
        found: u64,
    },
}

/// How much is done of what several tasks do.
#[derive(Debug, Default)]
pub(super) struct Meter {
    done: AtomicU64,
    changed: Notify,
}

impl Meter {
    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Whoever has blobs.
pub(super) trait Holder: Sync {
    /// The places to ask, in this order.
    fn endpoints(&self) -> &[Endpoint];

    /// Asks for a blob from this byte on. What is answered is only known to be no refusal.
    fn ask_for(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        from: u64,
    ) -> impl Future<Output = Result<Answer, FetchError>> + Send;
}

/// A blob on its way.
struct Download<'a, H> {
    holder: &'a H,
    meter: &'a Meter,
    /// What the meter has of it.
    counted: u64,
}

/// Fetches a blob unless it is here; of several that want it one does, and the others wait.
pub(super) async fn fetch_blob<H: Holder>(
    holder: &H,
    cache: &Cache,
    (digest, size): (&Digest, u64),
    meter: &Meter,
) -> Result<Blob, BlobError> {
    let partial = match cache.claim(digest, size).await? {
        Claim::Here(blob) => {
            let blob = check_size(blob, size)?;
            meter.add(size);
            return Ok(blob);
        }
        Claim::ToFetch(partial) => partial,
    };
    Download { holder, meter, counted: 0 }.run(partial).await
}

/// What is in the cache has the right digest; that does not make the manifest right.
pub(super) fn check_size(blob: Blob, expected: u64) -> Result<Blob, BlobError> {
    let found = blob.size().get();
    if found == expected {
        return Ok(blob);
    }
    Err(BlobError::Size { digest: blob.digest().clone(), expected, found })
}

impl<H: Holder> Download<'_, H> {
    async fn run(&mut self, mut partial: Box<Partial>) -> Result<Blob, BlobError> {
        let mut endpoints = self.holder.endpoints().iter().peekable();
        // What begins anew again and again comes no further.
        let (mut resumes, mut furthest) = (0, partial.len());
        while let Some(endpoint) = endpoints.next() {
            let (mut failures, mut wrong) = (0, 0);
            let failed = loop {
                let attempt;
                (partial, attempt) = self.attempt(endpoint, partial).await?;
                self.count(partial.len());
                let error = match attempt {
                    Ok(()) => match self.finish(endpoint, partial).await? {
                        Finished::Whole(blob) => return Ok(blob),
                        Finished::Wrong(error, empty) => {
                            partial = empty;
                            // What came so far was worth nothing.
                            furthest = 0;
                            wrong += 1;
                            error
                        }
                    },
                    Err(error) => error,
                };
                resumes += 1;
                failures = if partial.len() > furthest { 1 } else { failures + 1 };
                furthest = furthest.max(partial.len());
                if wrong == MAX_WRONG || resumes == MAX_RESUMES {
                    break error;
                }
                if let Err(error) = endpoint.pause(failures, error).await {
                    break error;
                }
            };
            if endpoints.peek().is_none() {
                return Err(failed.into());
            }
        }
        let host = String::new();
        Err(FetchError::NotFound { host, what: partial.digest().to_string() }.into())
    }

    /// Fetches what is missing. What came stays, unless it cannot be right.
    async fn attempt(
        &mut self,
        endpoint: &Endpoint,
        mut partial: Box<Partial>,
    ) -> Result<(Box<Partial>, Result<(), FetchError>), BlobError> {
        if partial.len() == partial.size() && partial.size() > 0 {
            return Ok((partial, Ok(())));
        }
        let asked = self.holder.ask_for(endpoint, partial.digest(), partial.len()).await;
        let mut answer = match asked {
            Err(error) => return Ok((partial, Err(error))),
            Ok(answer) => answer,
        };
        if answer.status == StatusCode::OK && partial.len() > 0 {
            // All of it comes; so be it.
            partial.restart()?;
        }
        if let Err(error) = check_head(&answer, &partial) {
            partial.restart()?;
            return Ok((partial, Err(error)));
        }
        self.pour(partial, &mut answer).await
    }

    /// Writes what comes, in a thread of its own: the disk must not keep other downloads waiting.
    async fn pour(
        &mut self,
        mut partial: Box<Partial>,
        answer: &mut Answer,
    ) -> Result<(Box<Partial>, Result<(), FetchError>), BlobError> {
        let (digest, size, begin) = (partial.digest().clone(), partial.size(), partial.len());
        let (sender, mut receiver) = mpsc::channel::<Chunk>(QUEUE);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = receiver.blocking_recv() {
                if let Err(error) = partial.write(&chunk) {
                    return (partial, Err(error));
                }
            }
            (partial, Ok(()))
        });
        let mut came = begin;
        let wrong_size = |found: u64, host: &str| FetchError::WrongSize {
            host: host.to_owned(),
            digest: digest.clone(),
            expected: size - begin,
            found: found - begin,
        };
        let outcome = loop {
            match answer.chunk().await {
                Err(error) => break Err(error.into()),
                Ok(None) if came < size => break Err(wrong_size(came, &answer.host)),
                Ok(None) => break Ok(()),
                Ok(Some(chunk)) => {
                    came += chunk.len() as u64;
                    if came > size {
                        break Err(wrong_size(came, &answer.host));
                    }
                    self.count(came);
                    if sender.send(chunk).await.is_err() {
                        // The writer says why it ended.
                        break Ok(());
                    }
                }
            }
        };
        drop(sender);
        let ended = |error| HostError::system("write to the cache", std::io::Error::other(error));
        let (mut partial, written) = writer.await.map_err(ended)?;
        written?;
        if came > size {
            partial.restart()?;
        }
        Ok((partial, outcome))
    }

    async fn finish(
        &mut self,
        endpoint: &Endpoint,
        partial: Box<Partial>,
    ) -> Result<Finished, BlobError> {
        let expected = partial.digest().clone();
        match in_thread(move || partial.finish()).await? {
            Written::Whole(blob) => Ok(Finished::Whole(blob)),
            Written::Wrong { found, empty } => {
                self.count(0);
                let host = endpoint.host().to_owned();
                let error = FetchError::WrongDigest { host, expected, found };
                Ok(Finished::Wrong(error, empty))
            }
        }
    }

    /// Tells the meter how much there is of it.
    fn count(&mut self, len: u64) {
        match len.checked_sub(self.counted) {
            Some(more) => self.meter.add(more),
            None => self.meter.take_back(self.counted - len),
        }
        self.counted = len;
    }
}

enum Finished {
    Whole(Blob),
    Wrong(FetchError, Box<Partial>),
}

/// Whether what is announced is what was asked for.
fn check_head(answer: &Answer, partial: &Partial) -> Result<(), FetchError> {
    let (host, digest) = (answer.host.clone(), partial.digest().clone());
    let (from, size) = (partial.len(), partial.size());
    let range = answer.header(&CONTENT_RANGE);
    let as_asked = match answer.status {
        StatusCode::OK => true,
        StatusCode::PARTIAL_CONTENT => range.is_some_and(|range| is_rest(range, from, size)),
        // It cannot be had from there: what there is of it was too long.
        _ => false,
    };
    if !as_asked {
        return Err(FetchError::WrongRange { host, digest });
    }
    let announced = answer.header(&CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    let expected = size - from;
    match announced {
        Some(found) if found != expected => {
            Err(FetchError::WrongSize { host, digest, expected, found })
        }
        _ => Ok(()),
    }
}

/// Whether a header `Content-Range` says that all comes from there on.
fn is_rest(header: &str, from: u64, size: u64) -> bool {
    let Some((unit, range)) = header.trim().split_once(' ') else { return false };
    let Some((places, whole)) = range.split_once('/') else { return false };
    let Some((first, last)) = places.split_once('-') else { return false };
    let is = |text: &str, number: u64| text.trim().parse() == Ok(number);
    unit.eq_ignore_ascii_case("bytes")
        && is(first, from)
        && size > 0
        && is(last, size - 1)
        && (whole == "*" || is(whole, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_as_it_was_asked_for_is_taken() {
        for good in ["bytes 5-9/10", "Bytes 5-9/*", " bytes 5-9/10 "] {
            assert!(is_rest(good, 5, 10), "{good}");
        }
        for bad in ["", "bytes 4-9/10", "bytes 5-8/10", "bytes 5-9/11", "bytes */10", "5-9/10"] {
            assert!(!is_rest(bad, 5, 10), "{bad}");
        }
    }

    #[test]
    fn a_meter_goes_back_when_something_begins_anew() {
        let meter = Meter::default();
        meter.add(10);
        meter.take_back(4);
        assert_eq!(meter.done(), 6);
    }
}
