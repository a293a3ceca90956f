//! The entries of a tar stream from a guest, one after the other. Nothing of it is trusted.
//!
//! Read is GNU's format, which the guest's agent writes. The `tar` crate knows the headers; its
//! own reader would take names and maps of any length into memory.

use std::io::{ErrorKind, Read};

use anyhow::{Result, anyhow, bail};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Bytes of a block. Everything in an archive begins at a multiple of it.
const BLOCK: usize = 512;
/// Longest name, or target of a link: the longest path that the kernel takes.
pub(super) const MAX_NAME: usize = 4095;
/// Most pieces of a sparse file, at 16 bytes of memory each: as many as the agent writes.
pub(super) const MAX_SEGMENTS: usize = 64 * 1024;
/// Most headers in a row that only say something about the next entry: a name and a link.
const MAX_PREFIXES: usize = 4;

/// A piece of a file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A file of this size. Its data are those of the segments, in order and apart.
    File {
        size: u64,
        segments: Vec<Segment>,
    },
    Directory,
    Symlink(Vec<u8>),
    /// Another name for what an earlier entry has made.
    HardLink(Vec<u8>),
    /// A device or a pipe.
    Special,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// Permissions, with whatever else the guest has put there.
    pub(super) mode: u32,
    /// Seconds since 1970.
    pub(super) mtime: u64,
    pub(super) content: Content,
}

/// Reads a stream.
#[derive(Debug)]
pub(super) struct Entries<R> {
    input: R,
    /// Bytes of the current entry's data that are still in the stream.
    data: u64,
    /// Bytes that fill up its last block.
    padding: u64,
}

impl<R: Read> Entries<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, data: 0, padding: 0 }
    }

    /// The next entry; none behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let (mut long_name, mut long_link) = (None, None);
        for _ in 0..MAX_PREFIXES {
            self.skip()?;
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block == [0; BLOCK] {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            check(header)?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.long(header)?),
                EntryType::GNULongLink => long_link = Some(self.long(header)?),
                _ => return self.entry(header, long_name, long_link).map(Some),
            }
        }
        bail!("the archive says too much about one entry")
    }

    /// Takes the next bytes of the entry's data: none when there are no more.
    pub(super) fn data(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        loop {
            match self.input.read(&mut buffer[..most]) {
                Ok(0) => return Err(truncated()),
                Ok(count) => {
                    self.data -= count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let stored = header.entry_size().map_err(|_| odd("size"))?;
        let link = || {
            let short = || header.link_name_bytes().unwrap_or_default().into_owned();
            long_link.unwrap_or_else(short)
        };
        let mut data = 0;
        let content = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                data = stored;
                let segments = vec![Segment { offset: 0, len: stored }];
                Content::File { size: stored, segments }
            }
            EntryType::GNUSparse => {
                data = stored;
                self.sparse(header, stored)?
            }
            EntryType::Directory => Content::Directory,
            EntryType::Symlink => Content::Symlink(link()),
            EntryType::Link => Content::HardLink(link()),
            EntryType::Char | EntryType::Block | EntryType::Fifo => Content::Special,
            _ => return Err(odd("kind of entry")),
        };
        self.begin_data(data);
        Ok(Entry {
            name: long_name.unwrap_or_else(|| header.path_bytes().into_owned()),
            mode: header.mode().map_err(|_| odd("mode"))?,
            mtime: header.mtime().map_err(|_| odd("time"))?,
            content,
        })
    }

    /// The map of a sparse file. The blocks of it that have no room in the header come next.
    fn sparse(&mut self, header: &Header, stored: u64) -> Result<Content> {
        let map = || odd("map of a sparse file");
        let gnu = header.as_gnu().ok_or_else(map)?;
        let size = gnu.real_size().map_err(|_| map())?;
        let mut segments = Vec::new();
        add_segments(&mut segments, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            add_segments(&mut segments, block.sparse())?;
            more = block.is_extended();
        }
        let (mut end, mut sum) = (0_u64, 0_u64);
        for segment in &segments {
            let next = segment.offset.checked_add(segment.len).filter(|next| *next <= size);
            end = next.filter(|_| segment.offset >= end).ok_or_else(map)?;
            sum += segment.len;
        }
        if sum != stored {
            return Err(map());
        }
        segments.retain(|segment| segment.len > 0);
        Ok(Content::File { size, segments })
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// A name that has no room in a header. It ends with a zero byte.
    fn long(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.entry_size().map_err(|_| odd("size"))?;
        let len = usize::try_from(size).ok().filter(|len| *len <= MAX_NAME + 1);
        let mut name = vec![0; len.ok_or_else(|| anyhow!("the archive has a name too long"))?];
        self.begin_data(size);
        self.fill(&mut name)?;
        self.data = 0;
        while name.pop_if(|byte| *byte == 0).is_some() {}
        Ok(name)
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<()> {
        let mut left = self.data.saturating_add(self.padding);
        let mut buffer = [0; 8 * BLOCK];
        while left > 0 {
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.fill(&mut buffer[..some])?;
            left -= some as u64;
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => truncated(),
            _ => error.into(),
        })
    }
}

fn add_segments(segments: &mut Vec<Segment>, headers: &[GnuSparseHeader]) -> Result<()> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        let number = |result: std::io::Result<u64>| result.map_err(|_| odd("map of a sparse file"));
        let (offset, len) = (number(header.offset())?, number(header.length())?);
        if segments.len() > MAX_SEGMENTS {
            bail!("the archive has a sparse file in too many pieces");
        }
        segments.push(Segment { offset, len });
    }
    Ok(())
}

