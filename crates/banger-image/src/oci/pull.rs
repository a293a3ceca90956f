//! One image from wherever it is into the cache, verified.
//!
//! A tag is asked for once; everything after that goes by digest, so that a tag that moves
//! meanwhile cannot mix two images. What is in the cache is not asked for.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use banger_host::HostError;
use banger_host::fs::open_file;
use banger_model::{Bytes, Digest, ImageReference, Progress};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::cache::{Blob, Cache, in_thread};
use super::document::{
    Config, Document, DocumentError, MAX_CONFIG, MAX_MANIFEST, Manifest, NoPlatform, parse_config,
    parse_document,
};
use super::download::{BlobError, Meter, fetch_blob};
use super::hash::digest_of;
use super::http::RootsError;
use super::layer::Layer;
use super::local::{Found, LocalError, Store, adopt_saved, copy_blob};
use super::registry::{FetchError, Registry, Wanted};
use super::settings::{LastKnown, Settings};
use super::source::Source;
use crate::space::{NoSpace, require_space};

/// Indexes within indexes: one is usual, two have been seen.
const MAX_INDEXES: usize = 3;

/// Why an image could not be pulled.
#[derive(Debug, Error)]
pub enum PullError {
    /// Certificates.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Something that the registry should give.
    #[error("cannot fetch {image}")]
    Fetch {
        /// The image.
        image: String,
        /// Why not.
        source: Box<FetchError>,
    },
    /// A part of the image.
    #[error("cannot fetch a part of {image}")]
    Blob {
        /// The image.
        image: String,
        /// Why not.
        source: Box<BlobError>,
    },
    /// A manifest, an index or a config that is of no use.
    #[error("cannot use {image}: {part} {digest} is not what it should be")]
    Document {
        /// The image.
        image: String,
        /// The manifest, or the config.
        part: &'static str,
        /// Which.
        digest: Digest,
        /// What is wrong.
        source: Box<DocumentError>,
    },
    /// Nothing for this kind of machine.
    #[error("cannot use {image} on this host")]
    Platform {
        /// The image.
        image: String,
        /// What there is.
        source: NoPlatform,
    },
    /// Indexes that lead to indexes.
    #[error("cannot use {image}: its indexes name each other more than {MAX_INDEXES} times")]
    Indexes {
        /// The image.
        image: String,
    },
    /// A file or directory.
    #[error("cannot take an image from {from}")]
    Local {
        /// Where from.
        from: String,
        /// Why not.
        source: Box<LocalError>,
    },
    /// The cache.
    #[error("cannot use the cache of images")]
    Cache(#[from] HostError),
    /// No room.
    #[error(transparent)]
    Space(#[from] NoSpace),
    /// It took too long.
    #[error("{image} did not arrive within {} s; what did is kept", after.as_secs())]
    TooSlow {
        /// The image.
        image: String,
        /// The bound.
        after: Duration,
    },
}

/// Whether the registry was asked what a tag means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It was, or there was nothing to ask: digests and files do not change.
    Current,
    /// It could not be reached; this is what the tag meant at that time, since 1970.
    LastKnown(Duration),
}

/// An image whose parts are all in the cache, and stay there as long as this value lives.
#[derive(Debug)]
pub struct Pulled {
    /// What it is called; nothing when it comes from a file without a name.
    pub reference: Option<ImageReference>,
    /// Whether a tag was looked up.
    pub freshness: Freshness,
    /// The manifest's digest: the image's own name.
    pub manifest_digest: Digest,
    /// That of the index that named it, the outermost.
    pub index_digest: Option<Digest>,
    /// What its config says.
    pub config: Config,
    /// The config's digest: what Docker calls the image's id.
    pub config_digest: Digest,
    /// Its layers, the lowest first. One that occurs twice is here twice.
    pub layers: Vec<Layer>,
    /// The manifest, the index and the config.
    _documents: Vec<Blob>,
}

/// Pulls an image: when this returns, all of it is in the cache and verified. Dropped before, it
/// leaves what came so far for the next pull.
///
/// Needs a runtime of tokio with time and I/O.
///
/// # Errors
/// [`PullError`]; what came so far stays in the cache.
pub async fn pull(
    source: Source,
    cache: &Cache,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let image = match &source {
        Source::Registry(reference) => reference.familiar(),
        Source::Layout { dir: path, .. }
        | Source::OciArchive { file: path, .. }
        | Source::DockerArchive { file: path, .. } => path.display().to_string(),
        Source::Open { name, .. } => name.clone(),
    };
    let after = settings.patience.overall;
    let too_slow = PullError::TooSlow { image: image.clone(), after };
    let meter = Arc::new(Meter::default());
    let pull = Pull { image, cache, settings, progress, meter };
    tokio::time::timeout(after, pull.run(source)).await.unwrap_or(Err(too_slow))
}

/// Where the parts of an image come from.
#[derive(Clone, Debug)]
enum Origin {
    Registry(Arc<Registry>),
    Local(Arc<Store>),
}

/// What is to be followed to a manifest.
#[derive(Debug)]
struct Root {
    reference: Option<ImageReference>,
    freshness: Freshness,
    digest: Digest,
    bytes: Vec<u8>,
    media_type: Option<String>,
}

/// What the way to a manifest led to.
#[derive(Debug)]
struct Chosen {
    digest: Digest,
    index_digest: Option<Digest>,
    manifest: Manifest,
    documents: Vec<Blob>,
}

struct Pull<'a> {
    /// What messages call it.
    image: String,
    cache: &'a Cache,
    settings: &'a Settings,
    progress: &'a dyn Progress,
    meter: Arc<Meter>,
}

