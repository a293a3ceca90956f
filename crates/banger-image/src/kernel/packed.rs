//! Kernels and modules that are compressed, each in the way of whoever built it, unpacked within
//! bounds. Pure.

use std::io::Read;

use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use thiserror::Error;

/// Memory that an xz stream may want for what it refers back to, in KiB: kernels are packed with
/// 128 MiB (Linux, scripts/xz_wrap.sh).
const MAX_XZ_MEMORY: u32 = 192 * 1024;
/// The same for zstd, as a power of two: what a kernel of 128 MiB is packed with.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// A way in which kernels and modules are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
}

/// All of them: how files of each end, and how they begin.
const ALL: [(Packing, &str, &[u8]); 3] = [
    (Packing::Gzip, ".gz", b"\x1f\x8b"),
    (Packing::Xz, ".xz", b"\xfd7zXZ\0"),
    (Packing::Zstd, ".zst", b"\x28\xb5\x2f\xfd"),
];

/// Why nothing comes out.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PackedError {
    /// It is damaged, or wants more memory than any that is taken.
    #[error("what is compressed in it does not unpack")]
    Damaged,
    /// More comes out than may.
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(usize),
}

impl Packing {
    /// How this is compressed, by its first bytes.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        ALL.iter().find(|(.., begin)| bytes.starts_with(begin)).map(|(packing, ..)| *packing)
    }

    /// What a file is called without what says that it is compressed, and how it is.
    pub(super) fn of_name(path: &str) -> Option<(&str, Self)> {
        ALL.iter().find_map(|(packing, end, _)| Some((path.strip_suffix(end)?, *packing)))
    }

    /// What is in it, of at most `limit` bytes.
    pub(super) fn unpack(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, PackedError> {
        match self {
            Self::Gzip => read(GzDecoder::new(bytes), limit),
            Self::Xz => read(XzReader::new_mem_limit(bytes, false, MAX_XZ_MEMORY), limit),
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
                let mut decoder = decoder.map_err(|_| PackedError::Damaged)?;
                let bounded = decoder.window_log_max(MAX_ZSTD_WINDOW_LOG);
                bounded.map_err(|_| PackedError::Damaged)?;
                read(decoder, limit)
            }
        }
    }
}

fn read(source: impl Read, limit: usize) -> Result<Vec<u8>, PackedError> {
    let mut out = Vec::new();
    let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    source.take(one_more).read_to_end(&mut out).map_err(|_| PackedError::Damaged)?;
    if out.len() > limit { Err(PackedError::TooLarge(limit)) } else { Ok(out) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 19).unwrap()
    }

    /// 5000 bytes, as `xz --check=crc32 --x86 --lzma2=dict=1MiB` packs them: see
    /// [`super::super::bzimage`]'s tests for what they are.
    pub(crate) const XZ: &[u8] = include_bytes!("testdata/elf.xz");

    #[test]
    fn what_was_packed_comes_out_within_bounds() {
        let text = b"a kernel, or a module ".repeat(1000);
        let packed = [(Packing::Gzip, gzip(&text)), (Packing::Zstd, zstd(&text))];
        for (packing, bytes) in packed {
            assert_eq!(Packing::of(&bytes), Some(packing));
            assert!(packing.unpack(&bytes, text.len()).unwrap() == text);
            let limit = text.len() - 1;
            assert_eq!(packing.unpack(&bytes, limit), Err(PackedError::TooLarge(limit)));
            let cut = packing.unpack(&bytes[..bytes.len() / 2], text.len());
            assert_eq!(cut, Err(PackedError::Damaged), "{packing:?}");
        }
        assert_eq!(Packing::of(XZ), Some(Packing::Xz));
        assert_eq!(Packing::Xz.unpack(XZ, 5000).unwrap().len(), 5000);
        assert_eq!(Packing::Xz.unpack(XZ, 4999), Err(PackedError::TooLarge(4999)));
        assert_eq!(Packing::Xz.unpack(&XZ[..XZ.len() / 2], 5000), Err(PackedError::Damaged));
        assert_eq!(Packing::of(b"\x7fELF"), None);
    }

    #[test]
    fn memory_is_bounded_whatever_a_stream_asks_for() {
        // The block's header: the dictionary's size is a byte, of which 34 stands for 512 MiB.
        let mut greedy = XZ.to_vec();
        assert_eq!(greedy[12..19], [2, 1, 4, 0, 0x21, 1, 0x10]);
        greedy[18] = 34;
        let mut crc = flate2::Crc::new();
        crc.update(&greedy[12..20]);
        greedy[20..24].copy_from_slice(&crc.sum().to_le_bytes());
        assert_eq!(Packing::Xz.unpack(&greedy, 5000), Err(PackedError::Damaged));
        // A frame without its size, with a window of 2 GiB.
        let frame = [b"\x28\xb5\x2f\xfd\x00".as_slice(), &[21 << 3], &[1, 0, 0]].concat();
        assert_eq!(Packing::Zstd.unpack(&frame, 5000), Err(PackedError::Damaged));
    }

    #[test]
    fn names_say_how_a_module_is_packed() {
        assert_eq!(Packing::of_name("a/b.ko.xz"), Some(("a/b.ko", Packing::Xz)));
        assert_eq!(Packing::of_name("b.ko.zst"), Some(("b.ko", Packing::Zstd)));
        assert_eq!(Packing::of_name("b.ko.gz"), Some(("b.ko", Packing::Gzip)));
        assert_eq!(Packing::of_name("b.ko"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_unpack_or_do_not_but_never_panic(
            at: prop::sample::Index, byte: u8, rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for bytes in [gzip(&rest), zstd(&rest), XZ.to_vec()] {
                let Some(packing) = Packing::of(&bytes) else { continue };
                let mut damaged = bytes;
                let at = at.index(damaged.len());
                damaged[at] = byte;
                if let Ok(out) = packing.unpack(&damaged, 10_000) {
                    prop_assert!(out.len() <= 10_000);
                }
                damaged.extend(&rest);
                let _ = packing.unpack(&damaged, 10_000);
            }
        }
    }
}
