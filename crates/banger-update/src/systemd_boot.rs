//! systemd-boot, told by entries with a counter in their names: `os-b+3-0.conf` is started three
//! more times, `os-b.conf` for good, `os-b+0-3.conf` only when nothing else is left, and so `os-b+0-0.conf`, which was closed.
//!
//! Each slot has at most one entry, but after a power cut: then the one with the highest number counts,
//! and of several with the same, whose rename was cut, the one that is started least. The loader sorts by what an entry says of its `version`, the
//! highest first; here that is a number that rises with every change. An entry is written aside
//! and renamed last, when everything that it names is there.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use banger_trust::ArtifactName;

use crate::boot::{BootError, BootLoader, BootView, SlotStatus, Tries};
use crate::files::Files;
use crate::grub_config::KernelArgs;
use crate::recovery::CommandLine;
use crate::slot::{Layout, Slot};

/// Where entries lie, under the directory that the loader reads.
const ENTRIES: &str = "loader/entries";
/// The counter of an entry that was never to be started, unlike one whose trials are used up.
const CLOSED: &str = "+0-0";
/// The counter of an entry that runs, and whose own was lost: it has to prove itself.
const USED_UP: &str = "+0-1";
/// Longest entry that makes sense.
const MAX_ENTRY: u64 = 4096;

/// systemd-boot, as its entries are found under a directory.
#[derive(Debug)]
pub struct SystemdBoot<'a, F> {
    files: &'a F,
    layout: Layout,
    args: KernelArgs,
}

/// An entry that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    slot: Slot,
    file: String,
    status: SlotStatus,
    number: u64,
    nonce: String,
}

impl<'a, F: Files> SystemdBoot<'a, F> {
    /// The one whose entries lie under `layout`; kernels are told `args`.
    pub fn new(files: &'a F, layout: Layout, args: KernelArgs) -> Self {
        Self { files, layout, args }
    }

    /// Writes the entry of a slot that is good, on a machine that is being installed.
    ///
    /// # Errors
    /// When it cannot be written; the directory has to be there.
    pub fn install(&self, slot: Slot) -> Result<(), BootError> {
        self.put(slot, "", "none")
    }

    fn dir(&self) -> PathBuf {
        self.layout.boot().join(ENTRIES)
    }

    /// The entries that count, in the order of the loader.
    fn entries(&self) -> Result<Vec<Entry>, BootError> {
        let all = self.all_entries()?;
        let counting = Slot::ALL.into_iter().filter_map(|slot| {
            let of_slot = all.iter().filter(|entry| entry.slot == slot);
            of_slot.max_by_key(|entry| (entry.number, Reverse(boots_left(entry.status))))
        });
        let mut entries: Vec<Entry> = counting.cloned().collect();
        // What is used up comes last, then the highest number first.
        entries.sort_by_key(|entry| (!entry.status.is_startable(), Reverse(entry.number)));
        Ok(entries)
    }

    /// All that are there. One that cannot be read is as good as lost, for the loader, too.
    fn all_entries(&self) -> Result<Vec<Entry>, BootError> {
        let mut entries = Vec::new();
        for file in self.files.list(&self.dir())? {
            let Some((slot, status)) = parse_name(&file) else { continue };
            let path = self.dir().join(&file);
            let text = self.files.read(&path, MAX_ENTRY)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let Some((number, nonce)) = parse_entry(&text) else { continue };
            entries.push(Entry { slot, file, status, number, nonce });
        }
        Ok(entries)
    }

    /// The entry of a slot; one that was lost is made again if there is anything to start.
    fn entry(&self, slot: Slot) -> Result<Entry, BootError> {
        let find = || -> Result<_, BootError> {
            Ok(self.entries()?.into_iter().find(|entry| entry.slot == slot))
        };
        if let Some(entry) = find()? {
            return Ok(entry);
        }
        let there = self.files.list(&self.layout.slot(slot))?;
        let is_there = |name: ArtifactName| there.iter().any(|file| file == name.file_name());
        if ArtifactName::ALL.into_iter().all(is_there) {
            self.put(slot, CLOSED, "none")?;
        }
        find()?.ok_or(BootError::NoEntry(slot))
    }

    /// Removes what a cut has left besides the entries that count.
    fn tidy(&self) -> Result<(), BootError> {
        let counting = self.entries()?;
        let all = self.all_entries()?;
        let stale: Vec<_> = all.iter().filter(|entry| !counting.contains(entry)).collect();
        for entry in &stale {
            self.files.remove(&self.dir().join(&entry.file))?;
        }
        if stale.is_empty() {
            return Ok(());
        }
        self.files.sync_dir(&self.dir())?;
        Ok(self.files.settle(self.layout.boot(), &[])?)
    }

