//! Files with holes, as GNU tar archives them: a map of where there are bytes, and those bytes one after
//! the other (GNU tar manual, "Storing Sparse Files").
//!
//! There are four ways to tell the map: in the header itself (type `S`), in PAX records one by one (0.0)
//! or in one (0.1), and before the bytes (1.0).

use tar::Header;

use super::ArchiveError;

/// Most pieces of one file between holes.
pub(super) const MAX_EXTENTS: usize = 100_000;
/// Longest map before a file's bytes: a count and two numbers for each piece.
const MAX_MAP_LEN: usize = (2 * MAX_EXTENTS + 1) * 21;
/// Where an old GNU header and its continuation have what (`tar/src/tar.h` of GNU tar): numbers have
/// twelve bytes, and a piece has two.
const OLD: OldHeader = OldHeader { pieces: 386..482, goes_on: 482 };
const OLD_MORE: OldHeader = OldHeader { pieces: 0..504, goes_on: 504 };
const NUMBER: usize = 12;
const OLD_SIZE: std::ops::Range<usize> = 483..495;

/// Bytes of a file that are in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first byte's place in the file.
    pub at: u64,
    /// Number of bytes.
    pub len: u64,
    /// The first byte's place in the archive.
    pub offset: u64,
}

/// Where a file has bytes, by place in the file and number: in order, without touching each other's,
/// within the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Map(pub(super) Vec<(u64, u64)>);

impl Map {
    /// What is wrong with it, for a file of this size of which so many bytes are stored.
    pub(super) fn check(&self, size: u64, stored: u64) -> Result<(), &'static str> {
        if self.0.len() > MAX_EXTENTS {
            return Err("it has more than 100,000 pieces between holes");
        }
        let (mut end, mut sum) = (0u64, 0u64);
        for (at, len) in &self.0 {
            let piece_end = at.checked_add(*len).filter(|piece_end| *piece_end <= size);
            end = piece_end.filter(|_| *at >= end).ok_or("its map of holes makes no sense")?;
            sum = sum.saturating_add(*len);
        }
        if sum == stored { Ok(()) } else { Err("its map of holes is of other bytes than it has") }
    }

    /// The same with the places in the archive, when the first byte is at `offset`.
    pub(super) fn extents(&self, mut offset: u64) -> Vec<Extent> {
        let pieces = self.0.iter().filter(|(_, len)| *len > 0);
        pieces
            .map(|(at, len)| {
                let extent = Extent { at: *at, len: *len, offset };
                offset += len;
                extent
            })
            .collect()
    }

    /// Reads one piece after the other from text: numbers that are separated by commas.
    pub(super) fn of_record(text: &[u8]) -> Option<Self> {
        let numbers: Option<Vec<u64>> = text.split(|byte| *byte == b',').map(number).collect();
        let numbers = numbers?;
        let pairs = numbers.chunks_exact(2);
        let whole = pairs.remainder().is_empty() && numbers.len() / 2 <= MAX_EXTENTS;
        whole.then(|| Self(pairs.map(|pair| (pair[0], pair[1])).collect()))
    }

    /// Reads the lines before a file's bytes: their number first, then two for each piece. Blocks come
    /// from `next` until all are there; the number of bytes that they had is told.
    pub(super) fn before_content(
        mut next: impl FnMut() -> Result<[u8; 512], ArchiveError>,
    ) -> Result<Result<(Self, u64), &'static str>, ArchiveError> {
        let (mut text, mut lines, mut wanted) = (Vec::new(), 0, None);
        loop {
            let block = next()?;
            lines += block.iter().filter(|byte| **byte == b'\n').count();
            text.extend(block);
            if wanted.is_none() && lines > 0 {
                let first = text.split(|byte| *byte == b'\n').next().and_then(number);
                let count = first.and_then(|count| usize::try_from(count).ok());
                match count.filter(|count| *count <= MAX_EXTENTS) {
                    Some(count) => wanted = Some(1 + 2 * count),
                    None => return Ok(Err("it has no sensible number of pieces between holes")),
                }
            }
            if wanted.is_some_and(|wanted| lines >= wanted) {
                break;
            }
            if text.len() > MAX_MAP_LEN {
                return Ok(Err("its map of holes does not end"));
            }
        }
        let lines = text.split(|byte| *byte == b'\n').take(wanted.unwrap_or(0)).skip(1);
        let numbers: Option<Vec<u64>> = lines.map(number).collect();
        let map = numbers.map(|all| all.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
        Ok(map
            .map(|map| (Self(map), text.len() as u64))
            .ok_or("its map of holes has something else than numbers"))
    }

    /// Reads the map of an old GNU header, and the blocks that continue it; the file's size with it.
    pub(super) fn of_old_header(
        header: &Header,
        mut next: impl FnMut() -> Result<[u8; 512], ArchiveError>,
    ) -> Result<Result<(Self, u64), &'static str>, ArchiveError> {
        const BAD: &str = "its map of holes makes no sense";
        let mut map = Vec::new();
        let (mut block, mut form) = (*header.as_bytes(), OLD);
        let Some(size) = old_number(&block[OLD_SIZE]) else { return Ok(Err(BAD)) };
        loop {
            for piece in block[form.pieces.clone()].chunks_exact(2 * NUMBER) {
                if piece[0] == 0 {
                    break;
                }
                match (old_number(&piece[..NUMBER]), old_number(&piece[NUMBER..])) {
                    (Some(at), Some(len)) if map.len() < MAX_EXTENTS => map.push((at, len)),
                    _ => return Ok(Err(BAD)),
                }
            }
            if block[form.goes_on] == 0 {
                return Ok(Ok((Self(map), size)));
            }
            (block, form) = (next()?, OLD_MORE);
        }
    }
}

/// Places in a block.
#[derive(Clone)]
struct OldHeader {
    pieces: std::ops::Range<usize>,
    goes_on: usize,
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// A number in a field of a header: octal digits, or big-endian after a set first bit.
fn old_number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let empty = high[0] == 0x80 && high[1..].iter().all(|byte| *byte == 0);
        return low.try_into().ok().filter(|_| empty).map(u64::from_be_bytes);
    }
    let digits: Vec<u8> = field.iter().copied().filter(|byte| !matches!(byte, 0 | b' ')).collect();
    u64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}
