//! Kernels that are fetched: for a sandbox that is to boot one, or because somebody says so.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use banger_image::catalog::InstallError;
use banger_image::kernel::{KernelFiles, MakeKernelError};
use banger_image::{Kernel, Until};
use banger_model::{KernelName, Progress, Silent};
use tokio::task::spawn_blocking;

use super::{CalledOff, Images, keep_within};
use crate::assets::Base;

impl Images {
    /// Has a kernel here: it is fetched or made if it is missing. Of several that ask at once one does
    /// it. Dropped, it ends.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) async fn kernel(
        &self,
        name: KernelName,
        progress: Arc<dyn Progress>,
    ) -> Result<KernelName> {
        let ends = CalledOff::default();
        let install = self.fetch(&ends, progress).install()?;
        install
            .need_kernel(&name)
            .await
            .with_context(|| format!("cannot have the kernel {name}"))?;
        let keep = self.fetching.cache;
        spawn_blocking(move || keep_within(&install.cache, keep)).await?;
        Ok(name)
    }

    /// Makes a kernel of files on this host. Dropped, it ends, and there is none.
    ///
    /// # Errors
    /// When there is one of this name, or nothing usable in the files.
    pub(crate) async fn import_kernel(
        &self,
        name: KernelName,
        files: KernelFiles,
    ) -> Result<Result<Kernel, MakeKernelError>> {
        let ends = CalledOff::default();
        let (home, called_off) = (self.home.clone(), ends.0.clone());
        let made = spawn_blocking(move || {
            let until = Until::set(&called_off);
            let made = Kernel::import(&home, &name, &files, (&Silent, until))?;
            if until.is_over() {
                // Nobody was told of it.
                Kernel::remove(&home, &name).map_err(MakeKernelError::Keep)?;
                return Err(MakeKernelError::CalledOff);
            }
            Ok(made)
        });
        Ok(made.await?)
    }

    /// Has the kernel here that a sandbox of this image is to boot. One that nobody has is no error
    /// yet: whoever opens it knows which there are.
    ///
    /// # Errors
    /// When the image cannot be used, or its kernel not be fetched.
    pub(crate) async fn need_kernel(
        &self,
        base: &Base,
        kernel: Option<&KernelName>,
        progress: Arc<dyn Progress>,
    ) -> Result<()> {
        let (home, base, kernel) = (self.home.clone(), base.clone(), kernel.cloned());
        let missing = spawn_blocking(move || -> Result<_> {
            let own = base.kernel(&home)?;
            let name = kernel.unwrap_or(own);
            let is_missing = Kernel::open(&home, &name).is_err_and(|error| error.is_missing());
            Ok(is_missing.then_some(name))
        });
        let Some(name) = missing.await?? else { return Ok(()) };
        match self.kernel(name, progress).await {
            Err(error) if is_unknown(&error) => Ok(()),
            ended => ended.map(drop),
        }
    }
}

fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(InstallError::NoKernel { .. }))
}