    /// Writes the entry of a slot with the highest number, and removes its older ones.
    fn put(&self, slot: Slot, counter: &str, nonce: &str) -> Result<(), BootError> {
        let entries = self.all_entries()?;
        let number = entries.iter().map(|entry| entry.number).max().unwrap_or(0).saturating_add(1);
        let letter = slot.letter();
        let file = format!("os-{letter}{counter}.conf");
        let text = format!(
            "title OS (slot {slot})\nsort-key os\nversion {number}\nlinux /os/{letter}/vmlinuz\n\
             initrd /os/{letter}/kubesolo-os.gz\noptions {} panic=10 os_update.slot={letter} \
             os_update.nonce={nonce} os_update.boot={}\n",
            self.args.as_str(),
            CommandLine::COUNTED
        );
        let (path, aside) = (self.dir().join(&file), self.dir().join(format!("os-{letter}.new")));
        self.files.create(&aside)?;
        self.files.append(&aside, text.as_bytes())?;
        self.files.sync(&aside)?;
        self.files.rename(&aside, &path)?;
        self.files.sync_dir(&self.dir())?;
        for old in entries.iter().filter(|entry| entry.slot == slot && entry.file != file) {
            self.files.remove(&self.dir().join(&old.file))?;
        }
        self.settle(&path)
    }

    fn rename(&self, entry: &Entry, counter: &str) -> Result<(), BootError> {
        let to = self.dir().join(format!("os-{}{counter}.conf", entry.slot.letter()));
        let from = self.dir().join(&entry.file);
        if from != to {
            self.files.rename(&from, &to)?;
            self.settle(&to)?;
        }
        Ok(())
    }

    fn settle(&self, path: &Path) -> Result<(), BootError> {
        self.files.sync_dir(&self.dir())?;
        Ok(self.files.settle(self.layout.boot(), &[path])?)
    }
}

impl<F: Files + std::fmt::Debug> BootLoader for SystemdBoot<'_, F> {
    fn view(&self) -> Result<BootView, BootError> {
        let entries = self.entries()?;
        let status = |slot| {
            let entry = entries.iter().find(|entry| entry.slot == slot);
            entry.map_or(SlotStatus::Bad, |entry| entry.status)
        };
        let first = entries.first().ok_or(BootError::NoEntry(Slot::A))?;
        // What it was told last, whatever became of it.
        let last = entries.iter().max_by_key(|entry| entry.number).unwrap_or(first);
        let nonce = last.nonce.clone();
        Ok(BootView { first: first.slot, a: status(Slot::A), b: status(Slot::B), nonce })
    }

    fn mend(&self, booted: &CommandLine) -> Result<(), BootError> {
        self.tidy()?;
        let Some(slot) = booted.slot else { return Ok(()) };
        let ours = booted.boot.as_deref() == Some(CommandLine::COUNTED);
        if !ours || self.entries()?.iter().any(|entry| entry.slot == slot) {
            return Ok(());
        }
        self.put(slot, USED_UP, booted.nonce.as_deref().unwrap_or("none"))
    }

    fn close(&self, slot: Slot) -> Result<(), BootError> {
        self.tidy()?;
        let entries = self.entries()?;
        if let Some(runs) = entries.iter().find(|entry| entry.slot != slot)
            && !runs.status.is_startable()
        {
            self.rename(runs, "")?;
        }
        for entry in entries.iter().filter(|entry| entry.slot == slot) {
            self.rename(entry, CLOSED)?;
        }
        Ok(())
    }

    fn try_next(&self, slot: Slot, tries: Tries, nonce: &str) -> Result<(), BootError> {
        self.put(slot, &format!("+{}-0", tries.get()), nonce)
    }

    fn commit(&self, slot: Slot) -> Result<(), BootError> {
        self.tidy()?;
        let entry = self.entry(slot)?;
        // The highest number is first.
        if self.entries()?.iter().all(|other| other.number <= entry.number) {
            self.rename(&entry, "")
        } else {
            self.put(slot, "", &entry.nonce)
        }
    }

    fn select(&self, slot: Slot) -> Result<(), BootError> {
        self.tidy()?;
        self.rename(&self.entry(slot)?, "")?;
        self.close(!slot)
    }
}

/// How often an entry is still started.
fn boots_left(status: SlotStatus) -> u32 {
    match status {
        SlotStatus::Good => u32::MAX,
        SlotStatus::Trial { left } => u32::from(left),
        SlotStatus::Bad => 0,
    }
}

