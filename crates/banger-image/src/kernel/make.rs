//! The kernel `debian-cloud` made from Debian's package.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::staged::Staged;
use banger_host::{HostError, fs};
use banger_model::{Bytes, KernelName, Progress};
use thiserror::Error;

use super::apt::{Apt, AptError, Package};
use super::bzimage::{BzImageError, extract_vmlinux};
use super::contents::{ModulesOf, keep};
use super::modinfo::ModinfoError;
use super::modules::ModuleError;
use super::packed::PackedError;
use super::{CONFIG, KernelInfo, VMLINUX};
use crate::archive::{Archive, ArchiveError};
use crate::artifact::{Address, Artifact};
use crate::ext4::WriteImageError;
use crate::hosttools::{APT_GET, DPKG_DEB, MissingPackages, require};
use crate::space::{NoSpace, require_space};
use crate::tree::TreeError;

/// The package that always depends on the newest kernel for clouds. It has the drivers of
/// virtual machines and little else, so it is a quarter of the size of the general kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// How the packages begin that it depends on; the kernel's release follows.
const PACKAGE_PREFIX: &str = "linux-image-";

/// Room for the package, what is in it, and what is made of it.
const SPACE: Bytes = Bytes::mib(500);
/// How long unpacking, which takes a second or two, may go on without anything that comes of it.
const UNPACK_SILENCE: Duration = Duration::from_secs(5 * 60);
/// Most bytes in the package; Debian's have 110 MB.
const MAX_UNPACKED: u64 = 4 << 30;
const MAX_IMAGE_LEN: u64 = 256 << 20;
const MAX_TEXT_LEN: u64 = 4 << 20;

