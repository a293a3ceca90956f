//! The fake of the agent's `files` module: what the target under test put here is what every
//! file of the image contains.

use std::cell::RefCell;
use std::io;
use std::path::Path;

thread_local! {
    static PASSWD_AND_GROUP: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Sets what `/etc/passwd` and `/etc/group` contain on this thread.
pub(crate) fn put(passwd: &[u8], group: &[u8]) {
    PASSWD_AND_GROUP.set((passwd.to_vec(), group.to_vec()));
}

/// Reads one of the two, as the agent's function of this name does.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (passwd, group) = PASSWD_AND_GROUP.with_borrow(Clone::clone);
    let bytes = if path.ends_with("passwd") { passwd } else { group };
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}
