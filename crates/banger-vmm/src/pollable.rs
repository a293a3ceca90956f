//! Descriptors that tokio tells readable.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A copy of a descriptor that can be waited for without a thread.
///
/// # Errors
/// When there are no descriptors left.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that could change their descriptor; OwnedFd cannot"
)]
pub fn pollable(fd: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd.as_fd().try_clone_to_owned()?, Interest::READABLE)
}
