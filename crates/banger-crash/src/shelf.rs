//! What was asked of each snapshot, and what may have come of it. Pure.

use std::collections::BTreeMap;

use banger_model::OperationId;

use crate::book::Heard;
use crate::lives::Life;

/// One snapshot as far as its clients know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot {
    /// The sandbox that it is of, by its name.
    pub source: String,
    /// Whether it was there when nothing was under way the last time.
    pub was: Place,
    /// What is in its memory, as far as that is sure.
    pub life: Option<Life>,
    /// What was answered to whoever had it taken.
    pub taken: Heard,
    /// What was answered to those who wanted it to go.
    pub dropped: Vec<Heard>,
}

/// All snapshots by name. No name is used twice.
pub type Shelf = BTreeMap<String, Shot>;

/// Whether a snapshot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is, and whole.
    There,
    /// Nothing of it is.
    Nowhere,
}

/// What the operation that takes a snapshot came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CameTo {
    /// It is taken.
    Success,
    /// It is not.
    Nothing,
}

/// Where a snapshot may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayBe {
    /// Only there, or only nowhere.
    Only(Place),
    /// Both are right.
    Either,
}

impl Shot {
    /// One of this sandbox that is to be taken, and that nobody has heard of yet.
    pub fn of(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            was: Place::Nowhere,
            life: None,
            taken: Heard::No,
            dropped: Vec::new(),
        }
    }

    /// The operation that takes it, if that was promised.
    pub fn operation(&self) -> Option<&OperationId> {
        match &self.taken {
            Heard::Yes(operation) => operation.as_ref(),
            Heard::No | Heard::Nothing => None,
        }
    }

    /// Whether it may have been taken since the last look.
    pub fn asked_now(&self) -> bool {
        self.taken != Heard::No
    }

    /// Where it may be, if the operation that takes it came to this.
    pub fn may_be(&self, came_to: CameTo) -> MayBe {
        let dropped = |heard: fn(&Heard) -> bool| self.dropped.iter().any(heard);
        // What was said to be gone does not come back.
        if dropped(|heard| matches!(heard, Heard::Yes(_))) {
            return MayBe::Only(Place::Nowhere);
        }
        let taken = match (self.was, &self.taken, came_to) {
            (Place::There, ..) | (_, Heard::Yes(_), CameTo::Success) => MayBe::Only(Place::There),
            (_, Heard::Nothing, _) => MayBe::Either,
            (_, Heard::No, _) | (_, Heard::Yes(_), CameTo::Nothing) => MayBe::Only(Place::Nowhere),
        };
        match taken {
            MayBe::Only(Place::There) if dropped(|heard| *heard == Heard::Nothing) => MayBe::Either,
            taken => taken,
        }
    }
}

impl MayBe {
    /// Whether this is right.
    pub fn allows(self, place: Place) -> bool {
        match self {
            Self::Only(only) => only == place,
            Self::Either => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: Heard = Heard::Yes(None);

    fn shot(was: Place, taken: Heard, dropped: &[Heard]) -> Shot {
        Shot { was, taken, dropped: dropped.to_vec(), ..Shot::of("a") }
    }

    #[test]
    fn a_snapshot_is_there_when_its_operation_says_so_and_never_else() {
        use CameTo::{Nothing, Success};
        let new = |taken| shot(Place::Nowhere, taken, &[]);
        assert_eq!(new(YES).may_be(Success), MayBe::Only(Place::There));
        assert_eq!(new(YES).may_be(Nothing), MayBe::Only(Place::Nowhere));
        assert_eq!(new(Heard::No).may_be(Nothing), MayBe::Only(Place::Nowhere));
        assert_eq!(new(Heard::Nothing).may_be(Nothing), MayBe::Either);
    }

    #[test]
    fn what_was_there_stays_until_somebody_drops_it_and_does_not_come_back() {
        let old =
            |dropped: &[Heard]| shot(Place::There, Heard::No, dropped).may_be(CameTo::Nothing);
        assert_eq!(old(&[]), MayBe::Only(Place::There));
        assert_eq!(old(&[Heard::No]), MayBe::Only(Place::There));
        assert_eq!(old(&[Heard::Nothing]), MayBe::Either);
        assert_eq!(old(&[Heard::Nothing, YES]), MayBe::Only(Place::Nowhere));
        let new = shot(Place::Nowhere, YES, &[YES]);
        assert_eq!(new.may_be(CameTo::Success), MayBe::Only(Place::Nowhere));
        assert!(MayBe::Either.allows(Place::There) && !old(&[]).allows(Place::Nowhere));
    }
}
