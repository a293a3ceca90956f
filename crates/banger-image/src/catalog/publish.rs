//! The other side of a catalog: a directory that any web server can serve.
//!
//! ```text
//! index.json                        what is signed
//! index.json.sig                    the signature, in base64
//! NAME-ARCHITECTURE-DIGITS.tar.zst  bundles, named after what is in them
//! ```
//!
//! Bundles are there before the index that names them, and those of earlier indexes stay: whoever
//! has an older index still finds them. Remove them by hand when that index has expired.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use banger_host::error::AtPath as _;
use banger_host::home::Home;
use banger_host::{HostError, fs, random};
use banger_model::{ImageName, ImageReference, KernelName, Progress, Timestamp};
use banger_trust::{
    KeyError, KeySet, OpenError as OpenDocumentError, SecretKey, Signature, SignedDocument as _,
    Trust, Unverified, show_time,
};
use thiserror::Error;

use super::bundle::{BundleError, Place, Unpack, pack};
use super::catalogs::embedded;
use super::index::{Bundle, ImageEntry, Index, KernelEntry, MAX_INDEX, ParseBundleUrlError};
use super::install::{InstallError, image_of, kernel_of};
use super::manifest::{BundleContent, BundleManifest, ImageContent, Member};
use super::remote::{CatalogError, SIGNATURE_SUFFIX};
use crate::artifact::{FileRecord, OpenError};
use crate::digest::sha256_file;
use crate::image::Image;
use crate::kernel::{FILES as KERNEL_FILES, Kernel};
use crate::oci::{Limits, Platform};

const INDEX: &str = "index.json";
/// Digits of a bundle's digest in its name.
const DIGITS: usize = 16;
/// A web server has to be able to read it.
const PUBLIC: u32 = 0o644;
/// Longest file with a key.
const MAX_KEY: u64 = 16 * 1024;

/// Why a directory is no catalog, or could not be made one.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The catalog in this program.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A file.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An image or a kernel that is to be offered.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A name that everybody has.
    #[error(
        "{0} is the name of something in banger itself, which goes first everywhere: offer it as another, {0}=NAME"
    )]
    Own(String),
    /// One name for two things.
    #[error("{0} is offered twice")]
    Twice(String),
    /// A bundle could not be made, or is not what the index says.
    #[error("the bundle of {name} is of no use")]
    Bundle {
        /// The image or kernel.
        name: String,
        /// Why.
        source: Box<BundleError>,
    },
    /// It is of something else than the index says.
    #[error(transparent)]
    Content(#[from] InstallError),
    /// A bundle of another length or digest.
    #[error("{path} is not the bundle that the index names for {name}", path = path.display())]
    Changed {
        /// The image or kernel.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// What is known of a file here has no digest.
    #[error("the digest that {file} of {name} should have is none: remove it and make it anew")]
    Record {
        /// The image or kernel.
        name: String,
        /// The file.
        file: &'static str,
    },
    /// The name of a bundle.
    #[error(transparent)]
    Url(#[from] ParseBundleUrlError),
    /// A key.
    #[error("cannot use the key in {path}", path = path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: KeyError,
    },
    /// The index makes no sense, or is not signed by that key.
    #[error("cannot believe {path}", path = path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: OpenDocumentError,
    },
    /// The index is void.
    #[error("the index expired at {}: build and sign a new one", show_time(*.0))]
    Expired(Timestamp),
    /// A serial that is not higher than the last.
    #[error("the serial {wanted} is not higher than {last}, that of the index that is there")]
    Serial {
        /// What was asked for.
        wanted: u64,
        /// What is there.
        last: u64,
    },
}

/// Something of this host, and what it is called in the catalog: `NAME` or `NAME=OTHER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered<H, N> {
    /// What it is here.
    pub here: H,
    /// What it is called there.
    pub name: N,
}

/// A text that offers nothing.
#[derive(Debug, Error)]
#[error("{text:?} offers nothing: {problem}")]
pub struct ParseOfferedError {
    text: String,
    problem: String,
}

