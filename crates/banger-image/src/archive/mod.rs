//! What a tar archive says is in it, without unpacking anything.
//!
//! Only headers are read; the content of a file stays where it is and is known by its place in
//! the archive. So an archive of any size costs memory for its names alone, and whoever writes a
//! file system from it can choose the order of reading.
//!
//! Understood are ustar, GNU long names, PAX records with extended attributes, and files with holes. Archives are
//! hostile: every length is bounded, a path cannot leave the root, and nothing is trusted that
//! the archive does not actually contain.

mod header;
mod pax;
mod quota;
mod sparse;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt as _;

use bstr::{BStr, BString, ByteSlice as _};
use thiserror::Error;

use crate::until::Until;

use header::Headers;
pub(crate) use header::check_sum;
pub use quota::{MAX_CONTENT, MAX_ENTRIES, MAX_HOLES, MAX_METADATA, Quota};
pub use sparse::Extent;

/// Longest path of an entry in bytes, as Linux has it (`PATH_MAX`).
pub const MAX_PATH_LEN: usize = 4096;
/// Longest name between two slashes, as Linux file systems have it (`NAME_MAX`).
pub const MAX_NAME_LEN: usize = 255;
/// What an entry costs in memory beside its texts, in bytes, about.
const ENTRY_COST: usize = 200;
/// The same for an extended attribute.
const XATTR_COST: usize = 100;

