//! What a sandbox is made from, made ready: VMM, kernel, image, and what the host can do.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use banger_host::facts::{Processors, processors};
use banger_host::home::Home;
use banger_image::{Image, Kernel};
use banger_model::{
    Accelerator, DiskSize, ImageId, ImageName, InitMode, KernelName, Progress, SandboxSpec,
    VolumeError, WantedImage,
};
use banger_vmm::probe::{Finding, ProbeGuest, kvm_verdict};
use banger_vmm::qemu::Qemu;
use banger_vmm::{Disks, KernelStart, Start, Vmm, facts};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

/// Everything that sandboxes of one image and kernel share.
#[derive(Debug)]
pub struct Assets {
    /// The monitor.
    pub vmm: Arc<dyn Vmm>,
    /// The kernel.
    pub kernel: Kernel,
    /// The image.
    pub image: Image,
    /// The kernel's first file system, with our agent as its only program.
    pub initramfs: PathBuf,
    /// What executes guests on this host.
    pub accelerator: Accelerator,
    /// Why, when it is not KVM.
    pub kvm: Finding,
    /// The frequency of the host's time stamp counter.
    pub tsc_khz: u64,
    /// The host's processor, as it calls itself.
    pub processor: String,
    /// A digest of its features, where guests have them: under KVM.
    pub features: Option<String>,
}

/// What tells the agent to have the image's systemd be the first process.
const SYSTEMD: &str = "banger.init=systemd";

/// Where programs are searched when `PATH` is not set.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the programs of ours are that run in guests: `lib/banger` beside the directory that
/// `program` is in. What belongs to `/usr/local/bin/banger` is in `/usr/local/lib/banger`.
pub fn guest_programs(program: &Path) -> PathBuf {
    let dir = program.parent().unwrap_or(Path::new("/"));
    dir.parent().unwrap_or(dir).join("lib").join("banger")
}

/// Which image a sandbox is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// The one that its user means, whichever that is by now.
    Wanted(WantedImage),
    /// The one that its disk belongs to.
    Stored(ImageId),
}

impl Base {
    /// The image, if it is here.
    ///
    /// # Errors
    /// When it is not, or damaged.
    pub(crate) fn open(&self, home: &Home) -> Result<Image> {
        match self {
            Self::Stored(id) => Ok(Image::open_stored(home, id)?),
            Self::Wanted(wanted) => {
                Image::find(home, wanted)?.with_context(|| format!("there is no image {wanted}"))
            }
        }
    }

    /// The image, or the name of one that is to be made: before anything else is made for it.
    fn find(&self, home: &Home) -> Result<Found> {
        let Self::Wanted(wanted) = self else { return Ok(Found::Here(self.open(home)?.into())) };
        match (Image::find(home, wanted)?, wanted.name()) {
            (Some(image), _) => Ok(Found::Here(image.into())),
            (None, Some(name)) if Image::can_be_made(&name) => Ok(Found::ToMake(name)),
            (None, Some(name)) => Ok(Found::Here(Image::open(home, &name)?.into())),
            (None, None) => bail!("there is no image {wanted}"),
        }
    }

    /// The kernel that sandboxes of it boot where nothing else is said.
    ///
    /// # Errors
    /// When the image is damaged, or neither here nor to be made.
    pub(crate) fn kernel(&self, home: &Home) -> Result<KernelName> {
        Ok(self.find(home)?.kernel())
    }

    /// How large the disks of sandboxes of it are where nothing else is said.
    ///
    /// # Errors
    /// When the image is damaged, or neither here nor to be made.
    pub(crate) fn disk(&self, home: &Home) -> Result<DiskSize> {
        Ok(match self.find(home)? {
            Found::Here(image) => disk_of(&image),
            Found::ToMake(_) => DiskSize::DEFAULT,
        })
    }
}

/// How large the disks of an image's sandboxes are where nothing else is said.
fn disk_of(image: &Image) -> DiskSize {
    image.config().disk.unwrap_or_else(|| DiskSize::beside(image.size()))
}

/// An image before a sandbox is made of it.
enum Found {
    Here(Box<Image>),
    ToMake(ImageName),
}

impl Found {
    fn kernel(&self) -> KernelName {
        match self {
            Self::Here(image) => image.kernel(),
            Self::ToMake(_) => KernelName::default(),
        }
    }
}

/// Where assets come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The owner's directories.
    pub home: Home,
    /// Where programs are searched: the value of `PATH`.
    pub path: OsString,
    /// The guest agent's executable.
    pub agent: PathBuf,
}

