//! Kernels: an uncompressed `vmlinux`, its modules as a read-only image, and its boot modules.
//!
//! A kernel is made from Debian's package for clouds and kept as an artifact of these files:
//!
//! | file           | content                                                                |
//! |----------------|------------------------------------------------------------------------|
//! | `vmlinux`      | the kernel as an ELF executable                                        |
//! | `modules.ext4` | what belongs at `/lib/modules/<release>`, with the indexes of modprobe |
//! | `boot.cpio`    | first part of every initramfs: the modules without which nothing mounts |
//! | `config`       | the options that the kernel was built with                             |

mod apt;
pub mod bzimage;
mod contents;
mod import;
mod index;
mod make;
pub mod modinfo;
mod modules;
mod packed;

use std::path::{Path, PathBuf};

use banger_host::home::Home;
use banger_host::{HostError, fs, staged};
use banger_model::{KernelName, Progress};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use apt::{AptError, Package, parse_package, parse_status};
pub use import::KernelFiles;
pub use make::MakeKernelError;
pub use modules::ModuleError;
pub use packed::PackedError;

use crate::artifact::{
    Address, Artifact, ArtifactKind, Claim, ClaimError, FileRecord, OpenError, claim,
};
use crate::digest::{sha256, sha256_file};
use crate::initramfs::{init_part, init_part_len};
use crate::until::Until;

/// The one kernel that can be made.
pub const DEBIAN_CLOUD: &str = "debian-cloud";

const VMLINUX: &str = "vmlinux";
const MODULES: &str = "modules.ext4";
const BOOT: &str = "boot.cpio";
const CONFIG: &str = "config";

/// All files of a kernel.
pub(crate) const FILES: [&str; 4] = [VMLINUX, MODULES, BOOT, CONFIG];

/// Largest program that an initramfs is made for.
const MAX_INIT_LEN: u64 = 64 * 1024 * 1024;
/// Largest part with boot modules.
const MAX_BOOT_LEN: u64 = 64 * 1024 * 1024;

/// What a kernel was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// The release that `uname -r` shows, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// Debian's package.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// Digest of the package file.
    pub package_sha256: String,
    /// Names of the boot modules in the order of loading.
    pub boot_modules: Vec<String>,
}

/// Why there is no kernel to boot.
#[derive(Debug, Error)]
pub enum EnsureKernelError {
    /// It cannot be used as it is, or cannot be made at all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be made.
    #[error("cannot make the kernel {name}")]
    Make {
        /// Its name.
        name: KernelName,
        /// Why not.
        source: Box<MakeKernelError>,
    },
}

