//! What was asked of each sandbox and what was answered, and what may have come of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use banger_model::{LeaseId, OperationId, SandboxId, SnapshotPart};

use crate::lives::Life;

/// How a sandbox is when nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// There is none of this name.
    Absent,
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// It has stopped.
    Stopped,
    /// Its memory is saved, and it has no machine.
    Paused,
    /// Its machine has ended by itself.
    Failed,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To be there.
    Create,
    /// To be there and run.
    CreateAndStart,
    /// To run.
    Start,
    /// To stop in order.
    Stop,
    /// To stop at once.
    Kill,
    /// To stop and start again.
    Restart,
    /// To save its memory and have no machine.
    Pause,
    /// To go on with its saved memory.
    Resume,
    /// To have a snapshot taken of it.
    Snapshot,
    /// That a snapshot of it goes.
    DropSnapshot,
    /// To have copies made of it.
    Fork,
    /// Of another: that this is a copy of it.
    BeCopy,
    /// Nobody asked: what it is to be a copy of may have come to an end before it was copied.
    NeverCopied,
    /// To go if it does not run.
    Delete,
    /// To go.
    DeleteForced,
    /// Its client is gone: to go.
    LeaseFell,
    /// Nobody asked: its monitor was killed.
    Dies,
    /// Nobody asked: the host lost its power, and with it every machine.
    PowerCut,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// That it is done, or about to be, as this operation.
    Yes(Option<OperationId>),
    /// That it is not.
    No,
    /// Nothing: it may have been done or not.
    Nothing,
}

/// A machine that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The process of its monitor.
    pub pid: i32,
    /// The guest's id of its boot.
    pub id: String,
}

/// Whether a sandbox stays when it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It does.
    Stays,
    /// It is deleted.
    Goes,
}

/// What a sandbox is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// What all are made from; or it has been up since it was made.
    Anew,
    /// So much of the snapshot of this name.
    FromSnapshot(String, SnapshotPart),
    /// The memory of the sandbox of this name, by this fork.
    Copy(String),
}

/// One sandbox as far as its clients know.
#[derive(Clone, Debug)]
pub struct Entry {
    /// How it was when nothing was under way the last time.
    pub was: Rest,
    /// The machine that it had then.
    pub boot: Option<Boot>,
    /// Its id, once that is known.
    pub id: Option<SandboxId>,
    /// Its disk, by the file's inode: what was ever written to it is in there.
    pub disk: Option<u64>,
    /// What was in its memory; of a machine that is gone, if its memory is not.
    pub life: Option<Life>,
    /// How often it had begun to start.
    pub boots: u64,
    /// What it begins with, as long as it was never up.
    pub made: Made,
    /// What becomes of it when it has stopped.
    pub afterwards: Afterwards,
    /// The lease that it hangs on.
    pub lease: Option<LeaseId>,
    /// What was asked of it since.
    pub asked: Vec<(Wish, Heard)>,
    /// How it was seen to be when so much of that was asked, and had come to its end.
    pub seen: Option<(usize, Rest)>,
    /// How often it had written when it was asked last: so often its disk says that it has.
    pub flushed: u64,
}

/// All sandboxes by name. No name is used twice.
pub type Book = BTreeMap<String, Entry>;

/// What removes a sandbox.
const GONE: [Wish; 4] = [Wish::Delete, Wish::DeleteForced, Wish::LeaseFell, Wish::NeverCopied];
/// What ends a sandbox's machine.
const DOWN: [Wish; 4] = [Wish::Stop, Wish::Kill, Wish::Dies, Wish::PowerCut];
/// What brings a sandbox up.
const UP: [Wish; 5] =
    [Wish::Start, Wish::Restart, Wish::Resume, Wish::CreateAndStart, Wish::BeCopy];
/// What ends a sandbox's machine, or the sandbox: what was in its memory is gone.
const ENDS: [Wish; 7] = [
    Wish::Stop,
    Wish::Kill,
    Wish::Restart,
    Wish::DeleteForced,
    Wish::LeaseFell,
    Wish::Dies,
    Wish::NeverCopied,
];
/// What starts a sandbox anew whose machine is gone.
const ANEW: [Wish; 3] = [Wish::Start, Wish::Restart, Wish::CreateAndStart];

