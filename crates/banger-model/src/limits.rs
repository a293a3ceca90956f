//! Every bound that more than one part of banger has to agree on, in one place.

use crate::size::Bytes;

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
    /// Bytes that arguments and environment of one command may take together: what Linux itself
    /// accepts with its default stack limit (execve(2), "Limits on size of arguments").
    pub const MAX_ARGS_LEN: usize = 2 * 1024 * 1024;
    /// Longest single argument, as Linux has it (`MAX_ARG_STRLEN`).
    pub const MAX_ARG_LEN: usize = 128 * 1024;
}
