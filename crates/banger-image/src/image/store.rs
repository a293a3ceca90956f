//! Where images are kept: each under an id of its own, and names that lead there.
//!
//! `image-store/ID` is an artifact; `images/NAME` is a symbolic link to one. A name may come to
//! mean another image, in one step; whoever has begun with the old one goes on with that, by its
//! id. What no name leads to and nobody uses is removed by [`Image::forget`].

use std::path::{Path, PathBuf};

use banger_host::command::quoted;
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::staged::Staged;
use banger_host::{HostError, fs, random};
use banger_model::{ImageId, ImageName, ImageReference, Progress, WantedImage};

use super::{DEBIAN_BOOKWORM, Image, ImageInfo, ROOT};
use crate::artifact::{Address, Artifact, ArtifactKind, Described, OpenError};
use crate::ext4::{WriteImageError, write_image_until};
use crate::tree::Tree;
use crate::until::Until;

/// From the directory of names to that of images.
const STORE: &str = "../image-store";

/// See [`still`].
const STILL: &str = ".still.lock";

/// Held by whoever makes an image of a name.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "it is held")] FileLock);

/// An image in the making. Dropped before [`NewImage::finish`], nothing of it remains.
#[derive(Debug)]
pub struct NewImage {
    home: Home,
    id: ImageId,
    staged: Staged,
}

impl NewImage {
    /// Begins an image.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn begin(home: &Home) -> Result<Self, HostError> {
        let id = ImageId::from_random(random::bytes()?);
        let staged = Staged::begin(&home.stored_image(&id))?;
        Ok(Self { home: home.clone(), id, staged })
    }

    /// A directory for what is needed meanwhile; empty it before the end.
    pub fn dir(&self) -> &Path {
        self.staged.path()
    }

    /// Writes the root file system.
    ///
    /// # Errors
    /// [`WriteImageError`].
    pub fn write(&self, tree: &Tree, progress: &dyn Progress) -> Result<(), WriteImageError> {
        self.write_until(tree, (progress, Until::default()))
    }

    /// Writes the root file system, as long as somebody wants it.
    pub(super) fn write_until(
        &self,
        tree: &Tree,
        told: (&dyn Progress, Until<'_>),
    ) -> Result<(), WriteImageError> {
        write_image_until(&self.dir().join(ROOT), "banger-root", tree, told)
    }

    /// Takes a copy of a root file system that is written already.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self, root: &Path) -> Result<(), HostError> {
        fs::clone_file(root, &self.dir().join(ROOT)).map(drop)
    }

    /// Puts the image in place and gives it a name, which another may have had.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn finish(self, name: &ImageName, info: ImageInfo) -> Result<Image, HostError> {
        self.describe(name, info)?.publish()
    }

    /// As [`NewImage::finish`], if somebody still wants it then; else nothing of it remains.
    pub(super) fn finish_until(
        self,
        name: &ImageName,
        info: ImageInfo,
        until: Until<'_>,
    ) -> Result<Option<Image>, HostError> {
        let described = self.describe(name, info)?;
        match until.is_over() {
            true => Ok(None),
            false => described.publish().map(Some),
        }
    }

    /// Does everything that takes long: reads all of it for its digest, and waits for the disk.
    fn describe(self, name: &ImageName, info: ImageInfo) -> Result<DescribedImage, HostError> {
        let Self { home, id, staged } = self;
        let address = address(&home, name.as_str(), home.stored_image(&id));
        let described = Artifact::describe(address, staged, info)?;
        Ok(DescribedImage { home, id, name: name.clone(), described })
    }
}

/// An image that only lacks its place and its name.
struct DescribedImage {
    home: Home,
    id: ImageId,
    name: ImageName,
    described: Described<ImageInfo>,
}