/// Whether this is a header at all.
fn check(header: &Header) -> Result<()> {
    let mut again = header.clone();
    again.set_cksum();
    match (header.cksum(), again.cksum()) {
        (Ok(said), Ok(is)) if said == is => Ok(()),
        _ => bail!("what the sandbox sent is no tar archive"),
    }
}

fn odd(what: &str) -> anyhow::Error {
    anyhow!("the archive has an odd {what}")
}

fn truncated() -> anyhow::Error {
    anyhow!("the archive from the sandbox ends too early")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path("a").unwrap();
        header.set_mode(0o600);
        header.set_mtime(7);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn first(stream: &[u8]) -> Result<Option<Entry>> {
        Entries::new(stream).next()
    }

    fn sparse(stored: u64, size: u64, map: &[(u64, u64)]) -> Vec<u8> {
        let mut header = header(EntryType::GNUSparse, stored);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size);
        for (header, (offset, len)) in gnu.sparse.iter_mut().zip(map) {
            header.set_offset(*offset);
            header.set_length(*len);
        }
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn a_stream_ends_with_its_mark_and_no_earlier() {
        assert_eq!(first(&[0; BLOCK]).unwrap(), None);
        assert!(first(&[]).is_err());
        let file = header(EntryType::Regular, 5);
        let mut entries = Entries::new(&file.as_bytes()[..]);
        assert_eq!(entries.next().unwrap().unwrap().name, b"a");
        assert!(entries.data(&mut [0; 9]).is_err());
        let mut broken = *file.as_bytes();
        broken[0] ^= 1;
        assert!(first(&broken).is_err(), "a checksum that is wrong");
    }

    #[test]
    fn odd_maps_of_sparse_files_are_refused() {
        let good = first(&sparse(10, 100, &[(20, 10), (100, 0)])).unwrap().unwrap();
        let segments = vec![Segment { offset: 20, len: 10 }];
        assert_eq!(good.content, Content::File { size: 100, segments });
        type Odd<'a> = (u64, u64, &'a [(u64, u64)]);
        let odd: [Odd<'_>; 5] = [
            (20, 100, &[(20, 10), (25, 10)]),
            (20, 100, &[(50, 10), (20, 10)]),
            (10, 100, &[(95, 10)]),
            (9, 100, &[(20, 10)]),
            (1 << 62, 1 << 62, &[((1 << 63) - 1, (1 << 63) - 1)]),
        ];
        for (stored, size, map) in odd {
            assert!(first(&sparse(stored, size, map)).is_err(), "{map:?}");
        }
    }

    #[test]
    fn names_and_maps_without_end_are_refused() {
        let name = header(EntryType::GNULongName, 0).as_bytes().repeat(MAX_PREFIXES + 1);
        assert!(first(&name).is_err());
        assert!(first(header(EntryType::GNULongName, 1 << 32).as_bytes()).is_err());
        let mut stream = sparse(0, 100, &[(1, 0), (1, 0), (1, 0), (1, 0)]);
        let mut header = Header::from_byte_slice(&stream).clone();
        header.as_gnu_mut().unwrap().set_is_extended(true);
        header.set_cksum();
        stream = header.as_bytes().to_vec();
        let mut block = GnuExtSparseHeader::new();
        for segment in block.sparse_mut() {
            segment.set_offset(1);
            segment.set_length(0);
        }
        block.set_is_extended(true);
        stream.extend(block.as_bytes().repeat(MAX_SEGMENTS / 21 + 2));
        let error = first(&stream).unwrap_err().to_string();
        assert!(error.contains("too many pieces"), "{error}");
    }

    proptest! {
        #[test]
        fn any_stream_comes_to_an_end(
            parts in proptest::collection::vec((0_usize..9, 0_u64..3000, 0_usize..3000), 0..8),
        ) {
            let kinds = *b"0123456SLK";
            let mut stream = Vec::new();
            for (kind, size, len) in parts {
                stream.extend(header(EntryType::new(kinds[kind]), size).as_bytes());
                stream.extend(vec![7; len]);
            }
            let mut entries = Entries::new(&stream[..]);
            while let Ok(Some(_)) = entries.next() {
                while matches!(entries.data(&mut [0; 700]), Ok(1..)) {}
            }
        }
    }
}
