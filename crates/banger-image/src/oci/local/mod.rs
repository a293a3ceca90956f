//! Images that lie on this host: layouts of the OCI, and what `docker save` writes.
//!
//! What is in them goes through the cache as if it came from a registry, with the same checks. An
//! archive of Docker has no manifest; one is made, so that such an image has a digest, too.

mod archive;
mod index;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_host::HostError;
use banger_host::fs::open_file;
use banger_model::{Bytes, Digest, DigestAlgorithm, ImageReference};
use serde_json::json;
use thiserror::Error;

pub use index::{SavedImage, choose_laid_out, choose_saved};

use super::cache::{Blob, Cache, Claim, Partial, Written, in_thread};
use super::document::{Compression, Descriptor, MAX_CONFIG, MAX_MANIFEST, NoPlatform, media};
use super::download::{BlobError, Meter, check_size};
use super::hash::{Hasher, digest_of, read_into};
use super::layer::read_begin;
use super::settings::Settings;
use crate::archive::ArchiveError;
use archive::{Archive, Part};

/// What is copied at once.
const CHUNK: usize = 256 * 1024;

/// Why there is no image in a file or directory.
#[derive(Debug, Error)]
pub enum LocalError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The file or pipe.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The tar.
    #[error("it is no tar that can be read")]
    Tar(#[source] ArchiveError),
    /// Its index.
    #[error("its index cannot be read")]
    Json(#[source] serde_json::Error),
    /// Neither layout nor `docker save`.
    #[error("it has no {0}, so it is no image")]
    NotAnImage(&'static str),
    /// More than is taken.
    #[error("it, or what is in it, has more than {0}")]
    TooLarge(Bytes),
    /// More images than make sense.
    #[error("it has {0} images")]
    TooManyImages(usize),
    /// More layers than are taken.
    #[error("the image has {0} layers, and at most {1} are taken")]
    TooManyLayers(usize, usize),
    /// Not what was asked for.
    #[error("it has no image of that name, only: {}", list(has))]
    NoImage {
        /// What it has.
        has: Vec<String>,
    },
    /// More than one.
    #[error("it has several images, add : and one of: {}", list(has))]
    Several {
        /// What it has.
        has: Vec<String>,
    },
    /// Not for this kind of machine.
    #[error(transparent)]
    Platform(NoPlatform),
    /// A file that its index names.
    #[error("it has no {0:?}, though its index names it")]
    Missing(String),
    /// A file that is something else.
    #[error("its file for {expected} is something else: {found}")]
    WrongDigest {
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A file of another length.
    #[error("its file for {digest} has {found} bytes where {expected} were due")]
    WrongSize {
        /// Which.
        digest: Digest,
        /// How long it should be.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// What is in the cache contradicts it.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "images without a name".to_owned() } else { names.join(", ") }
}

/// Where an image's files are.
#[derive(Debug)]
pub(super) enum Store {
    Directory(PathBuf),
    Archive(Archive),
}

/// An image that was found.
#[derive(Debug)]
pub(super) enum Found {
    /// To be followed like what an index in a registry names.
    LaidOut(Descriptor),
    /// To be made into one that has a manifest.
    Saved(SavedImage),
}

impl Store {
    /// Opens a layout in a directory.
    pub(super) fn layout(
        dir: &Path,
        tag: Option<&str>,
        settings: &Settings,
    ) -> Result<(Self, Found), LocalError> {
        let store = Self::Directory(dir.to_owned());
        let found = store.laid_out(tag, settings)?;
        Ok((store, found))
    }

    /// Opens an archive of a layout.
    pub(super) fn oci_archive(
        (file, aside): (File, &Path),
        tag: Option<&str>,
        settings: &Settings,
    ) -> Result<(Self, Found), LocalError> {
        let store = Self::Archive(Archive::open(file, aside, &settings.limits)?);
        let found = store.laid_out(tag, settings)?;
        Ok((store, found))
    }

    /// Opens an archive of Docker.
    pub(super) fn docker_archive(
        (file, aside): (File, &Path),
        wanted: Option<&ImageReference>,
        settings: &Settings,
    ) -> Result<(Self, Found), LocalError> {
        let store = Self::Archive(Archive::open(file, aside, &settings.limits)?);
        let found = store.saved(wanted, settings)?;
        Ok((store, found))
    }

    /// Opens an archive of either kind. One that is both is taken as Docker's: there are names
    /// in it.
    pub(super) fn any_archive(
        (file, aside): (File, &Path),
        settings: &Settings,
    ) -> Result<(Self, Found), LocalError> {
        let store = Self::Archive(Archive::open(file, aside, &settings.limits)?);
        let found = match store.saved(None, settings) {
            Err(LocalError::NotAnImage(_)) => store.laid_out(None, settings)?,
            other => other?,
        };
        Ok((store, found))
    }

    fn laid_out(&self, tag: Option<&str>, settings: &Settings) -> Result<Found, LocalError> {
        let json = self.document("index.json", MAX_MANIFEST)?;
        let json = json.ok_or(LocalError::NotAnImage("index.json"))?;
        Ok(Found::LaidOut(choose_laid_out(&json, tag, &settings.platform)?))
    }

    fn saved(
        &self,
        wanted: Option<&ImageReference>,
        settings: &Settings,
    ) -> Result<Found, LocalError> {
        let json = self.document("manifest.json", MAX_MANIFEST)?;
        let json = json.ok_or(LocalError::NotAnImage("manifest.json"))?;
        Ok(Found::Saved(choose_saved(&json, wanted, &settings.limits)?))
    }

    /// A file of it, with its length; `None` when there is none.
    fn open(&self, name: &str) -> Result<Option<(LocalFile, u64)>, LocalError> {
        match self {
            Self::Archive(archive) => Ok(archive.part(name).map(|part| {
                let len = part.len();
                (LocalFile::Part(part), len)
            })),
            Self::Directory(dir) => match open_file(&dir.join(name)) {
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
                Ok(file) => {
                    let len = file.metadata().map_err(LocalError::Read)?.len();
                    Ok(Some((LocalFile::File(file), len)))
                }
            },
        }
    }

    fn document(&self, name: &str, max: Bytes) -> Result<Option<Vec<u8>>, LocalError> {
        let Some((file, len)) = self.open(name)? else { return Ok(None) };
        if len > max.get() {
            return Err(LocalError::TooLarge(max));
        }
        let mut bytes = Vec::new();
        file.take(max.get()).read_to_end(&mut bytes).map_err(LocalError::Read)?;
        Ok(Some(bytes))
    }

    /// A blob of a layout.
    fn blob(&self, digest: &Digest) -> Result<(LocalFile, u64), LocalError> {
        let name = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        self.open(&name)?.ok_or(LocalError::Missing(name))
    }

    /// A manifest or index of a layout, verified.
    pub(super) fn manifest(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, LocalError> {
        let (file, len) = self.blob(digest)?;
        if len > MAX_MANIFEST.get() {
            return Err(LocalError::TooLarge(MAX_MANIFEST));
        }
        let mut bytes = Vec::new();
        file.take(len).read_to_end(&mut bytes).map_err(LocalError::Read)?;
        let found = digest_of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(LocalError::WrongDigest { expected: digest.clone(), found });
        }
        if len != size {
            let (digest, expected) = (digest.clone(), size);
            return Err(LocalError::WrongSize { digest, expected, found: len });
        }
        Ok(bytes)
    }
}

/// A file that is read from its begin.
#[derive(Debug)]
enum LocalFile {
    File(File),
    Part(Part),
}

impl Read for LocalFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Part(part) => part.read(buffer),
        }
    }
}

/// Copies a blob of a layout into the cache unless it is there.
pub(super) async fn copy_blob(
    store: Arc<Store>,
    cache: &Cache,
    (digest, size): (Digest, u64),
    meter: Arc<Meter>,
) -> Result<Blob, LocalError> {
    let partial = match cache.claim(&digest, size).await? {
        Claim::Here(blob) => {
            meter.add(size);
            return Ok(check_size(blob, size)?);
        }
        Claim::ToFetch(partial) => partial,
    };
    in_local_thread(move || {
        let (file, len) = store.blob(&digest)?;
        if len != size {
            return Err(LocalError::WrongSize { digest, expected: size, found: len });
        }
        fill(partial, file, &meter)
    })
    .await
}

fn fill(mut partial: Box<Partial>, mut file: LocalFile, meter: &Meter) -> Result<Blob, LocalError> {
    // Copying anew costs less than finding out what fits.
    partial.restart()?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                partial.write(&chunk[..n])?;
                meter.add(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(LocalError::Read(error)),
        }
    }
    let expected = partial.digest().clone();
    match partial.finish()? {
        Written::Whole(blob) => Ok(blob),
        Written::Wrong { found, .. } => Err(LocalError::WrongDigest { expected, found }),
    }
}