impl DescribedImage {
    /// Two renames while nobody begins a sandbox; the disk is waited for when everybody may again.
    fn publish(self) -> Result<Image, HostError> {
        let Self { home, id, name, described } = self;
        let (stored, found) = (home.stored_image(&id), home.image(&name));
        fs::create_private_dir(&home.images())?;
        // It is there without a name for a moment.
        let still = still(&home.image_store())?;
        let artifact = described.publish()?;
        let image = Image { found: found.clone(), id, artifact };
        fs::place_link(&image.target(), &found)?;
        drop(still);
        fs::sync_parent(&stored)?;
        fs::sync_parent(&found)?;
        Ok(image)
    }
}

impl Image {
    /// Opens the image of this name.
    ///
    /// # Errors
    /// [`OpenError`] when there is none, or it is not as it was made.
    pub fn open(home: &Home, name: &ImageName) -> Result<Self, OpenError> {
        let link = home.image(name);
        let address = address(home, name.as_str(), link.clone());
        let target = match fs::read_link(&link) {
            Ok(Some(target)) => target,
            Ok(None) => return Err(address.missing()),
            Err(_) => return Err(address.damaged("its name does not lead to an image".to_owned())),
        };
        let id = target.file_name().and_then(|id| id.to_str()?.parse::<ImageId>().ok());
        let Some(id) = id else {
            return Err(address.damaged("its name leads to no image".to_owned()));
        };
        let address = Address { dir: home.stored_image(&id), ..address };
        Ok(Self { found: link, id, artifact: Artifact::open(address)? })
    }

    /// The image that a name leads to, whatever has become of it.
    pub fn id_of(home: &Home, name: &ImageName) -> Option<ImageId> {
        let target = fs::read_link(&home.image(name)).ok()??;
        target.file_name()?.to_str()?.parse().ok()
    }

    /// Opens an image whatever it is called.
    ///
    /// # Errors
    /// [`OpenError`] when it is gone, or not as it was made.
    pub fn open_stored(home: &Home, id: &ImageId) -> Result<Self, OpenError> {
        let dir = home.stored_image(id);
        let removal = format!("rm -r {}", quoted(&dir));
        let address = Address { removal, ..address(home, id.as_str(), dir.clone()) };
        let artifact = Artifact::open(address)?;
        Ok(Self { found: dir, id: id.clone(), artifact })
    }

    /// The image that a user means, if it is here: the one of that name, or else one that came
    /// from that place in a registry.
    ///
    /// # Errors
    /// [`OpenError`] when the one that is meant is not as it was made.
    pub fn find(home: &Home, wanted: &WantedImage) -> Result<Option<Self>, OpenError> {
        if let Some(name) = wanted.name() {
            match Self::open(home, &name) {
                Err(error) if error.is_missing() => {}
                found => return found.map(Some),
            }
        }
        Ok(wanted.reference().and_then(|reference| Self::of_reference(home, &reference)))
    }

    /// An image that has a name and came from this place in a registry.
    fn of_reference(home: &Home, reference: &ImageReference) -> Option<Self> {
        let is_it = |image: &Self| match &image.info().origin {
            Some(origin) => origin.is_of(reference),
            None => false,
        };
        // Mostly it is called so.
        let likely = reference.default_name();
        if let Ok(image) = Self::open(home, &likely)
            && is_it(&image)
        {
            return Some(image);
        }
        let names = Self::list(home).ok()?;
        names.iter().filter_map(|name| Self::open(home, name).ok()).find(is_it)
    }

