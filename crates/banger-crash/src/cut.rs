//! A home that loses its power: what is lost with it, and what has to be there when it comes back.

use anyhow::Result;
use banger_model::{OperationId, OperationStatus, SnapshotPart};

use crate::ask::{Request, With};
use crate::book::{Entry, Heard, Made, Rest, Wish};
use crate::daemon::Daemon;
use crate::draw::Draw;
use crate::lives::of_source;
use crate::scene::Scene;
use crate::shelf;
use crate::whole;
use crate::witness::Told;

/// How the names of sandboxes begin that are made only to look at what they are made from.
const TRIED: &str = "tried-";
/// How often of a hundred times something is done that leads to one of two states of rest.
const SOMETIMES: u64 = 75;
/// How often of a hundred times a sandbox is made of all of a snapshot, and not of its disk alone.
const ALL_OF_IT: u64 = 75;

impl Scene {
    /// The power goes while this daemon runs.
    pub(crate) async fn power_goes(&mut self, daemon: &Daemon) -> Result<()> {
        // Nobody hears of a daemon what its disk says that is gone: that may be that it has everything.
        daemon.stand_still().await?;
        self.place.cut()?;
        self.tally.cuts += 1;
        daemon.kill().await
    }

    /// The power is back: everything that ran has ended, clients too.
    pub(crate) async fn power_comes_back(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.leases).into_keys() {
            self.note_wish(&name, Wish::LeaseFell, Heard::Yes(None));
        }
        let names: Vec<_> = self.book.keys().cloned().collect();
        for name in names {
            self.note_wish(&name, Wish::PowerCut, Heard::Yes(None));
        }
        self.place.come_back().await?;
        self.torn.extend(whole::look(&self.place.home())?);
        Ok(())
    }

    /// Somebody was told what the operation of a request came to, when nothing else was under way.
    pub(crate) fn was_told(
        &mut self,
        request: &Request,
        (operation, over): (OperationId, Option<OperationStatus>),
    ) {
        let Some(status) = over else { return };
        if !matches!(status, OperationStatus::Succeeded { .. }) {
            return;
        }
        self.told.insert(operation, status);
        if let With::Snapshot(snapshot) = &request.with {
            self.is_taken(snapshot);
        }
        for copy in request.copies() {
            if let Some(entry) = self.book.get_mut(&copy) {
                // It is there, and is to come up.
                entry.seen = Some((0, entry.was));
            }
        }
        if let Some(entry) = self.book.get_mut(&request.name) {
            entry.came_to_its_end();
        }
    }

    /// The same of many requests of which each was the only one, or not.
    pub(crate) fn were_told(&mut self, told: Told) {
        let succeeded = |heard: &Heard| match heard {
            Heard::Yes(Some(id)) => matches!(told.get(id), Some(OperationStatus::Succeeded { .. })),
            _ => false,
        };
        let taken = self.shelf.iter().filter(|(_, shot)| succeeded(&shot.taken));
        let taken: Vec<_> = taken.map(|(name, _)| name.clone()).collect();
        for snapshot in taken {
            self.is_taken(&snapshot);
        }
        for entry in self.book.values_mut() {
            if let [(_, heard)] = entry.asked.as_slice()
                && succeeded(heard)
            {
                entry.came_to_its_end();
            }
        }
        self.told.extend(told);
    }

    fn is_taken(&mut self, snapshot: &str) {
        if let Some(shot) = self.shelf.get_mut(snapshot)
            && shot.was == shelf::Place::Nowhere
        {
            shot.was = shelf::Place::There;
            shot.life = self.book.get(&shot.source).and_then(of_source);
        }
    }

    /// Brings up what can be brought up after a cut, and makes a sandbox of each snapshot: so that
    /// there are guests that look at what is left.
    pub(crate) async fn revive(&mut self, round: &str, draw: &mut Draw) -> Result<()> {
        let daemon = self.start(round).await?;
        let mut requests = Vec::new();
        for (name, entry) in &self.book {
            let wish = match entry.was {
                _ if name.starts_with(TRIED) => Wish::DeleteForced,
                Rest::Failed => Wish::Start,
                Rest::Stopped if draw.chance(SOMETIMES) => Wish::Start,
                Rest::Paused if draw.chance(SOMETIMES) => Wish::Resume,
                _ => continue,
            };
            requests.push(Request::plain(name, wish));
        }
        let snapshots: Vec<_> = self.shelf.keys().cloned().collect();
        for (number, snapshot) in snapshots.into_iter().enumerate() {
            let name = format!("{TRIED}{}-{number}", self.tally.cuts);
            let all = draw.chance(ALL_OF_IT);
            let part = if all { SnapshotPart::Machine } else { SnapshotPart::Disk };
            let entry = Entry::made(Made::FromSnapshot(snapshot, part));
            requests.push(Request::create(&name, &entry, Wish::CreateAndStart)?);
            self.book.insert(name, entry);
        }
        for request in requests {
            let heard = request.send(daemon.client()).await;
            self.tally.requests += 1;
            if !matches!(heard, Heard::Yes(_)) {
                self.violation(round, format!("after a cut, {request:?} has {heard:?}"));
            }
            self.note(&request, heard);
        }
        self.check(round, daemon, Vec::new()).await
    }
}
