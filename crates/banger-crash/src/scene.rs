//! One home through many lives of its daemon, with the book of what was asked in them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::timeout;

use crate::ask::{Request, With};
use crate::book::{Book, Entry, Heard, Made, Rest, Wish, doubt_copies};
use crate::burst::{Answer, Leases, RunFailed, Sent};
use crate::check::{self, Said, Wrongs};
use crate::daemon::Daemon;
use crate::draw::Draw;
use crate::lives::{Life, of_source};
use crate::machines::{self, Found, Remembers};
use crate::place::{Ground, Place, Tools};
use crate::shelf::{self, Shelf};
use crate::tally::{Tally, Violation};
use crate::whole::Torn;
use crate::witness::Told;
use crate::world::World;

/// How long what was asked may take to be answered by a daemon that has come back.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

/// A home, and everything that is known of it.
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) book: Book,
    pub(crate) shelf: Shelf,
    pub(crate) leases: Leases,
    pub(crate) tally: Tally,
    /// What was told to be over since the last look.
    pub(crate) told: Told,
    /// What the last cuts have left that is not whole.
    pub(crate) torn: Vec<Torn>,
    lives: u64,
}

/// Whether a request may still be answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that make a sandbox with a lease.
    Leased,
    /// All of them.
    All,
}

impl Scene {
    pub(crate) fn begin(tools: &Tools) -> Result<Self> {
        Self::begin_on(tools, Ground::Host)
    }

    pub(crate) fn begin_on(tools: &Tools, ground: Ground) -> Result<Self> {
        let (book, shelf, leases) = (Book::new(), Shelf::new(), Leases::new());
        let (place, tally) = (Place::make(tools, ground)?, Tally::default());
        let (told, torn) = (Told::new(), Vec::new());
        Ok(Self { place, book, shelf, leases, tally, told, torn, lives: 0 })
    }

    /// The name of the next life, for its log.
    pub(crate) fn next_life(&mut self, round: &str) -> String {
        self.lives += 1;
        format!("{:04}-{round}", self.lives)
    }

    pub(crate) async fn start(&mut self, round: &str) -> Result<Daemon> {
        let life = self.next_life(round);
        Daemon::start(&self.place, &life).await
    }

    pub(crate) fn violation(&mut self, round: &str, what: String) {
        self.place.keep();
        let (round, place) = (round.to_owned(), self.place.root().to_owned());
        self.tally.violations.push(Violation { round, what, place });
    }

    /// What came of it all. A harness that failed has found something, unless it has told what.
    pub(crate) fn end(mut self, round: &str, outcome: Result<()>) -> Tally {
        if let Err(error) = outcome
            && self.tally.violations.is_empty()
        {
            self.violation(round, format!("{error:#}"));
        }
        self.tally
    }

    fn wrong(&mut self, round: &str, wrongs: Wrongs) {
        for what in wrongs {
            self.violation(round, what);
        }
    }

    /// Writes down what was answered to requests; those that are not meant remain.
    pub(crate) async fn hear(
        &mut self,
        round: &str,
        sent: Vec<Sent>,
        which: Which,
    ) -> Result<Vec<Sent>> {
        let mut rest = Vec::new();
        for mut one in sent {
            let creates = one
                .request
                .as_ref()
                .is_some_and(|request| matches!(request.wish, Wish::Create | Wish::CreateAndStart));
            let leased = creates && self.book.get(&one.name).is_some_and(|e| e.lease.is_some());
            if which == Which::Leased && !leased {
                rest.push(one);
                continue;
            }
            self.tally.requests += 1;
            let answer = timeout(ANSWER_PATIENCE, &mut one.answer).await;
            match (&one.request, answer) {
                (Some(request), Ok(answer)) => {
                    if let Answer::Heard(heard) = answer? {
                        self.tally.unanswered +=
                            u64::from(heard == Heard::Nothing && request.wish != Wish::Dies);
                        self.note(request, heard);
                    }
                }
                (None, Ok(answer)) => rest.push(Sent { answer: ready(answer?), ..one }),
                (_, Err(_)) => {
                    one.answer.abort();
                    self.violation(round, format!("no answer about {}", one.name));
                }
            }
        }
        Ok(rest)
    }

