//! What a name stands for: in the catalog that is a part of this program, and then in the one that
//! its owner has configured.
//!
//! The first is believed as the program is: it came with it, under the same signature. Its names
//! cannot be given another meaning by anybody, so that they mean the same on every host.

use banger_host::home::Home;
use banger_model::{ImageName, KernelName, Timestamp};
use banger_trust::{DocumentError, SignedDocument as _};

use super::index::{ImageEntry, Index, KernelEntry};
use super::remote::{CatalogError, Configured, Current, Remote};
use crate::oci::Settings;

/// The catalog that is a part of this program.
const EMBEDDED: &[u8] = include_bytes!("embedded.json");

/// What is in the program itself.
///
/// # Errors
/// When this program was built of something that makes no sense.
pub fn embedded() -> Result<Index, DocumentError> {
    Index::parse(EMBEDDED)
}

/// All that names are looked up in.
#[derive(Clone, Debug)]
pub struct Catalogs {
    remote: Option<Remote>,
    pub(super) home: Home,
    pub(super) settings: Settings,
}

impl Catalogs {
    /// Of this owner. `settings` say how anything is fetched.
    pub fn new(home: &Home, configured: Option<Configured>, settings: &Settings) -> Self {
        let (home, settings) = (home.clone(), settings.clone());
        let remote = configured.map(|configured| Remote {
            home: home.clone(),
            configured,
            settings: settings.clone(),
        });
        Self { remote, home, settings }
    }

    /// What an image's name stands for; none when no catalog has it.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn image(
        &self,
        name: &ImageName,
        now: Timestamp,
    ) -> Result<Option<ImageEntry>, CatalogError> {
        if let Some(own) = embedded()?.images.remove(name) {
            return Ok(Some(own));
        }
        Ok(self.current(now).await?.and_then(|mut it| it.index.images.remove(name)))
    }

    /// What a kernel's name stands for; none when no catalog has it.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn kernel(
        &self,
        name: &KernelName,
        now: Timestamp,
    ) -> Result<Option<KernelEntry>, CatalogError> {
        if let Some(own) = embedded()?.kernels.remove(name) {
            return Ok(Some(own));
        }
        Ok(self.current(now).await?.and_then(|mut it| it.index.kernels.remove(name)))
    }

    /// The configured catalog's index; none when no catalog is configured.
    ///
    /// # Errors
    /// When there is one, and it cannot be had or believed.
    pub async fn current(&self, now: Timestamp) -> Result<Option<Current>, CatalogError> {
        match &self.remote {
            Some(remote) => remote.current(now).await.map(Some),
            None => Ok(None),
        }
    }

    /// Fetches the configured catalog's index, however new the last one is.
    ///
    /// # Errors
    /// As for [`Catalogs::current`].
    pub async fn update(&self, now: Timestamp) -> Result<Option<Current>, CatalogError> {
        match &self.remote {
            Some(remote) => remote.update(now).await.map(Some),
            None => Ok(None),
        }
    }

    /// The configured catalog.
    pub fn configured(&self) -> Option<&Configured> {
        self.remote.as_ref().map(|remote| &remote.configured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    #[test]
    fn the_catalog_in_the_program_has_what_can_be_made_here_and_nothing_else() {
        let index = embedded().unwrap();
        assert!(index.images.keys().all(Image::can_be_made));
        assert!(index.images.contains_key(&crate::image::DEBIAN_BOOKWORM.parse().unwrap()));
        assert!(index.kernels.contains_key(&crate::kernel::DEBIAN_CLOUD.parse().unwrap()));
        let recipes = index.images.values().all(|it| matches!(it, ImageEntry::Recipe(_)));
        assert!(recipes, "nothing is fetched on the word of the program alone");
    }
}
