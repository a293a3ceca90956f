//! Whether a signed document is the newest, or one that somebody kept to hold a machine back.
//!
//! A signature says who wrote a document, not when. Two fields do: a serial number that only
//! rises, and a time after which the document is void. What was seen of them is remembered, and
//! raised only by documents that passed every check; a document that lacks what earlier ones had
//! is refused.

use std::collections::BTreeMap;

use banger_model::Timestamp;
use thiserror::Error;

use crate::key::{KeyId, KeySet};
use crate::time::show_time;
use crate::verified::SignedBy;

/// What a signed document says about its own age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Rises with every document of its kind.
    pub serial: Option<u64>,
    /// From then on it is void.
    pub expires: Option<Timestamp>,
}

/// What was seen of a key's documents of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    serial: Option<u64>,
    expires: bool,
}

/// What was seen of the documents of one kind, for each key that signed any.
///
/// A key that is not trusted any more takes what it signed with it: that is the way out when a
/// far too large serial was signed by mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SerialFloor(BTreeMap<KeyId, Seen>);

/// Why a document is not the newest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Stale {
    /// It is void.
    #[error(
        "it expired at {}, and it is {} now: the server no longer renews it, or somebody replays \
         it", show_time(*at), show_time(*now)
    )]
    Expired {
        /// When it became void.
        at: Timestamp,
        /// The time that was assumed.
        now: Timestamp,
    },
    /// A later one was seen.
    #[error("its serial {serial} is lower than {seen}, which was seen before: somebody replays it")]
    Replayed {
        /// Its own.
        serial: u64,
        /// The highest.
        seen: u64,
    },
    /// It has no serial any more.
    #[error("it has no serial, and one with serial {seen} was seen before")]
    SerialMissing {
        /// The highest.
        seen: u64,
    },
    /// It has no expiry any more.
    #[error("it does not expire, and earlier ones did")]
    ExpiryMissing,
}

impl SerialFloor {
    /// Whether a document may be the newest. The floors of all keys that are still trusted count.
    ///
    /// # Errors
    /// When it cannot.
    pub fn judge(&self, keys: &KeySet, document: Freshness, now: Timestamp) -> Result<(), Stale> {
        let known = || keys.iter().filter_map(|key| self.0.get(&key.id()));
        if let Some(at) = document.expires.filter(|at| *at <= now) {
            return Err(Stale::Expired { at, now });
        }
        if document.expires.is_none() && known().any(|seen| seen.expires) {
            return Err(Stale::ExpiryMissing);
        }
        match (known().filter_map(|seen| seen.serial).max(), document.serial) {
            (Some(seen), None) => Err(Stale::SerialMissing { seen }),
            (Some(seen), Some(serial)) if serial < seen => Err(Stale::Replayed { serial, seen }),
            _ => Ok(()),
        }
    }

    /// With a document that passed every check.
    #[must_use]
    pub fn raised(mut self, by: &SignedBy, document: Freshness) -> Self {
        if let SignedBy::Key(key) = by {
            let seen = self.0.entry(key.clone()).or_default();
            seen.serial = seen.serial.max(document.serial);
            seen.expires |= document.expires.is_some();
        }
        self
    }

    /// Without what keys have signed that are no longer trusted.
    #[must_use]
    pub fn of_only(mut self, keys: &KeySet) -> Self {
        self.0.retain(|id, _| keys.get(id).is_some());
        self
    }

    /// For keeping: the key, its highest serial, and whether its documents expired.
    pub fn entries(&self) -> impl Iterator<Item = (&KeyId, Option<u64>, bool)> {
        self.0.iter().map(|(key, seen)| (key, seen.serial, seen.expires))
    }

    /// As it was kept.
    pub fn from_entries(kept: impl IntoIterator<Item = (KeyId, Option<u64>, bool)>) -> Self {
        let seen = |(key, serial, expires)| (key, Seen { serial, expires });
        Self(kept.into_iter().map(seen).collect())
    }
}

/// The time that is assumed when documents expire: a machine's clock may stand anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// No later than this program was made.
    pub built: Timestamp,
    /// The latest time that a signed document made plausible.
    pub last_good: Timestamp,
}

