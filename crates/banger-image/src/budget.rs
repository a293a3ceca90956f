//! An amount that several threads take of, and never more than there is.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is left.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

/// There is less than was to be taken; nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded;

impl Budget {
    pub(crate) fn of(whole: u64) -> Self {
        Self(AtomicU64::new(whole))
    }

    pub(crate) fn take(&self, amount: u64) -> Result<(), Exceeded> {
        let less = |left: u64| left.checked_sub(amount);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.map(drop).map_err(|_| Exceeded)
    }
}
