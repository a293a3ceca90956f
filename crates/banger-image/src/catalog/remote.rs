//! The catalog that an owner has configured: fetched, verified, and remembered.

use banger_host::HostError;
use banger_host::home::Home;
use banger_model::Timestamp;
use banger_trust::{
    DocumentError, KeyError, KeySet, OpenError, Signature, SignedDocument as _, Stale, Trust,
    Unverified,
};
use thiserror::Error;

use super::index::{Index, MAX_INDEX};
use super::known::{Known, KnownError, LastIndex, Locked};
use crate::oci::{FetchError, ParseSiteUrlError, RootsError, Settings, Site, SiteUrl};

/// An index that came this long ago is asked for again before it is used, in milliseconds.
const FRESH_MS: u64 = 60 * 60 * 1000;
/// Behind the index's own address.
pub(super) const SIGNATURE_SUFFIX: &str = ".sig";

/// The catalog that an owner has configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Where its index is.
    pub url: SiteUrl,
    /// Whose signatures are believed.
    pub keys: KeySet,
}

/// Why an owner's settings name no catalog.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfiguredError {
    /// The address.
    #[error("catalog.url: {0}")]
    Url(#[from] ParseSiteUrlError),
    /// The key.
    #[error("catalog.key: {0}")]
    Key(#[from] KeyError),
}

impl Configured {
    /// From the address of an index and the keys that may sign it, in any form that keys have.
    ///
    /// # Errors
    /// When either is none.
    pub fn parse(url: &str, keys: &str) -> Result<Self, ConfiguredError> {
        Ok(Self { url: url.parse()?, keys: KeySet::parse(keys.as_bytes())? })
    }
}

/// Why there is no index to go by.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// Certificates.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// It cannot be fetched.
    #[error("cannot fetch the catalog {url}")]
    Fetch {
        /// Where from.
        url: SiteUrl,
        /// Why not.
        source: Box<FetchError>,
    },
    /// It is not signed by who should have signed it, or makes no sense.
    #[error("cannot believe the catalog {url}")]
    Open {
        /// Where from.
        url: SiteUrl,
        /// Why not.
        source: Box<OpenError>,
    },
    /// It is not the newest.
    #[error("cannot use the catalog {url}")]
    Stale {
        /// Where from.
        url: SiteUrl,
        /// Why not.
        source: Stale,
    },
    /// The catalog that is a part of this program.
    #[error("the catalog in this program makes no sense: install banger anew")]
    Embedded(#[from] DocumentError),
    /// What was seen before.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// A thread of this program.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl CatalogError {
    /// Whether its server is out of reach, as opposed to having answered.
    fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Fetch { source, .. } if source.is_out_of_reach())
    }
}

/// An index that is believed now.
#[derive(Clone, Debug)]
pub struct Current {
    /// It.
    pub index: Index,
    /// When it was fetched.
    pub fetched: Timestamp,
}

/// A configured catalog, on behalf of its owner.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) home: Home,
    pub(super) configured: Configured,
    pub(super) settings: Settings,
}

impl Remote {
    /// The index: the one that was fetched lately, or a new one. Where the server is out of reach,
    /// the last one will do until it expires.
    pub(super) async fn current(&self, now: Timestamp) -> Result<Current, CatalogError> {
        let kept = self.kept(now)?;
        let is_fresh =
            |it: &Current| it.fetched <= now && now.0.saturating_sub(it.fetched.0) < FRESH_MS;
        match kept {
            Some(kept) if is_fresh(&kept) => Ok(kept),
            Some(kept) => match self.update(now).await {
                Err(error) if error.is_out_of_reach() => Ok(kept),
                fetched => fetched,
            },
            None => self.update(now).await,
        }
    }

