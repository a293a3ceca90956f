//! What a kernel module says of itself: the `.modinfo` section of its ELF file.

use thiserror::Error;

/// Longest `.modinfo` that makes sense; network drivers with many aliases have some 50 KiB.
const MAX_MODINFO_LEN: usize = 4 * 1024 * 1024;
const SECTION_HEADER_LEN: usize = 64;

/// Why a file is not taken for a kernel module.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ModinfoError {
    /// Compressed modules would have to be unpacked first.
    #[error("it is compressed")]
    Compressed,
    /// No ELF file, or a damaged one.
    #[error("it is not a whole 64-bit ELF file")]
    NotElf,
    /// An ELF file without the section.
    #[error("it has no .modinfo section")]
    NoModinfo,
    /// The section holds something else.
    #[error("its .modinfo section makes no sense")]
    Garbage,
}

/// What a module says of itself, as far as loading it depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modinfo {
    /// Names of the modules that must be loaded before.
    pub depends: Vec<String>,
    /// Patterns of the devices and features that it serves.
    pub aliases: Vec<String>,
    /// Modules that it would like to have loaded: `pre: NAME...`.
    pub softdeps: Vec<String>,
    /// The release of the kernel that it was built for, if it says so.
    pub release: Option<String>,
}

impl Modinfo {
    /// Reads it from the bytes of a `.ko` file.
    ///
    /// # Errors
    /// [`ModinfoError`] when that is no uncompressed module.
    pub fn of_module(file: &[u8]) -> Result<Self, ModinfoError> {
        let mut info = Self::default();
        for (key, value) in records(section(file)?)? {
            match key {
                "depends" => info
                    .depends
                    .extend(value.split(',').filter(|name| !name.is_empty()).map(normalized)),
                "alias" => info.aliases.push(value.to_owned()),
                "softdep" => info.softdeps.push(value.to_owned()),
                // Behind the release stand options of the kernel that matter to modules.
                "vermagic" => info.release = value.split(' ').next().map(str::to_owned),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// Aliases of the modules that are built into the kernel, with the modules' names, from the
/// file `modules.builtin.modinfo`: records as in `.modinfo`, each with its module's name before.
///
/// # Errors
/// [`ModinfoError::Garbage`] when it holds something else.
pub fn builtin_aliases(file: &[u8]) -> Result<Vec<(String, String)>, ModinfoError> {
    let alias = |(key, value): (&str, &str)| {
        let module = key.strip_suffix(".alias")?;
        Some((value.to_owned(), normalized(module)))
    };
    Ok(records(file)?.into_iter().filter_map(alias).collect())
}

/// The name by which the kernel knows a module: in file names `-` may stand for `_`.
pub(crate) fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

fn section(file: &[u8]) -> Result<&[u8], ModinfoError> {
    if file.starts_with(b"\xfd7zXZ")
        || file.starts_with(b"\x28\xb5\x2f\xfd")
        || file.starts_with(b"\x1f\x8b")
    {
        return Err(ModinfoError::Compressed);
    }
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return Err(ModinfoError::NotElf);
    }
    find_section(file, b".modinfo").ok_or(ModinfoError::NotElf)?.ok_or(ModinfoError::NoModinfo)
}

/// `None` when the file is damaged, `Some(None)` when there is no such section.
fn find_section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<Option<&'a [u8]>> {
    let table = usize_at(file, 40, 8)?;
    if usize_at(file, 58, 2)? != SECTION_HEADER_LEN {
        return None;
    }
    let count = usize_at(file, 60, 2)?;
    let headers = slice(file, table, count * SECTION_HEADER_LEN)?;
    let header = |n: usize| slice(headers, n * SECTION_HEADER_LEN, SECTION_HEADER_LEN);
    let content = |header: &[u8]| slice(file, usize_at(header, 24, 8)?, usize_at(header, 32, 8)?);
    let names = content(header(usize_at(file, 62, 2)?)?)?;
    for n in 0..count {
        let header = header(n)?;
        let name = names.get(usize_at(header, 0, 4)?..)?;
        if name.strip_prefix(wanted).is_some_and(|rest| rest.first() == Some(&0)) {
            return Some(Some(content(header)?));
        }
    }
    Some(None)
}

fn slice(bytes: &[u8], start: usize, len: usize) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(len)?)
}