/// Why an archive is not taken.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Reading failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive stops before its end marker.
    #[error("the archive is cut off at byte {0}")]
    CutOff(u64),
    /// Bytes that are no tar header.
    #[error("no tar header at byte {offset}: {problem}")]
    BadHeader {
        /// Where it should be.
        offset: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An entry that cannot be kept.
    #[error("entry {path:?} of the archive: {problem}")]
    BadEntry {
        /// Its name.
        path: BString,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More than any file system image is made from.
    #[error("the archive has more than {0}")]
    TooMuch(&'static str),
    /// Whoever wanted what is made of it does so no more.
    #[error("it was called off")]
    CalledOff,
    /// The same of all layers of an image together.
    #[error("the image has more than {0} in all its layers")]
    TooMuchInAll(&'static str),
}

/// What tells that an archive is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A block of zeros, as archives have it.
    Marked,
    /// Its file, whose digest was right. Some programs that make layers write no marker, and not
    /// even the padding of the last file; whoever runs images takes those.
    OfFile,
}

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the archive, from this offset on.
    Archived {
        /// First byte, counted from the archive's begin.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// In pieces in the archive; between them are zeros.
    Sparse {
        /// The pieces, in the order of the file.
        extents: Vec<Extent>,
        /// Number of bytes, zeros between and behind the pieces included.
        len: u64,
    },
    /// Here.
    Inline(Vec<u8>),
}

impl Content {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Archived { len, .. } | Self::Sparse { len, .. } => *len,
            Self::Inline(bytes) => bytes.len() as u64,
        }
    }

    /// Reads some of its bytes from this place on, from the archive that it is in; none are left at
    /// its end.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn read_at(&self, archive: Option<&File>, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let buffer = &mut buffer[..want];
        let archive = || archive.ok_or(io::ErrorKind::NotFound);
        match self {
            Self::Archived { offset, .. } => archive()?.read_at(buffer, offset + at),
            Self::Inline(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                buffer.copy_from_slice(&bytes[from..from + want]);
                Ok(want)
            }
            Self::Sparse { extents, .. } => {
                let next = extents.partition_point(|extent| extent.at + extent.len <= at);
                let (zeros, piece) = match extents.get(next) {
                    Some(extent) if extent.at <= at => (0, Some(extent)),
                    Some(extent) => (extent.at - at, None),
                    None => (u64::MAX, None),
                };
                let Some(extent) = piece else {
                    let n = usize::try_from(zeros).unwrap_or(usize::MAX).min(want);
                    buffer[..n].fill(0);
                    return Ok(n);
                };
                let within = at - extent.at;
                let n = usize::try_from(extent.len - within).unwrap_or(usize::MAX).min(want);
                archive()?.read_at(&mut buffer[..n], extent.offset + within)
            }
        }
    }

    /// Bytes that are zeros because the archive says nothing of them.
    fn holes(&self) -> u64 {
        match self {
            Self::Archived { .. } | Self::Inline(_) => 0,
            Self::Sparse { extents, len } => len - extents.iter().map(|it| it.len).sum::<u64>(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// Another name of an earlier entry, given by its path.
    HardLink(BString),
    /// A symbolic link with its target.
    Symlink(BString),
    /// A character device with its numbers.
    Char(u32, u32),
    /// A block device with its numbers.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// Owner, permissions and time of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with set-user-id, set-group-id and sticky: at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
}

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root without a leading slash; empty for the root itself. No part of it is
    /// `.` or `..` or empty. Any other bytes but NUL may be in it.
    pub path: BString,
    /// What it is.
    pub kind: Kind,
    /// Owner, permissions and time.
    pub attributes: Attributes,
    /// Extended attributes by full name, such as `security.capability`.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// A file of root's that everybody may read, with the given content.
    pub fn file(path: &str, bytes: Vec<u8>, mtime: (i64, u32)) -> Self {
        Self {
            path: path.into(),
            kind: Kind::File(Content::Inline(bytes)),
            attributes: Attributes { mode: 0o644, uid: 0, gid: 0, mtime },
            xattrs: Vec::new(),
        }
    }

    fn metadata_len(&self) -> usize {
        let target = match &self.kind {
            Kind::HardLink(target) | Kind::Symlink(target) => target.len(),
            Kind::File(Content::Sparse { extents, .. }) => size_of_val(&extents[..]),
            _ => 0,
        };
        let xattrs = self.xattrs.iter().map(|(name, value)| XATTR_COST + name.len() + value.len());
        ENTRY_COST + self.path.len() + target + xattrs.sum::<usize>()
    }
}

/// An archive on the disk and what is in it.
#[derive(Debug)]
pub struct Archive {
    /// The entries in the archive's order; later ones replace earlier ones of the same path.
    pub entries: Vec<Entry>,
    /// The archive itself, for the content of its files.
    pub file: File,
}

impl Archive {
    /// Reads what is in an archive.
    ///
    /// # Errors
    /// [`ArchiveError`] when it is not a whole tar archive of things that can be kept.
    pub fn open(file: File) -> Result<Self, ArchiveError> {
        Self::open_until(file, End::Marked, &Quota::of_archive())
    }

    /// As [`Archive::open`], as long as somebody wants it.
    pub(crate) fn open_while(file: File, until: Until<'_>) -> Result<Self, ArchiveError> {
        Self::open_until(file, End::Marked, &Quota::of_archive().until(until))
    }

    /// Reads what is in a layer whose digest was right, and which shares its bounds with others.
    ///
    /// # Errors
    /// [`ArchiveError`] when it is not a tar archive of things that can be kept.
    pub fn open_layer(file: File, quota: &Quota<'_>) -> Result<Self, ArchiveError> {
        Self::open_until(file, End::OfFile, quota)
    }

    fn open_until(file: File, end: End, quota: &Quota<'_>) -> Result<Self, ArchiveError> {
        // Headers are far apart: a larger buffer would read mostly content.
        let entries = entries_until(&mut BufReader::with_capacity(4096, &file), end, quota)?;
        Ok(Self { entries, file })
    }

    /// The same once more, for an image in which it occurs again: all that is in it counts again.
    ///
    /// # Errors
    /// [`ArchiveError`] when that is too much.
    pub(crate) fn again(&self, quota: &Quota<'_>) -> Result<Self, ArchiveError> {
        self.entries.iter().try_for_each(|entry| quota.take(entry))?;
        let file = self.file.try_clone().map_err(ArchiveError::Read)?;
        Ok(Self { entries: self.entries.clone(), file })
    }

    /// What is below one directory, that directory becoming the root. Hard links that lead out
    /// of it are dropped.
    #[must_use]
    pub fn subtree(self, root: &str) -> Self {
        let below = |path: &BStr| {
            let rest = path.strip_prefix(root.as_bytes())?;
            if rest.is_empty() {
                Some(BString::default())
            } else {
                rest.strip_prefix(b"/").map(BString::from)
            }
        };
        let entries = self.entries.into_iter().filter_map(|mut entry| {
            entry.path = below(entry.path.as_bstr())?;
            if let Kind::HardLink(target) = &mut entry.kind {
                *target = below(target.as_bstr())?;
            }
            Some(entry)
        });
        Self { entries: entries.collect(), file: self.file }
    }

    /// The file at this path, if it is one with content in the archive or here.
    pub fn content(&self, path: &str) -> Option<&Content> {
        self.entries.iter().rev().find(|entry| entry.path == path).and_then(|entry| {
            match &entry.kind {
                Kind::File(content) => Some(content),
                _ => None,
            }
        })
    }

    /// Reads content of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ArchiveError`] when there is more, or the archive cannot be read.
    pub fn read(&self, content: &Content, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if content.len() > limit {
            return Err(ArchiveError::TooMuch("may be in one file of its kind"));
        }
        let mut bytes = vec![0; usize::try_from(content.len()).unwrap_or(usize::MAX)];
        let mut done = 0;
        while done < bytes.len() {
            let read = content.read_at(Some(&self.file), &mut bytes[done..], done as u64);
            match read.map_err(ArchiveError::Read)? {
                0 => return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into())),
                n => done += n,
            }
        }
        Ok(bytes)
    }
}

/// Reads the entries of a tar archive.
///
/// # Errors
/// [`ArchiveError`] when it is not a whole tar archive of things that can be kept.
pub fn read_entries(source: &mut (impl Read + Seek)) -> Result<Vec<Entry>, ArchiveError> {
    entries_until(source, End::Marked, &Quota::of_archive())
}

fn entries_until(
    source: &mut (impl Read + Seek),
    end: End,
    quota: &Quota<'_>,
) -> Result<Vec<Entry>, ArchiveError> {
    let mut headers = Headers::new(source, end)?;
    let mut entries = Vec::new();
    while let Some(entry) = headers.next_entry()? {
        quota.take(&entry)?;
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
