//! What a made up guest has in its memory and on its disk: a few words by which it can be told
//! whether what was saved is what is taken up, whole, and beside the disk that it fits.
//!
//! The guest counts what it has written. The count is in a word of its memory and on its disk; the
//! last count that came to each of a few pages is in that page. So a page that is missing or stale
//! shows, and so does a disk of another moment.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use banger_host::random;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use serde_json::Value;

use super::marks::{self, Marks};
use super::option;

/// The object that a machine has its memory in that was not restored.
const OWN: &str = "memory-backend-memfd";
/// The same of one that was.
const SAVED: &str = "memory-backend-file";
/// The drive that is the sandbox's own.
const DISK_NODE: &str = "banger-disk";
const PAGE: u64 = 4096;
const WORDS_IN_A_PAGE: usize = 512;
/// Pages that are written one after the other.
const PAGES: u64 = 64;

/// The words of the first page.
#[derive(Clone, Copy)]
pub(super) enum Word {
    /// Which boot this is.
    Boot,
    /// What it was given when it was first asked which life this is; 0 before.
    Life,
    /// How often it has written.
    Written,
    /// How often its disk had been written to when it booted.
    Before,
    /// Whose it is.
    Owner,
    /// Whether its processes stand still: 1 if so.
    Frozen,
    /// What it does when it is told who it is: see [`Hears`].
    Hears,
    /// Whether its disk has marks: 1 if so.
    Marked,
}

/// What a guest does when it is told who it is.
#[derive(Clone, Copy)]
pub(super) enum Hears {
    /// It is that from then on.
    All,
    /// It does not answer, and is of no use any more.
    Nothing,
    AndRefuses,
}

/// Memory and disk.
pub(super) struct Memory {
    words: &'static [AtomicU64],
    disk: Option<File>,
    /// Those who look for it find it by its name among the descriptors.
    _file: OwnedFd,
}

/// How a machine comes to its memory.
enum Backing {
    Own,
    Saved(PathBuf),
}

impl Memory {
    /// What these arguments of QEMU say.
    pub(super) fn of(args: &[OsString]) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::other(format!("no {what} in the arguments"));
        let size = option(args, "-m").and_then(|size| size.strip_suffix('M')?.parse::<u64>().ok());
        let len = size.ok_or_else(|| wrong("size of the memory"))? << 20;
        let object = option(args, "-object").ok_or_else(|| wrong("memory"))?;
        let (file, flags): (OwnedFd, _) = match backing(object).ok_or_else(|| wrong("memory"))? {
            Backing::Own => {
                let file = memfd_create(OWN, MemfdFlags::CLOEXEC)?;
                ftruncate(&file, len)?;
                (file, MapFlags::SHARED)
            }
            Backing::Saved(path) => (File::open(path)?.into(), MapFlags::PRIVATE),
        };
        let words = map(&file, len, flags)?;
        let disk = disk(args).map(|path| File::options().read(true).write(true).open(path));
        Ok(Self { words, disk: disk.transpose()?, _file: file })
    }

    pub(super) fn get(&self, word: Word) -> u64 {
        self.words[word as usize].load(Ordering::SeqCst)
    }

    /// Its processes stand still, or go on: 1 or 0.
    pub(super) fn freeze(&self, frozen: u64) -> io::Result<()> {
        self.set(Word::Frozen, frozen);
        Ok(())
    }

    /// From now on it does so when it is told who it is.
    pub(super) fn hear(&self, hears: Hears) -> io::Result<()> {
        self.set(Word::Hears, hears as u64);
        Ok(())
    }

    /// What it does when it is told who it is.
    pub(super) fn hears(&self) -> Hears {
        match self.get(Word::Hears) {
            0 => Hears::All,
            1 => Hears::Nothing,
            _ => Hears::AndRefuses,
        }
    }

    fn set(&self, word: Word, value: u64) {
        self.words[word as usize].store(value, Ordering::SeqCst);
    }

    /// Begins as a computer that is switched on; what is wrong with its disk, if anything is.
    pub(super) fn boot(&self) -> io::Result<Option<String>> {
        let torn = self.disk.as_ref().map(marked).transpose()?.flatten();
        let written = self.on_disk()?;
        self.set(Word::Marked, u64::from(self.disk.is_some()));
        self.set(Word::Boot, drawn()?);
        self.set(Word::Before, written);
        self.set(Word::Written, written);
        Ok(torn)
    }

    /// Waits until what it has written is on its disk, whatever becomes of the power.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.disk.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Writes, to memory and disk.
    pub(super) fn write(&self) -> io::Result<()> {
        let written = self.get(Word::Written) + 1;
        self.set(Word::Written, written);
        self.page(written).store(written, Ordering::SeqCst);
        match &self.disk {
            Some(disk) => disk.write_all_at(&written.to_le_bytes(), place(disk)?),
            None => Ok(()),
        }
    }

    /// Which life this is, and from now on that.
    pub(super) fn life(&self) -> io::Result<u64> {
        if self.get(Word::Life) == 0 {
            self.set(Word::Life, drawn()?);
        }
        Ok(self.get(Word::Life))
    }

    /// Whether it has booted, and its processes do not stand still.
    pub(super) fn is_up(&self) -> bool {
        self.get(Word::Boot) != 0 && self.get(Word::Frozen) == 0
    }

    /// Belongs to this machine id from now on. A guest whose processes live through that tells
    /// another boot id.
    pub(super) fn belong_to(&self, machine_id: [u8; 16]) -> io::Result<()> {
        let mix = |sum: u64, byte: &u8| sum.rotate_left(5).wrapping_mul(31) + u64::from(*byte);
        let owner = machine_id.iter().fold(1, |sum, byte| mix(sum & (u64::MAX >> 8), byte));
        if self.get(Word::Frozen) != 0 && self.get(Word::Owner) != owner {
            self.set(Word::Boot, drawn()?);
        }
        self.set(Word::Owner, owner);
        Ok(())
    }

    /// What is wrong with it, if anything is.
    pub(super) fn misfit(&self) -> io::Result<Option<String>> {
        misfit(|word| Ok(self.words[word].load(Ordering::SeqCst)), self.disk.as_ref())
    }

    /// What is told of the devices when they are saved, which fit no other memory.
    pub(super) fn devices(&self) -> String {
        devices(self.get(Word::Boot), self.get(Word::Written))
    }

    fn page(&self, count: u64) -> &AtomicU64 {
        &self.words[page(count)]
    }

    fn on_disk(&self) -> io::Result<u64> {
        self.disk.as_ref().map_or(Ok(0), on_disk)
    }
}

