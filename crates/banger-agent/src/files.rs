//! Reading and writing small files, each with a bound.
//!
//! Nearly everything the kernel tells and is told goes through files of a few bytes. The rest of
//! what the agent reads belongs to the image and is hostile: without a bound, an `/etc/passwd`
//! that never ends would end the guest.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Longest file of sysfs or procfs that the agent reads.
pub(crate) const SMALL: u64 = 4096;

/// The contents of a file of at most `limit` bytes.
///
/// # Errors
/// `FileTooLarge` beyond the limit, `InvalidInput` for what is no regular file (a pipe in the
/// image would otherwise hold the agent for ever), and what `open` and `read` say.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= limit) {
        Ok(bytes)
    } else {
        Err(io::Error::from(io::ErrorKind::FileTooLarge))
    }
}

/// The text of a small file of the kernel, without the newline that ends it.
///
/// # Errors
/// As [`read_bounded`]; `InvalidData` when it is not UTF-8.
pub(crate) fn read_line(path: &Path) -> io::Result<String> {
    let bytes = read_bounded(path, SMALL)?;
    let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Writes a value into a file of the kernel that exists.
///
/// # Errors
/// What `open` and `write` say.
pub(crate) fn set(path: &Path, value: &[u8]) -> io::Result<()> {
    // What somebody has put in its place may be a pipe, which nobody reads from.
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    file?.write_all(value)
}
