//! What has to be in the memory of a sandbox that runs. Pure.
//!
//! Whoever asks a guest which life it is in hears the same from one boot to the next end of that
//! machine: through pauses, and in every copy. And it hears how often the guest has written, which
//! never becomes less as long as its disk is the same.

use std::str::FromStr;

use crate::book::{Book, Entry, Made, Rest, Wish};
use crate::shelf::Shelf;

/// What a guest says of its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Which life it is.
    pub id: String,
    /// How often it has written.
    pub written: u64,
}

/// What a guest says that looks whether its memory and its disk fit each other.
const FITS: &str = "fits";

impl FromStr for Life {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = line.trim().splitn(3, ' ');
        let life = words.next().zip(words.next().and_then(|written| written.parse().ok()));
        match (life, words.next()) {
            (Some((id, written)), Some(FITS)) => Ok(Self { id: id.to_owned(), written }),
            (_, wrong) => Err(wrong.unwrap_or(line).to_owned()),
        }
    }
}

/// What may be in the memory of a sandbox that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This life goes on.
    GoesOn(Life),
    /// Another than this: it was started anew.
    Another(Life),
    /// Nobody can tell.
    Anything,
}

impl Expected {
    /// What is wrong with this life, in a sentence.
    pub fn wrong(&self, is: &Life) -> Option<String> {
        match self {
            Self::GoesOn(life) if life.id != is.id => {
                Some(format!("has the memory of {is:?} and not of {life:?}"))
            }
            Self::GoesOn(life) if life.written > is.written => {
                Some(format!("has memory of before: {is:?}, where {life:?} was"))
            }
            Self::Another(life) if life.id == is.id => {
                Some(format!("was started anew, and has the memory of before: {is:?}"))
            }
            Self::Another(life) if life.written >= is.written => {
                Some(format!("has a disk of before: {is:?}, where {life:?} was"))
            }
            _ => None,
        }
    }
}

/// What has to be in the memory of the sandbox of this entry, which runs and has begun to start so
/// often.
pub fn expected(entry: &Entry, boots: u64, book: &Book, shelf: &Shelf) -> Expected {
    if entry.may_have_lost_memory() {
        // What was not saved is gone with its machine.
        let gone = entry.was == Rest::Running && !entry.may_have(&[Wish::Pause]);
        return match &entry.life {
            Some(life) if gone && boots > entry.boots => Expected::Another(life.clone()),
            _ => Expected::Anything,
        };
    }
    let life = match (&entry.made, entry.was) {
        (_, Rest::Running | Rest::Paused) => entry.life.clone(),
        (Made::Copy(source), Rest::Absent) => book.get(source).and_then(of_source),
        // It was made before, and never up: what it is made of is as it was then.
        (Made::Copy(_), _) => entry.life.clone(),
        (Made::FromSnapshot(name, banger_model::SnapshotPart::Machine), _) => {
            shelf.get(name).and_then(|shot| shot.life.clone())
        }
        _ => None,
    };
    life.map_or(Expected::Anything, Expected::GoesOn)
}

/// What is in every copy of a sandbox that is made since the last look, as far as that is sure.
pub fn of_source(source: &Entry) -> Option<Life> {
    let was_there = matches!(source.was, Rest::Running | Rest::Paused);
    source.life.clone().filter(|_| was_there && !source.may_have_lost_memory())
}

