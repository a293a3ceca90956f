//! GRUB, told by two copies of an environment block.
//!
//! All variables lie within the first 512 bytes, and a block is overwritten in place by one write:
//! one sector changes. Should that sector be lost after all, its `gen` and `end` differ or its
//! header is gone, and the script in [`crate::grub_config`] takes the second copy. So the order is:
//!
//! 1. make both copies equal to the one that counts
//! 2. write the first, read it back: from that instant the new thing happens
//! 3. write the second, read it back
//!
//! A cut during 2 leaves the old one in the second copy, a cut before 3 the new one in the first.

use std::path::PathBuf;

use crate::boot::{BootError, BootLoader, BootView, EnvProblem, SlotStatus, Tries};
use crate::envblock::{BLOCK_LEN, EnvBlock};
use crate::files::Files;
use crate::slot::{Layout, Slot};

/// The two copies, under the directory that the boot loader reads. Each has a directory of its
/// own: on FAT, writing a file also writes the sector with its directory entry.
pub const ENV_COPIES: [&str; 2] = ["os/env1/env", "os/env2/env"];

/// One sector: what a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Longest text that proves that the loader listened.
const MAX_NONCE: usize = 64;

/// GRUB, as its script and its environment are found under a directory.
#[derive(Debug)]
pub struct Grub<'a, F> {
    files: &'a F,
    layout: Layout,
}

/// What a copy says, with its number of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Copy {
    block: EnvBlock,
    view: BootView,
    changes: u32,
}

impl<'a, F: Files> Grub<'a, F> {
    /// The one whose environment lies under `layout`.
    pub fn new(files: &'a F, layout: Layout) -> Self {
        Self { files, layout }
    }

    /// Writes both copies anew, on a machine that is being installed, or where both are lost.
    ///
    /// # Errors
    /// When they cannot be written; their directories have to be there.
    pub fn install(&self, view: &BootView) -> Result<(), BootError> {
        let copy = changed(&EnvBlock::default(), view, 1).ok_or_else(|| self.crowded())?;
        ENV_COPIES.iter().try_for_each(|name| self.create(&self.layout.boot().join(name), &copy))
    }

    fn path(&self, copy: usize) -> PathBuf {
        self.layout.boot().join(ENV_COPIES[copy])
    }

    fn crowded(&self) -> BootError {
        BootError::Crowded { path: self.path(0) }
    }

    fn copy(&self, copy: usize) -> Result<Copy, BootError> {
        let path = self.path(copy);
        let problem = |source: EnvProblem| BootError::Environment { path: path.clone(), source };
        let bytes = self.files.read(&path, BLOCK_LEN as u64);
        // A file that grew is as lost as one that is not there.
        let bytes = bytes.ok().flatten().ok_or_else(|| problem(EnvProblem::Missing))?;
        let block = EnvBlock::parse(&bytes).map_err(|error| problem(error.into()))?;
        understand(block).map_err(problem)
    }

    /// The copy that GRUB takes.
    fn current(&self) -> Result<Copy, BootError> {
        self.copy(0).or_else(|error| self.copy(1).map_err(|_| error))
    }

    fn change(&self, change: impl FnOnce(BootView) -> BootView) -> Result<(), BootError> {
        let current = self.current()?;
        for copy in 0..ENV_COPIES.len() {
            if self.copy(copy).ok().as_ref() != Some(&current) {
                self.write(copy, &current.block)?;
            }
        }
        let view = change(current.view.clone());
        if view == current.view {
            return Ok(());
        }
        let changes = current.changes.wrapping_add(1);
        let next = changed(&current.block, &view, changes).ok_or_else(|| self.crowded())?;
        (0..ENV_COPIES.len()).try_for_each(|copy| self.write(copy, &next))
    }

    fn write(&self, copy: usize, block: &EnvBlock) -> Result<(), BootError> {
        let path = self.path(copy);
        let there = self.files.read(&path, BLOCK_LEN as u64).ok().flatten();
        if there.is_some_and(|bytes| bytes.len() == BLOCK_LEN) {
            self.files.overwrite(&path, &block.to_bytes())?;
        } else {
            self.create(&path, block)?;
        }
        let mut kept = [0; BLOCK_LEN + 1];
        self.files.settle(self.layout.boot(), &[&path])?;
        let len = self.files.read_at(&path, 0, &mut kept)?;
        if kept[..len] == block.to_bytes() { Ok(()) } else { Err(BootError::NotKept { path }) }
    }

