//! Whether there is room before work begins: one clear sentence instead of a failure halfway.

use std::path::{Path, PathBuf};

use banger_host::fs::free_space;
use banger_model::Bytes;
use thiserror::Error;

/// A file system with too little room.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no space left on {}: {what} needs about {needs}, and {free} are free", dir.display())]
pub struct NoSpace {
    /// A directory on the file system.
    pub dir: PathBuf,
    /// What was to be made there.
    pub what: &'static str,
    /// What that takes.
    pub needs: Bytes,
    /// What is there.
    pub free: Bytes,
}

/// Asks for room on the file system of `dir`. One that cannot be asked counts as roomy.
pub(crate) fn require_space(dir: &Path, what: &'static str, needs: Bytes) -> Result<(), NoSpace> {
    match free_space(dir) {
        Ok(free) if free < needs => Err(NoSpace { dir: dir.to_owned(), what, needs, free }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_one_sentence() {
        let dir = Path::new("/");
        assert!(require_space(dir, "an image", Bytes::new(1)).is_ok());
        let error = require_space(dir, "an image", Bytes::new(u64::MAX)).unwrap_err();
        assert!(error.to_string().starts_with("no space left on /: an image needs about 1677721"));
    }
}
