//! Having the kernel's clock catch up by running faster or slower for a while.

use std::io;
use std::mem::MaybeUninit;

/// Has the clock move by this much, in microseconds, without ever jumping: half a millisecond in
/// each second (`adjtime(3)`). What was left of an earlier move is forgotten.
///
/// # Errors
/// What the kernel says; it takes root.
pub(crate) fn slew(by_us: i64) -> io::Result<()> {
    // SAFETY: all fields of a timex are numbers, for which zero bytes are valid.
    // JUSTIFICATION: the structure has private padding, so it cannot be written out.
    let mut timex: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    timex.modes = libc::ADJ_OFFSET_SINGLESHOT;
    timex.offset = by_us;
    // SAFETY: the argument is a timex of this process, which the call may read and write.
    // JUSTIFICATION: rustix has no form of this call.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
