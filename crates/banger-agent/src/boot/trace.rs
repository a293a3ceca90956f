//! Where the time of a boot goes, on the console, for whoever asks with `banger.trace`.

use rustix::time::{ClockId, clock_gettime};

use super::cmdline::Trace;
use crate::console;

/// Microseconds since the kernel started its clock.
pub(crate) fn since_boot_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    u64::try_from(micros).unwrap_or(0)
}

/// The steps of a boot as they end.
#[derive(Debug)]
pub(crate) struct Timeline {
    trace: Trace,
    last_us: u64,
}

impl Timeline {
    pub(super) fn new(trace: Trace) -> Self {
        Self { trace, last_us: 0 }
    }

    /// A step has ended. What the line itself costs is not counted to the next one.
    pub(crate) fn mark(&mut self, step: &str) {
        if self.trace == Trace::On {
            let now = since_boot_us();
            console::say(&format!("{now:>9} us  +{:>7}  {step}", now - self.last_us));
            self.last_us = since_boot_us();
        }
    }
}
