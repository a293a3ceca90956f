//! A release that reaches more machines from hour to hour.

use banger_model::Timestamp;

use crate::digest::Sha256Digest;
use crate::version::Version;

/// Shares are counted in parts of this.
const WHOLE: u64 = 10_000;
const HOUR_MS: u128 = 3_600_000;

/// What part of all machines a release is for, and from when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Nobody takes it before.
    pub start: Timestamp,
    /// Hours until the whole of the share may take it, growing evenly; 0 is at once.
    pub hours: u32,
    /// The share in per cent, at most 100.
    pub percent: u8,
}

/// A machine's place in the order in which a release reaches all: another one for each version,
/// so that it is not always the same machines that go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolloutSeed(u64);

impl RolloutSeed {
    /// Of this machine for this version.
    pub fn new(machine_id: &[u8], version: &Version) -> Self {
        let mut bytes = machine_id.to_vec();
        bytes.push(0);
        bytes.extend_from_slice(version.to_string().as_bytes());
        let digest = Sha256Digest::of(&bytes);
        let (first, _) = digest.bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        // 2^64 is far larger than the number of places, so each of them is as likely.
        Self(u64::from_be_bytes(*first) % WHOLE)
    }
}

impl Rollout {
    /// Whether it is this machine's turn.
    pub fn admits(&self, seed: RolloutSeed, now: Timestamp) -> bool {
        let Some(passed) = now.0.checked_sub(self.start.0) else { return false };
        let share = u128::from(u64::from(self.percent.min(100)) * WHOLE / 100);
        let (passed, whole) = (u128::from(passed), u128::from(self.hours) * HOUR_MS);
        let grown = if passed >= whole { share } else { share * passed / whole };
        u128::from(seed.0) < grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn share(rollout: Rollout, hours: u64) -> usize {
        let now = Timestamp(START.0 + hours * 3_600_000);
        let version = "1.2.3".parse().unwrap();
        let seed = |machine: u32| RolloutSeed::new(&machine.to_be_bytes(), &version);
        (0..2000).filter(|machine| rollout.admits(seed(*machine), now)).count()
    }

    #[test]
    fn the_share_grows_evenly_and_ends_at_what_was_said() {
        let rollout = Rollout { start: START, hours: 10, percent: 50 };
        assert_eq!(share(rollout, 0), 0);
        assert!((400..600).contains(&share(rollout, 5)), "{}", share(rollout, 5));
        assert!((900..1100).contains(&share(rollout, 10)));
        assert_eq!(share(rollout, 10), share(rollout, 10_000));
    }

    #[test]
    fn nobody_before_the_start_and_everybody_at_a_hundred_per_cent() {
        let rollout = Rollout { start: START, hours: 0, percent: 100 };
        assert_eq!(share(rollout, 0), 2000);
        let seed = RolloutSeed(0);
        assert!(!rollout.admits(seed, Timestamp(START.0 - 1)));
        assert!(!Rollout { percent: 0, ..rollout }.admits(seed, START));
        let endless = Rollout { start: Timestamp(0), hours: u32::MAX, percent: 100 };
        assert!(endless.admits(seed, Timestamp(u64::MAX)), "nothing overflows");
    }

    #[test]
    fn the_order_differs_from_version_to_version() {
        let seed = |version: &str| RolloutSeed::new(b"machine", &version.parse().unwrap());
        assert_ne!(seed("1.0.0"), seed("1.0.1"));
        assert_eq!(seed("1.0.0"), seed("v1.0.0"));
    }
}