/// What is wrong with the disk of a sandbox in which this life is, in a sentence: it never says of
/// less than it did.
pub fn disk_wrong(entry: &Entry, is: &Life) -> Option<String> {
    let old = entry.disk.is_some() && is.written <= entry.flushed;
    old.then(|| format!("has a disk of before: {is:?}, where {} was written", entry.flushed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Afterwards, Heard};
    use crate::shelf::Shot;

    fn life(id: &str, written: u64) -> Life {
        Life { id: id.to_owned(), written }
    }

    fn entry(was: Rest, wish: Option<Wish>) -> Entry {
        let asked = wish.into_iter().map(|wish| (wish, Heard::Nothing)).collect();
        Entry {
            was,
            asked,
            boots: 1,
            life: Some(life("a", 5)),
            ..Entry::new(Afterwards::Stays, None)
        }
    }

    fn in_memory(entry: &Entry, boots: u64) -> Expected {
        expected(entry, boots, &Book::new(), &Shelf::new())
    }

    #[test]
    fn a_life_goes_on_until_its_machine_may_have_ended() {
        let goes_on = Expected::GoesOn(life("a", 5));
        for wish in [None, Some(Wish::Pause), Some(Wish::Resume), Some(Wish::Fork)] {
            assert_eq!(in_memory(&entry(Rest::Running, wish), 3), goes_on, "{wish:?}");
        }
        assert_eq!(in_memory(&entry(Rest::Paused, Some(Wish::Start)), 2), goes_on);
        let another = Expected::Another(life("a", 5));
        assert_eq!(in_memory(&entry(Rest::Running, Some(Wish::Restart)), 2), another);
        let restart = entry(Rest::Running, Some(Wish::Restart));
        assert_eq!(in_memory(&restart, 1), Expected::Anything);
        assert_eq!(in_memory(&entry(Rest::Paused, Some(Wish::Restart)), 2), Expected::Anything);
    }

    #[test]
    fn a_disk_does_not_go_back() {
        let disk = |disk, flushed| Entry { disk, flushed, ..entry(Rest::Stopped, None) };
        assert!(disk_wrong(&disk(Some(1), 5), &life("b", 5)).is_some());
        assert_eq!(disk_wrong(&disk(Some(1), 5), &life("b", 6)), None);
        assert_eq!(disk_wrong(&disk(None, 5), &life("b", 1)), None);
    }

    #[test]
    fn copies_have_the_memory_of_their_source() {
        let copy = |made| Entry { life: None, ..Entry::made(made) };
        let book = |wish| Book::from([("a".to_owned(), entry(Rest::Running, wish))]);
        let shot = Shot { life: Some(life("s", 1)), ..Shot::of("a") };
        let shelf = Shelf::from([("a@1".to_owned(), shot)]);
        let fork = copy(Made::Copy("a".into()));
        let goes_on = Expected::GoesOn(life("a", 5));
        assert_eq!(expected(&fork, 1, &book(Some(Wish::Fork)), &shelf), goes_on);
        let anything = Expected::Anything;
        assert_eq!(expected(&fork, 1, &book(Some(Wish::Kill)), &shelf), anything);
        let older = Entry { was: Rest::Stopped, life: Some(life("a", 2)), ..fork.clone() };
        let goes_on = Expected::GoesOn(life("a", 2));
        assert_eq!(expected(&older, 2, &book(Some(Wish::Kill)), &shelf), goes_on);
        let of = |part| copy(Made::FromSnapshot("a@1".into(), part));
        let machine = of(banger_model::SnapshotPart::Machine);
        let snapshot = Expected::GoesOn(life("s", 1));
        assert_eq!(expected(&machine, 1, &book(None), &shelf), snapshot);
        assert_eq!(
            expected(&of(banger_model::SnapshotPart::Disk), 1, &book(None), &shelf),
            anything
        );
    }

    #[test]
    fn what_is_wrong_is_said_and_what_is_right_is_not() {
        let goes_on = Expected::GoesOn(life("a", 5));
        assert_eq!(goes_on.wrong(&life("a", 5)), None);
        assert!(goes_on.wrong(&life("a", 4)).unwrap().contains("of before"));
        assert!(goes_on.wrong(&life("b", 9)).is_some());
        let another = Expected::Another(life("a", 5));
        assert!(another.wrong(&life("a", 9)).is_some() && another.wrong(&life("b", 6)).is_none());
        assert!(another.wrong(&life("b", 5)).is_some());
        assert_eq!("a 5 fits\n".parse(), Ok(life("a", 5)));
        let broken = "a 5 memory has 1 and the disk 2".parse::<Life>();
        assert_eq!(broken, Err("memory has 1 and the disk 2".to_owned()));
        assert!("".parse::<Life>().is_err());
    }
}
