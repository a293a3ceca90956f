//! The entries of a tar stream, one after the other. Nothing of it is trusted.

use std::io::{self, ErrorKind, Read};

use thiserror::Error;

use super::header::{
    BLOCK, Block, Header, Kind, Malformed, More, Segment, sparse_block, sparse_header,
};
use super::pax::Properties;

/// Longest name, or target of a link, that is read: the longest path that the kernel takes.
pub(super) const MAX_NAME: usize = 4095;

/// Most bytes of properties of one entry: some names and numbers.
const MAX_PROPERTIES: u64 = 64 * 1024;

/// Most segments of a sparse file: 16 bytes of memory for each.
pub(super) const MAX_SEGMENTS: usize = 64 * 1024;

/// Most entries in a row that only say something about the next one.
const MAX_PREFIXES: usize = 16;

/// Why no further entry can be read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("cannot read the archive: {0}")]
    Io(#[from] io::Error),
    #[error("the archive ends before its end mark: it is not whole")]
    Truncated,
    #[error("the archive {0}")]
    Malformed(&'static str),
}

impl From<Malformed> for ReadError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

/// What an entry is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A file of this size. Its data are those of the segments, in order and apart; where there
    /// are none, it is zero.
    File {
        size: u64,
        segments: Vec<Segment>,
    },
    Directory,
    Symlink(Vec<u8>),
    /// Another name for the entry of this one.
    HardLink(Vec<u8>),
    Fifo,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// Permissions.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (u64, u32),
    pub(super) content: Content,
}

