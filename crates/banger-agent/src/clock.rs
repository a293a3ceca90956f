//! The wall clock: set when the machine becomes somebody, and kept right as long as it runs.

use std::io;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::sys::adjust::slew;

/// A clock that is wrong by more than this is set; by less, it runs faster or slower until it is
/// right, so that nothing in the guest sees time jump.
const STEP_NS: u64 = 500_000_000;

/// Sets the clock, in nanoseconds since 1970.
///
/// # Errors
/// What the kernel says.
pub(crate) fn set(wall_clock_ns: u64) -> io::Result<()> {
    let seconds = i64::try_from(wall_clock_ns / 1_000_000_000).unwrap_or(i64::MAX);
    let nanoseconds = i64::try_from(wall_clock_ns % 1_000_000_000).unwrap_or(0);
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// Moves the clock by this much, and tells what it says now: nanoseconds since 1970.
///
/// # Errors
/// What the kernel says.
pub(crate) fn adjust(by_ns: i64) -> io::Result<u64> {
    if by_ns.unsigned_abs() > STEP_NS {
        set(now().saturating_add_signed(by_ns))?;
    } else if by_ns != 0 {
        slew(by_ns / 1000)?;
    }
    Ok(now())
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