impl Assets {
    /// Finds or makes everything; the kernel is the image's where none is said. The first time on a
    /// host that takes about a minute; later a few milliseconds.
    ///
    /// # Errors
    /// When something is missing and cannot be made.
    pub async fn prepare(
        sources: &Sources,
        vmm: Arc<dyn Vmm>,
        image: &Base,
        kernel: Option<&KernelName>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let (home, wanted) = (sources.home.clone(), image.clone());
        let found = spawn_blocking(move || wanted.find(&home)).await??;
        let kernel = kernel.cloned().unwrap_or_else(|| found.kernel());
        let (kernel, initramfs) = ensure_kernel(sources, kernel, progress.clone()).await?;
        // While the image is made the processor has nothing to do for KVM's probe to disturb.
        let guest = ProbeGuest {
            kernel: kernel.vmlinux(),
            initramfs: initramfs.clone(),
            identity: kernel.identity().to_owned(),
        };
        let image = ensure_image(sources, found, progress);
        let (image, kvm) = tokio::join!(image, kvm_verdict(&sources.home, &*vmm, &guest));
        let (image, kvm) = (image?, kvm?);
        let accelerator = kvm.verdict().accelerator();
        let home = sources.home.clone();
        let tsc_khz = spawn_blocking(move || facts::tsc_khz(&home)).await??;
        let Processors { model: processor, flags, .. } = spawn_blocking(processors).await??;
        let features = (accelerator == Accelerator::Kvm).then(|| digest_of(&flags));
        Ok(Self { vmm, kernel, image, initramfs, accelerator, kvm, tsc_khz, processor, features })
    }

    /// What is worth telling a user once: why there is no KVM, when that was just found out.
    pub fn news(&self) -> Option<String> {
        match &self.kvm {
            Finding::New(verdict) => verdict.notice(),
            _ => None,
        }
    }

    /// Who is the first process of a sandbox of this spec.
    pub fn init(&self, spec: &SandboxSpec) -> InitMode {
        spec.init.unwrap_or(self.image.config().init)
    }

    /// How large the disk of a sandbox of this spec is.
    pub fn disk(&self, spec: &SandboxSpec) -> DiskSize {
        spec.disk.unwrap_or_else(|| disk_of(&self.image))
    }

    /// How a machine of this spec begins that boots. Services of systemd come up with the machine,
    /// so its volumes are mounted before: the kernel's command line tells of them.
    ///
    /// # Errors
    /// When there is no room for that.
    pub fn start(&self, spec: &SandboxSpec) -> Result<Start, VolumeError> {
        Ok(match self.init(spec) {
            InitMode::Agent => self.start_agent(),
            InitMode::Systemd => {
                let mut args = vec![SYSTEMD.to_owned()];
                args.extend(spec.volumes.kernel_arguments()?);
                self.start_with(args)
            }
        })
    }

    /// How a machine begins that boots with our agent as its first process.
    pub fn start_agent(&self) -> Start {
        self.start_with(Vec::new())
    }

    fn start_with(&self, args: Vec<String>) -> Start {
        Start::Kernel(KernelStart {
            kernel: self.kernel.vmlinux(),
            initramfs: self.initramfs.clone(),
            args,
            tsc_khz: self.tsc_khz,
        })
    }

    /// The files behind a machine's block devices when `disk` is the sandbox's own.
    pub fn disks(&self, disk: PathBuf) -> Disks {
        Disks {
            base: Some(self.image.root()),
            modules: Some(self.kernel.modules()),
            disk: Some(disk),
            volumes: Default::default(),
        }
    }
}

/// The same for the same features in whatever order.
fn digest_of(flags: &str) -> String {
    let flags: BTreeSet<_> = flags.split_whitespace().collect();
    let digest = Sha256::digest(Vec::from_iter(flags).join(" "));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Finds the virtual machine monitor of this host.
///
/// # Errors
/// When it is missing or too old.
pub async fn discover_vmm(sources: &Sources) -> Result<Arc<dyn Vmm>> {
    let path = sources.path.clone();
    Ok(Arc::new(spawn_blocking(move || Qemu::discover(&path)).await??))
}

async fn ensure_kernel(
    sources: &Sources,
    name: KernelName,
    progress: Arc<dyn Progress>,
) -> Result<(Kernel, PathBuf)> {
    let sources = sources.clone();
    spawn_blocking(move || {
        let kernel = Kernel::ensure(&sources.home, &name, &*progress)?;
        let initramfs = kernel
            .initramfs(&sources.home, &sources.agent)
            .context("cannot make the sandbox's initramfs")?;
        Ok((kernel, initramfs))
    })
    .await?
}

async fn ensure_image(
    sources: &Sources,
    found: Found,
    progress: Arc<dyn Progress>,
) -> Result<Image> {
    let home = sources.home.clone();
    match found {
        Found::Here(image) => Ok(*image),
        Found::ToMake(name) => {
            spawn_blocking(move || Ok(Image::ensure(&home, &name, &*progress)?)).await?
        }
    }
}