    /// Writes down what was answered to a request, with everybody it is about.
    pub(crate) fn note(&mut self, request: &Request, heard: Heard) {
        for copy in request.copies() {
            // The operation of a fork is its source's.
            let heard = match &heard {
                Heard::Yes(_) => Heard::Yes(None),
                other => other.clone(),
            };
            self.note_wish(&copy, Wish::BeCopy, heard);
        }
        if let With::Snapshot(snapshot) = &request.with
            && let Some(shot) = self.shelf.get_mut(snapshot)
        {
            match request.wish {
                Wish::DropSnapshot => return shot.dropped.push(heard),
                _ => shot.taken = heard.clone(),
            }
        }
        self.note_wish(&request.name, request.wish, heard);
    }

    pub(crate) fn note_wish(&mut self, name: &str, wish: Wish, heard: Heard) {
        if let Some(entry) = self.book.get_mut(name) {
            entry.asked.push((wish, heard));
        }
    }

    /// Clients that have heard nothing of their sandbox: some end, and their lease falls; the
    /// others are told, to ask again.
    pub(crate) fn clients_end(&mut self, draw: &mut Draw) -> Vec<String> {
        let mut ask_again = Vec::new();
        for (name, entry) in &mut self.book {
            if entry.was != Rest::Absent || !self.leases.contains_key(name) {
                continue;
            }
            let heard = |meant: fn(&Heard) -> bool| entry.asked.iter().any(|(_, h)| meant(h));
            if heard(|heard| matches!(heard, Heard::Yes(_))) {
                continue;
            }
            if heard(|heard| *heard == Heard::Nothing) && draw.chance(50) {
                ask_again.push(name.clone());
                continue;
            }
            entry.asked.push((Wish::LeaseFell, Heard::Yes(None)));
            self.leases.remove(name);
        }
        ask_again
    }

    /// Asks again for sandboxes with a lease: each is there once, whatever became of the first
    /// request.
    pub(crate) async fn ask_again(
        &mut self,
        round: &str,
        daemon: &Daemon,
        names: &[String],
    ) -> Result<()> {
        for name in names {
            let Some(entry) = self.book.get(name) else { continue };
            let wish = entry
                .asked
                .iter()
                .map(|(wish, _)| *wish)
                .find(|wish| matches!(wish, Wish::Create | Wish::CreateAndStart));
            let Some(wish) = wish else { continue };
            let request = Request::create(name, entry, wish)?;
            match request.send(daemon.client()).await {
                heard @ Heard::Yes(_) => self.note(&request, heard),
                // A lease makes one sandbox, ever: who asks again does not bring it back.
                Heard::No if entry.may_have_gone() => self.note(&request, Heard::No),
                other => self.violation(round, format!("asked again for {name}: {other:?}")),
            }
        }
        Ok(())
    }

    /// Looks at everything, with the daemon that has come back; ends it meanwhile.
    pub(crate) async fn check(
        &mut self,
        round: &str,
        daemon: Daemon,
        commands: Vec<Sent>,
    ) -> Result<()> {
        doubt_copies(&mut self.book);
        let looked = self.look(round, &daemon, commands).await;
        let (said, found) = match (looked, daemon.status()?) {
            (Ok(looked), None) => looked,
            (looked, Some(status)) => {
                self.violation(round, format!("bangerd ended by itself: {status}"));
                looked?
            }
            (Err(error), None) => return Err(error),
        };
        daemon.stop().await?;
        let (litter, wrongs) = check::world(&self.place, &self.book, &said, &found)?;
        self.tally.litter = litter;
        self.wrong(round, wrongs);
        let wrongs = check::store(&self.place, &said).await?;
        self.wrong(round, wrongs);
        self.turn_the_page(&said, &found)?;
        ensure!(self.tally.violations.is_empty(), "what follows would say nothing new");
        Ok(())
    }

