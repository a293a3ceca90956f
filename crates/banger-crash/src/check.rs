//! Looks whether book, API, world and database tell the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use banger_api::client::Client;
use banger_api::types::{Operation, Sandbox, Snapshot};
use banger_host::clock::Deadline;
use banger_model::{Disposal, OperationId, OperationStatus};
use banger_store::{Remembered, Store};
use tokio::task::spawn_blocking;

use crate::book::{Alone, Book, Heard, Made, Rest, Wish};
use crate::burst;
use crate::daemon::{LOOK_AGAIN, PATIENCE};
use crate::machines::Found;
use crate::place::Place;
use crate::shelf::{self, CameTo, Shelf};
use crate::whole::Torn;
use crate::witness::Told;
use crate::world::{self, Saved, World};

/// How long what nobody needs any more may take to be gone.
const CLEARED: Duration = Duration::from_secs(10);

/// What the API says when nothing is under way any more.
pub(crate) struct Said {
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    /// Those with a tag, by name.
    snapshots: BTreeMap<String, Snapshot>,
    operations: BTreeMap<OperationId, Operation>,
}

impl Said {
    /// Where it says that a snapshot is.
    pub(crate) fn place_of(&self, snapshot: &str) -> shelf::Place {
        match self.snapshots.contains_key(snapshot) {
            true => shelf::Place::There,
            false => shelf::Place::Nowhere,
        }
    }

    /// The snapshots that have to be on the disk: those that it tells of, and those that a sandbox
    /// is to begin with.
    fn snapshots_needed(&self) -> BTreeSet<String> {
        let begin = self.sandboxes.values().filter_map(|sandbox| sandbox.from.as_ref());
        let begin = begin.filter(|from| from.up.is_none()).map(|from| from.snapshot.to_string());
        begin.chain(self.snapshots.values().map(|snapshot| snapshot.id.to_string())).collect()
    }
}

/// What is wrong, in sentences.
pub(crate) type Wrongs = Vec<String>;