impl Entry {
    /// One that is not there yet.
    pub fn new(afterwards: Afterwards, lease: Option<LeaseId>) -> Self {
        Self {
            was: Rest::Absent,
            boot: None,
            id: None,
            disk: None,
            life: None,
            boots: 0,
            made: Made::Anew,
            afterwards,
            lease,
            asked: Vec::new(),
            seen: None,
            flushed: 0,
        }
    }

    /// One that is not there yet, and begins with this.
    pub fn made(made: Made) -> Self {
        Self { made, ..Self::new(Afterwards::Stays, None) }
    }

    /// Everything that may have been done.
    fn possible(&self) -> impl Iterator<Item = Wish> {
        self.asked.iter().filter(|(_, heard)| *heard != Heard::No).map(|(wish, _)| *wish)
    }

    /// Whether one of these may have been done.
    pub fn may_have(&self, wishes: &[Wish]) -> bool {
        self.possible().any(|wish| wishes.contains(&wish))
    }

    /// Whether its machine may have ended, or it may be gone.
    pub fn may_have_ended(&self) -> bool {
        self.may_have(&ENDS) || self.may_have(&[Wish::PowerCut])
    }

    /// Whether it may run with other memory than it had, or that was saved of it. Without power only
    /// saved memory is left: then what runs without having been started anew has that.
    pub fn may_have_lost_memory(&self) -> bool {
        self.may_have(&ENDS) || (self.may_have(&[Wish::PowerCut]) && self.may_have(&ANEW))
    }

    /// Everything that was asked is seen to have come to its end. Where that can have been one only,
    /// it is as it has to be.
    pub fn came_to_its_end(&mut self) {
        let may_be = self.may_be();
        if let (Some(rest), 1) = (may_be.first(), may_be.len()) {
            self.seen = Some((self.asked.len(), *rest));
        }
    }

    fn promised(&self, wishes: &[Wish]) -> bool {
        let yes =
            |(wish, heard): &(Wish, Heard)| matches!(heard, Heard::Yes(_)) && wishes.contains(wish);
        self.asked.iter().any(yes)
    }

    /// Whether something that was asked may have removed it.
    pub fn may_have_gone(&self) -> bool {
        let ends = self.afterwards == Afterwards::Goes;
        self.possible().any(|wish| GONE.contains(&wish) || (ends && DOWN.contains(&wish)))
    }

    /// The states in which it may come to rest.
    pub fn may_be(&self) -> BTreeSet<Rest> {
        let Some((asked, was)) = self.seen else { return self.may_become() };
        let asked = self.asked.get(asked..).unwrap_or_default().to_vec();
        Self { was, asked, seen: None, ..self.clone() }.may_become()
    }

    fn may_become(&self) -> BTreeSet<Rest> {
        // Who hears that it goes will not see it again, whatever else was asked.
        if self.promised(&GONE) {
            return [Rest::Absent].into();
        }
        let mut states = self.reachable();
        if self.promised(&UP) {
            // Nothing leads back to a sandbox that was never started.
            states.remove(&Rest::Created);
            if !self.may_have(&GONE) && !self.may_have(&DOWN) && !self.may_have(&[Wish::Pause]) {
                states.retain(|state| *state == Rest::Running);
            }
        }
        if !self.may_have(&UP) {
            // Only what runs can be paused, so what is down stays down.
            if self.promised(&[Wish::Stop, Wish::Kill]) {
                states.remove(&Rest::Paused);
            }
            if self.promised(&DOWN) || self.promised(&[Wish::Pause]) {
                states.remove(&Rest::Running);
            }
        }
        states
    }

    /// Where everything that may have been done leads in any order. Nobody is harmed by doing
    /// something more often than once: as often as it changes anything.
    fn reachable(&self) -> BTreeSet<Rest> {
        let begin = match self.was {
            Rest::Absent if self.promised(&[Wish::Create]) => Rest::Created,
            Rest::Absent if self.promised(&[Wish::CreateAndStart, Wish::BeCopy]) => Rest::Running,
            was => was,
        };
        let asked: Vec<_> = self.possible().collect();
        let mut reached = BTreeSet::from([begin]);
        loop {
            let before = reached.len();
            for state in reached.clone() {
                reached.extend(asked.iter().filter_map(|w| leads(state, *w, self.afterwards)));
            }
            if reached.len() == before {
                return reached;
            }
        }
    }