impl<N: FromStr<Err: fmt::Display> + Clone> FromStr for Offered<N, N> {
    type Err = ParseOfferedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let failed =
            |error: N::Err| ParseOfferedError { text: text.to_owned(), problem: error.to_string() };
        let (here, name) = text.split_once('=').unwrap_or((text, text));
        Ok(Self { here: here.parse().map_err(failed)?, name: name.parse().map_err(failed)? })
    }
}

impl FromStr for Offered<ImageReference, ImageName> {
    type Err = ParseOfferedError;

    /// `NAME=REFERENCE`, the reference having a digest.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let failed = |problem: String| ParseOfferedError { text: text.to_owned(), problem };
        let (name, reference) =
            text.split_once('=').ok_or_else(|| failed("write NAME=REFERENCE".to_owned()))?;
        let here: ImageReference = reference.parse().map_err(|e| failed(format!("{e}")))?;
        if here.digest().is_none() {
            return Err(failed("the reference has no digest: write NAME=…@sha256:…".to_owned()));
        }
        Ok(Self { here, name: name.parse().map_err(|e| failed(format!("{e}")))? })
    }
}

/// A catalog in the making.
#[derive(Debug)]
pub struct Build<'a> {
    /// Where the images and kernels are.
    pub home: &'a Home,
    /// The directory to write, which may have an earlier catalog in it.
    pub dir: &'a Path,
    /// Images of this host.
    pub images: Vec<Offered<ImageName, ImageName>>,
    /// Kernels of this host. Those that the images want are offered without being named.
    pub kernels: Vec<Offered<KernelName, KernelName>>,
    /// Images in registries.
    pub pinned: Vec<Offered<ImageReference, ImageName>>,
    /// Its serial; else one more than the last.
    pub serial: Option<u64>,
    /// From then on it is void.
    pub expires: Timestamp,
}

