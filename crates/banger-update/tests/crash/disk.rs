//! A disk in memory that knows what a power cut may do to it.
//!
//! Content and names that were not synced may be lost one by one, in any combination; writes in
//! place are lost by sectors. What was synced stays.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use banger_host::{HostError, Result};
use banger_update::{ENV_COPIES, EnvBlock, Files, Slot};

const SECTOR: usize = 512;
/// What an update leaves free; on this disk it may use that, too, and then there is nothing left.
const SPARE: u64 = 1024 * 1024;
/// Most combinations of losses that are tried at one step: all, up to nine losses.
const MAX_COMBINATIONS: u32 = 512;

/// What the power cut takes: numbers of changes that are not on the disk yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Losses(BTreeSet<usize>);

impl Losses {
    pub(crate) fn none() -> Self {
        Self(BTreeSet::new())
    }

    pub(crate) fn everything(disk: &Disk) -> Self {
        Self((0..disk.0.borrow().pending.len()).collect())
    }

    /// Every combination.
    pub(crate) fn all(disk: &Disk) -> Vec<Self> {
        let count = disk.0.borrow().pending.len();
        let combinations = 1_u32.checked_shl(u32::try_from(count).unwrap()).unwrap_or(u32::MAX);
        assert!(combinations <= MAX_COMBINATIONS, "{count} changes wait to be synced");
        (0..combinations)
            .map(|mask| Self((0..count).filter(|bit| mask & (1 << bit) != 0).collect()))
            .collect()
    }
}

/// A change that a cut may lose.
#[derive(Clone, Debug)]
enum Change {
    Link { path: PathBuf, file: usize },
    Rename { from: PathBuf, to: PathBuf },
    Unlink { path: PathBuf },
    Truncate { file: usize },
    Append { file: usize, bytes: Vec<u8> },
    Sector { file: usize, at: usize, bytes: Vec<u8> },
}

#[derive(Clone, Debug, Default)]
struct Content {
    names: BTreeMap<PathBuf, usize>,
    files: Vec<Vec<u8>>,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { path, file } => {
                self.names.insert(path.clone(), *file);
            }
            Change::Rename { from, to } => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            Change::Unlink { path } => {
                self.names.remove(path);
            }
            Change::Truncate { file } => self.file(*file).clear(),
            Change::Append { file, bytes } => self.file(*file).extend_from_slice(bytes),
            Change::Sector { file, at, bytes } => {
                self.file(*file)[*at..*at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// What is lost of an append reads as zeros if something stands behind it.
    fn lose(&mut self, change: &Change, is_followed: bool) {
        if let Change::Append { file, bytes } = change
            && is_followed
        {
            let len = self.file(*file).len() + bytes.len();
            self.file(*file).resize(len, 0);
        }
    }

    fn file(&mut self, file: usize) -> &mut Vec<u8> {
        if self.files.len() <= file {
            self.files.resize(file + 1, Vec::new());
        }
        &mut self.files[file]
    }
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// As every reader sees it.
    now: Content,
    /// As the disk has it.
    kept: Content,
    pending: Vec<Change>,
    dirs: BTreeSet<PathBuf>,
}

/// The disk.
#[derive(Debug, Default)]
pub(crate) struct Disk(RefCell<Inner>, Cell<Fault>);

/// What fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    Nothing,
    /// After so many changes the power goes, or the disk.
    Everything { after: usize },
    /// So many changes on, one fails.
    One { after: usize },
    /// There is room for so many bytes.
    Full { at: usize, told: Told },
}

/// What a disk that gets full says about its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// How much there is.
    Truth,
    /// More: somebody else takes it meanwhile.
    Plenty,
}

impl Disk {
    pub(crate) fn copy(&self) -> Self {
        Self(RefCell::new(self.0.borrow().clone()), Cell::default())
    }

    /// After so many changes the power goes.
    pub(crate) fn give_fuel(&self, changes: usize) {
        self.1.set(Fault::Everything { after: changes });
    }

    /// After so many changes one fails, and later ones do not; whether it did is told by [`Self::mend`].
    pub(crate) fn fail_once(&self, changes: usize) {
        self.1.set(Fault::One { after: changes });
    }

    /// There is room for so many bytes besides those that are there.
    pub(crate) fn give_room(&self, bytes: usize, told: Told) {
        self.1.set(Fault::Full { at: self.used() + bytes, told });
    }

    /// Nothing fails any more; whether something still would have.
    pub(crate) fn mend(&self) -> bool {
        matches!(self.1.replace(Fault::Nothing), Fault::One { .. })
    }

    fn used(&self) -> usize {
        let inner = self.0.borrow();
        inner.now.names.values().map(|file| inner.now.files[*file].len()).sum()
    }