/// Reads a stream.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    /// Bytes of the current entry's data that are still in the stream.
    data: u64,
    /// Bytes that fill up its last block.
    padding: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, data: 0, padding: 0 }
    }

    /// The next entry; none behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        let mut about = Properties::default();
        for _ in 0..MAX_PREFIXES {
            self.skip()?;
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            let Some(header) = Header::decode(&block)? else { return Ok(None) };
            match header.kind {
                Kind::LongName => about.name = Some(self.long(header.size)?),
                Kind::LongLink => about.link = Some(self.long(header.size)?),
                Kind::Pax => {
                    let records = self.small(header.size, MAX_PROPERTIES)?;
                    about.read(&records)?;
                }
                // Comments, mostly, and nothing that a file would be wrong without.
                Kind::PaxGlobal => drop(self.small(header.size, MAX_PROPERTIES)?),
                _ => return self.entry(&block, header, about).map(Some),
            }
        }
        Err(ReadError::Malformed("says too much about one entry"))
    }

    /// Takes the next bytes of the entry's data: none when there are no more.
    pub(super) fn data(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let most = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        loop {
            match self.input.read(&mut buffer[..most]) {
                Ok(0) => return Err(ReadError::Truncated),
                Ok(n) => {
                    self.data -= n as u64;
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn entry(
        &mut self,
        block: &Block,
        header: Header,
        about: Properties,
    ) -> Result<Entry, ReadError> {
        let size = about.size.unwrap_or(header.size);
        let link = about.link.unwrap_or(header.link);
        let device = |(major, minor): (u64, u64)| {
            let number = |n: u64| u32::try_from(n).ok();
            number(major).zip(number(minor)).ok_or(ReadError::Malformed("has an odd device"))
        };
        let (stored, content) = match header.kind {
            Kind::File => {
                (size, Content::File { size, segments: vec![Segment { offset: 0, len: size }] })
            }
            Kind::Sparse => (size, self.sparse(block, size)?),
            Kind::Directory => (size, Content::Directory),
            // Their size says something else in some archives; data they have none.
            Kind::Symlink => (0, Content::Symlink(link)),
            Kind::HardLink => (0, Content::HardLink(link)),
            Kind::Fifo => (0, Content::Fifo),
            Kind::CharDevice => {
                let (major, minor) = device(header.device)?;
                (0, Content::CharDevice(major, minor))
            }
            Kind::BlockDevice => {
                let (major, minor) = device(header.device)?;
                (0, Content::BlockDevice(major, minor))
            }
            Kind::LongName | Kind::LongLink | Kind::Pax | Kind::PaxGlobal => {
                return Err(ReadError::Malformed("has an entry of an unknown kind"));
            }
        };
        self.begin_data(stored);
        Ok(Entry {
            name: about.name.unwrap_or(header.name),
            mode: header.mode,
            uid: owner(about.uid.unwrap_or(header.uid))?,
            gid: owner(about.gid.unwrap_or(header.gid))?,
            mtime: about.mtime.unwrap_or((header.mtime, 0)),
            content,
        })
    }

    /// The map of a sparse file. The blocks of the map that did not fit into the header come
    /// before the data.
    fn sparse(&mut self, block: &Block, stored: u64) -> Result<Content, ReadError> {
        let mut segments = Vec::new();
        let (mut more, size) = sparse_header(block, &mut segments)?;
        while more == More::Follows {
            if segments.len() > MAX_SEGMENTS {
                return Err(ReadError::Malformed("has a sparse file in too many pieces"));
            }
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            more = sparse_block(&block, &mut segments)?;
        }
        let (mut end, mut sum) = (0_u64, 0_u64);
        for segment in &segments {
            let next = segment.offset.checked_add(segment.len).filter(|next| *next <= size);
            match next {
                Some(next) if segment.offset >= end => {
                    end = next;
                    sum += segment.len;
                }
                _ => return Err(ReadError::Malformed("has a sparse file with an odd map")),
            }
        }
        if sum != stored {
            return Err(ReadError::Malformed("has a sparse file with an odd map"));
        }
        segments.retain(|segment| segment.len > 0);
        Ok(Content::File { size, segments })
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// A long name as GNU writes it: ended by a zero byte.
    fn long(&mut self, size: u64) -> Result<Vec<u8>, ReadError> {
        let mut name = self.small(size, MAX_NAME as u64 + 1)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// All data of an entry that must not be larger than this.
    fn small(&mut self, size: u64, most: u64) -> Result<Vec<u8>, ReadError> {
        let len = usize::try_from(size).ok().filter(|_| size <= most);
        let Some(len) = len else {
            return Err(ReadError::Malformed("has a name or properties that are too long"));
        };
        let mut bytes = vec![0; len];
        self.begin_data(size);
        self.fill(&mut bytes)?;
        self.data = 0;
        Ok(bytes)
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<(), ReadError> {
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

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ReadError::Truncated,
            _ => ReadError::Io(error),
        })
    }
}

/// A user or group number. The highest means "leave it as it is" to the kernel.
fn owner(number: u64) -> Result<u32, ReadError> {
    let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
    id.ok_or(ReadError::Malformed("has an owner that nobody can be"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn header(kind: Kind, size: u64) -> Header {
        Header {
            name: b"a".to_vec(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            size,
            mtime: 0,
            kind,
            link: Vec::new(),
            device: (0, 0),
        }
    }

    fn first(stream: &[u8]) -> Result<Option<Entry>, ReadError> {
        Reader::new(stream).next()
    }

    fn sparse(stored: u64, size: u64, map: &[(u64, u64)]) -> Vec<u8> {
        let segment = |(offset, len): &(u64, u64)| Segment { offset: *offset, len: *len };
        let map: Vec<_> = map.iter().map(segment).collect();
        header(Kind::Sparse, stored).encode_sparse(&map, size).concat()
    }

    #[test]
    fn an_archive_ends_with_its_mark_and_no_earlier() {
        assert!(matches!(first(&[0; BLOCK]), Ok(None)));
        assert!(matches!(first(&[]), Err(ReadError::Truncated)));
        let file = header(Kind::File, 5).encode();
        assert!(matches!(first(&file), Ok(Some(_))));
        let mut reader = Reader::new(&file[..]);
        reader.next().unwrap();
        assert!(matches!(reader.data(&mut [0; 9]), Err(ReadError::Truncated)));
        assert!(matches!(reader.next(), Err(ReadError::Truncated)));
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
            (u64::MAX, u64::MAX, &[(u64::MAX, u64::MAX)]),
        ];
        for (stored, size, map) in odd {
            assert!(first(&sparse(stored, size, map)).is_err(), "{map:?}");
        }
    }

    #[test]
    fn what_is_said_without_end_is_refused() {
        let global = header(Kind::PaxGlobal, 0).encode().repeat(MAX_PREFIXES + 1);
        assert!(matches!(first(&global), Err(ReadError::Malformed(_))));
        let huge = header(Kind::LongName, 1 << 40).encode();
        assert!(matches!(first(&huge), Err(ReadError::Malformed(_))));
    }

    #[test]
    fn nobody_is_the_owner_that_means_unchanged() {
        let mut nobody = header(Kind::File, 0);
        nobody.uid = u64::from(u32::MAX);
        assert!(matches!(first(&nobody.encode()), Err(ReadError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_stream_comes_to_an_end(
            parts in vec((0_usize..12, 0_u64..3000, vec(any::<u8>(), 0..600)), 0..8),
        ) {
            let kinds = [
                Kind::File, Kind::HardLink, Kind::Symlink, Kind::CharDevice, Kind::BlockDevice,
                Kind::Directory, Kind::Fifo, Kind::Sparse, Kind::LongName, Kind::LongLink,
                Kind::Pax, Kind::PaxGlobal,
            ];
            let mut stream = Vec::new();
            for (kind, size, bytes) in parts {
                stream.extend(header(kinds[kind], size).encode());
                stream.extend(bytes);
            }
            let mut reader = Reader::new(&stream[..]);
            while let Ok(Some(entry)) = reader.next() {
                prop_assert!(entry.uid != u32::MAX);
                while matches!(reader.data(&mut [0; 700]), Ok(1..)) {}
            }
        }
    }
}
