//! What sandboxes are made from, found once and kept for as long as it stays the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use banger_host::fs::{Stamp, stamp};
use banger_image::ImageConfig;
use banger_model::{KernelName, Progress};
use banger_vmm::Vmm;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::assets::{Assets, Base, Sources, discover_vmm};

/// Most pairs of image and kernel that are kept in mind.
const MAX_KNOWN: usize = 256;

/// An image, and a kernel unless it is the image's own.
type Pair = (Base, Option<KernelName>);

/// Where machines and what they are made of come from.
#[derive(Debug)]
pub(crate) struct Arsenal {
    sources: Sources,
    vmm: OnceCell<Arc<dyn Vmm>>,
    known: Mutex<BTreeMap<Pair, Known>>,
}

/// Assets, and how their files were when they were found.
#[derive(Clone, Debug)]
struct Known {
    assets: Arc<Assets>,
    stamps: Vec<Stamp>,
}

impl Arsenal {
    /// From these sources. Nothing is looked at before it is needed.
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources, vmm: OnceCell::new(), known: Mutex::default() }
    }

    /// The virtual machine monitor. One that is missing is looked for again the next time.
    ///
    /// # Errors
    /// When it is missing or too old.
    pub(crate) async fn vmm(&self) -> Result<Arc<dyn Vmm>> {
        self.vmm.get_or_try_init(|| discover_vmm(&self.sources)).await.cloned()
    }

    /// Everything for sandboxes of this image and kernel, if it was found before and no file of
    /// it has changed since.
    pub(crate) fn at_hand(&self, image: &Base, kernel: Option<&KernelName>) -> Option<Arc<Assets>> {
        let known = self.known().get(&(image.clone(), kernel.cloned())).cloned()?;
        let same = self.stamps(image, &known.assets).is_ok_and(|stamps| stamps == known.stamps);
        same.then_some(known.assets)
    }

    /// Everything for sandboxes of this image and kernel; what is missing is made.
    ///
    /// # Errors
    /// When something is missing and cannot be made.
    pub(crate) async fn assets(
        &self,
        image: &Base,
        kernel: Option<&KernelName>,
        progress: Arc<dyn Progress>,
    ) -> Result<Arc<Assets>> {
        let vmm = self.vmm().await?;
        let assets = Assets::prepare(&self.sources, vmm, image, kernel, progress).await?;
        let assets = Arc::new(assets);
        // Who is made of it now will ask for it by its id.
        for base in [image.clone(), Base::Stored(assets.image.id().clone())] {
            let stamps = self.stamps(&base, &assets)?;
            let mut known = self.known();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert((base, kernel.cloned()), Known { assets: assets.clone(), stamps });
        }
        Ok(assets)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Pair, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How everything is that assets were found from.
    fn stamps(&self, base: &Base, assets: &Assets) -> Result<Vec<Stamp>, banger_host::HostError> {
        let image = match base {
            Base::Wanted(_) => assets.image.found(),
            Base::Stored(_) => assets.image.root(),
        };
        let files = [
            image,
            assets.kernel.vmlinux(),
            assets.kernel.modules(),
            assets.initramfs.clone(),
            self.sources.agent.clone(),
        ];
        files.iter().map(|file| stamp(file)).collect()
    }

    /// What an image wishes for the processes in it.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub(crate) async fn image_config(
        &self,
        image: &Base,
        kernel: Option<&KernelName>,
    ) -> Result<ImageConfig> {
        if let Some(assets) = self.at_hand(image, kernel) {
            return Ok(assets.image.config().clone());
        }
        let (home, image) = (self.sources.home.clone(), image.clone());
        spawn_blocking(move || Ok(image.open(&home)?.config().clone())).await?
    }
}