    /// Waits until nobody else makes an image of this name, and keeps others from it.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn claim(home: &Home, name: &ImageName) -> Result<Claim, HostError> {
        fs::create_private_dir(&home.images())?;
        FileLock::acquire(&home.images().join(format!(".{name}.lock"))).map(Claim)
    }

    /// Gives the image one more name, which another may have had.
    ///
    /// # Errors
    /// When it is gone, or that cannot be written.
    pub fn call(&self, home: &Home, name: &ImageName) -> Result<(), HostError> {
        self.keep_while(|| self.link(home, name))?
    }

    /// Does something that has to be known to whoever would remove the image.
    ///
    /// # Errors
    /// When the image is gone already.
    pub fn keep_while<T>(&self, known: impl FnOnce() -> T) -> Result<T, HostError> {
        let root = self.root();
        let store = root.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let _still = still(store)?;
        fs::stamp(&root)?;
        Ok(known())
    }

    fn link(&self, home: &Home, name: &ImageName) -> Result<(), HostError> {
        fs::create_private_dir(&home.images())?;
        fs::replace_link(&self.target(), &home.image(name))
    }

    /// What a name says that leads here.
    fn target(&self) -> PathBuf {
        Path::new(STORE).join(self.id.as_str())
    }

    /// Names of the images that are here.
    ///
    /// # Errors
    /// When the directory of names cannot be read.
    pub fn list(home: &Home) -> Result<Vec<ImageName>, HostError> {
        let names = fs::list_dir(&home.images())?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }
}

/// Held by whoever removes images, and by those whom that must not happen to meanwhile.
pub(super) fn still(store: &Path) -> Result<FileLock, HostError> {
    fs::create_private_dir(store)?;
    FileLock::acquire(&store.join(STILL))
}

