//! The registry protocol, as far as reading goes: manifests and blobs of one repository, from
//! its mirrors or from the registry itself.
//!
//! What is fetched is believed for its digest alone; a registry's own words on what it sends are
//! only held against it.

mod auth;
mod challenge;
mod credentials;
mod error;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use banger_host::clock;
use banger_model::{Digest, DigestAlgorithm, ImageReference};
use hyper::StatusCode;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RANGE, RETRY_AFTER,
};
use serde::Deserialize;

pub use challenge::{Challenge, parse_challenges};
pub use credentials::CredentialsError;
pub use error::FetchError;

use super::document::{MAX_MANIFEST, media};
use super::download::Holder;
use super::hash::digest_of;
use super::http::retry::{Again, BackOff, MAX_ATTEMPTS};
use super::http::url::{Scheme, Url};
use super::http::{Answer, Client, HttpError, Outgoing, RootsError};
use super::settings::{Patience, Settings};

/// Where the default registry really is.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// Attempts at a mirror: there is something else to ask.
const MIRROR_ATTEMPTS: u32 = 2;
/// Most bytes of an answer that says what is wrong.
const MAX_COMPLAINT: u64 = 16 * 1024;
/// How much of that is repeated.
const MAX_SAID: usize = 300;
/// What a registry says that it sends.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// One place that has the repository.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    scheme: Scheme,
    /// Where it is spoken to.
    host: String,
    /// What users log in to.
    login: String,
    /// The repository's name there.
    repository: String,
    back_off: BackOff,
}

/// One repository, wherever it is to be had.
#[derive(Debug)]
pub(super) struct Registry {
    client: Client,
    /// In the order of asking; the registry itself is the last.
    endpoints: Vec<Endpoint>,
    config: Option<PathBuf>,
    search_path: OsString,
    /// What each endpoint wants to see, by its host.
    authorizations: Mutex<HashMap<String, HeaderValue>>,
}

/// Which manifest.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// What this tag means now.
    Tag(String),
    /// This one, and of this size where that is known.
    Digest(Digest, Option<u64>),
}

/// A manifest or index, not yet looked into.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    /// What it really is.
    pub(super) digest: Digest,
    /// What it was announced as.
    pub(super) media_type: Option<String>,
}

impl Registry {
    pub(super) fn new(reference: &ImageReference, settings: &Settings) -> Result<Self, RootsError> {
        let client = Client::new(settings)?;
        let endpoint = |host: &str, login: &str, repository: String, attempts| Endpoint {
            scheme: client.scheme_for(host),
            host: host.to_owned(),
            login: login.to_owned(),
            repository,
            back_off: back_off(&settings.patience, attempts),
        };
        let (name, repository) = (reference.registry(), reference.repository());
        let mirrors = settings.mirrors.get(name).into_iter().flatten();
        let mut endpoints: Vec<_> = mirrors
            .map(|m| endpoint(m.host(), m.host(), m.repository(repository), MIRROR_ATTEMPTS))
            .collect();
        let host = if name == DOCKER_HUB.0 { DOCKER_HUB.1 } else { name };
        endpoints.push(endpoint(host, name, repository.to_owned(), MAX_ATTEMPTS));
        Ok(Self {
            client,
            endpoints,
            config: settings.credentials.clone(),
            search_path: settings.search_path.clone(),
            authorizations: Mutex::default(),
        })
    }

    /// Fetches a manifest from whoever has it.
    pub(super) async fn manifest(&self, wanted: &Wanted) -> Result<Fetched, FetchError> {
        let mut endpoints = self.endpoints.iter().peekable();
        while let Some(endpoint) = endpoints.next() {
            match self.manifest_from(endpoint, wanted).await {
                Err(_) if endpoints.peek().is_some() => {}
                other => return other,
            }
        }
        // There is always the registry itself.
        Err(FetchError::NotFound { host: String::new(), what: wanted.to_string() })
    }