impl Build<'_> {
    /// Writes bundles and index. What was signed before is not signed any more: [`sign`] does that.
    ///
    /// # Errors
    /// [`PublishError`]; the index that was there stands as it was.
    pub fn run(&self, progress: &dyn Progress) -> Result<Index, PublishError> {
        std::fs::create_dir_all(self.dir).at("create the directory", self.dir)?;
        let serial = self.next_serial()?;
        let images = self.offered_images(progress)?;
        let kernels = self.offered_kernels(&images, progress)?;
        let images = images.into_iter().map(|(name, (entry, _))| (name, entry)).collect();
        let index = Index { serial, expires: self.expires, images, kernels };
        // A signature of something else is worse than none.
        fs::remove_all(&signature_path(self.dir))?;
        write_public(&self.dir.join(INDEX), &index.to_json())?;
        Ok(index)
    }

    fn next_serial(&self) -> Result<u64, PublishError> {
        let last = match read_index(self.dir) {
            Ok((index, _)) => index.serial,
            Err(PublishError::Host(error)) if error.is_not_found() => 0,
            Err(error) => return Err(error),
        };
        match self.serial {
            Some(wanted) if wanted <= last => Err(PublishError::Serial { wanted, last }),
            Some(wanted) => Ok(wanted),
            None => Ok(last.saturating_add(1)),
        }
    }

    /// Entries, with the kernels that they want.
    fn offered_images(
        &self,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<ImageName, (ImageEntry, Option<KernelName>)>, PublishError> {
        let (own, mut entries) = (embedded().map_err(CatalogError::from)?, BTreeMap::new());
        for Offered { here, name } in &self.images {
            if own.images.contains_key(name) {
                return Err(PublishError::Own(name.to_string()));
            }
            let image = Image::open(self.home, here)?;
            let info = image.info();
            let kernel = info.kernel.clone();
            let content = BundleContent::Image(Box::new(ImageContent {
                source: info.source.clone(),
                config: info.config.clone(),
                kernel: kernel.clone(),
            }));
            let records = image.record().into_iter().cloned().collect();
            let bundle = self.bundle(name.as_str(), content, (&image.root(), records), progress)?;
            if entries.insert(name.clone(), (ImageEntry::Bundles(vec![bundle]), kernel)).is_some() {
                return Err(PublishError::Twice(name.to_string()));
            }
        }
        for Offered { here, name } in &self.pinned {
            if own.images.contains_key(name) {
                return Err(PublishError::Own(name.to_string()));
            }
            if entries.insert(name.clone(), (ImageEntry::Oci(here.clone()), None)).is_some() {
                return Err(PublishError::Twice(name.to_string()));
            }
        }
        Ok(entries)
    }

    fn offered_kernels(
        &self,
        images: &BTreeMap<ImageName, (ImageEntry, Option<KernelName>)>,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<KernelName, KernelEntry>, PublishError> {
        let own = embedded().map_err(CatalogError::from)?;
        let named: BTreeSet<_> = self.kernels.iter().map(|it| it.name.clone()).collect();
        let wanted: BTreeSet<_> =
            images.values().filter_map(|(_, kernel)| kernel.clone()).collect();
        let missing = wanted.difference(&named).filter(|name| !own.kernels.contains_key(*name));
        let also = missing.map(|name| Offered { here: name.clone(), name: name.clone() });
        let mut entries = BTreeMap::new();
        for Offered { here, name } in self.kernels.iter().cloned().chain(also) {
            if own.kernels.contains_key(&name) {
                return Err(PublishError::Own(name.to_string()));
            }
            let kernel = Kernel::open(self.home, &here)?;
            let content = BundleContent::Kernel(kernel.info().clone());
            let records = KERNEL_FILES.iter().filter_map(|file| kernel.record(file).cloned());
            let files = (kernel.vmlinux(), records.collect());
            let bundle = self.bundle(name.as_str(), content, (&files.0, files.1), progress)?;
            if entries.insert(name.clone(), KernelEntry::Bundles(vec![bundle])).is_some() {
                return Err(PublishError::Twice(name.to_string()));
            }
        }
        Ok(entries)
    }

    /// Packs what is in the directory of `first` and has these records, aside and renamed.
    fn bundle(
        &self,
        name: &str,
        content: BundleContent,
        (first, records): (&Path, Vec<FileRecord>),
        progress: &dyn Progress,
    ) -> Result<Bundle, PublishError> {
        progress.stage(&format!("packing {name}"));
        let failed = |source: BundleError| PublishError::Bundle {
            name: name.to_owned(),
            source: source.into(),
        };
        let member = |(file, record): (&&'static str, &FileRecord)| {
            let sha256 = record
                .sha256
                .parse()
                .map_err(|_| PublishError::Record { name: name.to_owned(), file })?;
            Ok(Member { name: file, size: record.size, sha256 })
        };
        let members = content.files().iter().zip(&records).map(member);
        let members = members.collect::<Result<_, PublishError>>()?;
        let architecture = Platform::host().architecture;
        let manifest = BundleManifest { architecture: architecture.clone(), content, members };
        let aside =
            self.dir.join(format!(".{name}.{:08x}.new", u32::from_ne_bytes(random::bytes()?)));
        let packed =
            pack_aside(&manifest, first.parent().unwrap_or(Path::new("/")), &aside, progress);
        let packed = packed.inspect_err(|_| drop(fs::remove_all(&aside))).map_err(failed)?;
        let digits = packed.sha256.to_string();
        let file = format!("{name}-{architecture}-{}.tar.zst", &digits[..DIGITS]);
        fs::rename(&aside, &self.dir.join(&file))?;
        fs::sync_parent(&self.dir.join(&file))?;
        let (size, sha256) = (packed.size, packed.sha256);
        Ok(Bundle { architecture, url: file.parse()?, size, sha256 })
    }
}

fn pack_aside(
    manifest: &BundleManifest,
    from: &Path,
    aside: &Path,
    progress: &dyn Progress,
) -> Result<super::bundle::Packed, BundleError> {
    let file = fs::create_new(aside)?;
    let packed = pack(manifest, from, &file, progress)?;
    file.set_permissions(Permissions::from_mode(PUBLIC)).at("open to everybody", aside)?;
    file.sync_all().at("sync", aside)?;
    Ok(packed)
}

/// Makes a new key in a file for its owner alone; returns the public one, in base64.
///
/// # Errors
/// When the file is there already or cannot be written.
pub fn generate_key(path: &Path) -> Result<String, PublishError> {
    use std::io::Write as _;
    let key = SecretKey::from_seed(random::bytes()?);
    let mut file = fs::create_new(path)?;
    file.write_all(key.to_pem().as_bytes()).at("write", path)?;
    file.sync_all().at("sync", path)?;
    fs::sync_parent(path)?;
    Ok(key.public().to_base64())
}

/// Signs the index in a directory with the key in a file; returns the public key, in base64.
///
/// # Errors
/// When there is no index that makes sense, or no key.
pub fn sign(dir: &Path, key: &Path) -> Result<String, PublishError> {
    let (_, bytes) = read_index(dir)?;
    let read = fs::read_bounded(key, MAX_KEY)?;
    let secret = SecretKey::parse(&read)
        .map_err(|source| PublishError::Key { path: key.to_owned(), source })?;
    let signature = format!("{}\n", secret.sign(&bytes).to_base64());
    write_public(&signature_path(dir), signature.as_bytes())?;
    Ok(secret.public().to_base64())
}

/// Verifies all of a directory as whoever pulls from it does, to the last byte of each bundle.
///
/// # Errors
/// [`PublishError`] at the first thing that is wrong.
pub fn verify(
    dir: &Path,
    keys: &str,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<Index, PublishError> {
    let path = dir.join(INDEX);
    let keys = KeySet::parse(keys.as_bytes())
        .map_err(|source| PublishError::Key { path: "--key".into(), source })?;
    let failed = |source| PublishError::Index { path: path.clone(), source };
    let bytes = fs::read_bounded(&path, MAX_INDEX as u64)?;
    let signature = match fs::read_bounded(&signature_path(dir), Signature::MAX_LEN as u64) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let signature = signature.map(|bytes| Signature::parse(&bytes)).transpose();
    let signature = signature.map_err(|_| failed(Unverified::BadSignature.into()))?;
    let index = Trust::Keys(keys).open::<Index>(&bytes, signature.as_ref()).map_err(failed)?;
    let index = index.get().clone();
    if index.expires <= now {
        return Err(PublishError::Expired(index.expires));
    }
    for (name, entry) in &index.images {
        let ImageEntry::Bundles(bundles) = entry else { continue };
        for bundle in bundles {
            let manifest = check_bundle(dir, name.as_str(), bundle, progress)?;
            image_of(manifest, name.as_str(), &bundle.architecture)?;
        }
    }
    for (name, entry) in &index.kernels {
        let KernelEntry::Bundles(bundles) = entry else { continue };
        for bundle in bundles {
            let manifest = check_bundle(dir, name.as_str(), bundle, progress)?;
            kernel_of(manifest, name.as_str(), &bundle.architecture)?;
        }
    }
    Ok(index)
}

fn check_bundle(
    dir: &Path,
    name: &str,
    bundle: &Bundle,
    progress: &dyn Progress,
) -> Result<BundleManifest, PublishError> {
    progress.stage(&format!("verifying {name}"));
    let path = dir.join(bundle.url.as_str());
    let len = fs::file_size(&path)?.apparent.get();
    if len != bundle.size || sha256_file(&path)? != bundle.sha256.to_string() {
        return Err(PublishError::Changed { name: name.to_owned(), path });
    }
    let unpack = Unpack {
        limits: &Limits::default(),
        compressed: len,
        into: Place::Nowhere,
        called_off: &AtomicBool::new(false),
        progress,
    };
    let read = unpack.run(fs::open_file(&path)?);
    read.map_err(|source| PublishError::Bundle { name: name.to_owned(), source: source.into() })
}

fn read_index(dir: &Path) -> Result<(Index, Vec<u8>), PublishError> {
    let path = dir.join(INDEX);
    let bytes = fs::read_bounded(&path, MAX_INDEX as u64)?;
    let index = Index::parse(&bytes)
        .map_err(|source| PublishError::Index { path, source: source.into() })?;
    Ok((index, bytes))
}

fn write_public(path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    fs::write_atomic(path, bytes)?;
    std::fs::set_permissions(path, Permissions::from_mode(PUBLIC)).at("open to everybody", path)
}

fn signature_path(dir: &Path) -> PathBuf {
    dir.join(format!("{INDEX}{SIGNATURE_SUFFIX}"))
}
