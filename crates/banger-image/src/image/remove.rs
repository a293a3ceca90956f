//! Images that go: when no name leads to them and nothing lies over them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::staged::{self, SetAside};
use banger_host::{HostError, fs};
use banger_model::{ImageId, ImageName};

use super::Image;
use super::store::still;
use crate::artifact::identity_at;

impl Image {
    /// Takes a name away from this image, also a damaged one, unless it is another's by now; none there
    /// is no error. The image itself goes by [`Image::forget`].
    ///
    /// # Errors
    /// When the name remains.
    pub fn unname(home: &Home, name: &ImageName, id: Option<&ImageId>) -> Result<(), HostError> {
        let still = still(&home.image_store())?;
        if Self::id_of(home, name).as_ref() == id {
            fs::remove_all(&home.image(name))?;
        }
        drop(still);
        fs::sync_parent(&home.image(name))
    }

    /// Takes all images that no name leads to out of their places, except those that are used. While it
    /// asks which those are, no image gets a name and nobody begins to use one.
    ///
    /// # Errors
    /// When that cannot be told, or one cannot be taken.
    pub fn forget<E: From<HostError>>(
        home: &Home,
        used: impl FnOnce() -> Result<BTreeSet<ImageId>, E>,
    ) -> Result<Forgotten, E> {
        let store = home.image_store();
        let still = still(&store)?;
        let aside = Self::set_aside(home, &used()?)?;
        drop(still);
        Ok(Forgotten { store, aside })
    }

    /// Digests of the images that are here, damaged or not, as [`Image::identity`] tells that of one.
    ///
    /// # Errors
    /// When that cannot be told of one.
    pub fn identities(home: &Home) -> Result<BTreeSet<String>, HostError> {
        let store = home.image_store();
        let ids = fs::list_dir(&store)?.into_iter();
        let ids = ids.filter(|id| id.to_str().is_some_and(|id| id.parse::<ImageId>().is_ok()));
        let identities = ids.filter_map(|id| match identity_at(&store.join(id)) {
            // It has just gone, or never had one.
            Err(error) if error.is_not_found() => None,
            told => Some(told),
        });
        identities.collect()
    }

    /// Takes images that nobody needs out of their places.
    fn set_aside(home: &Home, used: &BTreeSet<ImageId>) -> Result<Vec<Aside>, HostError> {
        let named: BTreeSet<OsString> = Self::list(home)?
            .iter()
            .filter_map(|name| fs::read_link(&home.image(name)).ok()??.file_name().map(Into::into))
            .collect();
        let mut gone = Vec::new();
        for entry in fs::list_dir(&home.image_store())? {
            let Some(id) = entry.to_str().and_then(|id| id.parse::<ImageId>().ok()) else {
                continue;
            };
            if named.contains(&entry) || used.contains(&id) {
                continue;
            }
            if let Some(aside) = SetAside::take(&home.stored_image(&id))? {
                gone.push((id, aside));
            }
        }
        Ok(gone)
    }
}

/// Images that are gone, and whose files are about to go: killed before that, whoever comes next removes
/// them.
#[derive(Debug)]
#[must_use = "their files go when it is told so"]
pub struct Forgotten {
    store: PathBuf,
    aside: Vec<Aside>,
}

impl Forgotten {
    /// Removes them, and what killed makers and removers have left; their ids. What is large is removed
    /// while everybody may go on.
    ///
    /// # Errors
    /// When something remains.
    pub fn remove(self) -> Result<Vec<ImageId>, HostError> {
        let mut gone = Vec::new();
        for (id, aside) in self.aside {
            aside.remove()?;
            gone.push(id);
        }
        staged::sweep(&self.store, |_| Ok(()))?;
        remove_locks(&self.store)?;
        Ok(gone)
    }
}

/// An image that was taken out of its place.
type Aside = (ImageId, SetAside);

/// Removes the locks of images that are gone or were never finished, unless somebody is about to.
fn remove_locks(store: &Path) -> Result<(), HostError> {
    for entry in fs::list_dir(store)? {
        if let Some(lock) = entry.to_str().filter(|name| is_lock_of_image(name)) {
            let path = store.join(lock);
            if FileLock::try_acquire(&path)?.is_some() {
                fs::remove_all(&path)?;
            }
        }
    }
    Ok(())
}

/// Whether this is the lock of an image in the making.
fn is_lock_of_image(name: &str) -> bool {
    let id = name.strip_prefix('.').and_then(|name| name.strip_suffix(".lock"));
    id.is_some_and(|id| id.parse::<ImageId>().is_ok())
}