/// A little-endian number of `len` bytes.
fn usize_at(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let mut wide = [0; 8];
    wide[..len].copy_from_slice(slice(bytes, at, len)?);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

/// `KEY=VALUE` texts, each ended by a NUL; between them there may be more NULs.
fn records(bytes: &[u8]) -> Result<Vec<(&str, &str)>, ModinfoError> {
    if bytes.len() > MAX_MODINFO_LEN {
        return Err(ModinfoError::Garbage);
    }
    bytes
        .split(|byte| *byte == 0)
        .filter(|record| !record.is_empty())
        .map(|record| {
            // Descriptions and authors' names may be in any encoding; they do not matter here.
            let text = std::str::from_utf8(record).unwrap_or("unreadable=");
            text.split_once('=').ok_or(ModinfoError::Garbage)
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A module's file with nothing in it but this `.modinfo`.
    pub(crate) fn module(modinfo: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        let section = |name: u32, offset: usize, len: usize| {
            let mut header = vec![0; SECTION_HEADER_LEN];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(len as u64).to_le_bytes());
            header
        };
        let modinfo_at = file.len();
        file.extend(modinfo);
        let names_at = file.len();
        file.extend(NAMES);
        let table = file.len() as u64;
        file.extend(section(0, 0, 0));
        file.extend(section(1, modinfo_at, modinfo.len()));
        file.extend(section(10, names_at, NAMES.len()));
        file[40..48].copy_from_slice(&table.to_le_bytes());
        file[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        file
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let file = module(
            b"license=GPL\0alias=virtio:d00000001v*\0\0depends=virtio_ring,virtio,net-failover\0softdep=pre: a\0vermagic=6.1.0-1 SMP mod_unload \0author=M\xfcller\0",
        );
        let info = Modinfo::of_module(&file).unwrap();
        assert_eq!(info.depends, ["virtio_ring", "virtio", "net_failover"]);
        assert_eq!(info.aliases, ["virtio:d00000001v*"]);
        assert_eq!(info.softdeps, ["pre: a"]);
        assert_eq!(info.release.as_deref(), Some("6.1.0-1"));
        assert_eq!(Modinfo::of_module(&module(b"depends=\0")).unwrap(), Modinfo::default());
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(Modinfo::of_module(b"\xfd7zXZ\0"), Err(ModinfoError::Compressed));
        assert_eq!(Modinfo::of_module(b"#!/bin/sh"), Err(ModinfoError::NotElf));
        assert_eq!(Modinfo::of_module(&module(b"depends\0")), Err(ModinfoError::Garbage));
        let mut nameless = module(b"");
        let at = nameless.windows(8).position(|w| w == b".modinfo").unwrap();
        nameless[at] = b'x';
        assert_eq!(Modinfo::of_module(&nameless), Err(ModinfoError::NoModinfo));
    }

    #[test]
    fn builtin_modules_have_aliases_too() {
        let file = b"aes-generic.alias=crypto-aes\0aes_generic.license=GPL\0";
        let aliases = builtin_aliases(file).unwrap();
        assert_eq!(aliases, [("crypto-aes".to_owned(), "aes_generic".to_owned())]);
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..300, byte: u8, cut in 0usize..300) {
            let mut file = module(b"depends=a,b\0");
            let at = at.min(file.len() - 1);
            file[at] = byte;
            let _ = Modinfo::of_module(&file);
            file.truncate(cut);
            let _ = Modinfo::of_module(&file);
        }
    }
}