    async fn manifest_from(
        &self,
        endpoint: &Endpoint,
        wanted: &Wanted,
    ) -> Result<Fetched, FetchError> {
        let mut failures = 0;
        loop {
            match self.manifest_once(endpoint, wanted).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => {
                    failures += 1;
                    endpoint.pause(failures, error).await?;
                }
            }
        }
    }

    async fn manifest_once(
        &self,
        endpoint: &Endpoint,
        wanted: &Wanted,
    ) -> Result<Fetched, FetchError> {
        let path = format!("/v2/{}/manifests/{}", endpoint.repository, wanted.as_path());
        let accept = (ACCEPT, HeaderValue::from_static(media::ACCEPT));
        let mut answer = self.ask(endpoint, &path, accept, &wanted.to_string()).await?;
        let media_type = answer.header(&CONTENT_TYPE).map(plain_type);
        let told = answer.header(&CONTENT_DIGEST).map(str::to_owned);
        let host = answer.host.clone();
        let bytes = answer.collect(MAX_MANIFEST.get()).await?;
        let algorithm = match wanted {
            Wanted::Digest(digest, _) => digest.algorithm(),
            Wanted::Tag(_) => DigestAlgorithm::Sha256,
        };
        let digest = digest_of(algorithm, &bytes);
        match wanted {
            Wanted::Digest(expected, _) if *expected != digest => {
                let expected = expected.clone();
                return Err(FetchError::WrongDigest { host, expected, found: digest });
            }
            Wanted::Digest(_, Some(size)) if *size != bytes.len() as u64 => {
                let (expected, found) = (*size, bytes.len() as u64);
                return Err(FetchError::WrongSize { host, digest, expected, found });
            }
            Wanted::Tag(_) => hold_against(told.as_deref(), &bytes, &digest, host)?,
            Wanted::Digest(..) => {}
        }
        Ok(Fetched { bytes, digest, media_type })
    }

    async fn ask(
        &self,
        endpoint: &Endpoint,
        path: &str,
        (name, value): (HeaderName, HeaderValue),
        what: &str,
    ) -> Result<Answer, FetchError> {
        let host = endpoint.host.clone();
        let url = Url::on(endpoint.scheme, &endpoint.host, path)
            .map_err(|e| HttpError::Request { host, source: e.into() })?;
        let mut request = Outgoing::get(url)
            .header(name, value)
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        request.authorization = self.authorizations().get(&endpoint.host).cloned();
        let answer = self.client.send(&request).await?;
        // Only the registry itself may ask who this is, not where it redirects to.
        if answer.status != StatusCode::UNAUTHORIZED || answer.hops > 0 {
            return check(answer, endpoint, what).await;
        }
        let authorization = self.authenticate(endpoint, &answer).await?;
        self.authorizations().insert(endpoint.host.clone(), authorization.clone());
        request.authorization = Some(authorization);
        check(self.client.send(&request).await?, endpoint, what).await
    }

    fn authorizations(&self) -> std::sync::MutexGuard<'_, HashMap<String, HeaderValue>> {
        self.authorizations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn back_off(patience: &Patience, attempts: u32) -> BackOff {
    BackOff {
        attempts,
        base: patience.back_off,
        max: patience.max_back_off,
        max_asked: patience.max_retry_after,
    }
}

impl Holder for Registry {
    fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    async fn ask_for(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        from: u64,
    ) -> Result<Answer, FetchError> {
        let path = format!("/v2/{}/blobs/{digest}", endpoint.repository);
        self.ask(endpoint, &path, part(from), &format!("content {digest}")).await
    }
}

/// Asks for all, or for what comes from this byte on.
pub(super) fn part(from: u64) -> (HeaderName, HeaderValue) {
    if from == 0 {
        return (ACCEPT, HeaderValue::from_static("*/*"));
    }
    // Digits and a dash always make a header.
    let range = HeaderValue::from_str(&format!("bytes={from}-"));
    (RANGE, range.unwrap_or(HeaderValue::from_static("bytes=0-")))
}

