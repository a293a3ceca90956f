//! How long work tells what it is doing, without knowing who listens.

/// A listener to the progress of one piece of work.
pub trait Progress: Send + Sync {
    /// A new stage begins, such as "downloading the kernel". It ends the stage before.
    fn stage(&self, what: &str);
    /// So much of the current stage is done; the whole is given where it is known.
    fn advance(&self, done: u64, whole: Option<u64>);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _what: &str) {}
    fn advance(&self, _done: u64, _whole: Option<u64>) {}
}
