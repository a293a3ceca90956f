//! Whether a sandbox is of use to anybody.

use std::time::Duration;

use banger_link::ProcessInfo;
use banger_model::{Span, Timestamp};

use super::health::is_check;
use crate::machine::Live;
use crate::stats;

use super::view::Activity;

/// Looks within one idle timeout: it may be overrun by the time between two.
const LOOKS: u64 = 4;
/// Shortest time between two looks.
const SHORTEST: Span = Span::from_secs(1);
/// Longest time between two looks.
const LONGEST: Span = Span::from_secs(60);
/// A machine that uses more of a processor than this, in per cent, does something. An idle one
/// was measured to use less than one.
const BUSY_PERCENT: u64 = 5;

/// Looks at a sandbox from time to time, if it is not to be idle for too long.
#[derive(Debug)]
pub(super) struct Watch {
    timeout: Option<Span>,
    last_look: Option<(Timestamp, u64)>,
}

impl Watch {
    pub(super) fn new(timeout: Option<Span>) -> Self {
        Self { timeout, last_look: None }
    }

    fn interval(&self) -> Option<Span> {
        let timeout = self.timeout?;
        let interval = Span::from_millis(timeout.as_millis() / LOOKS);
        Some(interval.clamp(SHORTEST, LONGEST))
    }

    /// How long until the next look.
    pub(super) fn next(&self, now: Timestamp) -> Option<Duration> {
        let interval = self.interval()?;
        let Some((last, _)) = self.last_look else { return Some(Duration::ZERO) };
        Some(last.after(interval).since(now).as_duration())
    }

    /// Looks, if it is time to, and tells whether the sandbox was idle for too long.
    pub(super) async fn is_over(
        &mut self,
        now: Timestamp,
        live: &Live,
        activity: &Activity,
    ) -> bool {
        let Some(timeout) = self.timeout else { return false };
        if self.next(now) != Some(Duration::ZERO) {
            return false;
        }
        let cpu_ms = stats::cpu_ms(live.machine.identity()).unwrap_or(0);
        let before = self.last_look.replace((now, cpu_ms));
        let worked = before.is_none_or(|(then, cpu_then)| {
            let passed = now.since(then).as_millis();
            cpu_ms.saturating_sub(cpu_then) * 100 > passed * BUSY_PERCENT
        });
        if worked || activity.is_attached() || runs_something(live).await {
            activity.touch();
        }
        now.since(activity.last()) >= timeout
    }
}

/// Whether a process runs that was started from outside. A guest that does not say is taken to.
async fn runs_something(live: &Live) -> bool {
    match tokio::time::timeout(stats::GUEST_PATIENCE, live.link.list()).await {
        Ok(Ok(processes)) => {
            let is_use = |it: &ProcessInfo| it.end.is_none() && !is_check(it.process);
            processes.iter().any(is_use)
        }
        _ => true,
    }
}
