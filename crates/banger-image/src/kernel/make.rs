//! The kernel `debian-cloud` made from Debian's package.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use banger_host::staged::Staged;
use banger_host::{HostError, fs};
use banger_model::{Bytes, Progress};
use bstr::ByteSlice as _;
use thiserror::Error;

use super::apt::{Apt, AptError, Package};
use super::bzimage::{BzImageError, extract_vmlinux};
use super::modinfo::{Modinfo, ModinfoError, builtin_aliases};
use super::modules::{Module, ModuleError, Modules, module_name};
use super::{BOOT, CONFIG, KernelInfo, MODULES, VMLINUX};
use crate::archive::{Archive, ArchiveError, Entry, Kind};
use crate::artifact::{Address, Artifact};
use crate::ext4::{WriteImageError, write_image};
use crate::hosttools::{APT_GET, DPKG_DEB, MissingPackages, require};
use crate::initramfs::boot_part;
use crate::space::{NoSpace, require_space};
use crate::tree::{Tree, TreeError};

/// The package that always depends on the newest kernel for clouds. It has the drivers of
/// virtual machines and little else, so it is a quarter of the size of the general kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// How the packages begin that it depends on; the kernel's release follows.
const PACKAGE_PREFIX: &str = "linux-image-";

/// What a guest needs before it can mount its root: its devices are virtio over MMIO, its root
/// an overlay of ext4 file systems. What the kernel has built in is left out.
const BOOT_MODULES: [&str; 7] =
    ["virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng", "overlay", "ext4"];

/// Room for the package, what is in it, and what is made of it.
const SPACE: Bytes = Bytes::mib(500);
/// Unpacking takes a second or two.
const UNPACK_TIME: Duration = Duration::from_secs(600);
/// Most bytes in the package; Debian's have 110 MB.
const MAX_UNPACKED: u64 = 4 << 30;
const MAX_IMAGE_LEN: u64 = 256 << 20;
const MAX_MODULE_LEN: u64 = 64 << 20;
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
    /// Its modules cannot be put in order.
    #[error("cannot put the kernel's modules in order")]
    Order(#[from] ModuleError),
    /// What is in the package is no file system.
    #[error("cannot use what is in the package")]
    Tree(#[from] TreeError),
    /// The image of the modules could not be written.
    #[error("cannot make the image of the kernel's modules")]
    Image(#[from] WriteImageError),
    /// A file could not be kept.
    #[error("cannot keep the kernel")]
    Keep(#[source] HostError),
}

type Result<T, E = MakeKernelError> = std::result::Result<T, E>;

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
    let mut running = tool.stream(UNPACK_TIME).map_err(failed)?;
    if let Some(stdout) = running.take_stdout() {
        let copied = io::copy(&mut stdout.take(MAX_UNPACKED), &mut file);
        copied.map_err(|error| failed(HostError::system("keep its content", error)))?;
    }
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
        self.keep(VMLINUX, &vmlinux)?;
        self.keep(CONFIG, &self.read(&format!("boot/config-{release}"), MAX_TEXT_LEN)?)?;

        progress.stage("indexing the kernel's modules");
        let Self { package, archive, dir } = self;
        let tree =
            Maker { package, archive: archive.subtree(&format!("lib/modules/{release}")), dir };
        let modules = tree.modules()?;
        let boot_modules = tree.keep_boot_part(&modules)?;
        progress.stage("writing the image of the kernel's modules");
        tree.write_modules(&modules, progress)?;
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

    fn modules(&self) -> Result<Modules> {
        let mut loadable = Vec::new();
        for entry in &self.archive.entries {
            let Kind::File(content) = &entry.kind else { continue };
            // Modules may be compressed; those are refused, as `.modinfo` cannot be read then.
            if !entry.path.starts_with(b"kernel/") || !entry.path.contains_str(".ko") {
                continue;
            }
            let bytes = self.archive.read(content, MAX_MODULE_LEN)?;
            let info = Modinfo::of_module(&bytes).map_err(|source| MakeKernelError::Module {
                path: entry.path.to_string(),
                source,
            })?;
            loadable.push(Module { path: entry.path.to_string(), info });
        }
        Ok(Modules::new(loadable, &self.text("modules.builtin")?))
    }

    /// Writes the part of the initramfs that this kernel brings, and returns the modules in it.
    fn keep_boot_part(&self, modules: &Modules) -> Result<Vec<String>> {
        let order = modules.load_order(&BOOT_MODULES)?;
        let mut names = Vec::new();
        let mut files = Vec::new();
        for (n, module) in order.iter().enumerate() {
            let name = module_name(&module.path).unwrap_or_default();
            files.push((format!("{n:02}-{name}.ko"), self.read(&module.path, MAX_MODULE_LEN)?));
            names.push(name);
        }
        self.keep(BOOT, &boot_part(&files))?;
        Ok(names)
    }

    fn write_modules(mut self, modules: &Modules, progress: &dyn Progress) -> Result<()> {
        let aliases = builtin_aliases(&self.read("modules.builtin.modinfo", MAX_TEXT_LEN)?)
            .map_err(|source| MakeKernelError::Module {
                path: "modules.builtin.modinfo".to_owned(),
                source,
            })?;
        let files = modules.index_files(&self.text("modules.order")?, &aliases)?;
        let newest = self.archive.entries.iter().map(|entry| entry.attributes.mtime).max();
        for (name, bytes) in files {
            self.archive.entries.push(Entry::file(name, bytes, newest.unwrap_or_default()));
        }
        let tree = Tree::of(self.archive)?;
        Ok(write_image(&self.dir.join(MODULES), "banger-modules", &tree, progress)?)
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let content = self.archive.content(path).ok_or_else(|| self.lacks(path))?;
        Ok(self.archive.read(content, limit)?)
    }

    fn text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path, MAX_TEXT_LEN)?).into_owned())
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write_atomic(&self.dir.join(name), bytes).map_err(MakeKernelError::Keep)
    }

    fn lacks(&self, path: &str) -> MakeKernelError {
        MakeKernelError::Lacks { package: self.package.name.clone(), lacks: path.to_owned() }
    }
}
