//! Headers of tar archives: blocks of 512 bytes with names and numbers in fixed places.
//!
//! Read are those of POSIX (`ustar`), of GNU and the older ones; written are GNU's, which have
//! long names, large numbers and sparse files.

/// Bytes of a block. Everything in an archive begins at a multiple of it.
pub(super) const BLOCK: usize = 512;

/// One block.
pub(super) type Block = [u8; BLOCK];

/// Bytes of a name or a link that fit into a header.
pub(super) const MAX_SHORT: usize = 100;

/// Segments of a sparse file in its header, and in each block behind it.
const SEGMENTS_IN_HEADER: usize = 4;
const SEGMENTS_IN_BLOCK: usize = 21;

/// Bytes of one segment: two numbers.
const SEGMENT_LEN: usize = 24;

/// Where the segments, the mark that more follow, and the real size are in a header.
const SEGMENTS_AT: usize = 386;
const MORE_AT: usize = 482;
const REAL_SIZE_AT: usize = 483;

/// Where the mark is in a block of segments.
const MORE_IN_BLOCK_AT: usize = 504;

/// What is wrong with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// What an entry is. The numbers are those of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    Sparse,
    /// The name of the next entry, which is too long for its header.
    LongName,
    /// The same for where the next entry links to.
    LongLink,
    /// Properties of the next entry.
    Pax,
    /// Properties of all entries that follow.
    PaxGlobal,
}

const KINDS: [(u8, Kind); 12] = [
    (b'0', Kind::File),
    (b'1', Kind::HardLink),
    (b'2', Kind::Symlink),
    (b'3', Kind::CharDevice),
    (b'4', Kind::BlockDevice),
    (b'5', Kind::Directory),
    (b'6', Kind::Fifo),
    (b'S', Kind::Sparse),
    (b'L', Kind::LongName),
    (b'K', Kind::LongLink),
    (b'x', Kind::Pax),
    (b'g', Kind::PaxGlobal),
];

impl Kind {
    fn parse(byte: u8) -> Result<Self, Malformed> {
        let byte = if matches!(byte, 0 | b'7') { b'0' } else { byte };
        let found = KINDS.iter().find(|(known, _)| *known == byte).map(|(_, kind)| *kind);
        found.ok_or(Malformed("has an entry of an unknown kind"))
    }

    fn byte(self) -> u8 {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or(b'0', |(byte, _)| *byte)
    }
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    /// Permissions, without the kind of file.
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Bytes of data behind the header.
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) mtime: u64,
    pub(super) kind: Kind,
    pub(super) link: Vec<u8>,
    /// Major and minor number of a device.
    pub(super) device: (u64, u64),
}