/// Makes an image of Docker's archive one with a manifest: its parts go into the cache, and the
/// digest and bytes of its manifest come back.
pub(super) async fn adopt_saved(
    store: Arc<Store>,
    cache: &Cache,
    image: SavedImage,
    (settings, meter): (&Settings, Arc<Meter>),
) -> Result<(Digest, Vec<u8>), LocalError> {
    let config = store
        .document(&image.config, MAX_CONFIG)?
        .ok_or_else(|| LocalError::Missing(image.config.clone()))?;
    let config_digest = digest_of(DigestAlgorithm::Sha256, &config);
    cache.put(&config_digest, &config)?;
    let mut layers = Vec::new();
    let mut kept = Vec::new();
    for name in image.layers {
        let max = settings.limits.max_layer;
        let (blob, compression) = adopt_layer(&store, cache, (name, max), &meter).await?;
        let media_type = match compression {
            Compression::Plain => media::OCI_LAYER,
            Compression::Gzip => media::OCI_LAYER_GZIP,
            Compression::Zstd => media::OCI_LAYER_ZSTD,
        };
        let (digest, size) = (blob.digest().to_string(), blob.size().get());
        layers.push(json!({ "mediaType": media_type, "digest": digest, "size": size }));
        // Nobody may prune it before the whole image is there.
        kept.push(blob);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": {
            "mediaType": media::OCI_CONFIG,
            "digest": config_digest.to_string(),
            "size": config.len(),
        },
        "layers": layers,
    });
    let bytes = serde_json::to_vec(&manifest).map_err(LocalError::Json)?;
    let digest = digest_of(DigestAlgorithm::Sha256, &bytes);
    cache.put(&digest, &bytes)?;
    Ok((digest, bytes))
}

