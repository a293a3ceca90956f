//! What a sandbox is made from, made ready: VMM, kernel, image, and what the host can do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use banger_host::home::Home;
use banger_image::{Image, Kernel};
use banger_model::{
    Accelerator, ImageId, InitMode, KernelName, Progress, SandboxSpec, WantedImage,
};
use banger_vmm::probe::{Finding, ProbeGuest, kvm_verdict};
use banger_vmm::qemu::Qemu;
use banger_vmm::{Disks, KernelStart, Start, Vmm, facts};
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

    /// Whether there is such an image or it can be had: before anything else is made for it.
    fn check(&self, home: &Home) -> Result<()> {
        let Self::Wanted(wanted) = self else { return self.open(home).map(drop) };
        match (Image::find(home, wanted)?, wanted.name()) {
            (None, Some(name)) if !Image::can_be_made(&name) => {
                Ok(Image::open(home, &name).map(drop)?)
            }
            _ => Ok(()),
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
    /// Finds or makes everything. The first time on a host that takes about a minute; later a
    /// few milliseconds.
    ///
    /// # Errors
    /// When something is missing and cannot be made.
    pub async fn prepare(
        sources: &Sources,
        vmm: Arc<dyn Vmm>,
        image: &Base,
        kernel: &KernelName,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let (home, wanted) = (sources.home.clone(), image.clone());
        spawn_blocking(move || wanted.check(&home)).await??;
        let (kernel, initramfs) = ensure_kernel(sources, kernel, progress.clone()).await?;
        // While the image is made the processor has nothing to do for KVM's probe to disturb.
        let guest = ProbeGuest {
            kernel: kernel.vmlinux(),
            initramfs: initramfs.clone(),
            identity: kernel.identity().to_owned(),
        };
        let image = ensure_image(sources, image, progress);
        let (image, kvm) = tokio::join!(image, kvm_verdict(&sources.home, &*vmm, &guest));
        let (image, kvm) = (image?, kvm?);
        let accelerator = kvm.verdict().accelerator();
        let home = sources.home.clone();
        let tsc_khz = spawn_blocking(move || facts::tsc_khz(&home)).await??;
        let (processor, _) = spawn_blocking(banger_host::facts::processor).await??;
        Ok(Self { vmm, kernel, image, initramfs, accelerator, kvm, tsc_khz, processor })
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

    /// How a machine begins that boots, with this first process.
    pub fn start(&self, init: InitMode) -> Start {
        let args = match init {
            InitMode::Agent => Vec::new(),
            InitMode::Systemd => vec![SYSTEMD.to_owned()],
        };
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
    name: &KernelName,
    progress: Arc<dyn Progress>,
) -> Result<(Kernel, PathBuf)> {
    let (sources, name) = (sources.clone(), name.clone());
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
    base: &Base,
    progress: Arc<dyn Progress>,
) -> Result<Image> {
    let (home, base) = (sources.home.clone(), base.clone());
    spawn_blocking(move || match &base {
        Base::Wanted(wanted) => match (Image::find(&home, wanted)?, wanted.name()) {
            (Some(image), _) => Ok(image),
            (None, Some(name)) => Ok(Image::ensure(&home, &name, &*progress)?),
            (None, None) => bail!("there is no image {wanted}"),
        },
        Base::Stored(_) => Ok(base.open(&home)?),
    })
    .await?
}
