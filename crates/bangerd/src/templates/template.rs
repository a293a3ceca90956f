//! One template on the disk: the memory, the devices and the disk of a machine that had just
//! booted, and what is known about it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use banger_host::fs::{read_bounded, write_atomic};
use banger_model::{Bytes, KernelName, TemplateId, Timestamp, WantedImage};
use banger_vmm::SavedMachine;
use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::saved;

/// Files of a template beside those of the machine.
const ABOUT: &str = "template.json";
const USES: &str = "uses.json";
/// Longest descriptions that make sense, in bytes.
const MAX_ABOUT_LEN: u64 = 64 * 1024;

/// What is known about a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What shaped it.
    pub shape: Shape,
    /// The image as its users call it.
    pub image: WantedImage,
    /// The kernel as its users call it.
    pub kernel: KernelName,
    /// When it was made.
    pub made: Timestamp,
    /// The digest of the devices' state.
    devices_sha256: String,
}

/// How often a template was used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Uses {
    hits: u64,
    last: Timestamp,
}

/// A template that is whole.
#[derive(Debug)]
pub struct Template {
    /// Its name.
    pub id: TemplateId,
    /// What is known about it.
    pub about: About,
    dir: PathBuf,
    size: Bytes,
    hits: AtomicU64,
    last: AtomicU64,
    /// How many machines in a row have not come up from it.
    doubts: AtomicU32,
}

/// Writes down what is known about a template whose files are there.
pub(super) fn describe(
    dir: &Path,
    shape: Shape,
    (image, kernel): (WantedImage, KernelName),
    made: Timestamp,
) -> Result<()> {
    let devices_sha256 = saved::digest(dir)?;
    let about = About { shape, image, kernel, made, devices_sha256 };
    Ok(write_atomic(&dir.join(ABOUT), &serde_json::to_vec_pretty(&about)?)?)
}

/// What is known about the template in a directory, whole or not.
///
/// # Errors
/// When that cannot be read.
pub(super) fn about(dir: &Path) -> Result<About> {
    let json = read_bounded(&dir.join(ABOUT), MAX_ABOUT_LEN)?;
    serde_json::from_slice(&json)
        .with_context(|| format!("cannot understand {}", dir.join(ABOUT).display()))
}

impl Template {
    /// The template in a directory, checked.
    ///
    /// # Errors
    /// When it is not whole.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let about = about(dir)?;
        let id = about.shape.template()?;
        if dir.file_name().is_none_or(|name| name != id.as_str()) {
            bail!("{} is the template of another shape", dir.display());
        }
        let size = saved::check(dir, &about.shape, &about.devices_sha256)?;
        // Who has forgotten how often it was used starts anew.
        let uses = read_bounded(&dir.join(USES), MAX_ABOUT_LEN).ok();
        let uses: Uses =
            uses.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        Ok(Self {
            id,
            last: AtomicU64::new(uses.last.0.max(about.made.0)),
            hits: AtomicU64::new(uses.hits),
            doubts: AtomicU32::new(0),
            about,
            dir: dir.to_owned(),
            size,
        })
    }

    /// What a machine is restored from.
    pub fn saved(&self) -> SavedMachine {
        saved::files(&self.dir)
    }

    /// The disk that a new sandbox gets a copy of.
    pub fn disk(&self) -> PathBuf {
        saved::disk(&self.dir)
    }

    /// What its files take on the disk.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// How many sandboxes were made from it.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// When it was last used, or else made.
    pub fn last_used(&self) -> Timestamp {
        Timestamp(self.last.load(Ordering::Relaxed))
    }

    pub(super) fn used(&self, now: Timestamp) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.last.fetch_max(now.0, Ordering::Relaxed);
        self.doubts.store(0, Ordering::Relaxed);
    }

    /// One more machine has not come up from it; returns how many that are in a row.
    pub(super) fn doubt(&self) -> u32 {
        self.doubts.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// How often it was used, to be written down.
    pub(super) fn uses(&self) -> UsesToRemember {
        let uses = Uses { hits: self.hits(), last: self.last_used() };
        UsesToRemember { file: self.dir.join(USES), uses }
    }
}

/// How often a template was used, on its way to the disk.
#[derive(Debug)]
pub(super) struct UsesToRemember {
    file: PathBuf,
    uses: Uses,
}

impl UsesToRemember {
    /// Writes it down.
    pub(super) fn remember(&self) -> Result<()> {
        Ok(write_atomic(&self.file, &serde_json::to_vec(&self.uses)?)?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::templates::shape::tests::shape;

    /// A template of this shape below `root`, with nothing in it.
    pub(crate) fn make(root: &Path, shape: Shape) -> PathBuf {
        let dir = root.join(shape.template().unwrap().as_str());
        banger_host::fs::ensure_private_dir(&dir).unwrap();
        fill(&dir, shape);
        dir
    }

    pub(crate) fn fill(dir: &Path, shape: Shape) {
        let SavedMachine { memory, devices } = saved::files(dir);
        let sparse = |path: &Path, len: Bytes| {
            banger_host::fs::create_new(path).unwrap().set_len(len.get()).unwrap();
        };
        sparse(&memory, shape.memory.bytes());
        sparse(&saved::disk(dir), shape.disk.bytes());
        write_atomic(&devices, b"devices").unwrap();
        let names = ("an-image".parse().unwrap(), "a-kernel".parse().unwrap());
        describe(dir, shape, names, Timestamp(7)).unwrap();
    }

    #[test]
    fn a_template_that_is_whole_is_opened_and_remembers_its_uses() {
        let root = tempfile::tempdir().unwrap();
        let dir = make(root.path(), shape());
        let template = Template::open(&dir).unwrap();
        assert_eq!((template.hits(), template.last_used()), (0, Timestamp(7)));
        template.used(Timestamp(9));
        template.uses().remember().unwrap();
        let again = Template::open(&dir).unwrap();
        assert_eq!((again.hits(), again.last_used()), (1, Timestamp(9)));
        assert_eq!(again.about, template.about);
    }

    #[test]
    fn whatever_is_not_whole_is_refused() {
        type Break = fn(&Path);
        let breaks: [(&str, Break); 6] = [
            ("no description", |dir| banger_host::fs::remove_all(&dir.join(ABOUT)).unwrap()),
            ("garbage", |dir| write_atomic(&dir.join(ABOUT), b"{").unwrap()),
            ("short memory", |dir| write_atomic(&saved::files(dir).memory, b"x").unwrap()),
            ("no disk", |dir| banger_host::fs::remove_all(&saved::disk(dir)).unwrap()),
            ("other devices", |dir| write_atomic(&saved::files(dir).devices, b"x").unwrap()),
            ("no devices", |dir| banger_host::fs::remove_all(&saved::files(dir).devices).unwrap()),
        ];
        for (what, break_it) in breaks {
            let root = tempfile::tempdir().unwrap();
            let dir = make(root.path(), shape());
            break_it(&dir);
            assert!(Template::open(&dir).is_err(), "{what}");
        }
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("0123456789abcdef");
        banger_host::fs::ensure_private_dir(&dir).unwrap();
        fill(&dir, shape());
        assert!(Template::open(&dir).is_err(), "another's name");
    }
}
