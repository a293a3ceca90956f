//! Fetching: small documents whole, files into the passive slot, gone on with where they broke off.

use std::time::Duration;

use banger_host::clock::Deadline;
use banger_trust::{Artifact, Content, Verified};
use banger_update::{Files, Incoming, StageError};
use hyper::header::{self, HeaderName, HeaderValue};
use thiserror::Error;

use crate::http::{Answer, Client, HttpError, Patience};
use crate::url::{Rules, Url};

/// Most repetitions for one file, however much each of them brings.
const MAX_RESUMES: u32 = 1000;
/// So much is written at once.
const PIECE: usize = 1024 * 1024;
/// The longest that a server can have the agent wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);

/// Why a file did not get into its slot.
#[derive(Debug, Error)]
pub enum FetchError {
    /// It did not come.
    #[error("cannot fetch {url}")]
    Http {
        /// The address.
        url: String,
        /// Why not.
        source: HttpError,
    },
    /// It came, and is not to be used or cannot be kept.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// It took too long, with all repetitions.
    #[error("{url} did not come within {} s", .after.as_secs())]
    TooLong {
        /// The address.
        url: String,
        /// The bound.
        after: Duration,
    },
}

/// Told while a file comes.
pub trait Progress {
    /// So many bytes of a file are there.
    fn at(&mut self, artifact: &Artifact, bytes: u64);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn at(&mut self, _: &Artifact, _: u64) {}
}