impl Endpoint {
    /// A place that is no registry.
    pub(super) fn plain(scheme: Scheme, host: &str, patience: &Patience) -> Self {
        Self {
            scheme,
            host: host.to_owned(),
            login: host.to_owned(),
            repository: String::new(),
            back_off: back_off(patience, MAX_ATTEMPTS),
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The failure itself when there should be none.
    pub(super) async fn pause(&self, failures: u32, error: FetchError) -> Result<(), FetchError> {
        if !error.may_pass() {
            return Err(error);
        }
        // Without chance all come back at once, and that is all.
        let chance = banger_host::random::bytes().map_or(0, u16::from_ne_bytes);
        match self.back_off.after(failures, error.retry_after(), chance) {
            Again::Never => Err(error),
            Again::After(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
        }
    }

    /// Where it is spoken to.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    fn denied(&self, what: &str, said: String) -> FetchError {
        let (host, login) = (self.host.clone(), self.login.clone());
        FetchError::Denied { host, what: what.to_owned(), said, login }
    }
}

impl Wanted {
    fn as_path(&self) -> String {
        match self {
            Self::Tag(tag) => tag.clone(),
            Self::Digest(digest, _) => digest.to_string(),
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "image with the tag {tag}"),
            Self::Digest(digest, _) => write!(f, "manifest {digest}"),
        }
    }
}

/// Holds what a registry says of an answer against the answer.
fn hold_against(
    told: Option<&str>,
    bytes: &[u8],
    digest: &Digest,
    host: String,
) -> Result<(), FetchError> {
    let Some(told) = told else { return Ok(()) };
    let same = match told.parse::<Digest>() {
        Ok(named) => digest_of(named.algorithm(), bytes) == named,
        Err(_) => false,
    };
    if same {
        return Ok(());
    }
    let told = told.chars().take(MAX_SAID).collect();
    Err(FetchError::WrongHeader { host, told, found: digest.clone() })
}

/// A media type without its parameters.
fn plain_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Turns a refusal into an error.
pub(super) async fn check(
    mut answer: Answer,
    endpoint: &Endpoint,
    what: &str,
) -> Result<Answer, FetchError> {
    let status = answer.status;
    // A part that cannot be had is its asker's business.
    if status == StatusCode::OK
        || status == StatusCode::PARTIAL_CONTENT
        || status == StatusCode::RANGE_NOT_SATISFIABLE
    {
        return Ok(answer);
    }
    let retry_after = answer.header(&RETRY_AFTER).and_then(parse_retry_after);
    // What is wrong with the answer to a wrong request is nobody's business.
    let said = answer.collect(MAX_COMPLAINT).await.map_or(String::new(), |body| complaint(&body));
    let (host, what) = (answer.host.clone(), what.to_owned());
    Err(match status.as_u16() {
        404 => FetchError::NotFound { host, what },
        401 | 403 => endpoint.denied(&what, said),
        408 | 425 | 429 | 500 | 502 | 503 | 504 => {
            FetchError::Busy { host, status, said, retry_after }
        }
        _ => FetchError::Status { host, status, what, said },
    })
}

/// Seconds, or a date of HTTP.
fn parse_retry_after(header: &str) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    let since = date.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(since.saturating_sub(clock::wall()))
}

#[derive(Debug, Deserialize)]
struct Complaint {
    #[serde(default)]
    errors: Vec<OneComplaint>,
}

#[derive(Debug, Deserialize)]
struct OneComplaint {
    #[serde(default)]
    message: String,
}

/// What a registry says is wrong, as far as it says so in the usual way.
fn complaint(body: &[u8]) -> String {
    let parsed = serde_json::from_slice(body).unwrap_or(Complaint { errors: Vec::new() });
    let said = parsed.errors.into_iter().map(|error| error.message).find(|text| !text.is_empty());
    said.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_SAID).collect()
}
