//! The 512-byte headers of a tar archive, one after the other, with their extensions.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use bstr::{BString, ByteSlice as _};
use tar::{EntryType, Header};

use super::pax::{Extension, Sparse};
use super::sparse::Map;
use super::{ArchiveError, Attributes, Content, End, Entry, Kind, MAX_NAME_LEN, MAX_PATH_LEN};

/// Archives consist of blocks of this size.
const BLOCK: u64 = 512;
/// Longest extended header: room for a path, a link and as many extended attributes as a file
/// can have on ext4.
const MAX_EXTENSION_LEN: u64 = 1024 * 1024;
/// Longest target of a symbolic link: `PATH_MAX` less its NUL.
const MAX_LINK_LEN: usize = 4095;

pub(super) struct Headers<'a, S> {
    source: &'a mut S,
    len: u64,
    offset: u64,
    end: End,
    global: Extension,
}

impl<'a, S: Read + Seek> Headers<'a, S> {
    pub(super) fn new(source: &'a mut S, end: End) -> Result<Self, ArchiveError> {
        let len = source.seek(SeekFrom::End(0)).map_err(ArchiveError::Read)?;
        source.rewind().map_err(ArchiveError::Read)?;
        Ok(Self { source, len, offset: 0, end, global: Extension::default() })
    }

    /// The next entry; `None` at the end.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extension = self.global.clone();
        if self.end == End::OfFile && self.offset == self.len {
            return Ok(None);
        }
        loop {
            let start = self.offset;
            let bytes = self.read_block()?;
            if bytes.iter().all(|b| *b == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&bytes);
            check_sum(&bytes, header, start)?;
            let size = header.entry_size().map_err(|_| ArchiveError::BadHeader {
                offset: start,
                problem: "its size is no number",
            })?;
            let refused = |problem| ArchiveError::BadHeader { offset: start, problem };
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extension.link = Some(self.long_name(size)?),
                EntryType::XHeader => extension.add(&self.extension(size)?).map_err(refused)?,
                EntryType::XGlobalHeader => {
                    let records = self.extension(size)?;
                    let mut global = std::mem::take(&mut self.global);
                    global.add(&records).map_err(refused)?;
                    self.global = global.for_all();
                    extension = self.global.clone();
                }
                _ => return self.entry(header, extension).map(Some),
            }
        }
    }

    fn read_block(&mut self) -> Result<[u8; 512], ArchiveError> {
        let mut bytes = [0; 512];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ArchiveError::CutOff(self.len),
            _ => ArchiveError::Read(error),
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Passes over `len` bytes of content and the padding behind it, which may be missing where the
    /// end of the file is that of the archive.
    fn skip(&mut self, len: u64) -> Result<(), ArchiveError> {
        let cut_off = || ArchiveError::CutOff(self.len);
        let content_end = self.offset.checked_add(len).ok_or_else(cut_off)?;
        let end = match content_end.checked_next_multiple_of(BLOCK).ok_or_else(cut_off)? {
            padded if padded <= self.len => padded,
            _ if self.end == End::OfFile && content_end == self.len => content_end,
            _ => return Err(cut_off()),
        };
        let step = i64::try_from(end - self.offset).map_err(|_| ArchiveError::CutOff(self.len))?;
        self.source.seek_relative(step).map_err(ArchiveError::Read)?;
        self.offset = end;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENSION_LEN {
            return Err(ArchiveError::TooMuch("1 MiB in one extended header"));
        }
        let padded = size.next_multiple_of(BLOCK);
        let mut bytes = vec![0; usize::try_from(padded).unwrap_or(0)];
        self.fill(&mut bytes)?;
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.extension(size)?;
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, ArchiveError> {
        let raw = extension.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |problem| ArchiveError::BadEntry { path: raw.clone().into(), problem };
        let path = entry_path(&raw).map_err(refused)?;
        let attributes = attributes(header, &extension).map_err(refused)?;
        let kind = self.kind(header, &extension, &raw).map_err(|problem| match problem {
            KindError::Archive(error) => error,
            KindError::Entry(problem) => refused(problem),
        })?;
        Ok(Entry { path, kind, attributes, xattrs: extension.xattrs })
    }

    fn kind(
        &mut self,
        header: &Header,
        extension: &Extension,
        raw: &[u8],
    ) -> Result<Kind, KindError> {
        let link = || {
            let raw = extension.link.clone().or_else(|| header.link_name_bytes().map(Into::into));
            raw.ok_or("it is a link without a target")
        };
        Ok(match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            // Archives older than POSIX tell directories by their slash alone.
            EntryType::Regular if raw.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let header_size = header.entry_size().map_err(|_| "its size is no number")?;
                let stored = extension.size.unwrap_or(header_size);
                Kind::File(self.content(header, extension.sparse.as_ref(), stored)?)
            }
            EntryType::Link => Kind::HardLink(entry_path(&link()?)?),
            EntryType::Symlink => Kind::Symlink(link_target(link()?)?),
            EntryType::Char => device(header).map(|(major, minor)| Kind::Char(major, minor))?,
            EntryType::Block => device(header).map(|(major, minor)| Kind::Block(major, minor))?,
            EntryType::Fifo => Kind::Fifo,
            _ => return Err("it is of a kind that is not known".into()),
        })
    }
}