    fn create(&self, path: &std::path::Path, block: &EnvBlock) -> Result<(), BootError> {
        let aside = path.with_extension("new");
        self.files.create(&aside)?;
        self.files.append(&aside, &block.to_bytes())?;
        self.files.sync(&aside)?;
        self.files.rename(&aside, path)?;
        self.files.sync_dir(path.parent().unwrap_or(self.layout.boot()))?;
        Ok(())
    }
}

impl<F: Files + std::fmt::Debug> BootLoader for Grub<'_, F> {
    fn view(&self) -> Result<BootView, BootError> {
        Ok(self.current()?.view)
    }

    fn close(&self, slot: Slot) -> Result<(), BootError> {
        // The other one runs, so it can be started, whatever was thought of it.
        self.change(|view| {
            let other = match view.status(!slot) {
                SlotStatus::Bad => SlotStatus::Good,
                known => known,
            };
            let view = BootView { first: !slot, ..view };
            view.with(!slot, other).with(slot, SlotStatus::Bad)
        })
    }

    fn try_next(&self, slot: Slot, tries: Tries, nonce: &str) -> Result<(), BootError> {
        let nonce = nonce.to_owned();
        let status = SlotStatus::Trial { left: tries.get() };
        self.change(|view| BootView { first: slot, nonce, ..view }.with(slot, status))
    }

    fn commit(&self, slot: Slot) -> Result<(), BootError> {
        self.change(|view| BootView { first: slot, ..view }.with(slot, SlotStatus::Good))
    }

    fn select(&self, slot: Slot) -> Result<(), BootError> {
        self.change(|view| {
            let view = BootView { first: slot, ..view };
            view.with(slot, SlotStatus::Good).with(!slot, SlotStatus::Bad)
        })
    }
}

/// The values that the script compares with: it knows these and no others.
fn understand(block: EnvBlock) -> Result<Copy, EnvProblem> {
    let get = |name: &'static str| block.get(name).ok_or(EnvProblem::Variable(name));
    let status = |name: &'static str| match get(name)?.as_str() {
        "good" => Ok(SlotStatus::Good),
        "bad" => Ok(SlotStatus::Bad),
        text => match text.parse::<u8>() {
            Ok(left) if text.len() == 1 => Ok(SlotStatus::Trial { left }),
            _ => Err(EnvProblem::Variable(name)),
        },
    };
    let first = match get("order")?.as_str() {
        "ab" => Slot::A,
        "ba" => Slot::B,
        _ => return Err(EnvProblem::Variable("order")),
    };
    let (changes, end, nonce) = (get("gen")?, get("end")?, get("nonce")?);
    if changes != end {
        return Err(EnvProblem::Variable("end"));
    }
    if !is_nonce(&nonce) {
        return Err(EnvProblem::Variable("nonce"));
    }
    let changes = changes.parse().map_err(|_| EnvProblem::Variable("gen"))?;
    let view = BootView { first, a: status("slot_a")?, b: status("slot_b")?, nonce };
    Ok(Copy { block, view, changes })
}

/// It becomes a word of the kernel's command line.
fn is_nonce(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain && (1..=MAX_NONCE).contains(&text.len())
}

