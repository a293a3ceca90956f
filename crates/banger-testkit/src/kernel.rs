//! Kernels as their builds pack them.

/// A bzImage with this payload.
///
/// The header is that of the boot protocol 2.15 (Linux, Documentation/arch/x86/boot.rst): two
/// setup sectors of 512 bytes, and the payload 512 bytes behind them.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut image = vec![0; 4 * 512];
    image[0x1f1] = 2;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    image[0x248..0x24c].copy_from_slice(&512u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
    image.extend_from_slice(payload);
    image
}
