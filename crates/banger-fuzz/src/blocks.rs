//! Bytes as a tar archive whose headers have a proper sum: no change of random bytes hits upon
//! one, and none gets past a header without.

/// Bytes of a block.
const BLOCK: usize = 512;
/// Where a header says of itself that it is one, and in which words.
const MAGIC_AT: usize = 257;
const MAGIC: &[u8] = b"ustar";
/// Where its sum is.
const SUM: std::ops::Range<usize> = 148..156;

/// The same archive with the sums put right.
pub(crate) fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[MAGIC_AT..].starts_with(MAGIC) {
            block[SUM].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// Whether these pieces of a file lie in order within its size, apart from each other.
pub(crate) fn are_in_order(size: u64, pieces: impl Iterator<Item = (u64, u64)>) -> bool {
    let mut end = 0;
    for (offset, len) in pieces {
        match offset.checked_add(len) {
            Some(next) if offset >= end && next <= size => end = next,
            _ => return false,
        }
    }
    true
}

/// Gives out bytes a few at a time, as a pipe may.
#[derive(Debug)]
pub(crate) struct Cut<'a> {
    pub(crate) bytes: &'a [u8],
    /// Most bytes of one piece; one at least.
    pub(crate) piece: usize,
}

impl std::io::Read for Cut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.bytes.len().min(buffer.len()).min(self.piece.max(1));
        let (piece, rest) = self.bytes.split_at(count);
        buffer[..count].copy_from_slice(piece);
        self.bytes = rest;
        Ok(count)
    }
}