    /// The last index that came from there, if it can still be believed.
    pub(super) fn kept(&self, now: Timestamp) -> Result<Option<Current>, CatalogError> {
        let known = Known::read(&self.home)?;
        let Some(last) = known.last.as_ref().filter(|it| it.url == self.url()) else {
            return Ok(None);
        };
        let signature = Signature::parse(last.signature.as_bytes()).ok();
        let opened = self.judge(&known, last.index.as_bytes(), signature.as_ref(), now);
        let fetched = last.fetched;
        // Another key by now, or expired: then a new one has to come.
        Ok(opened.ok().map(|(index, _)| Current { index, fetched }))
    }

    /// Fetches the index, whatever is known.
    pub(super) async fn update(&self, now: Timestamp) -> Result<Current, CatalogError> {
        let site = Site::new(&self.configured.url, &self.settings)?;
        let first = self.fetch(&site, now).await;
        match first {
            // It may have been replaced between its two parts.
            Err(CatalogError::Open { source, .. })
                if *source == OpenError::Unverified(Unverified::BadSignature) =>
            {
                self.fetch(&site, now).await
            }
            first => first,
        }
    }

    async fn fetch(&self, site: &Site, now: Timestamp) -> Result<Current, CatalogError> {
        let failed = |source: FetchError| CatalogError::Fetch {
            url: self.configured.url.clone(),
            source: source.into(),
        };
        let index = site.document("", MAX_INDEX as u64).await.map_err(failed)?;
        let max = Signature::MAX_LEN as u64;
        let signature = match site.document(SIGNATURE_SUFFIX, max).await {
            Ok(bytes) => Some(bytes),
            // It is for others to say that there has to be one.
            Err(FetchError::NotFound { .. }) => None,
            Err(error) => return Err(failed(error)),
        };
        let this = self.clone();
        let accepted =
            tokio::task::spawn_blocking(move || this.accept(&index, signature.as_deref(), now));
        let ended = |error| HostError::system("verify the catalog", std::io::Error::other(error));
        accepted.await.map_err(ended)?
    }

    /// Believes an index, or not; remembers it if so.
    fn accept(
        &self,
        bytes: &[u8],
        signature: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Current, CatalogError> {
        // What is no signature is not one of these bytes.
        let parsed = signature.map(Signature::parse).transpose();
        let parsed = parsed.map_err(|_| self.unbelieved(Unverified::BadSignature.into()))?;
        let locked = Locked::acquire(&self.home)?;
        let known = locked.read()?;
        let (index, mut next) = self.judge(&known, bytes, parsed.as_ref(), now)?;
        if let Some(signature) = &parsed {
            next.last = Some(LastIndex {
                url: self.url(),
                fetched: now,
                // What was parsed as JSON is UTF-8.
                index: String::from_utf8_lossy(bytes).into_owned(),
                signature: signature.to_base64(),
            });
        }
        locked.write(&next)?;
        Ok(Current { index, fetched: now })
    }

    /// What an index is worth, and what is known with it.
    fn judge(
        &self,
        known: &Known,
        bytes: &[u8],
        signature: Option<&Signature>,
        now: Timestamp,
    ) -> Result<(Index, Known), CatalogError> {
        let keys = &self.configured.keys;
        let opened = Trust::Keys(keys.clone()).open::<Index>(bytes, signature);
        let opened = opened.map_err(|source| self.unbelieved(source))?;
        let freshness = opened.get().freshness();
        let now = known.clock.now(now);
        let judged = known.floor.judge(keys, freshness, now);
        let url = || self.configured.url.clone();
        judged.map_err(|source| CatalogError::Stale { url: url(), source })?;
        let mut next = known.clone();
        next.floor = next.floor.raised(opened.signed_by(), freshness).of_only(keys);
        next.clock = next.clock.learned(freshness, now);
        Ok((opened.get().clone(), next))
    }

    fn unbelieved(&self, source: OpenError) -> CatalogError {
        CatalogError::Open { url: self.configured.url.clone(), source: source.into() }
    }

    fn url(&self) -> String {
        self.configured.url.to_string()
    }
}
