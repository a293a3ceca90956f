//! A bundle becomes an image or a kernel of this host.
//!
//! It is fetched into the cache by its digest, unpacked into a directory aside, and gets its name
//! last. The kernel that an image wants is here before the image is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use banger_host::HostError;
use banger_model::{Bytes, Digest, ImageName, KernelName, Progress, Timestamp};
use banger_trust::Sha256Digest;
use thiserror::Error;
use tokio::task::spawn_blocking;

use super::bundle::{BundleError, Place, Unpack};
use super::catalogs::Catalogs;
use super::index::{Bundle, KernelEntry, KernelRecipe, bundle_for};
use super::manifest::{BundleContent, BundleManifest, ImageContent};
use super::remote::CatalogError;
use crate::artifact::OpenError;
use crate::image::{BundleOrigin, Claim, Image, ImageInfo, NewImage};
use crate::kernel::{EnsureKernelError, Kernel, KernelInfo};
use crate::oci::{Blob, BlobError, Cache, Limits, RootsError, Site};
use crate::space::{NoSpace, require_space};

/// So many times as large as its bundle what is in it is expected to be.
const EXPECTED_GROWTH: u64 = 4;

/// Why what a catalog has is not here now.
#[derive(Debug, Error)]
pub enum InstallError {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Certificates.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// No catalog is configured any more.
    #[error("no catalog is configured (catalog.url)")]
    NoCatalog,
    /// Not for this kind of machine.
    #[error("the catalog has {name} for {}, and this host is {host}", there.join(", "))]
    Architecture {
        /// The image or kernel.
        name: String,
        /// What there is.
        there: Vec<String>,
        /// This host.
        host: String,
    },
    /// Something that only a newer program knows.
    #[error("the catalog has {name} as {kind:?}, which this banger does not know: update banger")]
    Unknown {
        /// The image or kernel.
        name: String,
        /// What it is.
        kind: String,
    },
    /// It could not be fetched.
    #[error("cannot fetch the bundle of {name}")]
    Fetch {
        /// The image or kernel.
        name: String,
        /// Why not.
        source: Box<BlobError>,
    },
    /// It is not what it should be.
    #[error("cannot use the bundle of {name}")]
    Bundle {
        /// The image or kernel.
        name: String,
        /// Why not.
        source: Box<BundleError>,
    },
    /// It is of something else than the index says.
    #[error("the bundle of {name} is not of {expected}, as the catalog says")]
    Content {
        /// The image or kernel.
        name: String,
        /// What was wanted.
        expected: String,
    },
    /// The file has changed since it was verified; it is removed.
    #[error("the bundle of {name} was damaged in the cache, and is removed from it: pull it again")]
    Damaged {
        /// The image or kernel.
        name: String,
    },
    /// The name is that of something else.
    #[error(
        "there is an image {name} already, of {source_of_it}; choose another name with --name, or remove it with `banger image delete {name}`"
    )]
    Taken {
        /// The name.
        name: ImageName,
        /// What it is of.
        source_of_it: String,
    },
    /// A kernel that nobody knows.
    #[error("there is no kernel {kernel}, neither here nor in a catalog")]
    NoKernel {
        /// Its name.
        kernel: KernelName,
    },
    /// The kernel that an image wants.
    #[error("the image wants the kernel {kernel}, which cannot be had")]
    Wanted {
        /// Its name.
        kernel: KernelName,
        /// Why not.
        source: Box<InstallError>,
    },
    /// A kernel that cannot be made.
    #[error(transparent)]
    Kernel(#[from] EnsureKernelError),
    /// What is here already cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Too little room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// A file could not be kept.
    #[error("cannot keep it")]
    Keep(#[from] HostError),
}

/// What is needed to have something here.
#[derive(Clone)]
pub struct Install {
    /// Where names are looked up.
    pub catalogs: Catalogs,
    /// Where what is fetched goes.
    pub cache: Cache,
    /// When this happens.
    pub now: Timestamp,
    /// Becomes true when nobody waits for it any more.
    pub called_off: Arc<AtomicBool>,
    /// Who wants to know how it goes on.
    pub progress: Arc<dyn Progress>,
}

impl fmt::Debug for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Install").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Install {
    /// Has the image of these bundles here, under the name `called`; `name` is the catalog's own. One
    /// that is here already is left as it is.
    ///
    /// # Errors
    /// [`InstallError`]; nothing half-made remains, and what was fetched stays in the cache.
    pub async fn image(
        &self,
        name: &ImageName,
        bundles: &[Bundle],
        called: &ImageName,
    ) -> Result<Image, InstallError> {
        let bundle = self.fitting(name.as_str(), bundles)?.clone();
        if let Some(image) = self.same_as_before(called, &bundle)? {
            if let Some(kernel) = &image.info().kernel {
                self.wanted_kernel(kernel).await?;
            }
            return Ok(image);
        }
        let blob = self.fetch(name.as_str(), &bundle).await?;
        self.progress.stage(&format!("unpacking the image {name}"));
        let (this, called, its_name) = (self.clone(), called.clone(), name.clone());
        let architecture = bundle.architecture.clone();
        let unpacked =
            in_thread(move || this.unpack_image(&its_name, &called, &blob, &architecture));
        let unpacked = unpacked.await?;
        if let Some(kernel) = &unpacked.content.kernel {
            self.wanted_kernel(kernel).await?;
        }
        let (name, digest) = (name.clone(), bundle.sha256);
        let now = self.now;
        in_thread(move || unpacked.publish(name, digest, now)).await
    }

    async fn wanted_kernel(&self, kernel: &KernelName) -> Result<(), InstallError> {
        let failed = |source: InstallError| InstallError::Wanted {
            kernel: kernel.clone(),
            source: source.into(),
        };
        self.need_kernel(kernel).await.map_err(failed)
    }

    /// Has a kernel here: made, or from the catalog.
    ///
    /// # Errors
    /// [`InstallError`]; nothing half-made remains.
    pub async fn need_kernel(&self, name: &KernelName) -> Result<(), InstallError> {
        match Kernel::open(&self.catalogs.home, name) {
            Err(error) if error.is_missing() => {}
            found => return Ok(found.map(drop)?),
        }
        match self.catalogs.kernel(name, self.now).await? {
            None => Err(InstallError::NoKernel { kernel: name.clone() }),
            Some(KernelEntry::Recipe(KernelRecipe::DebianCloud)) => {
                let (this, name) = (self.clone(), name.clone());
                in_thread(move || {
                    let made = Kernel::ensure(&this.catalogs.home, &name, &*this.progress);
                    Ok(made.map(drop)?)
                })
                .await
            }
            Some(KernelEntry::Bundles(bundles)) => self.kernel(name, &bundles).await,
            Some(KernelEntry::Unknown(kind)) => {
                Err(InstallError::Unknown { name: name.to_string(), kind })
            }
        }
    }

    async fn kernel(&self, name: &KernelName, bundles: &[Bundle]) -> Result<(), InstallError> {
        let bundle = self.fitting(name.as_str(), bundles)?.clone();
        let blob = self.fetch(name.as_str(), &bundle).await?;
        let (this, name) = (self.clone(), name.clone());
        in_thread(move || {
            let (home, progress) = (&this.catalogs.home, &*this.progress);
            Kernel::adopt(home, &name, progress, |dir| {
                let manifest = this.unpack(name.as_str(), &blob, Place::Dir(dir))?;
                kernel_of(manifest, name.as_str(), &bundle.architecture)
            })
        })
        .await
        .map(drop)
    }

    fn fitting<'a>(&self, name: &str, bundles: &'a [Bundle]) -> Result<&'a Bundle, InstallError> {
        let host = &self.catalogs.settings.platform.architecture;
        bundle_for(bundles, host).ok_or_else(|| InstallError::Architecture {
            name: name.to_owned(),
            there: bundles.iter().map(|it| it.architecture.clone()).collect(),
            host: host.clone(),
        })
    }

    /// The image of this name, if it is that of this bundle.
    fn same_as_before(
        &self,
        called: &ImageName,
        bundle: &Bundle,
    ) -> Result<Option<Image>, InstallError> {
        let digest = Digest::from(bundle.sha256).to_string();
        match Image::open(&self.catalogs.home, called) {
            Ok(image) => {
                let same = image.info().bundle.as_ref().is_some_and(|it| it.digest == digest);
                Ok(same.then_some(image))
            }
            // A damaged one gives its name away.
            Err(OpenError::Missing { .. } | OpenError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn fetch(&self, name: &str, bundle: &Bundle) -> Result<Blob, InstallError> {
        let configured = self.catalogs.configured().ok_or(InstallError::NoCatalog)?;
        let site = Site::new(&configured.url, &self.catalogs.settings)?;
        let digest = Digest::from(bundle.sha256);
        if self.cache.blob(&digest)?.is_none() {
            require_space(self.cache.root(), "the bundle", Bytes::new(bundle.size))?;
        }
        self.progress.stage(&format!("fetching {name}"));
        let wanted = (&digest, bundle.size);
        let fetched = site.blob(bundle.url.as_str(), wanted, &self.cache, &*self.progress).await;
        fetched
            .map_err(|source| InstallError::Fetch { name: name.to_owned(), source: source.into() })
    }

    fn unpack_image(
        &self,
        name: &ImageName,
        called: &ImageName,
        blob: &Blob,
        architecture: &str,
    ) -> Result<UnpackedImage, InstallError> {
        let home = &self.catalogs.home;
        let claim = Image::claim(home, called)?;
        check_free(name, called, home)?;
        let new = NewImage::begin(home)?;
        let needs = Bytes::new(blob.size().get().saturating_mul(EXPECTED_GROWTH));
        require_space(new.dir(), "the image", needs)?;
        let manifest = self.unpack(name.as_str(), blob, Place::Dir(new.dir()))?;
        let content = image_of(manifest, name.as_str(), architecture)?;
        Ok(UnpackedImage { new, content, called: called.clone(), _claim: claim })
    }

    fn unpack(
        &self,
        name: &str,
        blob: &Blob,
        into: Place<'_>,
    ) -> Result<BundleManifest, InstallError> {
        let limits: &Limits = &self.catalogs.settings.limits;
        let unpack = Unpack {
            limits,
            compressed: blob.size().get(),
            into,
            called_off: &self.called_off,
            progress: &*self.progress,
        };
        let name = name.to_owned();
        match unpack.run(blob.reader()) {
            Ok(manifest) => Ok(manifest),
            // Whoever signed it, or this host's disk?
            Err(BundleError::Keep(error)) => Err(error.into()),
            Err(_) if !blob.is_intact() => {
                self.cache.discard(blob.digest())?;
                Err(InstallError::Damaged { name })
            }
            Err(source) => Err(InstallError::Bundle { name, source: source.into() }),
        }
    }
}

/// An image that only lacks its name.
struct UnpackedImage {
    new: NewImage,
    content: ImageContent,
    called: ImageName,
    _claim: Claim,
}

impl UnpackedImage {
    fn publish(
        self,
        name: ImageName,
        digest: Sha256Digest,
        now: Timestamp,
    ) -> Result<Image, InstallError> {
        let ImageContent { source, config, kernel } = self.content;
        let digest = Digest::from(digest).to_string();
        let info = ImageInfo {
            source,
            config,
            origin: None,
            made: Some(now),
            kernel,
            bundle: Some(BundleOrigin { name, digest }),
            made_by: None,
        };
        Ok(self.new.finish(&self.called, info)?)
    }
}

/// An image of the same name in the catalog, of another bundle, gives its name to the new one.
fn check_free(
    name: &ImageName,
    called: &ImageName,
    home: &banger_host::home::Home,
) -> Result<(), InstallError> {
    let taken = |source_of_it| InstallError::Taken { name: called.clone(), source_of_it };
    if Image::can_be_made(called) {
        return Err(taken("this host's own making".to_owned()));
    }
    match Image::open(home, called) {
        Ok(image) => match &image.info().bundle {
            Some(bundle) if bundle.name == *name => Ok(()),
            _ => Err(taken(image.info().source.clone())),
        },
        Err(OpenError::Missing { .. } | OpenError::Damaged { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn image_of(
    manifest: BundleManifest,
    name: &str,
    architecture: &str,
) -> Result<ImageContent, InstallError> {
    match manifest.content {
        BundleContent::Image(content) if manifest.architecture == architecture => Ok(*content),
        _ => Err(other_content(name, "an image", architecture)),
    }
}

pub(super) fn kernel_of(
    manifest: BundleManifest,
    name: &str,
    architecture: &str,
) -> Result<KernelInfo, InstallError> {
    match manifest.content {
        BundleContent::Kernel(info) if manifest.architecture == architecture => Ok(info),
        _ => Err(other_content(name, "a kernel", architecture)),
    }
}

fn other_content(name: &str, what: &str, architecture: &str) -> InstallError {
    let expected = format!("{what} for {architecture}");
    InstallError::Content { name: name.to_owned(), expected }
}

/// Runs what waits for the disk where waiting does no harm.
async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstallError> + Send + 'static,
) -> Result<T, InstallError> {
    let ended = |error| HostError::system("unpack a bundle", std::io::Error::other(error));
    spawn_blocking(work).await.map_err(ended)?
}
