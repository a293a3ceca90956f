//! The kernel proper inside a `vmlinuz`.
//!
//! A `bzImage` is a small loader with the kernel's ELF file compressed inside. Handing the ELF
//! file to the VMM saves the guest from unpacking it: 0.6 s of a boot under TCG. Where the
//! compressed part is, the setup header says (Linux, Documentation/x86/boot.rst).

use thiserror::Error;

use super::packed::{PackedError, Packing};

/// Most bytes of an uncompressed kernel: distribution kernels have 30 to 80 MB.
const MAX_KERNEL_LEN: usize = 256 * 1024 * 1024;
/// Earliest boot protocol that says where the payload is.
const MIN_PROTOCOL: u16 = 0x0208;
/// The real-mode part counts in these.
const SECTOR: usize = 512;

const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;
/// Every block but the last unpacks to so many bytes (lz4's "legacy frame").
const LZ4_BLOCK: usize = 8 * 1024 * 1024;

/// How other kernels are compressed, by their first bytes (Linux, lib/decompress.c).
const OTHER_FORMATS: [(&[u8], &str); 3] =
    [(b"BZh", "bzip2"), (b"\x5d\x00\x00", "lzma"), (b"\x89LZO", "lzo")];

/// Why there is no kernel to be had from a file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BzImageError {
    /// No setup header, or one that is too old.
    #[error("it is not a Linux kernel image (bzImage)")]
    NotAKernel,
    /// The header points outside the file.
    #[error("the kernel image is cut off")]
    CutOff,
    /// Compressed in a way that is not understood.
    #[error("the kernel is compressed with {0}; gzip, lz4, xz and zstd are understood")]
    Compression(&'static str),
    /// The compressed data is damaged.
    #[error("the compressed kernel is damaged: {0}")]
    Damaged(&'static str),
    /// It does not come out.
    #[error("the compressed kernel is of no use")]
    Packed(#[from] PackedError),
    /// What came out is no kernel.
    #[error("the unpacked kernel is not an x86-64 ELF executable")]
    NotElf,
}

/// The uncompressed kernel, an ELF executable, from a `bzImage`.
///
/// # Errors
/// [`BzImageError`] when the file is none, or damaged, or compressed otherwise than with gzip, lz4, xz or zstd.
pub fn extract_vmlinux(image: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let payload = payload(image)?;
    // Kernel builds append the length of what is inside, but for gzip, which does so itself.
    let (frame, length) = payload.split_last_chunk::<4>().ok_or(BzImageError::CutOff)?;
    let expected = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let limit = expected.min(MAX_KERNEL_LEN);
    let kernel = match Packing::of(payload) {
        Some(Packing::Gzip) => Packing::Gzip.unpack(payload, limit)?,
        Some(packing) => packing.unpack(frame, limit)?,
        None if payload.starts_with(&LZ4_LEGACY_MAGIC.to_le_bytes()) => {
            decompress_lz4_legacy(frame, limit)?
        }
        None => {
            let known = OTHER_FORMATS.iter().find(|(magic, _)| payload.starts_with(magic));
            let name = known.map_or("an unknown method", |(_, name)| name);
            return Err(BzImageError::Compression(name));
        }
    };
    if kernel.len() != expected {
        return Err(BzImageError::Damaged("its length is not what the image says"));
    }
    check_elf(&kernel)?;
    Ok(kernel)
}

fn payload(image: &[u8]) -> Result<&[u8], BzImageError> {
    let le16 = |at: usize| image.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let le32 = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).ok()
    };
    let is_kernel = image.get(0x202..0x206) == Some(b"HdrS")
        && le16(0x1fe) == Some(0xaa55)
        && le16(0x206).is_some_and(|version| version >= MIN_PROTOCOL);
    if !is_kernel {
        return Err(BzImageError::NotAKernel);
    }
    // Zero stands for four, for the sake of very old kernels.
    let sectors = image.get(0x1f1).map_or(0, |n| if *n == 0 { 4 } else { usize::from(*n) });
    let protected = (sectors + 1) * SECTOR;
    let (offset, len) = le32(0x248).zip(le32(0x24c)).ok_or(BzImageError::CutOff)?;
    let start = protected.checked_add(offset).ok_or(BzImageError::CutOff)?;
    let end = start.checked_add(len).ok_or(BzImageError::CutOff)?;
    image.get(start..end).ok_or(BzImageError::CutOff)
}

/// Unpacks an lz4 "legacy" frame of at most `limit` bytes: a magic number, then blocks, each
/// with its compressed length before it.
///
/// # Errors
/// [`BzImageError::Damaged`] when it is none, or longer.
pub fn decompress_lz4_legacy(frame: &[u8], limit: usize) -> Result<Vec<u8>, BzImageError> {
    let damaged = BzImageError::Damaged;
    let mut rest = frame
        .strip_prefix(&LZ4_LEGACY_MAGIC.to_le_bytes())
        .ok_or(damaged("it does not begin as lz4 does"))?;
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK.min(limit)];
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let packed = after.get(..len).ok_or(damaged("a block is cut off"))?;
        let n = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|_| damaged("a block does not unpack"))?;
        if n > limit - out.len() {
            return Err(damaged("it is larger than it may be"));
        }
        out.extend_from_slice(&block[..n]);
        rest = &after[len..];
    }
    if rest.is_empty() { Ok(out) } else { Err(damaged("there are bytes behind its last block")) }
}