/// Why there is no initramfs.
#[derive(Debug, Error)]
pub enum InitramfsError {
    /// The program that is to be the first process cannot be read.
    #[error("cannot read the first program of the initramfs")]
    Program(#[source] HostError),
    /// The kernel's part cannot be read.
    #[error("cannot read the boot modules of the kernel")]
    Boot(#[source] HostError),
    /// It cannot be kept.
    #[error("cannot keep the initramfs")]
    Keep(#[source] HostError),
}

/// A kernel that is here, whole.
#[derive(Clone, Debug)]
pub struct Kernel {
    name: KernelName,
    artifact: Artifact<KernelInfo>,
}

impl Kernel {
    /// Opens a kernel that is here.
    ///
    /// # Errors
    /// [`OpenError`] when there is none, or it is not as it was made.
    pub fn open(home: &Home, name: &KernelName) -> Result<Self, OpenError> {
        let artifact = Artifact::open(address(home, name))?;
        Ok(Self { name: name.clone(), artifact })
    }

    /// Opens a kernel; makes it where it is missing and can be made. Of several that call this
    /// at once, one makes it and the others wait for that.
    ///
    /// # Errors
    /// [`EnsureKernelError`]; nothing half-made remains.
    pub fn ensure(
        home: &Home,
        name: &KernelName,
        progress: &dyn Progress,
    ) -> Result<Self, EnsureKernelError> {
        if name.as_str() != DEBIAN_CLOUD {
            return Ok(Self::open(home, name)?);
        }
        let failed = |source: MakeKernelError| EnsureKernelError::Make {
            name: name.clone(),
            source: source.into(),
        };
        let address = address(home, name);
        let artifact = match claim(&address, progress) {
            Ok(Claim::Here(artifact)) => artifact,
            Ok(Claim::ToMake(staged)) => make::make(address, staged, progress).map_err(failed)?,
            Err(ClaimError::Open(error)) => return Err(error.into()),
            Err(ClaimError::Stage(error)) => return Err(failed(MakeKernelError::Keep(error))),
        };
        Ok(Self { name: name.clone(), artifact })
    }

    /// Makes a kernel of files on this host, as long as somebody wants it.
    ///
    /// # Errors
    /// When there is one of this name, or nothing usable in the files; nothing half-made remains.
    pub fn import(
        home: &Home,
        name: &KernelName,
        files: &KernelFiles,
        (progress, until): (&dyn Progress, Until<'_>),
    ) -> Result<Self, MakeKernelError> {
        let taken = || MakeKernelError::Taken(name.clone());
        if name.as_str() == DEBIAN_CLOUD {
            return Err(taken());
        }
        let address = address(home, name);
        match claim::<KernelInfo>(&address, progress) {
            Ok(Claim::Here(_)) => Err(taken()),
            Ok(Claim::ToMake(staged)) => {
                let artifact = import::import(address, staged, files, (progress, until))?;
                Ok(Self { name: name.clone(), artifact })
            }
            Err(ClaimError::Open(_)) => Err(taken()),
            Err(ClaimError::Stage(error)) => Err(MakeKernelError::Keep(error)),
        }
    }

    /// Opens a kernel that is here, or else has its files put into a directory by somebody else.
    ///
    /// # Errors
    /// When it is damaged, or what that somebody says; nothing half-made remains then.
    pub(crate) fn adopt<E: From<OpenError> + From<HostError>>(
        home: &Home,
        name: &KernelName,
        progress: &dyn Progress,
        fill: impl FnOnce(&Path) -> Result<KernelInfo, E>,
    ) -> Result<Self, E> {
        let address = address(home, name);
        let artifact = match claim(&address, progress) {
            Ok(Claim::Here(artifact)) => artifact,
            Ok(Claim::ToMake(staged)) => {
                let info = fill(staged.path())?;
                Artifact::seal(address, staged, info)?
            }
            Err(ClaimError::Open(error)) => return Err(error.into()),
            Err(ClaimError::Stage(error)) => return Err(error.into()),
        };
        Ok(Self { name: name.clone(), artifact })
    }

    /// Names of the kernels that are here.
    ///
    /// # Errors
    /// When the directory of kernels cannot be read.
    pub fn list(home: &Home) -> Result<Vec<KernelName>, HostError> {
        let names = fs::list_dir(&home.kernels())?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Removes a kernel, also a damaged one; none there is no error. Killed meanwhile, it leaves the
    /// kernel whole, or what [`Kernel::sweep`] removes.
    ///
    /// # Errors
    /// When something of it remains.
    pub fn remove(home: &Home, name: &KernelName) -> Result<(), HostError> {
        staged::remove(&home.kernel(name))
    }

    /// Removes what those have left who were killed while they made or removed a kernel.
    ///
    /// # Errors
    /// When something of it remains.
    pub fn sweep(home: &Home) -> Result<(), HostError> {
        staged::sweep(&home.kernels(), |_| Ok(())).map(drop)
    }

    /// Reads all of it and compares it with what was made.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when a file has changed.
    pub fn verify(&self) -> Result<(), OpenError> {
        self.artifact.verify()
    }

    /// Its name.
    pub fn name(&self) -> &KernelName {
        &self.name
    }

    /// What it was made from.
    pub fn info(&self) -> &KernelInfo {
        self.artifact.info()
    }

    /// What is known of one of its files.
    pub(crate) fn record(&self, name: &str) -> Option<&FileRecord> {
        self.artifact.files().get(name)
    }

    /// The release that `uname -r` shows in the guest.
    pub fn release(&self) -> &str {
        &self.artifact.info().release
    }

    /// A digest that no other kernel has.
    pub fn identity(&self) -> &str {
        &self.artifact.identity
    }

    /// The kernel as an uncompressed ELF executable.
    pub fn vmlinux(&self) -> PathBuf {
        self.artifact.path(VMLINUX)
    }

    /// A read-only ext4 image of what belongs at `/lib/modules/<release>`.
    pub fn modules(&self) -> PathBuf {
        self.artifact.path(MODULES)
    }

    /// The options that the kernel was built with, as text.
    pub fn config(&self) -> PathBuf {
        self.artifact.path(CONFIG)
    }

    /// An initramfs with this kernel's boot modules and `program`, a static executable, as the
    /// first process. It is kept: only the first call for a program writes anything.
    ///
    /// # Errors
    /// [`InitramfsError`] when the program cannot be read or the initramfs not be kept.
    pub fn initramfs(&self, home: &Home, program: &Path) -> Result<PathBuf, InitramfsError> {
        // Nearly always it is there: then nothing as large as the program is taken into memory.
        let digest = sha256_file(program).map_err(InitramfsError::Program)?;
        let len = fs::file_size(program).map_err(InitramfsError::Program)?.apparent.get();
        let key = sha256(format!("{} {digest}", self.identity()).as_bytes());
        let dir = home.cache().join("initramfs");
        let path = dir.join(format!("{}.cpio", &key[..32]));
        let boot_len = self.artifact.files().get(BOOT).map_or(0, |record| record.size);
        // It was renamed into place whole; a length that is wrong nevertheless is not trusted.
        if fs::file_size(&path)
            .is_ok_and(|size| size.apparent.get() == boot_len + init_part_len(len))
        {
            return Ok(path);
        }
        let program = fs::read_bounded(program, MAX_INIT_LEN).map_err(InitramfsError::Program)?;
        let mut bytes = fs::read_bounded(&self.artifact.path(BOOT), MAX_BOOT_LEN)
            .map_err(InitramfsError::Boot)?;
        bytes.extend(init_part(&program));
        fs::create_private_dir(&dir)
            .and_then(|()| fs::write_atomic(&path, &bytes))
            .map_err(InitramfsError::Keep)?;
        Ok(path)
    }
}

fn address(home: &Home, name: &KernelName) -> Address {
    Address {
        kind: ArtifactKind::Kernel,
        name: name.to_string(),
        dir: home.kernel(name),
        names: home.kernels(),
        files: &FILES,
        can_be_made: &[DEBIAN_CLOUD],
        removal: format!("banger kernel rm {name}"),
    }
}
