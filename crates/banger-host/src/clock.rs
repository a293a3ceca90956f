//! The time, in the two senses in which programs need it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since 1970 by the wall clock; zero if the clock stands before that.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in nanoseconds, as guests are told.
pub fn wall_ns() -> u64 {
    u64::try_from(wall().as_nanos()).unwrap_or(u64::MAX)
}

/// A moment after which something counts as late.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `duration` from now.
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    /// What is left until then; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}