/// Looks whether these bytes are a 64-bit x86 executable whose program headers are in it.
fn check_elf(kernel: &[u8]) -> Result<(), BzImageError> {
    /// Identification: magic, 64 bits, little-endian, version 1.
    const IDENT: &[u8] = b"\x7fELF\x02\x01\x01";
    /// Executable, for x86-64.
    const TYPE_AND_MACHINE: &[u8] = &[2, 0, 62, 0];
    let program_headers = || {
        let offset = u64::from_le_bytes(kernel.get(32..40)?.try_into().ok()?);
        let size = u16::from_le_bytes(kernel.get(54..56)?.try_into().ok()?);
        let count = u16::from_le_bytes(kernel.get(56..58)?.try_into().ok()?);
        offset.checked_add(u64::from(size) * u64::from(count))
    };
    let is_kernel = kernel.starts_with(IDENT)
        && kernel.get(16..20) == Some(TYPE_AND_MACHINE)
        && program_headers().is_some_and(|end| end <= kernel.len() as u64);
    if is_kernel { Ok(()) } else { Err(BzImageError::NotElf) }
}

#[cfg(test)]
mod tests {
    use super::super::packed::tests::{XZ, gzip, zstd};
    use banger_testkit::kernel::bzimage;

    use super::*;
    use proptest::prelude::*;

    fn elf(len: usize) -> Vec<u8> {
        let mut elf = vec![7; len];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..20].copy_from_slice(&[2, 0, 62, 0]);
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[54..58].copy_from_slice(&[56, 0, 1, 0]);
        elf
    }

    fn lz4_legacy(bytes: &[u8]) -> Vec<u8> {
        let mut frame = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
        for chunk in bytes.chunks(LZ4_BLOCK) {
            let packed = lz4_flex::block::compress(chunk);
            frame.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            frame.extend(packed);
        }
        frame
    }

    fn kernel_image(kernel: &[u8]) -> Vec<u8> {
        let mut payload = lz4_legacy(kernel);
        payload.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
        bzimage(&payload)
    }

    #[test]
    fn a_kernel_of_several_blocks_comes_out_whole() {
        let kernel = elf(LZ4_BLOCK + 12345);
        assert!(extract_vmlinux(&kernel_image(&kernel)).unwrap() == kernel);
    }

    #[test]
    fn kernels_come_out_however_they_were_packed() {
        let kernel = elf(5000);
        let with_length = |mut packed: Vec<u8>| {
            packed.extend(5000u32.to_le_bytes());
            packed
        };
        let payloads = [gzip(&kernel), with_length(zstd(&kernel)), with_length(XZ.to_vec())];
        for payload in payloads {
            assert!(extract_vmlinux(&bzimage(&payload)).unwrap() == kernel, "{:x?}", &payload[..4]);
            let mut shorter = payload;
            let at = shorter.len() - 4;
            shorter[at..].copy_from_slice(&4999u32.to_le_bytes());
            let refused = extract_vmlinux(&bzimage(&shorter)).unwrap_err();
            assert_eq!(refused, BzImageError::Packed(PackedError::TooLarge(4999)));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let image = kernel_image(&elf(5000));
        assert_eq!(extract_vmlinux(b"MZ"), Err(BzImageError::NotAKernel));
        assert_eq!(extract_vmlinux(&image[..image.len() - 1]), Err(BzImageError::CutOff));
        assert_eq!(extract_vmlinux(&kernel_image(&[7; 5000])), Err(BzImageError::NotElf));
        assert_eq!(extract_vmlinux(&bzimage(b"BZh9....")), Err(BzImageError::Compression("bzip2")));
        assert_eq!(
            extract_vmlinux(&bzimage(b"\x28\xb5\x2f\xfd....\x88\x13\0\0")),
            Err(BzImageError::Packed(PackedError::Damaged))
        );
        let mut wrong_len = image.clone();
        *wrong_len.last_mut().unwrap() = 1;
        assert!(matches!(extract_vmlinux(&wrong_len), Err(BzImageError::Damaged(_))));
    }

    #[test]
    fn a_frame_is_bounded() {
        let frame = lz4_legacy(&[0; 100_000]);
        assert!(decompress_lz4_legacy(&frame, 100_000).is_ok());
        assert!(decompress_lz4_legacy(&frame, 99_999).is_err());
    }

    proptest! {
        #[test]
        fn any_damage_is_an_error_or_another_kernel_but_never_a_panic(
            at in 0usize..3000, byte: u8, cut in 0usize..3000,
        ) {
            let mut image = kernel_image(&elf(3000));
            let at = at.min(image.len() - 1);
            image[at] = byte;
            let _ = extract_vmlinux(&image);
            image.truncate(cut);
            let _ = extract_vmlinux(&image);
        }
    }
}