/// Waits until everything that was asked has come to its end.
pub(crate) async fn settle(client: &Client, book: &Book) -> Result<(Said, Wrongs)> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        // In this order: an operation is remembered before its sandbox changes.
        let operations = client.operations().await?;
        let sandboxes = client.list(&[]).await?;
        let under_way = under_way(&sandboxes, &operations, book);
        if under_way.is_empty() || deadline.passed() {
            let wrongs = under_way.into_iter().map(|what| format!("does not end: {what}"));
            let sandboxes = sandboxes.into_iter().map(|one| (one.name.to_string(), one));
            let operations = operations.into_iter().map(|one| (one.id.clone(), one));
            let snapshots = client.snapshots().await?.into_iter();
            let snapshots = snapshots.map(|one| (one.name.to_string(), one)).collect();
            let (sandboxes, operations) = (sandboxes.collect(), operations.collect());
            let said = Said { sandboxes, snapshots, operations };
            return Ok((said, wrongs.collect()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Talks to every sandbox whose monitor was killed, until it answers or is known not to run. Such a
/// process may stay for seconds, until it is laid to rest by whoever that is up to; so long the daemon
/// cannot tell.
pub(crate) async fn knock(client: &Client, book: &Book) {
    let killed = |wish| matches!(wish, Wish::Dies | Wish::PowerCut);
    let killed = book.iter().filter(|(_, entry)| entry.asked.iter().any(|(wish, _)| killed(*wish)));
    for (name, _) in killed {
        let deadline = Deadline::after(PATIENCE);
        while burst::run(client, name, &["true"], &[]).await.is_err() && !deadline.passed() {
            // It may be gone.
            if !client.show(name).await.is_ok_and(|sandbox| sandbox.state == "running") {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn under_way(sandboxes: &[Sandbox], operations: &[Operation], book: &Book) -> Wrongs {
    let running = operations.iter().filter(|operation| !operation.status.is_final());
    let mut wrongs: Wrongs = running
        .map(|operation| format!("operation {} of {}", operation.id, operation.name))
        .collect();
    for sandbox in sandboxes {
        let name = sandbox.name.as_str();
        let moves =
            matches!(sandbox.state.as_str(), "starting" | "stopping" | "deleting" | "pausing");
        let goes = matches!(sandbox.state.as_str(), "stopped" | "failed")
            && sandbox.lifetime.disposal == Disposal::Remove;
        let fell = book
            .get(name)
            .is_some_and(|entry| entry.asked.iter().any(|(wish, _)| *wish == Wish::LeaseFell));
        if moves || goes || fell {
            wrongs.push(format!("{name}, which is {}", sandbox.state));
        }
    }
    wrongs
}

/// Compares what the API says with what was promised.
pub(crate) fn promises(book: &Book, shelf: &Shelf, said: &Said) -> Wrongs {
    let mut wrongs = snapshots(shelf, said);
    wrongs.extend(forks(book, said));
    for (name, entry) in book {
        let is = said.sandboxes.get(name).map_or(Ok(Rest::Absent), rest);
        let may_be = entry.may_be();
        match is {
            Ok(is) if may_be.contains(&is) => {}
            Ok(is) => wrongs.push(format!(
                "{name} is {is:?} ({}), and may only be {may_be:?}: it was {:?}, asked were {:?}",
                said.sandboxes.get(name).and_then(|one| one.reason.as_deref()).unwrap_or("-"),
                entry.was,
                entry.asked
            )),
            Err(what) => wrongs.push(format!("{name} is {what}; asked were {:?}", entry.asked)),
        }
        for (id, wish, alone) in entry.operations() {
            wrongs.extend(operation(name, wish, alone, said.operations.get(id)));
        }
    }
    let unknown = said.sandboxes.keys().filter(|name| !book.contains_key(*name));
    wrongs.extend(unknown.map(|name| format!("nobody asked for {name}")));
    wrongs
}

/// Compares what was told to be over with what is said of it now.
pub(crate) fn told(told: &Told, said: &Said) -> Wrongs {
    let now = |id| said.operations.get(id).map(|operation| &operation.status);
    let others = told.iter().filter(|(id, status)| now(id) != Some(*status));
    others.map(|(id, was)| format!("{id} was told to be {was:?}, and is {:?}", now(id))).collect()
}

/// What is not whole, unless it is of a sandbox that was about to go.
pub(crate) fn torn(torn: Vec<Torn>, said: &Said) -> Wrongs {
    let stays =
        |id: &String| said.sandboxes.values().any(|sandbox| sandbox.id.as_str() == id.as_str());
    let torn = torn.into_iter().filter(|torn| torn.sandbox.as_ref().is_none_or(stays));
    torn.map(|torn| torn.what).collect()
}

/// Compares the snapshots that there are with what was promised of them.
fn snapshots(shelf: &Shelf, said: &Said) -> Wrongs {
    let mut wrongs = Wrongs::new();
    for (name, shot) in shelf {
        let operation = shot.operation().and_then(|id| said.operations.get(id));
        let status = operation.map(|operation| &operation.status);
        let came_to = match status {
            Some(OperationStatus::Succeeded { .. }) => CameTo::Success,
            _ => CameTo::Nothing,
        };
        let (is, may_be) = (said.place_of(name), shot.may_be(came_to));
        if !may_be.allows(is) {
            wrongs.push(format!(
                "the snapshot {name} is {is:?}, and may be {may_be:?}: it is {shot:?}, and its \
                 operation came to {status:?}"
            ));
        }
    }
    let unknown = said.snapshots.keys().filter(|name| !shelf.contains_key(*name));
    wrongs.extend(unknown.map(|name| format!("nobody asked for the snapshot {name}")));
    wrongs
}

/// Of one fork all copies are made or none, unless more was asked of one.
fn forks(book: &Book, said: &Said) -> Wrongs {
    let mut forks: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
    for (name, entry) in book {
        let untouched = entry.asked.iter().all(|(wish, heard)| {
            *heard == Heard::No || matches!(wish, Wish::BeCopy | Wish::NeverCopied)
        });
        let copy = entry.was == Rest::Absent && matches!(entry.made, Made::Copy(_));
        if copy
            && untouched
            && let Some((fork, _)) = name.rsplit_once('-')
        {
            let there = said.sandboxes.contains_key(name);
            forks.entry(fork).or_default().insert(name, there);
        }
    }
    let halves = forks.values().filter(|copies| {
        copies.values().any(|there| *there) && copies.values().any(|there| !there)
    });
    halves.map(|copies| format!("a fork was made by half: {copies:?}")).collect()
}

/// Waits until nothing is left of snapshots that nobody needs: nobody waits for that otherwise.
/// What is left then is found by whoever looks at the world.
pub(crate) async fn snapshots_are_cleared(place: &Place, said: &Said) -> Result<()> {
    let (needed, deadline) = (said.snapshots_needed(), Deadline::after(CLEARED));
    while world::snapshots(&place.home())? != needed && !deadline.passed() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Waits until nothing is left of the machines of sandboxes that have none: what ended while there
/// was no daemon is cleared up when everybody knows already that it has.
pub(crate) async fn machines_are_cleared(place: &Place, said: &Said) {
    let (home, deadline) = (place.home(), Deadline::after(CLEARED));
    let has_none = |sandbox: &&Sandbox| !matches!(&*sandbox.state, "running" | "paused");
    for sandbox in said.sandboxes.values().filter(has_none) {
        while world::has_traces(&home.sandbox(&sandbox.id)) && !deadline.passed() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn rest(sandbox: &Sandbox) -> Result<Rest, String> {
    match sandbox.state.as_str() {
        "created" => Ok(Rest::Created),
        "running" => Ok(Rest::Running),
        "paused" => Ok(Rest::Paused),
        "stopped" => Ok(Rest::Stopped),
        "failed" => Ok(Rest::Failed),
        other => Err(format!("{other} ({})", sandbox.reason.as_deref().unwrap_or("-"))),
    }
}

fn operation(name: &str, wish: Wish, alone: Alone, found: Option<&Operation>) -> Option<String> {
    let Some(operation) = found else {
        return Some(format!("{wish:?} of {name} was promised, and its operation is forgotten"));
    };
    let must = matches!(wish, Wish::Delete | Wish::DeleteForced) || alone == Alone::Yes;
    let succeeded = matches!(operation.status, OperationStatus::Succeeded { .. });
    (must && !succeeded)
        .then(|| format!("{wish:?} of {name} was promised and came to {:?}", operation.status))
}

/// Compares what there is with what the API said of it, now that no daemon runs any more.
pub(crate) fn world(
    place: &Place,
    book: &Book,
    said: &Said,
    found: &BTreeMap<String, Found>,
) -> Result<(u64, Wrongs)> {
    let world = World::look(place.root(), &place.home())?;
    let mut wrongs = Wrongs::new();
    let ids: BTreeMap<&str, &Sandbox> =
        said.sandboxes.values().map(|sandbox| (sandbox.id.as_str(), sandbox)).collect();
    for (id, sandbox) in &ids {
        let (name, state) = (&sandbox.name, &sandbox.state);
        let wanted: Vec<i32> = found.get(name.as_str()).iter().map(|one| one.boot.pid).collect();
        let pids = world.marked.get(*id).cloned().unwrap_or_default();
        if pids != wanted {
            wrongs
                .push(format!("{name} is {state} and has the processes {pids:?}, not {wanted:?}"));
        }
        let saved = world.saved.get(*id).copied().unwrap_or(Saved::Nothing);
        let right = match state.as_str() {
            "paused" => saved == Saved::Whole,
            "running" => saved != Saved::Whole,
            _ => saved == Saved::Nothing,
        };
        if !right {
            wrongs.push(format!("{name} is {state}, and what is saved of its memory: {saved:?}"));
        }
        let files = world.dirs.get(*id);
        if sandbox.state != "running" && files.is_some_and(|files| !files.is_empty()) {
            wrongs.push(format!("{} is {} and has {files:?}", sandbox.name, sandbox.state));
        }
        let disk = world.disks.get(*id).copied();
        let had = book.get(sandbox.name.as_str()).and_then(|entry| entry.disk);
        if (had.is_some() && had != disk) || (sandbox.state == "running" && disk.is_none()) {
            wrongs.push(format!("{} had the disk {had:?} and has {disk:?}", sandbox.name));
        }
    }
    let orphans = world.marked.iter().filter(|(id, _)| !ids.contains_key(id.as_str()));
    wrongs.extend(orphans.map(|(id, pids)| format!("the processes {pids:?} of {id} are nobody's")));
    let dirs = world.dirs.keys().filter(|id| !ids.contains_key(id.as_str()));
    wrongs.extend(dirs.map(|id| format!("the directory {id} is nobody's")));
    let strangers = world.strangers.iter();
    wrongs.extend(strangers.map(|(pid, line)| format!("process {pid} still runs: {line}")));
    let needed = said.snapshots_needed();
    let more = world.snapshots.difference(&needed);
    wrongs.extend(more.map(|id| format!("the snapshot {id} is nobody's")));
    let gone = needed.difference(&world.snapshots);
    wrongs.extend(gone.map(|id| format!("the snapshot {id} is gone")));
    let leases = said.sandboxes.values().filter_map(|sandbox| sandbox.lifetime.lease.as_ref());
    let leases: BTreeSet<_> = leases.map(|lease| lease.as_str().to_owned()).collect();
    if world.leases != leases {
        wrongs.push(format!("the leases are {:?}, not {leases:?}", world.leases));
    }
    wrongs.extend(world.out_of_place.iter().map(|path| format!("{path} is out of place")));
    Ok((world.litter, wrongs))
}

/// Compares the database with what the API said.
pub(crate) async fn store(place: &Place, said: &Said) -> Result<Wrongs> {
    let path = place.home().database();
    let remembered = spawn_blocking(move || Store::open(&path)?.load()).await??;
    let Remembered { sandboxes, operations, damaged } = remembered;
    let mut wrongs: Wrongs = damaged.iter().map(|row| format!("damaged: {row}")).collect();
    let stored: BTreeMap<_, _> =
        sandboxes.iter().map(|record| (record.name.to_string(), record)).collect();
    for (name, sandbox) in &said.sandboxes {
        match stored.get(name) {
            Some(record) => {
                let same = record.id == sandbox.id
                    && record.state.name() == sandbox.state
                    && record.boots == sandbox.boots
                    && record.lifetime == sandbox.lifetime
                    && record.spec == sandbox.spec;
                if !same {
                    wrongs.push(format!("{name} is stored as {record:?} and shown as {sandbox:?}"));
                }
            }
            None => wrongs.push(format!("{name} is shown and not stored")),
        }
    }
    let unknown = stored.keys().filter(|name| !said.sandboxes.contains_key(*name));
    wrongs.extend(unknown.map(|name| format!("{name} is stored and not shown")));
    for operation in operations {
        let shown = said.operations.get(&operation.id);
        if shown.is_none_or(|shown| shown.status != operation.status) {
            let id = &operation.id;
            wrongs.push(format!("operation {id} is stored as {operation:?}, shown as {shown:?}"));
        }
    }
    Ok(wrongs)
}
