//! Files on any web server, below one address: whole ones that are small, and large ones by their
//! digest into the cache.
//!
//! What is fetched is believed for its digest or its signature alone, so a user may name an address
//! without TLS. Nobody's credentials are sent there.

use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use banger_model::{Digest, Progress};
use hyper::StatusCode;
use hyper::header::{ACCEPT_ENCODING, HeaderValue};
use thiserror::Error;

use super::cache::{Blob, Cache};
use super::download::{BlobError, Holder, Meter, fetch_blob};
use super::http::url::{Scheme, Url};
use super::http::{Answer, Client, HttpError, Outgoing, RootsError};
use super::registry::{Endpoint, FetchError, check, part};
use super::settings::Settings;

/// What is fetched from an address that ends with a slash.
const DEFAULT: &str = "index.json";

/// The address of a file, beside which there are others.
#[derive(Clone, PartialEq, Eq)]
pub struct SiteUrl(Url);

/// A text that is no such address.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not an address: write https://HOST/…, without a user, '?' or '#' in it")]
pub struct ParseSiteUrlError(String);

impl FromStr for SiteUrl {
    type Err = ParseSiteUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseSiteUrlError(text.chars().take(200).collect());
        if text.contains(['?', '#']) {
            return Err(bad());
        }
        let url = Url::parse(text).map_err(|_| bad())?;
        if !url.to_string().ends_with('/') {
            return Ok(Self(url));
        }
        url.join(DEFAULT).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for SiteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SiteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The server at an address.
#[derive(Debug)]
pub(crate) struct Site {
    client: Client,
    url: Url,
    endpoint: Endpoint,
    overall: Duration,
}

/// One of its files.
#[derive(Debug)]
struct SiteFile<'a> {
    site: &'a Site,
    url: Url,
}

impl Site {
    /// Nothing is asked for yet. An address without TLS is its user's own word that there is none.
    pub(crate) fn new(url: &SiteUrl, settings: &Settings) -> Result<Self, RootsError> {
        let url = url.0.clone();
        let mut settings = settings.clone();
        if url.scheme() == Scheme::Http {
            settings.insecure.insert(url.authority().to_owned());
        }
        let client = Client::new(&settings)?;
        let endpoint = Endpoint::plain(url.scheme(), url.authority(), &settings.patience);
        Ok(Self { client, url, endpoint, overall: settings.patience.overall })
    }

    /// The file at the address, or the one whose name has this behind it.
    pub(crate) async fn document(&self, suffix: &str, max: u64) -> Result<Vec<u8>, FetchError> {
        let url = self.at(|url| Url::parse(&format!("{url}{suffix}")).ok())?;
        let mut failures = 0;
        loop {
            match self.document_once(&url, max).await {
                Err(error) => {
                    failures += 1;
                    self.endpoint.pause(failures, error).await?;
                }
                fetched => return fetched,
            }
        }
    }

    async fn document_once(&self, url: &Url, max: u64) -> Result<Vec<u8>, FetchError> {
        let mut answer = self.ask(url, 0).await?;
        if answer.status != StatusCode::OK {
            let (host, status, what) = (answer.host, answer.status, url.shown());
            return Err(FetchError::Status { host, status, what, said: String::new() });
        }
        Ok(answer.collect(max).await?)
    }

    /// A file at a place beside the address, into the cache.
    pub(crate) async fn blob(
        &self,
        place: &str,
        (digest, size): (&Digest, u64),
        cache: &Cache,
        progress: &dyn Progress,
    ) -> Result<Blob, BlobError> {
        let file = SiteFile { site: self, url: self.at(|url| url.join(place).ok())? };
        let meter = Meter::default();
        let work =
            tokio::time::timeout(self.overall, fetch_blob(&file, cache, (digest, size), &meter));
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    progress.advance(meter.done(), Some(size));
                    let (host, waited) = (self.endpoint.host().to_owned(), self.overall);
                    let too_slow = FetchError::from(HttpError::TooSlow { host, waited });
                    return done.unwrap_or(Err(too_slow.into()));
                }
                () = meter.changed() => progress.advance(meter.done(), Some(size)),
            }
        }
    }

    fn at(&self, find: impl Fn(&Url) -> Option<Url>) -> Result<Url, FetchError> {
        let host = self.endpoint.host().to_owned();
        find(&self.url).ok_or_else(|| HttpError::BadRedirect { host }.into())
    }

    async fn ask(&self, url: &Url, from: u64) -> Result<Answer, FetchError> {
        let (name, value) = part(from);
        let request = Outgoing::get(url.clone())
            .header(name, value)
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let answer = self.client.send(&request).await?;
        check(answer, &self.endpoint, &url.shown()).await.map_err(|error| match error {
            // Nobody logs in there.
            FetchError::Denied { host, what, said, .. } => {
                FetchError::Status { host, status: StatusCode::FORBIDDEN, what, said }
            }
            other => other,
        })
    }
}

impl Holder for SiteFile<'_> {
    fn endpoints(&self) -> &[Endpoint] {
        std::slice::from_ref(&self.site.endpoint)
    }

    async fn ask_for(&self, _: &Endpoint, _: &Digest, from: u64) -> Result<Answer, FetchError> {
        self.site.ask(&self.url, from).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_file_or_a_directory_with_an_index() {
        let shown = |text: &str| text.parse::<SiteUrl>().map(|url| url.to_string());
        let whole = Ok("https://a.example.com/c/index.json".to_owned());
        assert_eq!(shown("https://a.example.com/c/"), whole);
        assert_eq!(shown("https://a.example.com/c/index.json"), whole);
        assert_eq!(
            shown("http://127.0.0.1:8000"),
            Ok("http://127.0.0.1:8000/index.json".to_owned())
        );
        for bad in ["", "/c", "a.example.com", "ftp://a.example.com/", "https://u@a.example.com/"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
        for bad in ["https://a.example.com/?x", "https://a.example.com/#x"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }
}
