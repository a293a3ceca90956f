//! The few things that an update does to a disk, each a step that a power cut may follow.

use std::path::Path;

use banger_host::{HostError, Result, fs, inplace};

/// A disk. What was written survives a power cut only after a sync: of the file for its content,
/// of the directory for its name.
pub trait Files {
    /// A whole file of at most so many bytes; `None` when there is none.
    ///
    /// # Errors
    /// When it is larger, or cannot be read.
    fn read(&self, path: &Path, max: u64) -> Result<Option<Vec<u8>>>;

    /// Part of a file as the disk has it; how many bytes, fewer at its end.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// The names in a directory, sorted; none when there is no such directory.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;

    /// Makes an empty file, in place of any that is there.
    ///
    /// # Errors
    /// When the system refuses.
    fn create(&self, path: &Path) -> Result<()>;

    /// Adds to the end of a file.
    ///
    /// # Errors
    /// When the system refuses, for instance because the disk is full.
    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()>;

    /// Overwrites a whole file in place by one write, and syncs it.
    ///
    /// # Errors
    /// When it has another length, or the system refuses.
    fn overwrite(&self, path: &Path, bytes: &[u8]) -> Result<()>;

    /// Brings a file's content to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    fn sync(&self, path: &Path) -> Result<()>;

    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    /// When the system refuses.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file; none is no error.
    ///
    /// # Errors
    /// When the system refuses.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Brings a directory's names to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Brings everything to where a boot loader sees it, and forgets what is cached of these files.
    ///
    /// # Errors
    /// When the disk fails.
    fn settle(&self, dir: &Path, files: &[&Path]) -> Result<()>;

    /// Bytes that still fit.
    ///
    /// # Errors
    /// When the system cannot tell.
    fn free(&self, dir: &Path) -> Result<u64>;

    /// What tells a directory from every other.
    ///
    /// # Errors
    /// When there is none.
    fn identity(&self, dir: &Path) -> Result<(u64, u64)>;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFiles;

impl Files for HostFiles {
    fn read(&self, path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
        match fs::read_bounded(path, max) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        inplace::read_at(path, offset, buffer)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let names = fs::list_dir(dir)?;
        // What is not UTF-8 is not ours.
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    fn create(&self, path: &Path) -> Result<()> {
        inplace::create_empty(path)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        inplace::append(path, bytes)
    }

    fn overwrite(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        inplace::overwrite(path, bytes)
    }

    fn sync(&self, path: &Path) -> Result<()> {
        inplace::sync_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = std::fs::rename(from, to);
        renamed.map_err(|source| HostError::Path {
            operation: "rename to",
            path: to.to_owned(),
            source,
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| HostError::Path {
                operation: "remove",
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        inplace::sync_dir(dir)
    }

    fn settle(&self, dir: &Path, files: &[&Path]) -> Result<()> {
        inplace::settle(dir)?;
        files.iter().try_for_each(|file| inplace::forget_cached(file))
    }

    fn free(&self, dir: &Path) -> Result<u64> {
        fs::free_space(dir).map(banger_model::Bytes::get)
    }

    fn identity(&self, dir: &Path) -> Result<(u64, u64)> {
        inplace::dir_identity(dir)
    }
}