impl<S: Read + Seek> Headers<'_, S> {
    /// The content of a file of which so many bytes are stored, passed over.
    fn content(
        &mut self,
        header: &Header,
        sparse: Option<&Sparse>,
        stored: u64,
    ) -> Result<Content, KindError> {
        let (map, len, before) = match sparse {
            _ if header.entry_type() == EntryType::GNUSparse => {
                let (map, size) = Map::of_old_header(header, || self.read_block())??;
                (map, size, 0)
            }
            None => {
                let offset = self.offset;
                self.skip(stored)?;
                return Ok(Content::Archived { offset, len: stored });
            }
            Some(sparse) => {
                let size = sparse.size.ok_or("it has holes and no size")?;
                let (map, before) = match sparse.map_is_before_content {
                    true => Map::before_content(|| self.read_block())??,
                    false => (sparse.map.clone(), 0),
                };
                (map, size, before)
            }
        };
        let bytes = stored.checked_sub(before).ok_or("its map of holes is longer than itself")?;
        map.check(len, bytes)?;
        let extents = map.extents(self.offset);
        self.skip(bytes)?;
        Ok(Content::Sparse { extents, len })
    }
}

enum KindError {
    Archive(ArchiveError),
    Entry(&'static str),
}

impl From<ArchiveError> for KindError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl From<&'static str> for KindError {
    fn from(problem: &'static str) -> Self {
        Self::Entry(problem)
    }
}

/// A header's sum counts its own field as spaces.
pub(crate) fn check_sum(
    bytes: &[u8; 512],
    header: &Header,
    offset: u64,
) -> Result<(), ArchiveError> {
    const FIELD: std::ops::Range<usize> = 148..156;
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(i, byte)| u32::from(if FIELD.contains(&i) { b' ' } else { *byte }))
        .sum();
    match header.cksum() {
        Ok(said) if said == sum => Ok(()),
        _ => Err(ArchiveError::BadHeader { offset, problem: "its checksum is wrong" }),
    }
}

/// The path below the root that these bytes mean.
fn entry_path(raw: &[u8]) -> Result<BString, &'static str> {
    let mut path = BString::new(Vec::with_capacity(raw.len()));
    for part in raw.split_str("/").filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err("its path leads out of the archive");
        }
        if part.len() > MAX_NAME_LEN {
            return Err("its name is longer than 255 bytes");
        }
        if part.contains(&0) {
            return Err("its name has a NUL byte");
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if path.len() > MAX_PATH_LEN {
        return Err("its path is longer than 4096 bytes");
    }
    Ok(path)
}

fn link_target(target: Vec<u8>) -> Result<BString, &'static str> {
    if target.is_empty() || target.len() > MAX_LINK_LEN || target.contains(&0) {
        return Err("the target of the link is empty, too long or has a NUL byte");
    }
    Ok(target.into())
}

fn attributes(header: &Header, extension: &Extension) -> Result<Attributes, &'static str> {
    let old = header.as_old();
    let id = |pax: Option<u64>, plain: Option<u64>| u32::try_from(pax.or(plain)?).ok();
    let mode = or_blank(&old.mode, header.mode().map(u64::from)).ok_or("its mode is no number")?;
    let mtime = match extension.mtime {
        Some(mtime) => mtime,
        None => {
            let mtime = or_blank(&old.mtime, header.mtime()).ok_or("its time is no number")?;
            // Times before 1970 are kept in two's complement.
            (mtime.cast_signed(), 0)
        }
    };
    let uid = or_blank(&old.uid, header.uid());
    let gid = or_blank(&old.gid, header.gid());
    Ok(Attributes {
        mode: u16::try_from(mode & 0o7777).unwrap_or(0),
        uid: id(extension.uid, uid).ok_or("its owner is no user id")?,
        gid: id(extension.gid, gid).ok_or("its group is no group id")?,
        mtime,
    })
}

/// The number in a field. One in which nothing is means zero, as every reader has it.
fn or_blank(field: &[u8], number: std::io::Result<u64>) -> Option<u64> {
    match number {
        Ok(number) => Some(number),
        Err(_) => field.iter().all(|byte| matches!(byte, 0 | b' ')).then_some(0),
    }
}

fn device(header: &Header) -> Result<(u32, u32), &'static str> {
    let number = |field: std::io::Result<Option<u32>>| field.ok().flatten();
    let major = number(header.device_major()).filter(|major| *major < 1 << 12);
    let minor = number(header.device_minor()).filter(|minor| *minor < 1 << 20);
    major.zip(minor).ok_or("its device numbers are out of range")
}