    /// The machine that it still has to have.
    pub fn undisturbed(&self) -> Option<&Boot> {
        self.boot.as_ref().filter(|_| !self.may_have_ended() && !self.may_have(&[Wish::Pause]))
    }

    /// Operations that were promised, and whether each has to succeed because nothing else was
    /// asked.
    pub fn operations(&self) -> impl Iterator<Item = (&OperationId, Wish, Alone)> {
        let alone = if self.possible().count() == 1 { Alone::Yes } else { Alone::No };
        self.asked.iter().filter_map(move |(wish, heard)| match heard {
            Heard::Yes(Some(operation)) => Some((operation, *wish, alone)),
            _ => None,
        })
    }
}

/// Writes down which copies may never have been made: a fork comes to nothing when its source
/// ends, or is paused, before the snapshot is taken. A copy of a copy hangs on both.
pub fn doubt_copies(book: &mut Book) {
    let doubtful = |book: &Book, entry: &Entry| match &entry.made {
        // Its fork may have come to its end before.
        Made::Copy(_) if entry.seen.is_some() => false,
        Made::Copy(source) if entry.was == Rest::Absent => book.get(source).is_none_or(|source| {
            let made_now = source.was == Rest::Absent && source.made != Made::Anew;
            made_now || source.may_have_ended() || source.may_have(&[Wish::Delete, Wish::Pause])
        }),
        _ => false,
    };
    let names: Vec<_> = book
        .iter()
        .filter(|(_, entry)| doubtful(book, entry))
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        if let Some(entry) = book.get_mut(&name) {
            entry.asked.push((Wish::NeverCopied, Heard::Nothing));
        }
    }
}

/// Whether something was the only thing asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// It was.
    Yes,
    /// There may have been others.
    No,
}