/// A piece of a file that is no hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Header {
    /// Reads a header; none from a block of zeros, which ends an archive.
    pub(super) fn decode(block: &Block) -> Result<Option<Self>, Malformed> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if number(&block[148..156]) != Ok(checksum(block)) {
            return Err(Malformed("has a header that is none, or is damaged"));
        }
        let mut name = text(&block[..MAX_SHORT]).to_vec();
        // GNU's header has other things in the place of the prefix.
        let is_posix = block[257..263] == *b"ustar\0";
        let prefix = text(&block[345..500]);
        if is_posix && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let mut kind = Kind::parse(block[156])?;
        if kind == Kind::File && name.ends_with(b"/") {
            kind = Kind::Directory;
        }
        let has_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let device = match has_device {
            true => (number(&block[329..337])?, number(&block[337..345])?),
            false => (0, 0),
        };
        Ok(Some(Self {
            name,
            mode: u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or_default(),
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: number(&block[124..136])?,
            // A time before 1970 is none that matters.
            mtime: number(&block[136..148]).unwrap_or_default(),
            kind,
            link: text(&block[157..257]).to_vec(),
            device,
        }))
    }

    /// The block. Names that are too long are cut: the entry before says them whole.
    pub(super) fn encode(&self) -> Block {
        let mut block = [0; BLOCK];
        let short = |name: &[u8]| name.len().min(MAX_SHORT);
        block[..short(&self.name)].copy_from_slice(&self.name[..short(&self.name)]);
        put_number(&mut block[100..108], u64::from(self.mode & 0o7777));
        put_number(&mut block[108..116], self.uid);
        put_number(&mut block[116..124], self.gid);
        put_number(&mut block[124..136], self.size);
        put_number(&mut block[136..148], self.mtime);
        block[156] = self.kind.byte();
        block[157..157 + short(&self.link)].copy_from_slice(&self.link[..short(&self.link)]);
        block[257..265].copy_from_slice(b"ustar  \0");
        if matches!(self.kind, Kind::CharDevice | Kind::BlockDevice) {
            put_number(&mut block[329..337], self.device.0);
            put_number(&mut block[337..345], self.device.1);
        }
        seal(&mut block);
        block
    }

    /// The blocks of a sparse file: its header, and those with the rest of the segments.
    pub(super) fn encode_sparse(&self, segments: &[Segment], real_size: u64) -> Vec<Block> {
        let mut blocks = vec![self.encode()];
        let (first, rest) = segments.split_at(segments.len().min(SEGMENTS_IN_HEADER));
        if let Some(header) = blocks.first_mut() {
            put_segments(&mut header[SEGMENTS_AT..MORE_AT], first);
            header[MORE_AT] = u8::from(!rest.is_empty());
            put_number(&mut header[REAL_SIZE_AT..REAL_SIZE_AT + 12], real_size);
            seal(header);
        }
        let mut left = rest.len();
        for some in rest.chunks(SEGMENTS_IN_BLOCK) {
            left -= some.len();
            let mut block = [0; BLOCK];
            put_segments(&mut block[..MORE_IN_BLOCK_AT], some);
            block[MORE_IN_BLOCK_AT] = u8::from(left > 0);
            blocks.push(block);
        }
        blocks
    }
}

/// Whether a block of segments follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Follows,
    Ended,
}

/// The segments in a sparse file's header, and the size of the whole file.
pub(super) fn sparse_header(
    block: &Block,
    segments: &mut Vec<Segment>,
) -> Result<(More, u64), Malformed> {
    take_segments(&block[SEGMENTS_AT..MORE_AT], segments)?;
    Ok((more(block[MORE_AT]), number(&block[REAL_SIZE_AT..REAL_SIZE_AT + 12])?))
}

/// The segments in a block behind it.
pub(super) fn sparse_block(block: &Block, segments: &mut Vec<Segment>) -> Result<More, Malformed> {
    take_segments(&block[..MORE_IN_BLOCK_AT], segments)?;
    Ok(more(block[MORE_IN_BLOCK_AT]))
}

fn more(mark: u8) -> More {
    if mark == 0 { More::Ended } else { More::Follows }
}

fn take_segments(bytes: &[u8], segments: &mut Vec<Segment>) -> Result<(), Malformed> {
    for pair in bytes.chunks_exact(SEGMENT_LEN) {
        let (offset, len) = pair.split_at(SEGMENT_LEN / 2);
        if offset[0] == 0 || len[0] == 0 {
            return Ok(());
        }
        segments.push(Segment { offset: number(offset)?, len: number(len)? });
    }
    Ok(())
}

fn put_segments(bytes: &mut [u8], segments: &[Segment]) {
    for (pair, segment) in bytes.chunks_exact_mut(SEGMENT_LEN).zip(segments) {
        let (offset, len) = pair.split_at_mut(SEGMENT_LEN / 2);
        put_number(offset, segment.offset);
        put_number(len, segment.len);
    }
}

