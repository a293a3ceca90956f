//! Files by their names in a tar: whatever it came from, it is a plain file when it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use banger_host::error::AtPath as _;
use banger_host::fs::create_new;
use banger_host::{HostError, random};
use banger_model::Bytes;

use super::LocalError;
use crate::archive::{Content, Kind, read_entries};
use crate::oci::document::Compression;
use crate::oci::layer::{decoder, read_begin};
use crate::oci::settings::Limits;

/// How many links are followed to a file.
const MAX_LINKS: usize = 8;
/// What is copied at once.
const CHUNK: usize = 256 * 1024;

/// A tar whose files are known by name.
#[derive(Debug)]
pub(in crate::oci) struct Archive {
    file: Arc<File>,
    entries: HashMap<String, Place>,
}

#[derive(Debug)]
enum Place {
    File { offset: u64, len: u64 },
    Link(String),
}

/// A file in a tar.
#[derive(Debug)]
pub(super) struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Archive {
    /// Reads the names in an archive. One that is compressed or a pipe is first copied to a file
    /// in `aside` that has no name.
    pub(super) fn open(file: File, aside: &Path, limits: &Limits) -> Result<Self, LocalError> {
        let mut file = plain_file(file, aside, limits)?;
        let entries = read_entries(&mut file).map_err(LocalError::Tar)?;
        let mut places = HashMap::with_capacity(entries.len());
        for entry in entries {
            let place = match entry.kind {
                Kind::File(Content::Archived { offset, len }) => Place::File { offset, len },
                Kind::HardLink(target) => Place::Link(target.to_string()),
                Kind::Symlink(target) => {
                    Place::Link(beside(&entry.path.to_string(), &target.to_string()))
                }
                _ => continue,
            };
            places.insert(entry.path.to_string(), place);
        }
        Ok(Self { file: Arc::new(file), entries: places })
    }

    /// The file of this name; `None` when there is none.
    pub(super) fn part(&self, name: &str) -> Option<Part> {
        let mut name = normal(name);
        for _ in 0..MAX_LINKS {
            match self.entries.get(&name)? {
                Place::Link(target) => name = normal(target),
                Place::File { offset, len } => {
                    let (at, end) = (*offset, offset.checked_add(*len)?);
                    return Some(Part { file: self.file.clone(), at, end });
                }
            }
        }
        None
    }
}

impl Part {
    pub(super) fn len(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..room], self.at)?;
        if n == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// Where a link in the directory of `from` leads, as far as it stays in the archive.
fn beside(from: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let dir = from.rsplit_once('/').map_or("", |(dir, _)| dir);
    format!("{dir}/{target}")
}

/// A path as the archive has it; what leads out of it ends up nowhere.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The archive as a file whose places can be read in any order.
fn plain_file(mut file: File, aside: &Path, limits: &Limits) -> Result<File, LocalError> {
    let is_file = file.metadata().map_err(LocalError::Read)?.is_file();
    let mut begin = [0; 4];
    let n = read_begin(&mut file, &mut begin).map_err(LocalError::Read)?;
    let compression = Compression::sniff(&begin[..n]);
    if is_file && compression == Compression::Plain {
        let back = -i64::try_from(n).unwrap_or(0);
        let start = file.seek(SeekFrom::Current(back)).map_err(LocalError::Read)?;
        if start == 0 {
            return Ok(file);
        }
        // Who has read a part of it means the rest.
        return spool(file, compression, aside, limits);
    }
    let whole = io::Cursor::new(begin[..n].to_vec()).chain(file);
    spool(whole, compression, aside, limits)
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn spool(
    source: impl Read + 'static,
    compression: Compression,
    aside: &Path,
    limits: &Limits,
) -> Result<File, LocalError> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: source, count: count.clone() };
    let mut unpacked = decoder(counted, compression).map_err(LocalError::Read)?;
    let mut file = nameless(aside)?;
    let mut chunk = vec![0; CHUNK];
    let mut size = 0u64;
    loop {
        let n = match unpacked.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(LocalError::Read(error)),
        };
        size += n as u64;
        let by_ratio = count.load(Ordering::Relaxed).saturating_mul(limits.max_ratio);
        let bound = by_ratio.saturating_add(limits.ratio_free.get());
        let bound = Bytes::new(bound.min(limits.max_unpacked.get()));
        if size > bound.get() {
            return Err(LocalError::TooLarge(bound));
        }
        file.write_all(&chunk[..n]).at("write a copy of the archive in", aside)?;
    }
    file.seek(SeekFrom::Start(0)).at("read the copy of the archive in", aside)?;
    Ok(file)
}

/// A file that is gone as soon as nobody has it open.
fn nameless(dir: &Path) -> Result<File, HostError> {
    let tag = u64::from_ne_bytes(random::bytes()?);
    let path = dir.join(format!("spool-{tag:016x}"));
    let file = create_new(&path)?;
    std::fs::remove_file(&path).at("remove", &path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_archive() {
        assert_eq!(normal(&beside("a/layer.tar", "../b/layer.tar")), "b/layer.tar");
        assert_eq!(normal(&beside("a", "b/./c")), "b/c");
        assert_eq!(normal(&beside("a/b", "../../../etc/passwd")), "etc/passwd");
        assert_eq!(normal("/etc//passwd"), "etc/passwd");
    }
}
