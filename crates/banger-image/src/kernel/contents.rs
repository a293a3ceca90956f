//! The modules of a kernel, from an archive of `/lib/modules/RELEASE` to what a machine gets.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use banger_host::{HostError, fs};
use banger_model::Progress;
use bstr::ByteSlice as _;

use super::make::{MakeKernelError, Result};
use super::modinfo::{Modinfo, builtin_aliases};
use super::modules::{Module, Modules, module_name};
use super::packed::Packing;
use super::{BOOT, MODULES};
use crate::archive::{Archive, Content, Entry, Kind};
use crate::ext4::write_image;
use crate::initramfs::boot_part;
use crate::tree::Tree;

/// What a guest needs before it can mount its root: its devices are virtio over MMIO, its root
/// an overlay of ext4 file systems. What the kernel has built in is left out.
const BOOT_MODULES: [&str; 7] =
    ["virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng", "overlay", "ext4"];

const MAX_MODULE_LEN: u64 = 64 << 20;
/// Most bytes that compressed modules may unpack to, all together.
const MAX_UNPACKED: u64 = 4 << 30;
const MAX_TEXT_LEN: u64 = 4 << 20;

/// The modules of a kernel.
pub(super) struct ModulesOf<'a> {
    /// The kernel's release.
    pub(super) release: &'a str,
    /// Where they come from, for people to read.
    pub(super) source: String,
    /// What is at `/lib/modules/RELEASE`.
    pub(super) archive: Archive,
    /// Where the kernel is made.
    pub(super) dir: &'a Path,
}

impl ModulesOf<'_> {
    /// Writes what a machine gets of them: an image, and what its boot needs. Returns the names of
    /// that.
    pub(super) fn keep(mut self, progress: &dyn Progress) -> Result<Vec<String>> {
        self.unpack()?;
        let modules = self.modules()?;
        let boot_modules = self.keep_boot_part(&modules)?;
        progress.stage("writing the image of the kernel's modules");
        self.write_modules(&modules, progress)?;
        Ok(boot_modules)
    }

    /// Takes the place of each compressed module with what is in it, behind the archive's end: not
    /// every guest can unpack them, and what stands in them has to be known.
    fn unpack(&mut self) -> Result<()> {
        let mut file = &self.archive.file;
        let keep = |error| MakeKernelError::Keep(HostError::system("keep the modules", error));
        let begin = file.seek(SeekFrom::End(0)).map_err(keep)?;
        let mut end = begin;
        for at in 0..self.archive.entries.len() {
            let Entry { path, kind: Kind::File(content), .. } = &self.archive.entries[at] else {
                continue;
            };
            let path = path.to_string();
            let Some((name, packing)) = packed_module(&path) else { continue };
            let packed = self.archive.read(content, MAX_MODULE_LEN)?;
            let limit = usize::try_from(MAX_MODULE_LEN).unwrap_or(usize::MAX);
            let failed = |source| MakeKernelError::Packed { path: path.clone(), source };
            let bytes = packing.unpack(&packed, limit).map_err(failed)?;
            let (offset, len) = (end, bytes.len() as u64);
            end += len;
            if end - begin > MAX_UNPACKED {
                return Err(MakeKernelError::ManyModules);
            }
            file.write_all(&bytes).map_err(keep)?;
            let entry = &mut self.archive.entries[at];
            entry.path = name.into();
            entry.kind = Kind::File(Content::Archived { offset, len });
        }
        Ok(())
    }

    fn modules(&self) -> Result<Modules> {
        let mut loadable = Vec::new();
        for entry in &self.archive.entries {
            let Kind::File(content) = &entry.kind else { continue };
            // One that is compressed in a way nobody knows is refused: it cannot be read.
            if !entry.path.contains_str(".ko") {
                continue;
            }
            let bytes = self.archive.read(content, MAX_MODULE_LEN)?;
            let info = Modinfo::of_module(&bytes).map_err(|source| MakeKernelError::Module {
                path: entry.path.to_string(),
                source,
            })?;
            self.check_release(&entry.path.to_string(), &info)?;
            loadable.push(Module { path: entry.path.to_string(), info });
        }
        Ok(Modules::new(loadable, &self.text("modules.builtin")?))
    }

    /// The kernel would refuse a module that was built for another.
    fn check_release(&self, path: &str, info: &Modinfo) -> Result<()> {
        match &info.release {
            Some(release) if release != self.release => Err(MakeKernelError::OtherRelease {
                path: path.to_owned(),
                of: release.clone(),
                release: self.release.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Writes the part of the initramfs that this kernel brings, and returns the modules in it.
    fn keep_boot_part(&self, modules: &Modules) -> Result<Vec<String>> {
        let order = modules.load_order(&BOOT_MODULES)?;
        let mut names = Vec::new();
        let mut files = Vec::new();
        for (n, module) in order.iter().enumerate() {
            let name = module_name(&module.path).unwrap_or_default();
            files.push((format!("{n:02}-{name}.ko"), self.read(&module.path, MAX_MODULE_LEN)?));
            names.push(name);
        }
        keep(self.dir, BOOT, &boot_part(&files))?;
        Ok(names)
    }

    fn write_modules(mut self, modules: &Modules, progress: &dyn Progress) -> Result<()> {
        let aliases = builtin_aliases(&self.read("modules.builtin.modinfo", MAX_TEXT_LEN)?)
            .map_err(|source| MakeKernelError::Module {
                path: "modules.builtin.modinfo".to_owned(),
                source,
            })?;
        let files = modules.index_files(&self.text("modules.order")?, &aliases)?;
        let newest = self.archive.entries.iter().map(|entry| entry.attributes.mtime).max();
        for (name, bytes) in files {
            self.archive.entries.push(Entry::file(name, bytes, newest.unwrap_or_default()));
        }
        let tree = Tree::of(self.archive)?;
        Ok(write_image(&self.dir.join(MODULES), "banger-modules", &tree, progress)?)
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let lacks =
            || MakeKernelError::Lacks { package: self.source.clone(), lacks: path.to_owned() };
        let content = self.archive.content(path).ok_or_else(lacks)?;
        Ok(self.archive.read(content, limit)?)
    }

    fn text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path, MAX_TEXT_LEN)?).into_owned())
    }
}

/// What a compressed module is called without that, and how it is compressed.
fn packed_module(path: &str) -> Option<(&str, Packing)> {
    let (name, packing) = Packing::of_name(path)?;
    name.ends_with(".ko").then_some((name, packing))
}

/// Writes what a machine gets of a kernel that has everything built in.
pub(super) fn keep_none(dir: &Path, progress: &dyn Progress) -> Result<()> {
    keep(dir, BOOT, &boot_part(&[]))?;
    Ok(write_image(&dir.join(MODULES), "banger-modules", &Tree::new(), progress)?)
}

/// Keeps one file of a kernel.
pub(super) fn keep(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    fs::write_atomic(&dir.join(name), bytes).map_err(MakeKernelError::Keep)
}
