//! When to try again: a pure rule.

use std::time::Duration;

/// Most attempts in a row that bring nothing.
pub(crate) const MAX_ATTEMPTS: u32 = 5;
/// Most attempts at one blob in all, however much each of them brings.
pub(crate) const MAX_RESUMES: u32 = 2000;

/// How long to wait before a repetition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackOff {
    /// Attempts in a row that bring nothing, the first included.
    pub(crate) attempts: u32,
    /// Before the first.
    pub(crate) base: Duration,
    /// Before any.
    pub(crate) max: Duration,
    /// What a registry may ask for at most.
    pub(crate) max_asked: Duration,
}

/// What to do after a failure that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Try again then.
    After(Duration),
    /// Give up.
    Never,
}

impl BackOff {
    /// After so many failures in a row, the first being 1. What the registry asked for goes
    /// before; `chance` is random, so that many who failed together do not come back together.
    pub(crate) fn after(self, failures: u32, asked: Option<Duration>, chance: u16) -> Again {
        if failures >= self.attempts || asked.is_some_and(|asked| asked > self.max_asked) {
            return Again::Never;
        }
        let doubled = self.base.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let whole = doubled.min(self.max);
        // From half of it to all of it.
        let part = whole.mul_f64(0.5 + f64::from(chance) / f64::from(u16::MAX) / 2.0);
        Again::After(asked.map_or(part, |asked| asked.max(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: BackOff = BackOff {
        attempts: MAX_ATTEMPTS,
        base: Duration::from_secs(1),
        max: Duration::from_secs(5),
        max_asked: Duration::from_secs(60),
    };

    fn seconds(failures: u32, asked: Option<u64>, chance: u16) -> Option<f64> {
        match RULE.after(failures, asked.map(Duration::from_secs), chance) {
            Again::After(wait) => Some(wait.as_secs_f64()),
            Again::Never => None,
        }
    }

    #[test]
    fn waits_grow_up_to_a_bound_and_end() {
        assert_eq!(seconds(1, None, u16::MAX), Some(1.0));
        assert_eq!(seconds(1, None, 0), Some(0.5));
        assert_eq!(seconds(2, None, u16::MAX), Some(2.0));
        assert_eq!(seconds(4, None, u16::MAX), Some(5.0));
        assert_eq!(seconds(5, None, 0), None);
    }

    #[test]
    fn what_a_registry_asks_for_is_done_unless_it_is_too_much() {
        assert_eq!(seconds(1, Some(30), 0), Some(30.0));
        assert_eq!(seconds(1, Some(0), u16::MAX), Some(1.0));
        assert_eq!(seconds(1, Some(61), 0), None);
    }
}
