//! How long somebody wants what is being made.

use std::sync::atomic::{AtomicBool, Ordering};

/// Until a flag is set by somebody else; by default to the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Until<'a>(Option<&'a AtomicBool>);

impl<'a> Until<'a> {
    /// Until this is true.
    pub fn set(called_off: &'a AtomicBool) -> Self {
        Self(Some(called_off))
    }

    /// Whether nobody wants it any more.
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|called_off| called_off.load(Ordering::Relaxed))
    }
}
