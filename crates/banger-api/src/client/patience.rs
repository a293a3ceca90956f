//! How long and how often something is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// How long a daemon may be away: an update with a slow disk takes seconds, and nobody waits
/// longer than this before a line that does not move.
pub(crate) const MAX_AWAY: Duration = Duration::from_secs(60);
/// A connection that lasted this long was a good one: what comes next is a new interruption.
const GOOD: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(10);
/// Restarts are noticed within this.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// What is left of the patience in one interruption.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Option<Instant>,
    delay: Duration,
    good_since: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { until: None, delay: Duration::ZERO, good_since: None }
    }
}

impl Patience {
    /// There is a connection.
    pub(crate) fn connected(&mut self) {
        self.good_since = Some(Instant::now());
    }

    /// Something was got from it that brings the work forward.
    pub(crate) fn progress(&mut self) {
        *self = Self { good_since: self.good_since, ..Self::default() };
    }

    /// Waits before the next attempt; false when there is no use in one.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.good_since.take().is_some_and(|since| since.elapsed() >= GOOD) {
            self.progress();
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + MAX_AWAY);
        let next = Instant::now() + self.delay;
        if next > until {
            return false;
        }
        // The first attempt is made at once: a daemon that was only replaced is there already.
        self.delay = (self.delay * 2).clamp(FIRST_DELAY, MAX_DELAY);
        tokio::time::sleep_until(next).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_its_attempts_are_few() {
        let (mut patience, begun, mut attempts) = (Patience::default(), Instant::now(), 0);
        while patience.wait().await {
            attempts += 1;
        }
        assert!(attempts > 10 && attempts < 100, "{attempts}");
        assert!(begun.elapsed() <= MAX_AWAY && begun.elapsed() > MAX_AWAY - 2 * MAX_DELAY);
        assert!(!patience.wait().await);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_break_at_once_do_not_renew_it_and_good_ones_do() {
        let (mut patience, begun) = (Patience::default(), Instant::now());
        while patience.wait().await {
            patience.connected();
        }
        assert!(begun.elapsed() <= MAX_AWAY);
        patience.connected();
        tokio::time::sleep(GOOD).await;
        assert!(patience.wait().await);
    }
}