    pub(crate) fn make_dir(&self, path: &Path) {
        self.0.borrow_mut().dirs.insert(path.to_owned());
    }

    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) {
        self.create(path).unwrap();
        self.append(path, bytes).unwrap();
        self.flush();
    }

    /// Everything is on the disk.
    pub(crate) fn flush(&self) {
        let mut inner = self.0.borrow_mut();
        inner.kept = inner.now.clone();
        inner.pending.clear();
    }

    /// The disk of the next boot.
    pub(crate) fn after_cut(&self, losses: &Losses) -> Self {
        let inner = self.0.borrow();
        let mut kept = inner.kept.clone();
        for (at, change) in inner.pending.iter().enumerate() {
            if losses.0.contains(&at) {
                let followed =
                    inner.pending.iter().enumerate().skip(at + 1).any(|(later, other)| {
                        !losses.0.contains(&later) && same_file(change, other)
                    });
                kept.lose(change, followed);
            } else {
                kept.apply(change);
            }
        }
        let now = kept.clone();
        let inner = Inner { now, kept, pending: Vec::new(), dirs: inner.dirs.clone() };
        Self(RefCell::new(inner), Cell::default())
    }

    /// What GRUB's script writes when it counts a trial down, to both copies that it can read.
    pub(crate) fn edit_env(&self, slot: Slot, left: u8) {
        for copy in ENV_COPIES {
            let path = Path::new("/boot").join(copy);
            let Some(bytes) = self.read(&path, 1024).unwrap() else { continue };
            let Ok(mut env) = EnvBlock::parse(&bytes) else { continue };
            env.set(&format!("slot_{}", slot.letter()), &left.to_string()).unwrap();
            self.overwrite(&path, &env.to_bytes()).unwrap();
        }
    }

    fn burn(&self, path: &Path) -> Result<()> {
        let left = match self.1.get() {
            Fault::Nothing | Fault::Full { .. } => return Ok(()),
            Fault::Everything { after: 0 } => return Err(fault(path, io::ErrorKind::Other)),
            Fault::One { after: 0 } => {
                self.1.set(Fault::Nothing);
                return Err(fault(path, io::ErrorKind::Other));
            }
            Fault::Everything { after } => Fault::Everything { after: after - 1 },
            Fault::One { after } => Fault::One { after: after - 1 },
        };
        self.1.set(left);
        Ok(())
    }

    fn change(&self, path: &Path, change: Change) -> Result<()> {
        self.burn(path)?;
        let mut inner = self.0.borrow_mut();
        inner.now.apply(&change);
        inner.pending.push(change);
        Ok(())
    }

    fn file(&self, path: &Path) -> Result<usize> {
        let inner = self.0.borrow();
        inner.now.names.get(path).copied().ok_or_else(|| fault(path, io::ErrorKind::NotFound))
    }

    /// Keeps those pending changes for which this holds.
    fn keep(&self, is_synced: impl Fn(&Change) -> bool) {
        let mut inner = self.0.borrow_mut();
        let (synced, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut inner.pending).into_iter().partition(|change| is_synced(change));
        synced.iter().for_each(|change| inner.kept.apply(change));
        inner.pending = left;
    }
}

fn same_file(one: &Change, other: &Change) -> bool {
    let file = |change: &Change| match change {
        Change::Truncate { file } | Change::Append { file, .. } | Change::Sector { file, .. } => {
            Some(*file)
        }
        _ => None,
    };
    file(one).is_some() && file(one) == file(other)
}

fn fault(path: &Path, kind: io::ErrorKind) -> HostError {
    HostError::Path { operation: "use", path: path.to_owned(), source: kind.into() }
}

impl Files for Disk {
    fn read(&self, path: &Path, _: u64) -> Result<Option<Vec<u8>>> {
        let inner = self.0.borrow();
        Ok(inner.now.names.get(path).map(|file| inner.now.files[*file].clone()))
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.file(path)?;
        let content = &self.0.borrow().now.files[file];
        let rest = content.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let inner = self.0.borrow();
        let inside = inner.now.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn create(&self, path: &Path) -> Result<()> {
        if let Ok(file) = self.file(path) {
            return self.change(path, Change::Truncate { file });
        }
        let file = self.0.borrow().now.files.len();
        self.0.borrow_mut().now.file(file);
        self.0.borrow_mut().kept.file(file);
        self.change(path, Change::Link { path: path.to_owned(), file })
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.file(path)?;
        if let Fault::Full { at, .. } = self.1.get()
            && self.used() + bytes.len() > at
        {
            return Err(fault(path, io::ErrorKind::StorageFull));
        }
        self.change(path, Change::Append { file, bytes: bytes.to_vec() })
    }

    fn overwrite(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.file(path)?;
        assert_eq!(self.0.borrow().now.files[file].len(), bytes.len());
        // Sectors that do not change are not at risk.
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = index * SECTOR;
            let same = self.0.borrow().now.files[file][at..at + sector.len()] == *sector;
            if !same {
                self.change(path, Change::Sector { file, at, bytes: sector.to_vec() })?;
            }
        }
        self.sync(path)
    }

    fn sync(&self, path: &Path) -> Result<()> {
        self.burn(path)?;
        let synced = self.file(path)?;
        self.keep(|change| match change {
            Change::Truncate { file }
            | Change::Append { file, .. }
            | Change::Sector { file, .. } => *file == synced,
            _ => false,
        });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.file(from)?;
        self.change(from, Change::Rename { from: from.to_owned(), to: to.to_owned() })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        if self.file(path).is_err() {
            return Ok(());
        }
        self.change(path, Change::Unlink { path: path.to_owned() })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.burn(dir)?;
        self.keep(|change| match change {
            Change::Link { path, .. } | Change::Unlink { path } => path.parent() == Some(dir),
            Change::Rename { to, .. } => to.parent() == Some(dir),
            _ => false,
        });
        Ok(())
    }

    fn settle(&self, dir: &Path, _: &[&Path]) -> Result<()> {
        self.burn(dir)?;
        self.keep(|_| true);
        Ok(())
    }

    fn free(&self, _: &Path) -> Result<u64> {
        Ok(match self.1.get() {
            Fault::Full { at, told: Told::Truth } => at.saturating_sub(self.used()) as u64 + SPARE,
            _ => 1 << 40,
        })
    }

    fn identity(&self, dir: &Path) -> Result<(u64, u64)> {
        let inner = self.0.borrow();
        let place = inner.dirs.iter().position(|known| known == dir);
        place.map(|place| (1, place as u64)).ok_or_else(|| fault(dir, io::ErrorKind::NotFound))
    }
}