/// What is wrong with memory, of which this tells each word, if anything is: a page that is not as
/// it was written, or a disk of another moment.
fn misfit(
    word: impl Fn(usize) -> io::Result<u64>,
    disk: Option<&File>,
) -> io::Result<Option<String>> {
    let (before, written) = (word(Word::Before as usize)?, word(Word::Written as usize)?);
    for number in 0..PAGES {
        // The last count that came to this page, if that was since the boot.
        let last = written.checked_sub((written + PAGES - number) % PAGES);
        let wanted = last.filter(|last| *last > before).unwrap_or(0);
        let found = word(page(number))?;
        if found != wanted {
            let what = format!("page {number} has {found} and not {wanted}");
            return Ok(Some(format!("{what}, of {before} to {written}")));
        }
    }
    let Some(disk) = disk else { return Ok(None) };
    let on_disk = on_disk(disk)?;
    if on_disk != written {
        return Ok(Some(format!("memory has {written} and the disk {on_disk}")));
    }
    let is_marked = word(Word::Marked as usize)? != 0;
    Ok(match marks::look(disk)? {
        Marks::Torn(what) => Some(what),
        Marks::Blank if is_marked => Some("the disk lacks everything".to_owned()),
        Marks::Blank | Marks::Whole => None,
    })
}

/// What is wrong with a machine that is saved in these files, if anything is.
///
/// # Errors
/// When one of them cannot be read.
pub(crate) fn saved_misfit(saved: (&Path, &Path), disk: &Path) -> io::Result<Option<String>> {
    let (memory, beside) = saved;
    let (file, disk) = (File::open(memory)?, File::open(disk)?);
    // Not mapped: a mapping holds on to the file system.
    let word = |number: usize| {
        let mut bytes = [0; size_of::<u64>()];
        file.read_exact_at(&mut bytes, (number * size_of::<u64>()) as u64)?;
        Ok(u64::from_ne_bytes(bytes))
    };
    let (wanted, found) = (
        devices(word(Word::Boot as usize)?, word(Word::Written as usize)?),
        std::fs::read_to_string(beside)?,
    );
    if word(Word::Boot as usize)? == 0 || wanted != found {
        return Ok(Some(format!("devices {found:?} beside memory of {wanted:?}")));
    }
    misfit(word, Some(&disk))
}

/// Puts what belongs there on a disk that is blank; what is wrong with it otherwise.
fn marked(disk: &File) -> io::Result<Option<String>> {
    match marks::look(disk)? {
        Marks::Blank => marks::put(disk).map(|()| None),
        Marks::Whole => Ok(None),
        Marks::Torn(what) => Ok(Some(what)),
    }
}

fn devices(boot: u64, written: u64) -> String {
    format!("devices {boot:016x} {written}")
}

/// The first word of the page that this count comes to: one of a few behind the first.
fn page(count: u64) -> usize {
    usize::try_from(1 + count % PAGES).unwrap_or(1) * WORDS_IN_A_PAGE
}