/// A small document; `None` when the server has none there.
///
/// # Errors
/// When it does not come, after repetitions where they may help.
pub async fn document(
    client: &Client,
    rules: &Rules,
    url: &Url,
    max: usize,
) -> Result<Option<Vec<u8>>, FetchError> {
    let failed = |source| FetchError::Http { url: url.to_string(), source };
    let mut failures = 0;
    loop {
        match one_document(client, rules, url, max).await {
            Ok(document) => return Ok(document),
            Err(error) => {
                failures += 1;
                let Some(wait) = pause(&client.patience(), failures, &error) else {
                    return Err(failed(error));
                };
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn one_document(
    client: &Client,
    rules: &Rules,
    url: &Url,
    max: usize,
) -> Result<Option<Vec<u8>>, HttpError> {
    let answer = client.get(url, rules, &[]).await?;
    match answer.status.as_u16() {
        200 => answer.collect(max).await.map(Some),
        404 | 410 => Ok(None),
        _ => Err(answer.refused()),
    }
}

/// How long to wait after so many failures in a row; `None` when it is time to give up.
fn pause(patience: &Patience, failures: u32, error: &HttpError) -> Option<Duration> {
    let asked = error.retry_after().unwrap_or_default();
    if !error.may_pass() || failures >= patience.attempts || asked > MAX_RETRY_AFTER {
        return None;
    }
    let doubled = patience.back_off.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // Many machines fail together; they should not come back together.
    let chance = banger_host::random::bytes::<1>().map_or(0, |bytes| bytes[0]);
    let part = doubled.min(patience.max_back_off).mul_f64(0.5 + f64::from(chance) / 512.0);
    Some(part.max(asked))
}

/// Fetches a file into its slot, and verifies it on the way. What an earlier run has left of it is
/// gone on with.
///
/// # Errors
/// When it does not come, is not what was signed, or cannot be kept.
pub async fn file<F: Files>(
    client: &Client,
    rules: &Rules,
    url: &Url,
    artifact: &Artifact,
    mut into: Incoming<'_, F>,
    progress: &mut dyn Progress,
) -> Result<Verified<Content>, FetchError> {
    let patience = client.patience();
    let deadline = Deadline::after(patience.file);
    let mut etag = None;
    let (mut failures, mut resumes) = (0, 0);
    // All of it may be there already: what is verified then is what is on the disk.
    while artifact.size.is_none_or(|size| into.len() < size) {
        let before = into.len();
        let mut part = Part { client, rules, url, artifact, deadline, progress };
        match part.fetch(&mut into, &mut etag).await {
            Ok(()) => break,
            Err(FetchError::Http { source, .. }) => {
                resumes += 1;
                // A server that brings next to nothing brings nothing.
                let brought = into.len().saturating_sub(before);
                failures = if brought >= patience.share { 1 } else { failures + 1 };
                let wait = pause(&patience, failures, &source);
                let Some(wait) = wait.filter(|_| resumes < MAX_RESUMES) else {
                    return Err(FetchError::Http { url: url.to_string(), source });
                };
                if deadline.left() < wait {
                    return Err(FetchError::TooLong { url: url.to_string(), after: patience.file });
                }
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(into.finish()?)
}

/// One request for what is missing of a file.
struct Part<'a> {
    client: &'a Client,
    rules: &'a Rules,
    url: &'a Url,
    artifact: &'a Artifact,
    deadline: Deadline,
    progress: &'a mut dyn Progress,
}

impl Part<'_> {
    async fn fetch<F: Files>(
        &mut self,
        into: &mut Incoming<'_, F>,
        etag: &mut Option<HeaderValue>,
    ) -> Result<(), FetchError> {
        let failed = |source| FetchError::Http { url: self.url.to_string(), source };
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        if !into.is_empty() {
            if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", into.len())) {
                headers.push((header::RANGE, range));
            }
            headers.extend(etag.clone().map(|etag| (header::IF_RANGE, etag)));
        }
        let answer = self.client.get(self.url, self.rules, &headers).await.map_err(failed)?;
        match answer.status.as_u16() {
            206 if !into.is_empty() && begins_at(&answer, into.len()) => {}
            // The whole file, whether or not part of it was asked for.
            200 => into.restart()?,
            // What is there is not of this file, or too much of it.
            206 | 416 => {
                into.restart()?;
                return Err(failed(HttpError::WrongPart { url: self.url.to_string() }));
            }
            _ => return Err(failed(answer.refused())),
        }
        *etag = answer
            .header(&header::ETAG)
            .filter(|etag| !etag.starts_with("W/"))
            .and_then(|etag| HeaderValue::from_str(etag).ok());
        self.take_in(answer, into).await
    }

    async fn take_in<F: Files>(
        &mut self,
        mut answer: Answer,
        into: &mut Incoming<'_, F>,
    ) -> Result<(), FetchError> {
        let url = || self.url.to_string();
        let mut piece = Vec::with_capacity(PIECE);
        let mut share = Share::of(self.client.patience());
        loop {
            let next = answer.chunk().await.and_then(|chunk| {
                share.brought(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64), self.url)?;
                Ok(chunk)
            });
            if let Ok(Some(chunk)) = &next {
                piece.extend_from_slice(chunk);
            }
            let more = matches!(next, Ok(Some(_)));
            if piece.len() >= PIECE || (!more && !piece.is_empty()) {
                into.write(std::mem::replace(&mut piece, Vec::with_capacity(PIECE)))?;
                self.progress.at(self.artifact, into.len());
            }
            next.map_err(|source| FetchError::Http { url: url(), source })?;
            if !more {
                break;
            }
            if self.deadline.passed() {
                let after = self.client.patience().file;
                return Err(FetchError::TooLong { url: url(), after });
            }
        }
        let missing = self.artifact.size.is_some_and(|size| into.len() < size);
        let cut = || HttpError::Broken {
            host: self.url.authority(),
            source: "it ended before its end".into(),
        };
        if missing { Err(FetchError::Http { url: url(), source: cut() }) } else { Ok(()) }
    }
}

/// What has to come in a while: a server that sends a byte now and then is never silent.
struct Share {
    patience: Patience,
    came: u64,
    until: Deadline,
}

impl Share {
    fn of(patience: Patience) -> Self {
        Self { patience, came: 0, until: Deadline::after(patience.share_within) }
    }

    fn brought(&mut self, bytes: u64, from: &Url) -> Result<(), HttpError> {
        self.came += bytes;
        // The last bytes of a file are not waited for.
        if bytes == 0 || !self.until.passed() {
            return Ok(());
        }
        if self.came < self.patience.share {
            let (host, after) = (from.authority(), self.patience.share_within);
            return Err(HttpError::TooSlow { host, what: "the least that has to come", after });
        }
        *self = Self::of(self.patience);
        Ok(())
    }
}

/// Whether an answer says that it begins where it was asked to.
fn begins_at(answer: &Answer, offset: u64) -> bool {
    let range = answer.header(&header::CONTENT_RANGE);
    range.is_some_and(|text| text.starts_with(&format!("bytes {offset}-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> HttpError {
        let retry_after = retry_after.map(Duration::from_secs);
        HttpError::Status { url: String::new(), status, retry_after }
    }

    #[test]
    fn n07_what_may_pass_is_tried_again_with_growing_pauses() {
        let patience = Patience::default();
        let wait = |failures, error| pause(&patience, failures, &error).map(|w| w.as_secs_f32());
        assert!((0.5..=1.0).contains(&wait(1, status(503, None)).unwrap()));
        assert!((4.0..=8.0).contains(&wait(4, status(503, None)).unwrap()));
        assert_eq!(wait(1, status(429, Some(30))), Some(30.0));
        assert_eq!(wait(1, status(429, Some(100_000))), None);
        assert_eq!(wait(5, status(503, None)), None);
        assert_eq!(wait(1, status(403, None)), None);
    }
}
