//! An image that was pulled becomes one that sandboxes can be made of.
//!
//! Layers are unpacked beside each other into files without names, laid over each other by name,
//! and written once, as one read-only file.

use std::sync::atomic::AtomicBool;

use banger_host::home::Home;
use banger_host::{HostError, heap};
use banger_model::{Bytes, ImageName, Progress, Timestamp};
use thiserror::Error;

use super::layers::Layers;
use super::wishes::{SandboxWishes, image_config};
use super::{Image, ImageInfo, NewImage, Origin};
use crate::archive::ArchiveError;
use crate::ext4::WriteImageError;
use crate::oci::{Pulled, UnpackError};
use crate::space::{NoSpace, require_space};
use crate::tree::TreeError;
use crate::until::Until;

/// So many times as large as its compressed layers an image is expected to be, with what is
/// needed meanwhile.
const EXPECTED_GROWTH: u64 = 6;

/// Why no image could be made of what was pulled.
#[derive(Debug, Error)]
pub enum ImportError {
    /// A layer is not what it should be.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A layer is no archive.
    #[error("cannot read the layer {layer}")]
    Archive {
        /// Its digest.
        layer: String,
        /// Why not.
        source: ArchiveError,
    },
    /// Something in a layer has no place.
    #[error("cannot use the layer {layer}")]
    Tree {
        /// Its digest.
        layer: String,
        /// What.
        source: TreeError,
    },
    /// The image could not be written.
    #[error("cannot write the image")]
    Write(#[from] WriteImageError),
    /// Too little room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// A file could not be kept.
    #[error("cannot keep the image")]
    Keep(#[from] HostError),
    /// The name is that of something else.
    #[error(
        "there is an image {name} already, of {source_of_it}; choose another name with --name, or remove it with `banger image delete {name}`"
    )]
    Taken {
        /// The name.
        name: ImageName,
        /// What it is of.
        source_of_it: String,
    },
    /// Whoever wanted it does so no more.
    #[error("it was called off")]
    CalledOff,
}

/// How an image is to be called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Naming {
    /// So, and not otherwise.
    Exactly(ImageName),
    /// So, or nearly so where that is taken by an image of something else.
    Like(ImageName),
}

/// Names that are tried beside the one that is taken.
const MAX_NEARLY: u64 = 99;

/// What is made, from what, and where one may see that it is wanted no more.
#[derive(Debug)]
pub struct Import<'a> {
    /// The owner's directories.
    pub home: &'a Home,
    /// What was pulled.
    pub pulled: &'a Pulled,
    /// How a person would tell where it comes from.
    pub source: &'a str,
    /// What its sandboxes are to have.
    pub wishes: &'a SandboxWishes,
    /// When it is made.
    pub now: Timestamp,
    /// Becomes true when nobody waits for it any more.
    pub called_off: &'a AtomicBool,
}

impl Import<'_> {
    /// Makes the image, unless there is one of the same manifest, reference and wishes: then that
    /// gets the name.
    ///
    /// # Errors
    /// [`ImportError`]; nothing half-made remains.
    pub fn run(&self, naming: &Naming, progress: &dyn Progress) -> Result<Image, ImportError> {
        let (name, _claim) = self.claim(naming)?;
        // Others may have made one of this name for a long time.
        if self.until().is_over() {
            return Err(ImportError::CalledOff);
        }
        if let Some(same) = self.same_as_before(&name) {
            if Image::open(self.home, &name).is_ok_and(|image| image.id() == same.id()) {
                return Ok(same);
            }
            same.call(self.home, &name)?;
            return Ok(Image::open(self.home, &name).unwrap_or(same));
        }
        let new = NewImage::begin(self.home)?;
        self.make(new, &name, progress).map_err(|error| match self.until().is_over() {
            true => ImportError::CalledOff,
            false => error,
        })
    }

    fn make(
        &self,
        new: NewImage,
        name: &ImageName,
        progress: &dyn Progress,
    ) -> Result<Image, ImportError> {
        let layers = Layers::of(&self.pulled.layers, self.until());
        let needs = Bytes::new(layers.size().saturating_mul(EXPECTED_GROWTH));
        require_space(new.dir(), "the image", needs)?;
        progress.stage("unpacking the layers");
        let mut tree = layers.tree(new.dir(), progress)?;
        tree.make_directories(&self.pulled.config.working_dir);
        // Writing takes the most; the threads that have unpacked leave what they took for reading.
        heap::give_back();
        progress.stage("writing the image");
        new.write_until(&tree, (progress, self.until()))?;
        let info = ImageInfo {
            source: self.source.to_owned(),
            config: self.wishes.in_config(image_config(&self.pulled.config, &tree)),
            origin: self.origin(),
            made: Some(self.now),
            kernel: self.wishes.kernel.clone(),
            bundle: None,
            made_by: None,
        };
        new.finish_until(name, info, self.until())?.ok_or(ImportError::CalledOff)
    }

    fn until(&self) -> Until<'_> {
        Until::set(self.called_off)
    }

    fn origin(&self) -> Option<Origin> {
        let reference = self.pulled.reference.clone()?;
        Some(Origin {
            reference,
            manifest: self.pulled.manifest_digest.to_string(),
            index: self.pulled.index_digest.as_ref().map(ToString::to_string),
        })
    }

    /// The name that it gets, and the right to give it.
    fn claim(&self, naming: &Naming) -> Result<(ImageName, super::Claim), ImportError> {
        let (Naming::Exactly(name) | Naming::Like(name)) = naming;
        let claim = Image::claim(self.home, name)?;
        let Some(taken) = self.other_at(name) else { return Ok((name.clone(), claim)) };
        if let Naming::Like(name) = naming {
            let near = (2..=MAX_NEARLY).filter_map(|n| format!("{name}-{n}").parse().ok());
            for near in near {
                let claim = Image::claim(self.home, &near)?;
                if self.other_at(&near).is_none() {
                    return Ok((near, claim));
                }
            }
        }
        Err(ImportError::Taken { name: name.clone(), source_of_it: taken })
    }

    /// What the image of this name is of, if it is of something else: another repository or tag than
    /// this one. A damaged one gives its name away; that of an image which can be made is its own.
    fn other_at(&self, name: &ImageName) -> Option<String> {
        if Image::can_be_made(name) {
            return Some("this host's own making".to_owned());
        }
        let image = Image::open(self.home, name).ok()?;
        let info = image.info();
        let same = match (&info.origin, &self.pulled.reference) {
            (Some(origin), Some(wanted)) => origin.is_tagged_as(wanted),
            (None, None) => info.source == self.source,
            _ => false,
        };
        (!same).then(|| info.source.clone())
    }

    /// An image that has a name and was made of the same manifest, asked for in the same way: what
    /// is asked for otherwise has to be found by that, too. What is not said is as it was for the image
    /// of this name, and as it comes for one of another.
    fn same_as_before(&self, name: &ImageName) -> Option<Image> {
        let manifest = self.pulled.manifest_digest.to_string();
        let reference = self.pulled.reference.as_ref()?;
        let is_same = |it: &Origin| it.manifest == manifest && it.reference == *reference;
        let is_it = |image: &Image| image.info().origin.as_ref().is_some_and(is_same);
        let own = Image::open(self.home, name).ok();
        if let Some(own) = own.filter(|own| is_it(own) && self.wishes.are_of(own.info())) {
            return Some(own);
        }
        let names = Image::list(self.home).ok()?;
        let mut others = names.iter().filter_map(|name| Image::open(self.home, name).ok());
        others.find(|other| is_it(other) && self.wishes.are_those_of(other.info()))
    }
}
