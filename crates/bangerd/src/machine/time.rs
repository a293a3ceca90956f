//! A guest's wall clock beside the host's: how wrong it is, and how it gets right.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use banger_host::clock;
use banger_link::{Reply, Request};
use tokio::time::timeout;

use crate::link::Link;

/// How often a guest is asked what time it is: the quickest answer tells most.
const ASKED: usize = 4;
/// Less than this is not worth moving a clock for.
const TOLERANCE: Duration = Duration::from_millis(5);
/// How long a guest may take to tell the time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a guest told, in nanoseconds since 1970, between two looks at the host's clock.
#[derive(Clone, Copy, Debug)]
struct Told {
    before: u64,
    guest: u64,
    after: u64,
}

impl Told {
    /// How much longer than no time at all the answer took: the guest may be wrong by half of it.
    fn doubt(self) -> u64 {
        self.after.saturating_sub(self.before)
    }
}

/// By how much the clock is to be moved, in nanoseconds, so that it is right as far as these
/// answers tell.
fn correction(told: &[Told]) -> Option<i64> {
    let best = told.iter().min_by_key(|told| told.doubt())?;
    let right = best.before + best.doubt() / 2;
    let off = i128::from(right) - i128::from(best.guest);
    let sure = off.unsigned_abs() > u128::from(best.doubt() / 2) + TOLERANCE.as_nanos();
    sure.then(|| i64::try_from(off).unwrap_or(if off < 0 { i64::MIN } else { i64::MAX }))
}

/// Asks a guest what time it is, and moves its clock where that is wrong; returns by how much, in
/// nanoseconds.
///
/// # Errors
/// When it does not answer, or its clock cannot be moved.
pub(crate) async fn correct(link: &Link) -> Result<Option<i64>> {
    let mut told = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let (before, begin) = (clock::wall_ns(), Instant::now());
        let guest = ask(link, 0).await?;
        let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        told.push(Told { before, guest, after: before.saturating_add(took) });
    }
    let correction = correction(&told);
    if let Some(by) = correction {
        ask(link, by).await?;
    }
    Ok(correction)
}

async fn ask(link: &Link, adjust_ns: i64) -> Result<u64> {
    match timeout(PATIENCE, link.request(Request::Clock { adjust_ns })).await?? {
        Reply::Clock { wall_clock_ns } => Ok(wall_clock_ns),
        other => bail!("asked for the time, it said {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn told(guest_ms: u64, took_ms: u64) -> Told {
        Told { before: 1000 * MS, guest: guest_ms * MS, after: (1000 + took_ms) * MS }
    }

    #[test]
    fn a_clock_is_moved_only_when_it_is_surely_wrong() {
        assert_eq!(correction(&[]), None);
        assert_eq!(correction(&[told(1001, 2)]), None);
        assert_eq!(correction(&[told(1030, 60)]), None, "it may be right");
        assert_eq!(correction(&[told(1060, 60)]), None, "it may just be");
        assert_eq!(correction(&[told(1101, 2)]), Some(-100 * 1_000_000));
        assert_eq!(correction(&[told(901, 2)]), Some(100 * 1_000_000));
        assert_eq!(correction(&[told(5000, 900), told(1001, 2)]), None, "the quickest counts");
    }

    #[test]
    fn a_clock_may_say_anything() {
        for guest in [0, u64::MAX] {
            let told = Told { before: u64::MAX - 1, guest, after: 3 };
            assert!(correction(&[told]).is_some() || guest == u64::MAX);
        }
    }
}
