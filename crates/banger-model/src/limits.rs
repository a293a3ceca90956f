//! Every bound that more than one part of banger has to agree on, in one place.

use crate::size::Bytes;

use thiserror::Error;

/// Bounds on what a user may ask for. Values outside are refused while parsing.
#[derive(Debug)]
pub struct Limits;

impl Limits {
    /// Most virtual CPUs of one sandbox.
    pub const MAX_CPUS: u16 = 64;
    /// Least memory that a Debian kernel, the agent and a shell start in.
    pub const MIN_MEMORY: Bytes = Bytes::mib(96);
    /// Most memory of one sandbox.
    pub const MAX_MEMORY: Bytes = Bytes::gib(1024);
    /// Smallest writable disk: its file system's own structures and a little room.
    pub const MIN_DISK: Bytes = Bytes::mib(64);
    /// Largest writable disk. The file is sparse: this bounds only what a guest may fill.
    pub const MAX_DISK: Bytes = Bytes::gib(4096);
    /// Longest name of a sandbox, an image or a kernel, in bytes. A name must fit a DNS label.
    pub const MAX_NAME_LEN: usize = 63;
    /// Most labels of one sandbox.
    pub const MAX_LABELS: usize = 64;
    /// Longest key of a label, in bytes.
    pub const MAX_LABEL_KEY_LEN: usize = 63;
    /// Longest value of a label, in bytes.
    pub const MAX_LABEL_VALUE_LEN: usize = 255;
    /// Most sandboxes of one owner, running or not.
    pub const MAX_SANDBOXES: usize = 4096;
    /// Most copies that one fork makes: what a host of some size starts at once.
    pub const MAX_FORKS: u16 = 64;
    /// Bytes that arguments and environment of one command may take together: what Linux itself
    /// accepts with its default stack limit (execve(2), "Limits on size of arguments").
    pub const MAX_ARGS_LEN: usize = 2 * 1024 * 1024;
    /// Longest single argument, as Linux has it (`MAX_ARG_STRLEN`).
    pub const MAX_ARG_LEN: usize = 128 * 1024;

    /// Refuses the arguments of a command, its program first, that no Linux would take.
    ///
    /// # Errors
    /// [`ArgsError`].
    pub fn check_args<'a>(args: impl IntoIterator<Item = &'a [u8]>) -> Result<(), ArgsError> {
        let (mut total, mut first) = (0usize, true);
        for arg in args {
            if std::mem::take(&mut first) && arg.is_empty() {
                return Err(ArgsError::NoName);
            }
            total = total.saturating_add(arg.len() + 1);
            if arg.len() >= Self::MAX_ARG_LEN || total > Self::MAX_ARGS_LEN {
                return Err(ArgsError::TooLong);
            }
        }
        Ok(())
    }
}

/// Why a command's arguments cannot be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ArgsError {
    /// Its program has no name.
    #[error("the command's name is empty")]
    NoName,
    /// More than Linux takes.
    #[error(
        "the command's arguments are too long: {max} bytes at most, {one} for one",
        max = Limits::MAX_ARGS_LEN,
        one = Limits::MAX_ARG_LEN
    )]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_bounded_as_linux_bounds_them() {
        assert_eq!(Limits::check_args([]), Ok(()));
        assert_eq!(Limits::check_args([&b"ls"[..], b""]), Ok(()));
        assert_eq!(Limits::check_args([&b""[..]]), Err(ArgsError::NoName));
        let long = vec![b'x'; Limits::MAX_ARG_LEN];
        assert_eq!(Limits::check_args([&b"ls"[..], &long]), Err(ArgsError::TooLong));
        let fits = &long[1..];
        assert_eq!(Limits::check_args([fits; 16]), Ok(()));
        assert_eq!(Limits::check_args([fits; 17]), Err(ArgsError::TooLong));
    }
}
