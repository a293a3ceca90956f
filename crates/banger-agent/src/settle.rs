//! A machine that is to be saved: as little in its memory as can be.
//!
//! What is saved of a machine is every page of its memory that is not all zeros. After a boot
//! most such pages are garbage in free memory and files that can be read again. So caches are
//! dropped, and free memory is taken once: the kernel clears what it hands out, and what is given
//! back stays clear.

use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use crate::files::{read_bounded, set};

/// Memory that is left free while the rest is taken: what the kernel needs to go on, and never
/// fills in so short a time. A part of it is the same everywhere (the zone for old devices)...
const RESERVE: u64 = 24 * 1024 * 1024;
/// ...and what is kept for interrupts and for reclaiming grows with the whole; this part of it is
/// twice as much. A first process that takes what the kernel cannot give is a panic.
const RESERVE_PART: u64 = 32;
/// Most that is taken. The kernel hands out what is in pieces first, which is what was in use; what
/// never was is clear, and taking it would only cost time: 7 s for each GiB under emulation.
const MOST: u64 = 128 * 1024 * 1024;
/// How much is taken at once.
const STEP: u64 = 8 * 1024 * 1024;
/// What drops clean pages, and names and inodes (proc_sys_vm(5)).
const DROP_CACHES: (&str, &[u8]) = ("/proc/sys/vm/drop_caches", b"3");
/// Longest /proc/meminfo that makes sense, in bytes.
const MAX_MEMINFO_LEN: u64 = 64 * 1024;

/// Makes the machine small. What cannot be done costs space and nothing else.
///
/// # Errors
/// When memory that was taken cannot be accounted for.
pub(crate) fn settle() -> io::Result<()> {
    rustix::fs::sync();
    let _larger = set(Path::new(DROP_CACHES.0), DROP_CACHES.1);
    clear_free_memory()
}

fn clear_free_memory() -> io::Result<()> {
    let taken = memfd_create("banger-clear", MemfdFlags::CLOEXEC)?;
    let mut at = 0;
    let (total, _) = memory()?;
    let reserve = RESERVE + total / RESERVE_PART;
    while at < MOST && memory()?.1 > reserve + STEP {
        // The kernel clears every page of it, and frees it all when the file is closed.
        if fallocate(&taken, FallocateFlags::empty(), at, STEP).is_err() {
            break;
        }
        at += STEP;
    }
    Ok(())
}

/// Bytes of memory that there are, and that nothing uses.
fn memory() -> io::Result<(u64, u64)> {
    let text = read_bounded(Path::new("/proc/meminfo"), MAX_MEMINFO_LEN)?;
    total_and_free(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn total_and_free(meminfo: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(meminfo).ok()?;
    let field = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some((field("MemTotal:")?, field("MemFree:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_with_care() {
        let both = total_and_free(b"MemTotal: 9 kB\nMemFree:         12 kB\n");
        assert_eq!(both, Some((9 * 1024, 12 * 1024)));
        for bad in [&b""[..], b"MemTotal: 1 kB\nMemFree: x kB", b"MemFree: 1 kB", b"\xff"] {
            assert_eq!(total_and_free(bad), None);
        }
        assert!(memory().unwrap().0 > 0);
    }
}