async fn adopt_layer(
    store: &Arc<Store>,
    cache: &Cache,
    (name, max): (String, Bytes),
    meter: &Arc<Meter>,
) -> Result<(Blob, Compression), LocalError> {
    let open = {
        let store = store.clone();
        move || store.open(&name)?.ok_or(LocalError::Missing(name.clone()))
    };
    let look = open.clone();
    let (digest, size, compression) = in_local_thread(move || {
        let (mut file, len) = look()?;
        if len > max.get() {
            return Err(LocalError::TooLarge(max));
        }
        let mut begin = [0; 4];
        let n = read_begin(&mut file, &mut begin).map_err(LocalError::Read)?;
        let mut hash = Hasher::new(DigestAlgorithm::Sha256);
        hash.update(&begin[..n]);
        let rest = read_into(&mut hash, &mut file).map_err(LocalError::Read)?;
        Ok((hash.finish(), n as u64 + rest, Compression::sniff(&begin[..n])))
    })
    .await?;
    let blob = match cache.claim(&digest, size).await? {
        Claim::Here(blob) => blob,
        Claim::ToFetch(partial) => {
            let meter = meter.clone();
            in_local_thread(move || fill(partial, open()?.0, &meter)).await?
        }
    };
    Ok((blob, compression))
}

async fn in_local_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalError> + Send + 'static,
) -> Result<T, LocalError> {
    in_thread(move || Ok(work())).await?
}