/// The block that says this; `None` when one sector cannot hold it.
fn changed(block: &EnvBlock, view: &BootView, changes: u32) -> Option<EnvBlock> {
    let status = |status: SlotStatus| match status {
        SlotStatus::Good => "good".to_owned(),
        SlotStatus::Bad => "bad".to_owned(),
        SlotStatus::Trial { left } => left.to_string(),
    };
    let order = if view.first == Slot::A { "ab" } else { "ba" };
    let changes = changes.to_string();
    let mut block = block.clone();
    if !is_nonce(&view.nonce) {
        return None;
    }
    for (name, value) in [
        ("gen", changes.as_str()),
        ("order", order),
        ("slot_a", &status(view.a)),
        ("slot_b", &status(view.b)),
        ("nonce", &view.nonce),
        ("end", &changes),
    ] {
        block.set(name, value).ok()?;
    }
    (block.used() <= SECTOR).then_some(block)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "these tests damage files")]

    use super::*;
    use crate::files::HostFiles;
    use std::fs;

    fn installed() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        for name in ENV_COPIES {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        }
        let layout = Layout::under(dir.path());
        Grub::new(&HostFiles, layout.clone()).install(&BootView::starting(Slot::A)).unwrap();
        (dir, layout)
    }

    #[test]
    fn what_is_told_is_what_is_seen() {
        let (_dir, layout) = installed();
        let grub = Grub::new(&HostFiles, layout);
        assert_eq!(grub.view().unwrap(), BootView::starting(Slot::A));
        grub.close(Slot::B).unwrap();
        assert_eq!(grub.view().unwrap().b, SlotStatus::Bad);
        grub.try_next(Slot::B, Tries::default(), "abc123").unwrap();
        let view = grub.view().unwrap();
        assert_eq!((view.first, view.b), (Slot::B, SlotStatus::Trial { left: 3 }));
        assert_eq!((view.nonce.as_str(), view.next()), ("abc123", Some(Slot::B)));
        grub.commit(Slot::B).unwrap();
        assert_eq!(grub.view().unwrap().b, SlotStatus::Good);
        grub.select(Slot::A).unwrap();
        let view = grub.view().unwrap();
        assert_eq!((view.next(), view.b), (Some(Slot::A), SlotStatus::Bad));
    }

    #[test]
    fn there_is_always_a_slot_to_start() {
        let (_dir, layout) = installed();
        let grub = Grub::new(&HostFiles, layout);
        grub.close(Slot::B).unwrap();
        // B runs nevertheless, since A could not be loaded, and A is to be filled.
        grub.close(Slot::A).unwrap();
        let view = grub.view().unwrap();
        assert_eq!((view.next(), view.a), (Some(Slot::B), SlotStatus::Bad));
    }

    #[test]
    fn a_lost_copy_is_made_again_from_the_other_and_both_lost_is_an_error() {
        let (dir, layout) = installed();
        let grub = Grub::new(&HostFiles, layout);
        grub.close(Slot::B).unwrap();
        let before = grub.view().unwrap();
        let paths = ENV_COPIES.map(|name| dir.path().join(name));
        for path in &paths {
            for bad in [&b""[..], &[0; BLOCK_LEN], &[b'#'; BLOCK_LEN], &[b'x'; 3000]] {
                fs::write(path, bad).unwrap();
                assert_eq!(grub.view().unwrap(), before, "{}", path.display());
                grub.commit(Slot::A).unwrap();
                grub.close(Slot::B).unwrap();
                let [one, two] = paths.each_ref().map(|path| fs::read(path).unwrap());
                assert_eq!(one, two);
            }
        }
        for path in &paths {
            fs::remove_file(path).unwrap();
        }
        assert!(matches!(grub.view(), Err(BootError::Environment { .. })));
        assert!(grub.close(Slot::B).is_err());
    }

    #[test]
    fn values_that_the_script_does_not_know_make_a_copy_unusable() {
        let (dir, layout) = installed();
        let grub = Grub::new(&HostFiles, layout);
        for (name, value) in [
            ("order", "ac"),
            ("slot_a", "10"),
            ("slot_b", ""),
            ("slot_a", "+1"),
            ("end", "9"),
            ("gen", "x"),
            ("nonce", "a b"),
            ("nonce", ""),
        ] {
            for path in ENV_COPIES.map(|name| dir.path().join(name)) {
                let mut block = EnvBlock::parse(&fs::read(&path).unwrap()).unwrap();
                block.set(name, value).unwrap();
                fs::write(&path, block.to_bytes()).unwrap();
            }
            assert!(grub.view().is_err(), "{name}={value}");
            grub.install(&BootView::starting(Slot::A)).unwrap();
        }
    }

    #[test]
    fn variables_of_others_stay_and_too_many_are_an_error() {
        let (dir, layout) = installed();
        let grub = Grub::new(&HostFiles, layout);
        let path = dir.path().join(ENV_COPIES[0]);
        let put = |value: &str| {
            let mut block = EnvBlock::parse(&fs::read(&path).unwrap()).unwrap();
            block.set("saved_entry", value).unwrap();
            fs::write(&path, block.to_bytes()).unwrap();
        };
        put("gnulinux");
        grub.close(Slot::B).unwrap();
        let block = EnvBlock::parse(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(block.get("saved_entry").as_deref(), Some("gnulinux"));
        put(&"x".repeat(400));
        assert!(matches!(grub.commit(Slot::B), Err(BootError::Crowded { .. })));
        assert_eq!(grub.view().unwrap().b, SlotStatus::Bad, "nothing has changed");
    }
}