impl Pull<'_> {
    async fn run(&self, source: Source) -> Result<Pulled, PullError> {
        self.progress.stage(&format!("looking up {}", self.image));
        let (origin, root) = match source {
            Source::Registry(reference) => self.look_up(reference).await?,
            local => self.open_here(local).await?,
        };
        let Root { reference, freshness, .. } = &root;
        let (reference, freshness) = (reference.clone(), *freshness);
        let chosen = self.choose(&origin, root).await?;
        let (config, config_blob) = self.config(&origin, &chosen).await?;
        let blobs = self.layers(&origin, &chosen.manifest).await?;
        let with = (self.cache, &self.settings.limits);
        let parts = chosen.manifest.layers.iter().zip(&config.diff_ids);
        let layers = parts.filter_map(|(entry, diff_id)| {
            let blob = blobs.get(&entry.digest)?.clone();
            Some(Layer::new(blob, diff_id.clone(), entry.compression, with))
        });
        let layers = layers.collect();
        let mut documents = chosen.documents;
        documents.push(config_blob);
        Ok(Pulled {
            reference,
            freshness,
            manifest_digest: chosen.digest,
            index_digest: chosen.index_digest,
            config,
            config_digest: chosen.manifest.config.digest,
            layers,
            _documents: documents,
        })
    }

    async fn look_up(&self, reference: ImageReference) -> Result<(Origin, Root), PullError> {
        let registry = Arc::new(Registry::new(&reference, self.settings)?);
        let root = match reference.digest() {
            Some(digest) => {
                let digest = digest.clone();
                let origin = Origin::Registry(registry.clone());
                let bytes = self.manifest(&origin, &digest, None).await?;
                (digest, bytes, None, Freshness::Current)
            }
            None => self.tag(&registry, &reference).await?,
        };
        let (digest, bytes, media_type, freshness) = root;
        let reference = Some(reference);
        let root = Root { reference, freshness, digest, bytes, media_type };
        Ok((Origin::Registry(registry), root))
    }

    /// Asks what a tag means, this once.
    async fn tag(
        &self,
        registry: &Registry,
        reference: &ImageReference,
    ) -> Result<(Digest, Vec<u8>, Option<String>, Freshness), PullError> {
        let tag = reference.tag().unwrap_or_default().to_owned();
        match registry.manifest(&Wanted::Tag(tag)).await {
            Ok(fetched) => {
                self.cache.put(&fetched.digest, &fetched.bytes)?;
                self.cache.remember(reference, &fetched.digest)?;
                let bytes = fetched.bytes;
                Ok((fetched.digest, bytes, fetched.media_type, Freshness::Current))
            }
            Err(error) => {
                let known = self.cache.remembered(reference).filter(|_| {
                    self.settings.last_known == LastKnown::Allow && error.is_out_of_reach()
                });
                let known = known.ok_or_else(|| self.fetch_error(error))?;
                let origin = None;
                let bytes = self.cached(&known.digest, origin)?;
                let freshness = Freshness::LastKnown(known.seen());
                match bytes {
                    Some(bytes) => Ok((known.digest, bytes, None, freshness)),
                    None => Err(self.gone(known.digest)),
                }
            }
        }
    }

    fn gone(&self, digest: Digest) -> PullError {
        let what = format!("manifest {digest}");
        self.fetch_error(FetchError::NotFound { host: "the cache".to_owned(), what })
    }

    fn fetch_error(&self, source: FetchError) -> PullError {
        PullError::Fetch { image: self.image.clone(), source: source.into() }
    }

    fn local_error(&self, source: impl Into<LocalError>) -> PullError {
        PullError::Local { from: self.image.clone(), source: source.into().into() }
    }

    async fn open_here(&self, source: Source) -> Result<(Origin, Root), PullError> {
        let (settings, aside) = (self.settings.clone(), self.cache.root().join("partial"));
        let opened = in_thread(move || Ok(open_local(source, &aside, &settings))).await?;
        let (store, found, reference) = opened.map_err(|error| self.local_error(error))?;
        let store = Arc::new(store);
        let (digest, bytes, media_type, reference) = match found {
            Found::LaidOut(descriptor) => {
                let bytes = store.manifest(&descriptor.digest, descriptor.size);
                let bytes = bytes.map_err(|error| self.local_error(error))?;
                self.cache.put(&descriptor.digest, &bytes)?;
                let media_type = Some(descriptor.media_type).filter(|text| !text.is_empty());
                (descriptor.digest, bytes, media_type, reference)
            }
            Found::Saved(image) => {
                let reference = reference.or_else(|| image.references().next());
                self.progress.stage(&format!("reading {}", self.image));
                let with = (self.settings, self.meter.clone());
                let work = adopt_saved(store.clone(), self.cache, image, with);
                let adopted = self.watch(None, work).await;
                let (digest, bytes) = adopted.map_err(|error| self.local_error(error))?;
                (digest, bytes, None, reference)
            }
        };
        let freshness = Freshness::Current;
        let root = Root { reference, freshness, digest, bytes, media_type };
        Ok((Origin::Local(store), root))
    }

    /// Follows indexes to the manifest for this kind of machine.
    async fn choose(&self, origin: &Origin, root: Root) -> Result<Chosen, PullError> {
        let Root { mut digest, mut bytes, mut media_type, .. } = root;
        let mut index_digest = None;
        let mut documents = Vec::new();
        for _ in 0..=MAX_INDEXES {
            documents.extend(self.cache.blob(&digest)?);
            let parsed = parse_document(&bytes, media_type.as_deref(), &self.settings.limits);
            let document = parsed.map_err(|e| self.document_error("manifest", &digest, e))?;
            let index = match document {
                Document::Manifest(manifest) => {
                    return Ok(Chosen { digest, index_digest, manifest, documents });
                }
                Document::Index(index) => index,
            };
            let chosen = index
                .select(&self.settings.platform)
                .map_err(|source| PullError::Platform { image: self.image.clone(), source })?;
            bytes = self.manifest(origin, &chosen.digest, Some(chosen.size)).await?;
            media_type = Some(chosen.media_type.clone()).filter(|text| !text.is_empty());
            index_digest = index_digest.or(Some(digest));
            digest = chosen.digest.clone();
        }
        Err(PullError::Indexes { image: self.image.clone() })
    }

    fn document_error(
        &self,
        part: &'static str,
        digest: &Digest,
        source: DocumentError,
    ) -> PullError {
        let (image, digest) = (self.image.clone(), digest.clone());
        PullError::Document { image, part, digest, source: source.into() }
    }

    /// The manifest or index of this digest, from the cache or from its origin.
    async fn manifest(
        &self,
        origin: &Origin,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Vec<u8>, PullError> {
        if let Some(bytes) = self.cached(digest, size)? {
            return Ok(bytes);
        }
        let bytes = match origin {
            Origin::Registry(registry) => {
                let wanted = Wanted::Digest(digest.clone(), size);
                let fetched = registry.manifest(&wanted).await;
                fetched.map_err(|error| self.fetch_error(error))?.bytes
            }
            Origin::Local(store) => {
                let size = size.unwrap_or_default();
                store.manifest(digest, size).map_err(|error| self.local_error(error))?
            }
        };
        self.cache.put(digest, &bytes)?;
        Ok(bytes)
    }

    /// A manifest in the cache. One that is not what its name says is removed.
    fn cached(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Vec<u8>>, PullError> {
        let Some(blob) = self.cache.blob(digest)? else { return Ok(None) };
        let bytes = blob.bytes(MAX_MANIFEST);
        let bytes =
            bytes.map_err(|e| HostError::system(format!("read {digest} in the cache"), e))?;
        if digest_of(digest.algorithm(), &bytes) != *digest {
            // What is larger than a manifest may be is no damage.
            if blob.size() <= MAX_MANIFEST {
                self.cache.discard(digest)?;
            }
            return Ok(None);
        }
        if size.is_some_and(|size| size != bytes.len() as u64) {
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    async fn config(&self, origin: &Origin, chosen: &Chosen) -> Result<(Config, Blob), PullError> {
        let descriptor = &chosen.manifest.config;
        let named = (descriptor.digest.clone(), descriptor.size);
        let mut blob = self.blob(origin, named.clone()).await?;
        let mut bytes = self.config_bytes(&blob)?;
        if digest_of(named.0.algorithm(), &bytes) != named.0 {
            // Damaged in the cache.
            self.cache.discard(&named.0)?;
            blob = self.blob(origin, named).await?;
            bytes = self.config_bytes(&blob)?;
        }
        let config = parse_config(&bytes).and_then(|config| {
            config.check(&self.settings.platform, chosen.manifest.layers.len())?;
            Ok(config)
        });
        let config = config.map_err(|e| self.document_error("config", &descriptor.digest, e))?;
        Ok((config, blob))
    }

    fn config_bytes(&self, blob: &Blob) -> Result<Vec<u8>, PullError> {
        let read = blob.bytes(MAX_CONFIG);
        Ok(read.map_err(|e| HostError::system(format!("read {} in the cache", blob.digest()), e))?)
    }

    async fn blob(&self, origin: &Origin, named: (Digest, u64)) -> Result<Blob, PullError> {
        let got = part(origin.clone(), self.cache.clone(), named, self.meter.clone()).await;
        got.map_err(|error| self.part_error(error))
    }

    fn part_error(&self, error: PartError) -> PullError {
        match error {
            PartError::Local(error) => self.local_error(error),
            PartError::Blob(BlobError::Cache(error)) => PullError::Cache(error),
            PartError::Blob(source) => {
                PullError::Blob { image: self.image.clone(), source: source.into() }
            }
        }
    }

    /// Fetches the layers, several at once, each once.
    async fn layers(
        &self,
        origin: &Origin,
        manifest: &Manifest,
    ) -> Result<BTreeMap<Digest, Blob>, PullError> {
        let mut wanted = BTreeMap::new();
        let mut order = Vec::new();
        for layer in &manifest.layers {
            if wanted.insert(layer.digest.clone(), layer.size).is_none() {
                order.push((layer.digest.clone(), layer.size));
            }
        }
        self.require_space(&order)?;
        let already = self.meter.done();
        let whole = order.iter().fold(already, |sum, (_, size)| sum.saturating_add(*size));
        self.progress.stage(&format!("fetching {}", self.image));
        let places = Arc::new(Semaphore::new(self.settings.at_once()));
        let mut tasks = JoinSet::new();
        for named in order {
            let (origin, cache, meter) = (origin.clone(), self.cache.clone(), self.meter.clone());
            let places = places.clone();
            tasks.spawn(async move {
                let _place = places.acquire_owned().await;
                part(origin, cache, named, meter).await
            });
        }
        // Whoever drops this ends the tasks.
        self.watch(Some(whole), async {
            let mut blobs = BTreeMap::new();
            while let Some(ended) = tasks.join_next().await {
                let ended = ended.map_err(|e| HostError::system("fetch a layer", e))?;
                let blob = ended.map_err(|error| self.part_error(error))?;
                blobs.insert(blob.digest().clone(), blob);
            }
            Ok(blobs)
        })
        .await
    }

    fn require_space(&self, wanted: &[(Digest, u64)]) -> Result<(), PullError> {
        let mut missing = 0u64;
        for (digest, size) in wanted {
            if self.cache.blob(digest)?.is_none() {
                missing = missing.saturating_add(*size);
            }
        }
        Ok(require_space(self.cache.root(), "the image's layers", Bytes::new(missing))?)
    }

    /// Tells how far it is while something else goes on.
    async fn watch<T>(&self, whole: Option<u64>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.progress.advance(self.meter.done(), whole);
                    return done;
                }
                () = self.meter.changed() => self.progress.advance(self.meter.done(), whole),
            }
        }
    }
}