/// Where a wish leads from a state of rest, if it changes anything.
fn leads(from: Rest, wish: Wish, afterwards: Afterwards) -> Option<Rest> {
    use Rest as R;
    use Wish as W;
    let ended = |how| match afterwards {
        Afterwards::Stays => how,
        Afterwards::Goes => R::Absent,
    };
    match (from, wish) {
        (R::Absent, W::Create) => Some(R::Created),
        (R::Absent, W::CreateAndStart | W::BeCopy) => Some(R::Running),
        (R::Absent, _) => None,
        (R::Created | R::Stopped | R::Failed | R::Paused, W::Start | W::Restart) => {
            Some(R::Running)
        }
        (R::Running, W::Pause) => Some(R::Paused),
        (R::Paused, W::Resume) => Some(R::Running),
        (R::Running | R::Paused, W::Stop | W::Kill) => Some(ended(R::Stopped)),
        (R::Running, W::Dies | W::PowerCut) => Some(ended(R::Failed)),
        (R::Created | R::Stopped | R::Failed, W::Delete) => Some(R::Absent),
        (_, W::DeleteForced | W::LeaseFell | W::NeverCopied) => Some(R::Absent),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn entry(was: Rest, asked: &[(Wish, Heard)]) -> Entry {
        Entry { was, asked: asked.to_vec(), ..Entry::new(Afterwards::Stays, None) }
    }

    fn states(was: Rest, asked: &[(Wish, Heard)]) -> Vec<Rest> {
        entry(was, asked).may_be().into_iter().collect()
    }

    const YES: Heard = Heard::Yes(None);

    #[test]
    fn what_nobody_touched_is_as_it_was() {
        for was in [Rest::Absent, Rest::Created, Rest::Running, Rest::Stopped] {
            assert_eq!(states(was, &[]), [was]);
            assert_eq!(states(was, &[(Wish::DeleteForced, Heard::No)]), [was]);
        }
    }

    #[test]
    fn a_single_promise_is_kept_and_a_single_silence_leaves_both_open() {
        use Rest::{Absent, Created, Running, Stopped};
        for (was, wish, then) in [
            (Absent, Wish::Create, Created),
            (Absent, Wish::CreateAndStart, Running),
            (Created, Wish::Start, Running),
            (Running, Wish::Stop, Stopped),
            (Running, Wish::Restart, Running),
            (Created, Wish::Stop, Created),
            (Stopped, Wish::Delete, Absent),
            (Running, Wish::DeleteForced, Absent),
        ] {
            assert_eq!(states(was, &[(wish, YES)]), [then], "{wish:?}");
            let open: Vec<_> = BTreeSet::from([was, then]).into_iter().collect();
            assert_eq!(states(was, &[(wish, Heard::Nothing)]), open, "{wish:?}");
        }
    }

    #[test]
    fn what_was_promised_to_go_does_not_come_back() {
        for wish in [Wish::Delete, Wish::DeleteForced, Wish::LeaseFell] {
            assert_eq!(states(Rest::Stopped, &[(Wish::Start, YES), (wish, YES)]), [Rest::Absent]);
        }
    }

    #[test]
    fn several_at_once_may_come_in_any_order() {
        let both = [(Wish::Start, YES), (Wish::Stop, YES)];
        assert_eq!(states(Rest::Created, &both), [Rest::Running, Rest::Stopped]);
        let made = [(Wish::Create, Heard::Nothing), (Wish::Start, Heard::Nothing)];
        assert_eq!(states(Rest::Absent, &made), [Rest::Absent, Rest::Created, Rest::Running]);
    }

    #[test]
    fn what_does_not_stay_is_gone_when_it_stops() {
        let stops = |asked: &[_]| {
            let entry = Entry { afterwards: Afterwards::Goes, ..entry(Rest::Running, asked) };
            entry.may_be().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(stops(&[(Wish::Kill, YES)]), [Rest::Absent]);
        assert_eq!(stops(&[(Wish::Restart, YES)]), [Rest::Running]);
    }

    #[test]
    fn what_dies_has_failed_or_came_up_again() {
        let dies = (Wish::Dies, Heard::Nothing);
        let states = |more| states(Rest::Running, &[dies.clone(), more]);
        assert_eq!(states((Wish::Start, Heard::No)), [Rest::Running, Rest::Failed]);
        assert_eq!(states((Wish::Delete, YES)), [Rest::Absent]);
        let stopped = [Rest::Stopped, Rest::Failed];
        assert_eq!(states((Wish::Stop, YES)), stopped);
    }

    #[test]
    fn a_promise_that_nothing_contradicts_is_kept_beside_others() {
        let up = [(Wish::Start, YES), (Wish::Restart, Heard::Nothing)];
        assert_eq!(states(Rest::Stopped, &up), [Rest::Running]);
        let down = [(Wish::Stop, YES), (Wish::Kill, Heard::Nothing)];
        assert_eq!(states(Rest::Running, &down), [Rest::Stopped]);
        let made = [(Wish::Create, YES), (Wish::Start, Heard::Nothing)];
        assert_eq!(states(Rest::Absent, &made), [Rest::Created, Rest::Running]);
    }

    #[test]
    fn what_is_paused_is_resumed_by_whatever_starts_and_pauses_only_while_it_runs() {
        use Rest::{Absent, Failed, Paused, Running, Stopped};
        for (was, wish, then) in [
            (Running, Wish::Pause, Paused),
            (Paused, Wish::Resume, Running),
            (Paused, Wish::Start, Running),
            (Paused, Wish::Restart, Running),
            (Paused, Wish::Stop, Stopped),
            (Paused, Wish::DeleteForced, Absent),
            (Running, Wish::Snapshot, Running),
            (Running, Wish::Fork, Running),
        ] {
            assert_eq!(states(was, &[(wish, YES)]), [then], "{was:?} {wish:?}");
        }
        for (was, wish) in [(Stopped, Wish::Pause), (Stopped, Wish::Resume), (Paused, Wish::Delete)]
        {
            assert_eq!(states(was, &[(wish, Heard::Nothing)]), [was], "{was:?} {wish:?}");
        }
        let pause = (Wish::Pause, YES);
        assert_eq!(states(Running, &[pause.clone(), (Wish::Stop, YES)]), [Stopped]);
        assert_eq!(states(Running, &[pause.clone(), (Wish::Resume, YES)]), [Running, Paused]);
        let dies = (Wish::Dies, Heard::Nothing);
        assert_eq!(states(Running, &[pause.clone(), dies.clone()]), [Paused, Failed]);
        assert_eq!(states(Paused, &[(Wish::Resume, YES), dies]), [Running, Paused, Failed]);
        let kept =
            Entry { boot: Some(Boot { pid: 1, id: "b".into() }), ..entry(Running, &[pause]) };
        assert_eq!(kept.undisturbed(), None);
    }

    #[test]
    fn without_power_nothing_runs_and_what_was_done_is_kept() {
        use Rest::{Absent, Created, Failed, Paused, Running, Stopped};
        let cut = (Wish::PowerCut, YES);
        for (was, then) in
            [(Running, Failed), (Paused, Paused), (Created, Created), (Stopped, Stopped)]
        {
            assert_eq!(states(was, slice::from_ref(&cut)), [then]);
        }
        // What was promised is done, before or afterwards; what was seen was done before.
        for (was, wish, before, seen) in [
            (Running, Wish::Pause, vec![Paused, Failed], Paused),
            (Paused, Wish::Resume, vec![Running, Paused, Failed], Failed),
            (Absent, Wish::CreateAndStart, vec![Running, Failed], Failed),
            (Running, Wish::Stop, vec![Stopped, Failed], Stopped),
            (Running, Wish::DeleteForced, vec![Absent], Absent),
        ] {
            let asked = [(wish, YES), cut.clone()];
            assert_eq!(states(was, &asked), before, "{wish:?}");
            let mut done = entry(was, &asked[..1]);
            done.came_to_its_end();
            done.asked.push(cut.clone());
            assert_eq!(Vec::from_iter(done.may_be()), [seen], "{wish:?}");
        }
        let goes = Entry { afterwards: Afterwards::Goes, ..entry(Running, slice::from_ref(&cut)) };
        assert_eq!(Vec::from_iter(goes.may_be()), [Absent]);
        assert!(goes.may_have_ended() && !goes.may_have_lost_memory());
        assert!(entry(Running, &[cut, (Wish::Start, YES)]).may_have_lost_memory());
    }

    #[test]
    fn a_copy_is_there_when_it_was_promised_unless_its_source_may_have_ended_before() {
        let book = |source: &[_], heard: Heard| {
            let copy =
                Entry { asked: vec![(Wish::BeCopy, heard)], ..Entry::made(Made::Copy("a".into())) };
            let mut book =
                Book::from([("b".into(), copy), ("a".into(), entry(Rest::Running, source))]);
            let second = Entry { made: Made::Copy("b".into()), ..book["b"].clone() };
            book.insert("c".into(), second);
            doubt_copies(&mut book);
            ["b", "c"].map(|name| book[name].may_be().into_iter().collect::<Vec<_>>())
        };
        let either = vec![Rest::Absent, Rest::Running];
        assert_eq!(book(&[(Wish::Snapshot, YES)], YES), [vec![Rest::Running], either.clone()]);
        assert_eq!(book(&[], Heard::Nothing)[0], either);
        assert_eq!(book(&[], Heard::No)[0], [Rest::Absent]);
        for wish in [Wish::Pause, Wish::Kill, Wish::Dies, Wish::DeleteForced] {
            assert_eq!(book(&[(wish, Heard::Nothing)], YES)[0], either, "{wish:?}");
        }
    }

    #[test]
    fn a_machine_is_kept_unless_somebody_may_have_ended_it() {
        let boot = Boot { pid: 1, id: "b".into() };
        let kept = |asked: &[_]| {
            let entry = Entry { boot: Some(boot.clone()), ..entry(Rest::Running, asked) };
            entry.undisturbed().is_some()
        };
        assert!(kept(&[(Wish::Start, YES), (Wish::Delete, Heard::Nothing)]));
        assert!(kept(&[(Wish::Stop, Heard::No)]));
        assert!(!kept(&[(Wish::Restart, Heard::Nothing)]));
    }
}
