//! Unix sockets, reached whatever the length of their path.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::error::{AtPath as _, HostError, Result};

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
    UnixStream::connect(short_path(&dir, path)).at("connect to", path)
}

/// Connects as [`connect`] does, but never waits for a listener that is busy: that one is an
/// error of the kind [`std::io::ErrorKind::WouldBlock`].
///
/// The stream is left in non-blocking mode.
///
/// # Errors
/// When nobody listens there, or the listener's queue is full.
pub fn connect_now(path: &Path) -> Result<UnixStream> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let dir = File::open(parent).at("open", parent)?;
    let address = SocketAddrUnix::new(short_path(&dir, path)).at("connect to", path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .at("make a socket for", path)?;
    rustix::net::connect(&socket, &address).at("connect to", path)?;
    Ok(socket.into())
}

/// A listening socket at `path`, replacing one that a dead process left there. Who holds it may
/// hand it to a program before that is ready to serve: clients can connect already.
///
/// # Errors
/// When the path cannot be used.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    crate::fs::remove_all(path)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let dir = File::open(parent).at("open", parent)?;
    let listener = UnixListener::bind(short_path(&dir, path)).at("listen at", path)?;
    Ok(listener.into())
}

/// As [`listen`], for this user alone, in a directory that is this user's alone.
///
/// # Errors
/// When the path cannot be used.
pub fn listen_private(path: &Path) -> Result<OwnedFd> {
    crate::fs::ensure_private_dir(path.parent().unwrap_or(Path::new("/")))?;
    let socket = listen(path)?;
    // The directory is this user's alone: nobody else has connected in between.
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600)).at("protect", path)?;
    Ok(socket)
}

/// The path of a socket as seen through its directory's descriptor: short, however deep it is.
fn short_path(dir: &File, path: &Path) -> PathBuf {
    let mut short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    short.push(path.file_name().unwrap_or_default());
    short
}

/// Two connected sockets without a path.
///
/// # Errors
/// When the process has too many open files.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (a, b) =
        UnixStream::pair().map_err(|error| HostError::system("make a socket pair", error))?;
    Ok((a.into(), b.into()))
}

/// How many bytes of buffers may wait in a socket to be received by its peer: `SO_SNDBUF` as
/// Linux counts it (socket(7)).
///
/// # Errors
/// When the descriptor is no socket.
pub fn send_buffer_len(socket: impl AsFd) -> Result<usize> {
    rustix::net::sockopt::socket_send_buffer_size(socket)
        .map_err(|error| HostError::system("ask for a socket's send buffer", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_can_be_reached_before_it_serves_and_after_its_predecessor_died() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(120)).join("s");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        // Closed alone, it would be held on by a program of another test that is just started.
        let died = listen(&path).unwrap();
        rustix::net::shutdown(&died, rustix::net::Shutdown::Both).unwrap();
        drop(died);
        assert!(connect_now(&path).is_err(), "the path is there, but nobody listens");
        let _listener = listen(&path).unwrap();
        connect_now(&path).unwrap();
    }

    #[test]
    fn a_busy_listener_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = listen(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = connect_now(&path).unwrap();
        let error = connect_now(&path).unwrap_err();
        assert_eq!(error.io_kind(), Some(std::io::ErrorKind::WouldBlock));
    }

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

    #[test]
    fn a_socket_has_a_send_buffer_and_a_file_has_none() {
        assert!(send_buffer_len(pair().unwrap().0).unwrap() > 0);
        assert!(send_buffer_len(File::open("/").unwrap()).is_err());
    }
}