enum PartError {
    Blob(BlobError),
    Local(LocalError),
}

/// One blob from wherever it is to be had.
async fn part(
    origin: Origin,
    cache: Cache,
    named: (Digest, u64),
    meter: Arc<Meter>,
) -> Result<Blob, PartError> {
    match origin {
        Origin::Registry(registry) => {
            let wanted = (&named.0, named.1);
            fetch_blob(&*registry, &cache, wanted, &meter).await.map_err(PartError::Blob)
        }
        Origin::Local(store) => {
            copy_blob(store, &cache, named, meter).await.map_err(PartError::Local)
        }
    }
}

fn open_local(
    source: Source,
    aside: &std::path::Path,
    settings: &Settings,
) -> Result<(Store, Found, Option<ImageReference>), LocalError> {
    let (store, found, reference) = match source {
        Source::Layout { dir, tag } => {
            let (store, found) = Store::layout(&dir, tag.as_deref(), settings)?;
            (store, found, None)
        }
        Source::OciArchive { file, tag } => {
            let from = (open_file(&file)?, aside);
            let (store, found) = Store::oci_archive(from, tag.as_deref(), settings)?;
            (store, found, None)
        }
        Source::DockerArchive { file, reference } => {
            let from = (open_file(&file)?, aside);
            let (store, found) = Store::docker_archive(from, reference.as_ref(), settings)?;
            (store, found, reference)
        }
        Source::Open { file, .. } => {
            let (store, found) = Store::any_archive((file, aside), settings)?;
            (store, found, None)
        }
        Source::Registry(_) => return Err(LocalError::NotAnImage("path")),
    };
    Ok((store, found, reference))
}
