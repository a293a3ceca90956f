//! Unix sockets, reached whatever the length of their path.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::error::{AtPath as _, Result};

/// Connects to the socket at `path`.
///
/// A socket's address holds 107 bytes of path (unix(7)); a socket in a deep directory is reached
/// through that directory's descriptor instead.
///
/// # Errors
/// When nobody listens there.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let dir = File::open(parent).at("open", parent)?;
    let mut short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    short.push(path.file_name().unwrap_or_default());
    UnixStream::connect(short).at("connect to", path)
}

/// Two connected sockets without a path.
///
/// # Errors
/// When the process has too many open files.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (a, b) = UnixStream::pair()
        .map_err(|error| crate::error::HostError::system("make a socket pair", error))?;
    Ok((a.into(), b.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_in_a_deep_directory_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let handle = File::open(&deep).unwrap();
        let _listener =
            UnixListener::bind(format!("/proc/self/fd/{}/s", handle.as_raw_fd())).unwrap();
        connect(&deep.join("s")).unwrap();
        assert!(connect(&deep.join("none")).unwrap_err().is_not_found());
    }
}