impl Clock {
    /// The latest of all that is known; a clock that was set back does not revive documents.
    pub fn now(self, system: Timestamp) -> Timestamp {
        system.max(self.built).max(self.last_good)
    }

    /// With a document that was believed at this time. The time is remembered only up to the
    /// document's expiry: whoever sets the clock far ahead finds nothing that is valid then, and
    /// cannot spoil the floor for ever.
    #[must_use]
    pub fn learned(self, document: Freshness, now: Timestamp) -> Self {
        match document.expires {
            Some(expires) if now < expires => Self { last_good: self.last_good.max(now), ..self },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PublicKey, SecretKey};

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn keys(seeds: &[u8]) -> KeySet {
        KeySet::new(seeds.iter().map(|seed| key(*seed))).unwrap()
    }

    fn fresh(serial: impl Into<Option<u64>>, expires: impl Into<Option<u64>>) -> Freshness {
        Freshness { serial: serial.into(), expires: expires.into().map(Timestamp) }
    }

    const NOW: Timestamp = Timestamp(1000);

    #[test]
    fn t08_a_document_that_expired_is_refused_and_from_then_on_all_have_to_expire() {
        let floor = SerialFloor::default();
        let judge = |floor: &SerialFloor, doc| floor.judge(&keys(&[1]), doc, NOW);
        assert_eq!(judge(&floor, fresh(None, None)), Ok(()));
        assert_eq!(judge(&floor, fresh(None, 1001)), Ok(()));
        let expired = Stale::Expired { at: NOW, now: NOW };
        assert_eq!(judge(&floor, fresh(None, 1000)), Err(expired));
        let floor = floor.raised(&SignedBy::Key(key(1).id()), fresh(None, 1001));
        assert_eq!(judge(&floor, fresh(5, None)), Err(Stale::ExpiryMissing));
    }

    #[test]
    fn t09_a_lower_serial_or_none_is_refused() {
        let by = SignedBy::Key(key(1).id());
        let floor = SerialFloor::default().raised(&by, fresh(7, None)).raised(&by, fresh(3, None));
        let judge = |doc| floor.judge(&keys(&[1]), doc, NOW);
        assert_eq!(judge(fresh(7, None)), Ok(()));
        assert_eq!(judge(fresh(8, None)), Ok(()));
        assert_eq!(judge(fresh(6, None)), Err(Stale::Replayed { serial: 6, seen: 7 }));
        assert_eq!(judge(fresh(None, None)), Err(Stale::SerialMissing { seen: 7 }));
        let again = SerialFloor::from_entries(
            floor.entries().map(|(key, serial, expires)| (key.clone(), serial, expires)),
        );
        assert_eq!(again, floor);
    }

    #[test]
    fn t10_a_serial_signed_by_mistake_goes_with_its_key_and_only_with_it() {
        let by = SignedBy::Key(key(1).id());
        let floor = SerialFloor::default().raised(&by, fresh(u64::MAX, 2000));
        let next = fresh(8, 2000);
        let seen = u64::MAX;
        let refused = Err(Stale::Replayed { serial: 8, seen });
        assert_eq!(floor.judge(&keys(&[1, 2]), next, NOW), refused, "while the key is trusted");
        assert_eq!(floor.judge(&keys(&[2]), next, NOW), Ok(()));
        assert_eq!(floor.of_only(&keys(&[2])), SerialFloor::default());
        let nobody = SerialFloor::default().raised(&SignedBy::NobodyAsInsisted, fresh(9, None));
        assert_eq!(nobody, SerialFloor::default(), "what nobody signed raises nothing");
    }

    #[test]
    fn t17_a_clock_set_back_revives_nothing_and_one_far_ahead_spoils_nothing() {
        let clock = Clock { built: Timestamp(500), last_good: Timestamp(0) };
        assert_eq!(clock.now(Timestamp(0)), Timestamp(500), "a clock that stands in 1970");
        let learned = clock.learned(fresh(None, 2000), NOW);
        assert_eq!(learned.now(Timestamp(0)), NOW, "set back");
        assert_eq!(learned.now(Timestamp(1500)), Timestamp(1500));
        for far in [fresh(None, 2000), fresh(None, None)] {
            assert_eq!(learned.learned(far, Timestamp(u64::MAX)), learned);
        }
    }
}
