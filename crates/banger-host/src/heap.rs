//! What this process's allocator keeps although nobody uses it any more.
#![expect(unsafe_code, reason = "the allocator's own functions have no safe wrapper")]

/// Gives memory that was freed back to the system. The allocator of the GNU C library keeps it for
/// later, below what is still in use and apart for each few threads; after work that took much, a
/// process that goes on for weeks would keep all of that.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time, and touches only what is free.
    // JUSTIFICATION: see the module.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;
    use crate::fs::read_text;
    use std::path::Path;

    /// Memory of this process that is no file's, in KiB.
    fn resident() -> u64 {
        let status = read_text(Path::new("/proc/self/status"), 64 * 1024).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_was_freed_below_something_in_use_is_given_back() {
        let mut pieces: Vec<_> = (0..64 * 1024).map(|_| vec![1u8; 1024]).collect();
        let last = pieces.pop();
        drop(pieces);
        let before = resident();
        give_back();
        let after = resident();
        assert!(after + 32 * 1024 < before, "{before} KiB before, {after} after");
        drop(last);
    }
}
