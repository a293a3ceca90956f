//! What sandboxes are made from, found once and kept for as long as the daemon runs.

use std::sync::Arc;

use anyhow::Result;
use banger_image::Image;
use banger_image::ImageConfig;
use banger_model::{ImageName, KernelName, Progress};
use banger_vmm::Vmm;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::assets::{Assets, Sources, discover_vmm};

/// Where machines and what they are made of come from.
#[derive(Debug)]
pub(crate) struct Arsenal {
    sources: Sources,
    vmm: OnceCell<Arc<dyn Vmm>>,
}

impl Arsenal {
    /// From these sources. Nothing is looked at before it is needed.
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources, vmm: OnceCell::new() }
    }

    /// The virtual machine monitor. One that is missing is looked for again the next time.
    ///
    /// # Errors
    /// When it is missing or too old.
    pub(crate) async fn vmm(&self) -> Result<Arc<dyn Vmm>> {
        self.vmm.get_or_try_init(|| discover_vmm(&self.sources)).await.cloned()
    }

    /// Everything for sandboxes of this image and kernel; what is missing is made.
    ///
    /// # Errors
    /// When something is missing and cannot be made.
    pub(crate) async fn assets(
        &self,
        image: &ImageName,
        kernel: &KernelName,
        progress: Arc<dyn Progress>,
    ) -> Result<Assets> {
        let vmm = self.vmm().await?;
        Assets::prepare(&self.sources, vmm, image, kernel, progress).await
    }

    /// What an image wishes for the processes in it.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub(crate) async fn image_config(&self, image: &ImageName) -> Result<ImageConfig> {
        let (home, image) = (self.sources.home.clone(), image.clone());
        spawn_blocking(move || Ok(Image::open(&home, &image)?.config().clone())).await?
    }
}