fn on_disk(disk: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    disk.read_exact_at(&mut bytes, place(disk)?)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Where on the disk the count is: no file system of that size uses its last page.
fn place(disk: &File) -> io::Result<u64> {
    Ok(disk.metadata()?.len().saturating_sub(PAGE))
}

fn drawn() -> io::Result<u64> {
    let bytes = random::bytes().map_err(io::Error::other)?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}

/// Where an object of QEMU's has its memory.
fn backing(object: &str) -> Option<Backing> {
    if object.starts_with(OWN) {
        return Some(Backing::Own);
    }
    let (_, path) = object.strip_prefix(SAVED)?.split_once("mem-path=")?;
    let path = path.strip_suffix(",share=off")?;
    Some(Backing::Saved(path.replace(",,", ",").into()))
}

/// The file that is the sandbox's own disk.
fn disk(args: &[OsString]) -> Option<PathBuf> {
    let drives = args.iter().filter_map(|arg| serde_json::from_str::<Value>(arg.to_str()?).ok());
    let mut own = drives.filter(|drive| drive["node-name"] == DISK_NODE);
    Some(own.next()?.get("filename")?.as_str()?.into())
}

#[expect(unsafe_code, reason = "memory that is a file is mapped by a system call")]
fn map(file: impl AsFd, len: u64, flags: MapFlags) -> io::Result<&'static [AtomicU64]> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses where, so nothing that is there is replaced.
    // JUSTIFICATION: a private view of a file is what the daemon reads when it saves a machine.
    let at = unsafe { mmap(std::ptr::null_mut(), len, access, flags, file, 0)? };
    // SAFETY: the mapping is as long as this, is never unmapped, is aligned to a page, and any
    // bits are a word; others write to it as to atomic words only.
    // JUSTIFICATION: there is no safe view of a mapping.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), len / size_of::<AtomicU64>()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::marks::tests::blank;

    fn args(object: &str, disk: &std::path::Path) -> Vec<OsString> {
        let drive = serde_json::json!({ "node-name": DISK_NODE, "filename": disk });
        ["-m", "2M", "-object", object, "-blockdev", &drive.to_string()].map(Into::into).into()
    }

    fn disk(dir: &std::path::Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        blank(&path);
        path
    }

    #[test]
    fn what_was_saved_whole_fits_and_what_was_not_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let own = disk(dir.path(), "disk");
        let memory = Memory::of(&args("memory-backend-memfd,id=memory", &own)).unwrap();
        assert_eq!(memory.boot().unwrap(), None);
        for _ in 0..100 {
            memory.write().unwrap();
            assert_eq!(memory.misfit().unwrap(), None);
        }
        let life = memory.life().unwrap();
        let saved = dir.path().join("sa,ved");
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        // By its name it is not found here: other tests have theirs in the same process.
        let words = memory.words.iter().map(|word| word.load(Ordering::SeqCst));
        std::fs::write(&saved, words.flat_map(u64::to_ne_bytes).collect::<Vec<_>>()).unwrap();
        let path = saved.to_str().unwrap().replace(',', ",,");
        let object = format!("memory-backend-file,id=memory,size=2M,mem-path={path},share=off");
        let beside = dir.path().join("devices");
        std::fs::write(&beside, memory.devices()).unwrap();
        let misfit = |disk: &Path| saved_misfit((&saved, &beside), disk).unwrap();
        assert_eq!(misfit(&own), None);
        assert!(misfit(&disk(dir.path(), "other")).unwrap().contains("the disk 0"));
        std::fs::write(&beside, "").unwrap();
        assert!(misfit(&own).unwrap().starts_with("devices \"\" beside"));
        let again = Memory::of(&args(&object, &own)).unwrap();
        assert_eq!((again.misfit().unwrap(), again.life().unwrap()), (None, life));
        again.write().unwrap();
        // Memory of before, and the disk of now.
        assert!(memory.misfit().unwrap().unwrap().contains("the disk 101"));
        let copy = dir.path().join("copy");
        banger_host::memory::copy_private(pid, &saved, &copy).unwrap();
        assert_eq!(again.misfit().unwrap(), None);
        again.page(7).store(1, Ordering::SeqCst);
        assert!(again.misfit().unwrap().unwrap().starts_with("page 7"));
    }

    #[test]
    fn a_boot_goes_on_counting_and_a_copy_has_a_boot_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let own = disk(dir.path(), "disk");
        let object = "memory-backend-memfd,id=memory";
        for written in [0, 1] {
            let memory = Memory::of(&args(object, &own)).unwrap();
            assert_eq!(memory.boot().unwrap(), None);
            assert_eq!(memory.get(Word::Written), written);
            memory.write().unwrap();
            assert_eq!(memory.misfit().unwrap(), None);
        }
        let memory = Memory::of(&args(object, &own)).unwrap();
        assert_eq!(memory.boot().unwrap(), None);
        let boot = memory.get(Word::Boot);
        memory.belong_to([1; 16]).unwrap();
        memory.set(Word::Frozen, 1);
        memory.belong_to([1; 16]).unwrap();
        assert_eq!(memory.get(Word::Boot), boot);
        memory.belong_to([2; 16]).unwrap();
        assert_ne!(memory.get(Word::Boot), boot);
    }
}
