//! Random bytes from the kernel.

use crate::error::{HostError, Result};

/// `N` bytes that nobody can predict.
///
/// # Errors
/// When the kernel has no random source.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| HostError::system("get random bytes", std::io::Error::other(error)))?;
    Ok(bytes)
}