    /// What the daemon says, compared with what it promised.
    async fn look(
        &mut self,
        round: &str,
        daemon: &Daemon,
        commands: Vec<Sent>,
    ) -> Result<(Said, BTreeMap<String, Found>)> {
        check::settle(daemon.client(), &self.book).await?;
        check::knock(daemon.client(), &self.book).await;
        let (said, wrongs) = check::settle(daemon.client(), &self.book).await?;
        self.wrong(round, wrongs);
        let wrongs = check::promises(&self.book, &self.shelf, &said);
        self.wrong(round, wrongs);
        let wrongs = check::told(&std::mem::take(&mut self.told), &said);
        self.wrong(round, wrongs);
        let wrongs = check::torn(std::mem::take(&mut self.torn), &said);
        self.wrong(round, wrongs);
        for command in commands {
            let Answer::Ran(Err(RunFailed::Otherwise(why))) = command.answer.await? else {
                continue;
            };
            if self.book.get(&command.name).is_some_and(|e| e.undisturbed().is_some()) {
                let what = format!("nobody touched {}, and a command in it: {why}", command.name);
                self.violation(round, what);
            }
        }
        let books = (&self.book, &self.shelf);
        let (found, wrongs) = machines::look(daemon.client(), books, &said).await?;
        self.wrong(round, wrongs);
        check::snapshots_are_cleared(&self.place, &said).await?;
        check::machines_are_cleared(&self.place, &said).await;
        Ok((said, found))
    }

    /// What is found now is what the next round begins with.
    fn turn_the_page(&mut self, said: &Said, found: &BTreeMap<String, Found>) -> Result<()> {
        let world = World::look(self.place.root(), &self.place.home())?;
        self.tally.rounds += 1;
        self.turn_the_shelf(said);
        let copied = self.copied();
        for (name, entry) in &mut self.book {
            let was = entry.was;
            let sandbox = said.sandboxes.get(name);
            self.tally.kept += u64::from(entry.undisturbed().is_some());
            entry.was = match sandbox.map(|sandbox| sandbox.state.as_str()) {
                Some("running") => Rest::Running,
                Some("paused") => Rest::Paused,
                Some("stopped") => Rest::Stopped,
                Some("failed") => Rest::Failed,
                Some(_) => Rest::Created,
                None => Rest::Absent,
            };
            self.tally.sandboxes += u64::from(was == Rest::Absent && entry.was != Rest::Absent);
            let its = found.get(name);
            let remembers = its.is_some_and(|one| one.remembers == Remembers::AnothersLife);
            self.tally.memories += u64::from(remembers);
            entry.boot = its.map(|found| found.boot.clone());
            // Memory that is saved is what it was, unless it was another's meanwhile.
            let before = entry.life.take();
            let kept = entry.was == Rest::Paused && !entry.may_have_lost_memory();
            let kept = before.clone().filter(|_| kept);
            entry.life = its.and_then(|found| found.life.clone()).or(kept);
            entry.flushed = entry.life.as_ref().map_or(entry.flushed, |life| life.written);
            entry.id = sandbox.map(|sandbox| sandbox.id.clone());
            entry.boots = sandbox.map_or(0, |sandbox| sandbox.boots);
            // What was never up begins with a snapshot still, and with another copy of its disk.
            let begins = sandbox.and_then(|one| one.from.as_ref()).filter(|from| from.up.is_none());
            let disk = entry.id.as_ref().and_then(|id| world.disks.get(id.as_str()));
            entry.disk = disk.filter(|_| begins.is_none()).copied();
            match begins {
                Some(_) => entry.life = copied.get(name).cloned().or(before),
                None => entry.made = Made::Anew,
            }
            entry.asked.clear();
            entry.seen = None;
        }
        self.book.retain(|_, entry| entry.was != Rest::Absent);
        self.leases.retain(|name, _| self.book.contains_key(name));
        Ok(())
    }

    /// What is in the memory that copies are made of which are made since the last look.
    fn copied(&self) -> BTreeMap<String, Life> {
        let of = |entry: &Entry| match &entry.made {
            Made::Copy(source) if entry.was == Rest::Absent => {
                self.book.get(source).and_then(of_source)
            }
            _ => None,
        };
        self.book.iter().filter_map(|(name, entry)| Some((name.clone(), of(entry)?))).collect()
    }

    fn turn_the_shelf(&mut self, said: &Said) {
        for (name, shot) in &mut self.shelf {
            if shot.was == shelf::Place::Nowhere {
                shot.life = self.book.get(&shot.source).and_then(of_source);
            }
            shot.was = said.place_of(name);
            self.tally.snapshots += u64::from(shot.was == shelf::Place::There && shot.asked_now());
            shot.taken = Heard::No;
            shot.dropped.clear();
        }
        self.shelf.retain(|_, shot| shot.was == shelf::Place::There);
    }
}

/// An answer that is there.
fn ready(answer: Answer) -> tokio::task::JoinHandle<Answer> {
    tokio::spawn(std::future::ready(answer))
}
