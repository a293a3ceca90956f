//! What a name leads to before it is taken for a reference to a registry.

use anyhow::{Context as _, Result, bail};
use banger_image::Image;
use banger_image::catalog::{Bundle, Catalogs, ImageEntry, ImageRecipe, Install, InstallError};
use banger_model::ImageName;
use tokio::task::spawn_blocking;
use tracing::info;

use super::{Fetch, Pull, cache_of, keep_within};
use crate::config::Fetching;
use crate::operations::now;

/// Where following a name has ended.
pub(super) enum Led {
    /// The image is here.
    Here(ImageName),
    /// This is to be fetched from a registry or a file.
    On(Pull),
}

impl Fetch {
    /// Follows a name that a catalog has; everything else is as it was.
    pub(super) async fn follow(&self, pull: Pull) -> Result<Led> {
        let Ok(name) = pull.source.parse::<ImageName>() else { return Ok(Led::On(pull)) };
        let entry = self.catalogs().image(&name, now()).await;
        match entry.with_context(|| format!("cannot tell what {name} is"))? {
            None => Ok(Led::On(pull)),
            Some(ImageEntry::Oci(reference)) => {
                let called = pull.name.clone().unwrap_or(name);
                let source = reference.to_string();
                Ok(Led::On(Pull { source, name: Some(called), ..pull }))
            }
            Some(_) if pull.wishes.kernel.is_some() => {
                bail!("{name} is in a catalog, and brings its own kernel: leave out --kernel-ref")
            }
            Some(_) if pull.wishes.disk.is_some() => bail!(
                "{name} is in a catalog, which says how large the disks of its sandboxes are: leave \
                 out --size, and say `vm create --disk` instead"
            ),
            Some(ImageEntry::Recipe(ImageRecipe::DebianBookworm)) => {
                self.make(name, pull.name).await.map(Led::Here)
            }
            Some(ImageEntry::Bundles(bundles)) => {
                let called = pull.name.unwrap_or_else(|| name.clone());
                self.bundle(&name, &bundles, &called).await.map(Led::Here)
            }
            Some(ImageEntry::Unknown(kind)) => {
                Err(InstallError::Unknown { name: name.to_string(), kind }.into())
            }
        }
    }

    async fn make(&self, name: ImageName, called: Option<ImageName>) -> Result<ImageName> {
        if called.is_some_and(|called| called != name) {
            bail!("{name} is made on this host under its own name: leave out --name");
        }
        let (home, progress) = (self.home.clone(), self.progress.clone());
        spawn_blocking(move || {
            Image::ensure(&home, &name, &*progress)?;
            Ok(name)
        })
        .await?
    }

    /// Where names are looked up.
    fn catalogs(&self) -> Catalogs {
        let Fetching { settings, catalog, .. } = &self.fetching;
        Catalogs::new(&self.home, catalog.clone(), settings)
    }

    /// What has the things of catalogs here.
    pub(super) fn install(&self) -> Result<Install> {
        Ok(Install {
            catalogs: self.catalogs(),
            cache: cache_of(&self.home)?,
            now: now(),
            called_off: self.called_off.clone(),
            progress: self.progress.clone(),
        })
    }

    async fn bundle(
        &self,
        name: &ImageName,
        bundles: &[Bundle],
        called: &ImageName,
    ) -> Result<ImageName> {
        let install = self.install()?;
        let image = install.image(name, bundles, called).await?;
        info!(image = %image.id(), %name, "an image of the catalog is here");
        let keep = self.fetching.cache;
        spawn_blocking(move || keep_within(&install.cache, keep)).await?;
        Ok(called.clone())
    }
}