/// Why a kernel could not be made.
#[derive(Debug, Error)]
pub enum MakeKernelError {
    /// A program that is needed is missing on the host.
    #[error(transparent)]
    Missing(#[from] MissingPackages),
    /// Too little room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// The package could not be had.
    #[error("cannot get Debian's kernel package")]
    Apt(#[from] AptError),
    /// The package could not be unpacked.
    #[error("cannot unpack the package {package}")]
    Unpack {
        /// Debian's package.
        package: String,
        /// Why not.
        source: HostError,
    },
    /// What is in the package could not be read.
    #[error("cannot read what is in the package")]
    Archive(#[from] ArchiveError),
    /// The package lacks something.
    #[error("the package {package} has no {lacks}")]
    Lacks {
        /// Debian's package.
        package: String,
        /// The file that it lacks.
        lacks: String,
    },
    /// There is no usable kernel in it.
    #[error("cannot use the kernel in the package {package}")]
    Kernel {
        /// Debian's package.
        package: String,
        /// Why not.
        source: BzImageError,
    },
    /// One of its modules is not understood.
    #[error("cannot use the module {path}")]
    Module {
        /// The module's file.
        path: String,
        /// Why not.
        source: ModinfoError,
    },
    /// One of its modules does not unpack.
    #[error("cannot unpack the module {path}")]
    Packed {
        /// The module's file.
        path: String,
        /// Why not.
        source: PackedError,
    },
    /// All of them together are larger than any that are taken.
    #[error("the modules unpack to more than 4 GiB")]
    ManyModules,
    /// Its modules cannot be put in order.
    #[error("cannot put the kernel's modules in order")]
    Order(#[from] ModuleError),
    /// What is in the package is no file system.
    #[error("cannot use what is in the package")]
    Tree(#[from] TreeError),
    /// The image of the modules could not be written.
    #[error("cannot make the image of the kernel's modules")]
    Image(#[from] WriteImageError),
    /// What is to be imported cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: HostError,
    },
    /// It is no kernel.
    #[error("{path} is no Linux kernel: neither an ELF executable nor a bzImage with one in it")]
    NoKernel {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: BzImageError,
    },
    /// A kernel that does not say which it is.
    #[error("{path} does not say which release of Linux it is")]
    NoRelease {
        /// The file.
        path: PathBuf,
    },
    /// The modules are another kernel's, or none.
    #[error("{dir} has no modules of {release}")]
    NoModules {
        /// Where they were looked for.
        dir: PathBuf,
        /// The kernel's release.
        release: String,
    },
    /// One of the modules is another kernel's.
    #[error("the module {path} was built for {of}, the kernel is {release}")]
    OtherRelease {
        /// The module's file.
        path: String,
        /// What it was built for.
        of: String,
        /// The kernel's release.
        release: String,
    },
    /// There is a kernel of this name.
    #[error("there is a kernel {0} already")]
    Taken(KernelName),
    /// A file could not be kept.
    #[error("cannot keep the kernel")]
    Keep(#[source] HostError),
    /// Whoever wanted it does so no more.
    #[error("it was called off")]
    CalledOff,
}

pub(super) type Result<T, E = MakeKernelError> = std::result::Result<T, E>;

/// Makes the kernel in the staging directory and puts it in place.
pub(super) fn make(
    address: Address,
    staged: Staged,
    progress: &dyn Progress,
) -> Result<Artifact<KernelInfo>> {
    require(&[APT_GET, DPKG_DEB])?;
    require_space(address.dir.parent().unwrap_or(Path::new("/")), "a kernel", SPACE)?;
    let work = staged.path().join("work");
    fs::create_private_dir(&work).map_err(MakeKernelError::Keep)?;
    let mut apt = Apt::update(&work.join("apt"), progress)?;
    let meta = apt.describe(META_PACKAGE)?;
    let concrete = meta.first_dependency.unwrap_or(meta.name);
    let package = apt.describe(&concrete)?;
    let deb = apt.download(&package, progress)?;

    progress.stage("unpacking the kernel");
    let archive = Archive::open(unpack(&deb, &work.join("content.tar"), &package)?)?;
    let info = Maker { package: &package, archive, dir: staged.path() }.make(progress)?;
    fs::remove_all(&work).map_err(MakeKernelError::Keep)?;
    Artifact::seal(address, staged, info).map_err(MakeKernelError::Keep)
}

/// The package's content as an archive on the disk.
fn unpack(deb: &Path, target: &Path, package: &Package) -> Result<File> {
    let failed = |source| MakeKernelError::Unpack { package: package.name.clone(), source };
    let mut file = fs::create_new(target).map_err(failed)?;
    let tool = DPKG_DEB.tool()?.arg("--fsys-tarfile").arg(deb);
    let mut running = tool.stream(UNPACK_SILENCE).map_err(failed)?;
    let copied = io::copy(&mut running.output(&|| false).take(MAX_UNPACKED), &mut file);
    copied.map_err(|error| failed(HostError::system("keep its content", error)))?;
    running.finish().map_err(failed)?;
    Ok(file)
}

struct Maker<'a> {
    package: &'a Package,
    archive: Archive,
    dir: &'a Path,
}

impl Maker<'_> {
    fn make(self, progress: &dyn Progress) -> Result<KernelInfo> {
        let release = self.release()?;
        let image = self.read(&format!("boot/vmlinuz-{release}"), MAX_IMAGE_LEN)?;
        let vmlinux = extract_vmlinux(&image).map_err(|source| MakeKernelError::Kernel {
            package: self.package.name.clone(),
            source,
        })?;
        keep(self.dir, VMLINUX, &vmlinux)?;
        keep(self.dir, CONFIG, &self.read(&format!("boot/config-{release}"), MAX_TEXT_LEN)?)?;

        progress.stage("indexing the kernel's modules");
        let Self { package, archive, dir } = self;
        let archive = archive.subtree(&format!("lib/modules/{release}"));
        let source = package.name.clone();
        let boot_modules = ModulesOf { release: &release, source, archive, dir }.keep(progress)?;
        Ok(KernelInfo {
            release,
            package: package.name.clone(),
            version: package.version.clone(),
            package_sha256: package.sha256.clone(),
            boot_modules,
        })
    }

    /// The kernel's release, which the package's name says and its content confirms.
    fn release(&self) -> Result<String> {
        let release = self.package.name.strip_prefix(PACKAGE_PREFIX).unwrap_or_default();
        let dir = format!("lib/modules/{release}");
        let there = !release.is_empty() && self.archive.entries.iter().any(|e| e.path == dir);
        if there { Ok(release.to_owned()) } else { Err(self.lacks(&dir)) }
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let content = self.archive.content(path).ok_or_else(|| self.lacks(path))?;
        Ok(self.archive.read(content, limit)?)
    }

    fn lacks(&self, path: &str) -> MakeKernelError {
        MakeKernelError::Lacks { package: self.package.name.clone(), lacks: path.to_owned() }
    }
}