/// `os-a.conf`, `os-a+3-0.conf`; everything else in the directory is somebody else's.
fn parse_name(file: &str) -> Option<(Slot, SlotStatus)> {
    let stem = file.strip_prefix("os-")?.strip_suffix(".conf")?;
    let (letter, counter) = match stem.split_once('+') {
        Some((letter, counter)) => (letter, Some(counter)),
        None => (stem, None),
    };
    let slot = Slot::ALL.into_iter().find(|slot| slot.letter() == letter)?;
    let status = match counter {
        None => SlotStatus::Good,
        Some(counter) => {
            let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
            match (left.parse::<u8>().ok()?, done.parse::<u32>().ok()?) {
                (0, 0) => SlotStatus::Bad,
                (left, _) => SlotStatus::Trial { left },
            }
        }
    };
    Some((slot, status))
}

/// The number and the nonce of an entry.
fn parse_entry(text: &str) -> Option<(u64, String)> {
    let number = text.lines().find_map(|line| line.strip_prefix("version "))?.parse().ok()?;
    let options = text.lines().find_map(|line| line.strip_prefix("options "))?;
    let nonce = options.split(' ').find_map(|word| word.strip_prefix("os_update.nonce="))?;
    Some((number, nonce.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "these tests damage files")]

    use super::*;
    use crate::files::HostFiles;

    #[test]
    fn entries_are_counted_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(ENTRIES)).unwrap();
        let args = KernelArgs::parse("quiet").unwrap();
        let loader = SystemdBoot::new(&HostFiles, Layout::under(dir.path()), args);
        let names = || HostFiles.list(&dir.path().join(ENTRIES)).unwrap();
        loader.install(Slot::A).unwrap();
        assert_eq!(loader.view().unwrap().next(), Some(Slot::A));
        loader.close(Slot::B).unwrap();
        loader.try_next(Slot::B, Tries::default(), "n1").unwrap();
        assert_eq!(names(), ["os-a.conf", "os-b+3-0.conf"]);
        let view = loader.view().unwrap();
        assert_eq!((view.next(), view.nonce.as_str()), (Some(Slot::B), "n1"));
        // What the loader itself does at each start.
        let at = |name: &str| dir.path().join(ENTRIES).join(name);
        std::fs::rename(at("os-b+3-0.conf"), at("os-b+2-1.conf")).unwrap();
        assert_eq!(loader.view().unwrap().b, SlotStatus::Trial { left: 2 });
        loader.commit(Slot::B).unwrap();
        assert_eq!(names(), ["os-a.conf", "os-b.conf"]);
        loader.close(Slot::A).unwrap();
        loader.try_next(Slot::A, Tries::default(), "n2").unwrap();
        assert_eq!(names(), ["os-a+3-0.conf", "os-b.conf"]);
        std::fs::rename(at("os-a+3-0.conf"), at("os-a+0-3.conf")).unwrap();
        let view = loader.view().unwrap();
        assert_eq!((view.next(), view.a), (Some(Slot::B), SlotStatus::Trial { left: 0 }));
        assert_eq!(view.nonce, "n2", "what it was told last is known all the same");
        loader.select(Slot::B).unwrap();
        assert_eq!(names(), ["os-a+0-0.conf", "os-b.conf"]);
        let text = std::fs::read_to_string(at("os-b.conf")).unwrap();
        // Both good, and the one that was committed last first.
        loader.commit(Slot::A).unwrap();
        assert_eq!(
            (names().join(" ").as_str(), loader.view().unwrap().first),
            ("os-a.conf os-b.conf", Slot::A)
        );
        // The slot beside the one that is closed runs.
        loader.close(Slot::A).unwrap();
        loader.close(Slot::B).unwrap();
        assert_eq!(loader.view().unwrap().next(), Some(Slot::A));
        assert!(text.contains("options quiet panic=10 os_update.slot=b os_update.nonce=n1"));
    }

    /// Both slots filled, A good, B closed, and B's entry closed.
    fn installed() -> (tempfile::TempDir, SystemdBoot<'static, HostFiles>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(ENTRIES)).unwrap();
        let layout = Layout::under(dir.path());
        for slot in Slot::ALL {
            std::fs::create_dir_all(layout.slot(slot)).unwrap();
            for name in ArtifactName::ALL {
                std::fs::write(layout.file(slot, name), "x").unwrap();
            }
        }
        let loader = SystemdBoot::new(&HostFiles, layout, KernelArgs::parse("").unwrap());
        loader.install(Slot::A).unwrap();
        (dir, loader)
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        HostFiles.list(&dir.path().join(ENTRIES)).unwrap()
    }

    fn counted(slot: Slot, nonce: &str) -> CommandLine {
        let boot = Some(CommandLine::COUNTED.to_owned());
        CommandLine { slot: Some(slot), nonce: Some(nonce.to_owned()), boot, failed: None }
    }

    #[test]
    fn f01_of_two_entries_of_a_slot_the_later_counts_and_the_other_goes() {
        // A cut between the new entry and the removal of the old one: A is tried again.
        let (dir, loader) = installed();
        loader.try_next(Slot::B, Tries::default(), "n1").unwrap();
        loader.commit(Slot::B).unwrap();
        let old = dir.path().join(ENTRIES).join("os-a.conf");
        let text = std::fs::read(&old).unwrap();
        loader.try_next(Slot::A, Tries::default(), "n2").unwrap();
        let tried = dir.path().join(ENTRIES).join("os-a+3-0.conf");
        for counter in ["+3-0", "+1-2", "+0-3", "+0-0"] {
            let now = dir.path().join(ENTRIES).join(format!("os-a{counter}.conf"));
            std::fs::write(&old, &text).unwrap();
            if now != tried {
                std::fs::copy(&tried, &now).unwrap();
                std::fs::remove_file(&tried).unwrap();
            }
            let expected = parse_name(&format!("os-a{counter}.conf")).unwrap().1;
            let view = loader.view().unwrap();
            assert_eq!((view.a, view.nonce.as_str()), (expected, "n2"), "{counter}");
            loader.mend(&counted(Slot::B, "n1")).unwrap();
            assert_eq!(names(&dir), [format!("os-a{counter}.conf"), "os-b.conf".into()]);
            assert_eq!(loader.view().unwrap(), view);
            if now != tried {
                std::fs::rename(&now, &tried).unwrap();
            }
        }
        // A rename that was cut left both names: the one that is started least counts.
        std::fs::copy(&tried, dir.path().join(ENTRIES).join("os-a+2-1.conf")).unwrap();
        assert_eq!(loader.view().unwrap().a, SlotStatus::Trial { left: 2 });
        loader.close(Slot::A).unwrap();
        assert_eq!(names(&dir), ["os-a+0-0.conf", "os-b.conf"]);
        let view = loader.view().unwrap();
        assert_eq!((view.a, view.nonce.as_str()), (SlotStatus::Bad, "n2"));
    }

    #[test]
    fn f01_an_entry_that_was_lost_is_made_again() {
        let (dir, loader) = installed();
        loader.try_next(Slot::B, Tries::default(), "n1").unwrap();
        let lose = |name: &str| std::fs::remove_file(dir.path().join(ENTRIES).join(name)).unwrap();
        // Of the slot that is gone back to.
        lose("os-a.conf");
        loader.select(Slot::A).unwrap();
        assert_eq!(names(&dir), ["os-a.conf", "os-b+0-0.conf"]);
        // Of the slot that runs: it has to prove itself, and is not started before it has.
        lose("os-a.conf");
        loader.mend(&CommandLine { boot: None, ..counted(Slot::A, "n7") }).unwrap();
        assert_eq!(names(&dir), ["os-b+0-0.conf"], "it was not started by an entry of ours");
        loader.mend(&counted(Slot::A, "n7")).unwrap();
        assert_eq!(names(&dir), ["os-a+0-1.conf", "os-b+0-0.conf"]);
        let view = loader.view().unwrap();
        assert_eq!((view.a, view.nonce.as_str()), (SlotStatus::Trial { left: 0 }, "n7"));
        loader.commit(Slot::A).unwrap();
        assert_eq!(loader.view().unwrap().next(), Some(Slot::A));
        // One that is torn is as good as lost; and nothing is made for a slot that is not whole.
        std::fs::write(dir.path().join(ENTRIES).join("os-a.conf"), "title OS").unwrap();
        loader.commit(Slot::A).unwrap();
        assert_eq!(loader.view().unwrap().next(), Some(Slot::A));
        lose("os-b+0-0.conf");
        std::fs::remove_file(dir.path().join("os/b/vmlinuz")).unwrap();
        assert!(matches!(loader.select(Slot::B), Err(BootError::NoEntry(Slot::B))));
    }

    #[test]
    fn entries_of_others_are_left_alone() {
        for other in ["os-a", "os-c.conf", "debian.conf", "os-a+x.conf", "os-ab.conf", "os-.conf"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
