//! What only ext4 itself can do.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `EXT4_IOC_RESIZE_FS` (Linux, `fs/ext4/ext4.h`).
const RESIZE: Opcode = opcode::write::<u64>(b'f', 16);

/// Makes the mounted file system that `inside` is in so many blocks large. It is nothing if it is
/// already.
///
/// # Errors
/// What the kernel says: among others, that the device is smaller, or the file system has more.
pub(crate) fn resize(inside: impl AsFd, blocks: u64) -> Result<(), Errno> {
    // SAFETY: the operation reads one number of 64 bits, which the type says, and writes nothing to
    // this process's memory.
    unsafe { ioctl(inside, Setter::<RESIZE, u64>::new(blocks)) }
}
