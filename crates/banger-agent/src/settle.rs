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
/// fills in so short a time.
const RESERVE: u64 = 24 * 1024 * 1024;
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
    while free_memory()? > RESERVE + STEP {
        // The kernel clears every page of it, and frees it all when the file is closed.
        if fallocate(&taken, FallocateFlags::empty(), at, STEP).is_err() {
            break;
        }
        at += STEP;
    }
    Ok(())
}

/// Bytes of memory that nothing uses.
fn free_memory() -> io::Result<u64> {
    let text = read_bounded(Path::new("/proc/meminfo"), MAX_MEMINFO_LEN)?;
    free_of(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn free_of(meminfo: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(meminfo).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_with_care() {
        assert_eq!(free_of(b"MemTotal: 9 kB\nMemFree:         12 kB\n"), Some(12 * 1024));
        for bad in [&b""[..], b"MemFree: x kB", b"MemFree: 1", b"\xff"] {
            assert_eq!(free_of(bad), None);
        }
        assert!(free_memory().unwrap() > 0);
    }
}