fn address(home: &Home, name: &str, dir: PathBuf) -> Address {
    Address {
        kind: ArtifactKind::Image,
        name: name.to_owned(),
        dir,
        names: home.images(),
        files: &[ROOT],
        can_be_made: &[DEBIAN_BOOKWORM],
        removal: format!("banger image delete {name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;

    use super::*;
    use crate::image::ImageConfig;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        (dir, home)
    }

    fn unname(home: &Home, name: &str) {
        let name = name.parse().unwrap();
        Image::unname(home, &name, Image::id_of(home, &name).as_ref()).unwrap();
    }

    fn make(home: &Home, name: &str) -> Image {
        let new = NewImage::begin(home).unwrap();
        new.write(&Tree::new(), &banger_model::Silent).unwrap();
        new.finish(&name.parse().unwrap(), info()).unwrap()
    }

    fn info() -> ImageInfo {
        let (source, config) = ("a test".to_owned(), ImageConfig::default());
        ImageInfo {
            source,
            config,
            origin: None,
            made: None,
            kernel: None,
            bundle: None,
            made_by: None,
        }
    }

    fn forget(home: &Home, used: &BTreeSet<ImageId>) -> Result<Vec<ImageId>, HostError> {
        Image::forget(home, || Ok::<_, HostError>(used.clone()))?.remove()
    }

    /// What is in the store beside the one lock.
    fn stored(home: &Home) -> Vec<OsString> {
        let names = fs::list_dir(&home.image_store()).unwrap();
        names.into_iter().filter(|name| name != STILL).collect()
    }

    fn open(home: &Home, name: &str) -> Result<Image, OpenError> {
        Image::open(home, &name.parse().unwrap())
    }

    #[test]
    fn a_name_may_come_to_mean_another_image_and_the_old_one_stays_for_who_has_it() {
        let (_dir, home) = home();
        let old = make(&home, "app");
        assert_eq!(open(&home, "app").unwrap().id(), old.id());
        let identities = || Image::identities(&home).unwrap();
        assert_eq!(identities(), BTreeSet::from([old.identity().to_owned()]));
        let new = make(&home, "app");
        assert_eq!(open(&home, "app").unwrap().id(), new.id());
        assert!(Image::open_stored(&home, old.id()).is_ok());
        let used = BTreeSet::from([old.id().clone()]);
        assert_eq!(forget(&home, &used).unwrap(), []);
        assert_eq!(forget(&home, &BTreeSet::new()).unwrap(), [old.id().clone()]);
        assert!(Image::open_stored(&home, old.id()).unwrap_err().is_missing());
        assert_eq!(identities(), BTreeSet::from([new.identity().to_owned()]));
        assert!(old.root().starts_with(home.image_store()), "not by way of its name");
    }

    #[test]
    fn a_name_that_has_moved_stays() {
        let (_dir, home) = home();
        let (old, name) = (make(&home, "app"), "app".parse().unwrap());
        let new = make(&home, "app");
        Image::unname(&home, &name, Some(old.id())).unwrap();
        assert_eq!(Image::id_of(&home, &name).as_ref(), Some(new.id()));
        Image::unname(&home, &name, Some(new.id())).unwrap();
        assert_eq!(Image::id_of(&home, &name), None);
    }

    #[test]
    fn an_image_may_have_several_names_and_goes_with_the_last() {
        let (_dir, home) = home();
        let image = make(&home, "app");
        image.call(&home, &"also".parse().unwrap()).unwrap();
        unname(&home, "app");
        assert_eq!(forget(&home, &BTreeSet::new()).unwrap(), []);
        assert_eq!(open(&home, "also").unwrap().id(), image.id());
        let said = open(&home, "app").unwrap_err().to_string();
        assert!(said.contains("here are also;"), "{said}");
        unname(&home, "also");
        assert_eq!(forget(&home, &BTreeSet::new()).unwrap(), [image.id().clone()]);
        assert_eq!(stored(&home), Vec::<OsString>::new());
    }

    #[test]
    fn a_name_that_leads_to_no_image_is_told_with_the_remedy() {
        let (_dir, home) = home();
        fs::create_private_dir(&home.images()).unwrap();
        let path = home.image(&"app".parse().unwrap());
        fs::write_atomic(&path, b"a file").unwrap();
        let error = open(&home, "app").unwrap_err();
        assert_eq!(error.remedy(), Some("banger image delete app".to_owned()));
        fs::replace_link(Path::new("/etc"), &path).unwrap();
        assert!(open(&home, "app").unwrap_err().remedy().is_some());
        fs::replace_link(Path::new("../image-store/0123456789abcdef0123456789abcdef"), &path)
            .unwrap();
        assert!(open(&home, "app").unwrap_err().is_missing(), "what was removed by hand");
        assert!(Image::find(&home, &"app".parse().unwrap()).unwrap().is_none());
    }

    #[test]
    fn an_image_is_read_and_synced_while_sandboxes_begin() {
        let (_dir, home) = home();
        let new = NewImage::begin(&home).unwrap();
        new.write(&Tree::new(), &banger_model::Silent).unwrap();
        let still = still(&home.image_store()).unwrap();
        // This would wait for ever.
        let name = "app".parse().unwrap();
        let described = new.describe(&name, info()).unwrap();
        drop(still);
        assert!(Image::list(&home).unwrap().is_empty());
        let made = described.publish().unwrap();
        assert_eq!(Image::open(&home, &name).unwrap().id(), made.id());
    }

    #[test]
    fn an_image_whose_removal_was_killed_is_gone_and_swept() {
        let (_dir, home) = home();
        let image = make(&home, "app");
        unname(&home, "app");
        let stored = home.stored_image(image.id());
        let left = stored.with_file_name(format!(".{}.new", image.id()));
        fs::rename(&stored, &left).unwrap();
        assert!(Image::open_stored(&home, image.id()).unwrap_err().is_missing());
        assert_eq!(forget(&home, &BTreeSet::new()).unwrap(), []);
        assert!(!left.exists());
    }

    #[test]
    fn what_a_killed_maker_left_is_no_image() {
        let (_dir, home) = home();
        let new = NewImage::begin(&home).unwrap();
        assert_eq!(forget(&home, &BTreeSet::new()).unwrap(), []);
        assert!(new.dir().exists(), "one that is made is left alone");
        drop(new);
        forget(&home, &BTreeSet::new()).unwrap();
        assert_eq!(stored(&home), Vec::<OsString>::new());
        assert!(Image::list(&home).unwrap().is_empty());
    }
}
