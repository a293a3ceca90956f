//! Who asks for a sandbox is told that it is theirs before machines are made: that takes
//! milliseconds, and is all that the asker waits for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Longest that a start stands back: whoever asks without end holds nobody up.
const LONGEST: Duration = Duration::from_millis(50);

/// How many reservations are under way.
#[derive(Debug, Default)]
pub(crate) struct Reservations(watch::Sender<usize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Reservations);

impl Reservations {
    /// One more.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        // Nobody waits for more of them.
        self.0.send_if_modified(|under_way| {
            *under_way += 1;
            false
        });
        UnderWay(self)
    }

    /// Lets those that are under way go first.
    pub(crate) async fn go_first(&self) {
        let mut seen = self.0.subscribe();
        // The sender is in `self`: there is no error but lateness, and that is as good.
        let _ = timeout(LONGEST, seen.wait_for(|under_way| *under_way == 0)).await;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|under_way| {
            *under_way -= 1;
            *under_way == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_start_waits_for_reservations_but_not_for_ever() {
        let reservations = Reservations::default();
        reservations.go_first().await;
        let (first, second) = (reservations.begin(), reservations.begin());
        let mut start = pin!(reservations.go_first());
        assert!(timeout(Duration::ZERO, &mut start).await.is_err());
        drop(first);
        assert!(timeout(Duration::ZERO, &mut start).await.is_err());
        drop(second);
        assert!(timeout(Duration::ZERO, &mut start).await.is_ok());
        let (_endless, begun) = (reservations.begin(), Instant::now());
        reservations.go_first().await;
        assert!(begun.elapsed() >= LONGEST);
    }
}