/// A text that fills its field or ends with a zero byte.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number: octal digits between blanks and zeros, or, marked by the highest bit, binary.
fn number(field: &[u8]) -> Result<u64, Malformed> {
    const BAD: Malformed = Malformed("has a number that is none");
    if let [first, rest @ ..] = field
        && *first >= 0x80
    {
        let high = u64::from(first & 0x7f);
        return rest
            .iter()
            .try_fold(high, |n, byte| Ok(n.checked_mul(256).ok_or(BAD)? | u64::from(*byte)));
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let digits = field.iter().skip_while(|byte| **byte == b' ').take_while(|byte| !is_blank(byte));
    digits.clone().try_fold(0_u64, |n, digit| match digit {
        b'0'..=b'7' => Ok(n.checked_mul(8).ok_or(BAD)? | u64::from(digit - b'0')),
        _ => Err(BAD),
    })
}

fn put_number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let octal = format!("{value:0digits$o}");
    if octal.len() == digits {
        field[..digits].copy_from_slice(octal.as_bytes());
    } else {
        let binary = value.to_be_bytes();
        let len = binary.len().min(field.len() - 1);
        field.fill(0);
        let at = field.len() - len;
        field[at..].copy_from_slice(&binary[binary.len() - len..]);
        field[0] = 0x80;
    }
}

/// The sum of the header's bytes, its own field as blanks.
fn checksum(block: &Block) -> u64 {
    let field = block[148..156].iter().map(|byte| u64::from(*byte)).sum::<u64>();
    block.iter().map(|byte| u64::from(*byte)).sum::<u64>() - field + 8 * u64::from(b' ')
}

fn seal(block: &mut Block) {
    let sum = format!("{:06o}\0 ", checksum(block));
    block[148..156].copy_from_slice(&sum.as_bytes()[..8]);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let name = || vec(1_u8..b'/', 1..=MAX_SHORT);
        let kind = proptest::sample::select(&KINDS[..]);
        let ids = (0..=u64::from(u32::MAX), 0..=u64::from(u32::MAX));
        let numbers = (0_u32..0o10000, any::<u64>(), any::<u64>());
        (name(), name(), kind, ids, numbers).prop_map(
            |(name, link, (_, kind), (uid, gid), (mode, size, mtime))| {
                let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
                let device = if is_device { (uid, gid) } else { (0, 0) };
                Header { name, mode, uid, gid, size, mtime, kind, link, device }
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_comes_back(header in header()) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(Some(header)));
        }

        #[test]
        fn the_segments_of_a_sparse_file_come_back(
            header in header(),
            numbers in vec((any::<u64>(), any::<u64>()), 0..100),
            real_size: u64,
        ) {
            let segments: Vec<_> =
                numbers.into_iter().map(|(offset, len)| Segment { offset, len }).collect();
            let blocks = header.encode_sparse(&segments, real_size);
            prop_assert!(Header::decode(&blocks[0]).is_ok());
            let mut found = Vec::new();
            let (mut more, size) = sparse_header(&blocks[0], &mut found).unwrap();
            prop_assert_eq!(size, real_size);
            for block in &blocks[1..] {
                prop_assert_eq!(more, More::Follows);
                more = sparse_block(block, &mut found).unwrap();
            }
            prop_assert_eq!((more, found), (More::Ended, segments));
        }

        #[test]
        fn any_block_is_a_header_or_malformed(bytes in vec(any::<u8>(), BLOCK), sealed: bool) {
            let mut block: Block = bytes.try_into().unwrap();
            if sealed {
                seal(&mut block);
            }
            let mut segments = Vec::new();
            let _malformed = Header::decode(&block);
            let _malformed = sparse_header(&block, &mut segments);
            let _malformed = sparse_block(&block, &mut segments);
        }
    }

    #[test]
    fn a_damaged_header_is_none() {
        let header = Header {
            name: b"a".to_vec(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            kind: Kind::File,
            link: Vec::new(),
            device: (0, 0),
        };
        let mut block = header.encode();
        block[0] = b'b';
        assert!(Header::decode(&block).is_err());
        assert_eq!(Header::decode(&[0; BLOCK]), Ok(None));
    }
}
