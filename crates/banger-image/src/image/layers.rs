//! The layers of an image, unpacked beside each other into files without names, each once.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use banger_host::fs;
use banger_model::Progress;

use super::import::ImportError;
use crate::archive::{Archive, ArchiveError, Quota};
use crate::oci::{Allowance, Layer};
use crate::tree::{Tree, Whiteouts};
use crate::until::Until;

/// Layers that are unpacked at once: each keeps a processor busy.
const AT_ONCE: usize = 4;

/// The layers of an image, the lowest first, and what is unpacked of them.
pub(super) struct Layers<'a> {
    listed: &'a [Layer],
    /// For each that is listed, which of the different ones it is.
    which: Vec<usize>,
    different: Vec<&'a Layer>,
    quota: Quota<'a>,
    until: Until<'a>,
}

impl<'a> Layers<'a> {
    pub(super) fn of(listed: &'a [Layer], until: Until<'a>) -> Self {
        let mut different: Vec<&Layer> = Vec::new();
        let which = listed.iter().map(|layer| {
            let same =
                |it: &&Layer| (it.digest(), it.diff_id()) == (layer.digest(), layer.diff_id());
            different.iter().position(same).unwrap_or_else(|| {
                different.push(layer);
                different.len() - 1
            })
        });
        let (which, quota) = (which.collect(), Quota::of_image().until(until));
        Self { listed, which, different, quota, until }
    }

    /// Bytes of their compressed files.
    pub(super) fn size(&self) -> u64 {
        self.different.iter().fold(0, |sum, layer| sum.saturating_add(layer.size().get()))
    }

    /// Unpacks them and lays them over each other. `aside` is where there is room for that.
    pub(super) fn tree(&self, aside: &Path, progress: &dyn Progress) -> Result<Tree, ImportError> {
        self.lay(self.unpack(aside, progress)?)
    }

    /// The archives of the different ones.
    fn unpack(&self, aside: &Path, progress: &dyn Progress) -> Result<Vec<Archive>, ImportError> {
        let whole = self.size();
        let done = Mutex::new((0u64, Vec::new()));
        let next = AtomicUsize::new(0);
        let allowance = Allowance::of(self.listed).until(self.until);
        let one_after_the_other = || loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = self.different.get(number) else { return };
            let made = self.unpack_one(layer, aside, &allowance);
            if made.is_err() {
                next.store(self.different.len(), Ordering::Relaxed);
            }
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.0 += layer.size().get();
            done.1.push((number, made));
            progress.advance(done.0, Some(whole));
        };
        let processors =
            std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(AT_ONCE);
        std::thread::scope(|scope| {
            for _ in 0..processors.min(self.different.len()) {
                scope.spawn(one_after_the_other);
            }
        });
        let (_, mut made) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.sort_by_key(|(number, _)| *number);
        made.into_iter().map(|(_, archive)| archive).collect()
    }

    fn unpack_one(
        &self,
        layer: &Layer,
        aside: &Path,
        allowance: &Allowance<'_>,
    ) -> Result<Archive, ImportError> {
        let file = fs::nameless(aside)?;
        layer.unpack_into(&file, allowance)?;
        Archive::open_layer(file, &self.quota).map_err(|source| of_layer(layer, source))
    }

    /// What they show together. One that is listed again is laid again: it may bring back what others
    /// have hidden.
    fn lay(&self, archives: Vec<Archive>) -> Result<Tree, ImportError> {
        let mut archives: Vec<_> = archives.into_iter().map(Some).collect();
        let mut tree = Tree::new();
        for (at, (layer, which)) in self.listed.iter().zip(&self.which).enumerate() {
            if self.until.is_over() {
                return Err(ImportError::CalledOff);
            }
            let archive = match &archives[*which] {
                Some(archive) if self.which[at + 1..].contains(which) => {
                    Some(archive.again(&self.quota).map_err(|error| of_layer(layer, error))?)
                }
                _ => archives[*which].take(),
            };
            let laid = archive.map_or(Ok(()), |archive| tree.lay(archive, Whiteouts::Hide));
            laid.map_err(|source| {
                let layer = layer.digest().to_string();
                ImportError::Tree { layer, source }
            })?;
        }
        Ok(tree)
    }
}

fn of_layer(layer: &Layer, source: ArchiveError) -> ImportError {
    ImportError::Archive { layer: layer.digest().to_string(), source }
}
