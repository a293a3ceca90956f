//! One kill at each named point of the daemon's work, and a second at the same one; and the end of
//! a machine at each point at which it is saved.

pub mod power;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use banger_api::client::Client;
use banger_host::fs::{list_dir, remove_all};
use banger_model::{OperationId, OperationStatus, SandboxId, SnapshotPart};
use bangerd::checkpoint::CHECKPOINTS;

use crate::ask::Request;
use crate::book::{Afterwards, Entry, Heard, Made, Wish};
use crate::burst::{self, kill_machine};
use crate::check;
use crate::daemon::{Daemon, LOOK_AGAIN};
use crate::place::Tools;
use crate::scene::Scene;
use crate::shelf::Shot;
use crate::tally::Tally;

/// The life of a sandbox that nobody kills the daemon for.
const BYSTANDER: &str = "bystander";
/// What the snapshots of a way are called, of its only sandbox.
const TAG: &str = "1";
/// Where the machine is that becomes a template, below the template's directory.
const MACHINE: &str = "machine";
/// Copies that a fork makes.
const COPIES: u16 = 2;

/// A step on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// This is asked of the sandbox.
    Ask(Wish),
    /// Another is made from the sandbox's snapshot.
    From(SnapshotPart),
}

/// A way through a sandbox's life, side by side with others.
struct Way {
    name: &'static str,
    /// What was done before a daemon is killed.
    before: &'static [Step],
    /// What is done while it is.
    life: &'static [Step],
    /// The checkpoints that it leads past: those whose names begin so.
    past: &'static [&'static str],
    /// Of these, those that it does not lead past.
    never: &'static [&'static str],
    /// Checkpoints at which the machine ends: while the daemon goes on, and with the daemon.
    machine_ends: &'static [&'static str],
}

const RUN: Step = Step::Ask(Wish::CreateAndStart);
const BOOT: [&str; 5] = ["create.", "start.", "template.", "stop.", "delete."];
const OF_A_RESTORE: [&str; 5] =
    ["restore.", "start.furnished", "start.prepared", "start.answered", "start.recorded"];

const NOWHERE: Way =
    Way { name: "", before: &[], life: &[], past: &[], never: &[], machine_ends: &[] };

/// Ways that together lead past every checkpoint.
const WAYS: [Way; 11] = [
    Way {
        name: "stop",
        life: &[RUN, Step::Ask(Wish::Stop), Step::Ask(Wish::Delete)],
        past: &BOOT,
        machine_ends: &["template.prepared", "template.settled"],
        ..NOWHERE
    },
    // A machine that is ended by force passes none of those of an orderly end.
    Way {
        name: "kill",
        life: &[RUN, Step::Ask(Wish::Kill), Step::Ask(Wish::Delete)],
        past: &BOOT,
        never: &["stop.off"],
        ..NOWHERE
    },
    Way {
        name: "force",
        life: &[RUN, Step::Ask(Wish::DeleteForced)],
        past: &BOOT,
        never: &["stop."],
        ..NOWHERE
    },
    Way {
        name: "restart",
        life: &[
            Step::Ask(Wish::Create),
            Step::Ask(Wish::Start),
            Step::Ask(Wish::Restart),
            Step::Ask(Wish::Stop),
            Step::Ask(Wish::DeleteForced),
        ],
        past: &BOOT,
        ..NOWHERE
    },
    Way {
        name: "dies",
        before: &[RUN],
        life: &[Step::Ask(Wish::Dies), Step::Ask(Wish::Start)],
        past: &["end.", "start.decided"],
        ..NOWHERE
    },
    Way {
        name: "pause",
        before: &[RUN],
        life: &[Step::Ask(Wish::Pause), Step::Ask(Wish::Resume), Step::Ask(Wish::Pause)],
        past: &["pause.", "resume.", "start.prepared"],
        machine_ends: &["pause.decided", "pause.saved", "resume.used", "resume.answered"],
        ..NOWHERE
    },
    // Memory is saved in the place of memory that was saved before.
    Way {
        name: "again",
        before: &[RUN, Step::Ask(Wish::Pause), Step::Ask(Wish::Resume)],
        life: &[Step::Ask(Wish::Pause), Step::Ask(Wish::Stop), Step::Ask(Wish::Start)],
        past: &["pause.saved", "pause.recorded", "stop.decided"],
        machine_ends: &["pause.saved"],
        ..NOWHERE
    },
    Way {
        name: "snapshot",
        before: &[RUN],
        life: &[Step::Ask(Wish::Snapshot), Step::Ask(Wish::DropSnapshot)],
        past: &["snapshot."],
        machine_ends: &SAVING,
        ..NOWHERE
    },
    Way {
        name: "fork",
        before: &[RUN],
        life: &[Step::Ask(Wish::Fork), Step::Ask(Wish::DeleteForced)],
        past: &["snapshot.", "resume.used", "restore.", "start.decided", "start.recorded"],
        machine_ends: &SAVING,
        ..NOWHERE
    },
    Way {
        name: "restore",
        before: &[RUN, Step::Ask(Wish::Snapshot)],
        life: &[Step::From(SnapshotPart::Machine), Step::Ask(Wish::DropSnapshot)],
        past: &OF_A_RESTORE,
        machine_ends: &["resume.used", "start.answered", "start.recorded"],
        ..NOWHERE
    },
    Way {
        name: "disk",
        before: &[RUN, Step::Ask(Wish::Snapshot)],
        life: &[Step::From(SnapshotPart::Disk), Step::Ask(Wish::DropSnapshot)],
        past: &["restore."],
        ..NOWHERE
    },
];

/// Points of a snapshot at which its source's machine may end.
const SAVING: [&str; 6] = [
    "snapshot.decided",
    "snapshot.frozen",
    "snapshot.paused",
    "snapshot.saved",
    "snapshot.resumed",
    "snapshot.kept",
];

impl Way {
    fn leads_past(&self, checkpoint: &str) -> bool {
        let begins = |names: &[&str]| names.iter().any(|name| checkpoint.starts_with(name));
        begins(self.past) && !begins(self.never)
    }
}

/// What is done at a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// The daemon is killed, once.
    Once,
    /// The daemon is killed, and the next one at the same point.
    Twice,
    /// The daemon stands still there while its sandboxes' machines are killed.
    Machine,
    /// The daemon is killed, and its sandboxes' machines before there is another.
    Both,
}

/// Kills a daemon at every checkpoint on every way that leads there; the ways side by side, each in
/// a home of its own, for most of the time is spent in waiting for the disk.
///
/// # Errors
/// When the harness itself fails.
pub async fn run(tools: &Tools) -> Result<Tally> {
    let mut ways = tokio::task::JoinSet::new();
    for way in &WAYS {
        let tools = tools.clone();
        ways.spawn(async move { go(&tools, way).await });
    }
    let mut whole = Tally::default();
    while let Some(tally) = ways.join_next().await {
        whole.add(tally??);
    }
    Ok(whole)
}

async fn go(tools: &Tools, way: &'static Way) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = walk(&mut scene, way).await;
    Ok(scene.end(way.name, outcome))
}

async fn walk(scene: &mut Scene, way: &Way) -> Result<()> {
    let daemon = scene.start(way.name).await?;
    live(scene, &daemon, BYSTANDER, &[RUN]).await?;
    scene.check(way.name, daemon, Vec::new()).await?;
    for checkpoint in CHECKPOINTS.into_iter().filter(|name| way.leads_past(name)) {
        kill_at(scene, way, checkpoint, Kill::Once).await?;
        kill_at(scene, way, checkpoint, Kill::Twice).await?;
    }
    for checkpoint in way.machine_ends {
        kill_at(scene, way, checkpoint, Kill::Machine).await?;
        kill_at(scene, way, checkpoint, Kill::Both).await?;
    }
    Ok(())
}

async fn kill_at(scene: &mut Scene, way: &Way, checkpoint: &str, kill: Kill) -> Result<()> {
    let round = format!("{checkpoint}-{}-{}", way.name, kill as u8 + 1);
    let name = round.replace('.', "-");
    if !way.before.is_empty() {
        let daemon = scene.start(&round).await?;
        tidy(scene, &daemon).await;
        live(scene, &daemon, &name, way.before).await?;
        scene.check(&round, daemon, Vec::new()).await?;
    }
    if checkpoint.starts_with("template.") {
        // There is one already; machines that were made from it do without its name.
        remove_all(&scene.place.home().templates())?;
    }
    match kill {
        Kill::Machine => machines_end_at(scene, (&round, &name), way, checkpoint).await?,
        Kill::Once | Kill::Twice | Kill::Both => {
            daemon_ends_at(scene, (&round, &name), way, checkpoint).await?
        }
    }
    if kill == Kill::Both {
        Killer::of(scene).kill()?;
        note_deaths(scene);
    }
    if kill == Kill::Twice {
        let second = scene.next_life(&round);
        let daemon = Daemon::spawn(&scene.place, &second, &stop_at(checkpoint, "kill"))?;
        // It ends there again, or had nothing left to do there.
        if daemon.answers().await? {
            daemon.unless_it_ends(check::settle(daemon.client(), &scene.book)).await;
        }
        daemon.kill().await?;
        scene.tally.kills += 1;
    }
    let daemon = scene.start(&round).await?;
    scene.check(&round, daemon, Vec::new()).await
}

fn stop_at(checkpoint: &str, how: &str) -> [String; 2] {
    ["--checkpoint".to_owned(), format!("{checkpoint}={how}")]
}

async fn daemon_ends_at(
    scene: &mut Scene,
    (round, name): (&str, &str),
    way: &Way,
    checkpoint: &str,
) -> Result<()> {
    let first = scene.next_life(round);
    let daemon = Daemon::spawn(&scene.place, &first, &stop_at(checkpoint, "kill"))?;
    if daemon.answers().await? {
        live(scene, &daemon, name, way.life).await?;
    }
    // Its connections are closed a moment before it is gone.
    if daemon.ended().await.is_err() {
        scene.violation(round, "the checkpoint was not reached".to_owned());
    }
    scene.tally.kills += 1;
    Ok(())
}

/// The machines of a way's sandbox and its copies end while the daemon stands still at a
/// checkpoint; then it goes on.
async fn machines_end_at(
    scene: &mut Scene,
    (round, name): (&str, &str),
    way: &Way,
    checkpoint: &str,
) -> Result<()> {
    let life = scene.next_life(round);
    let daemon = Daemon::spawn(&scene.place, &life, &stop_at(checkpoint, "stop"))?;
    ensure!(daemon.answers().await?, "bangerd ended at once");
    let killer = Killer::of(scene);
    let (lived, ended) = tokio::join!(live(scene, &daemon, name, way.life), async {
        daemon.stands_still().await?;
        killer.kill()?;
        daemon.go_on()
    });
    lived?;
    ended?;
    note_deaths(scene);
    daemon.unless_it_ends(check::settle(daemon.client(), &scene.book)).await;
    daemon.stop().await
}

/// Kills every machine but the bystander's: of sandboxes, and of templates that are being made.
struct Killer {
    sandboxes: PathBuf,
    templates: PathBuf,
    spared: Option<SandboxId>,
}

impl Killer {
    fn of(scene: &Scene) -> Self {
        let spared = scene.book.get(BYSTANDER).and_then(|entry| entry.id.clone());
        let home = scene.place.home();
        Self { sandboxes: home.sandboxes(), templates: home.templates(), spared }
    }

    fn kill(&self) -> Result<()> {
        for id in list_dir(&self.sandboxes)? {
            if self.spared.as_ref().is_none_or(|spared| id != spared.as_str()) {
                kill_machine(&self.sandboxes.join(id))?;
            }
        }
        for template in list_dir(&self.templates)? {
            let machine = self.templates.join(template).join(MACHINE);
            if machine.exists() {
                kill_machine(&machine)?;
            }
        }
        Ok(())
    }
}

fn note_deaths(scene: &mut Scene) {
    let names: Vec<_> = scene.book.keys().filter(|name| *name != BYSTANDER).cloned().collect();
    for name in names {
        scene.note_wish(&name, Wish::Dies, Heard::Nothing);
    }
}

/// Nothing is left of a way that was gone before.
async fn tidy(scene: &mut Scene, daemon: &Daemon) {
    let names = scene.book.keys().filter(|name| *name != BYSTANDER);
    let mut requests: Vec<_> = names.map(|name| Request::plain(name, Wish::DeleteForced)).collect();
    let snapshots = scene.shelf.iter();
    requests.extend(snapshots.map(|(name, shot)| Request::drop_snapshot(&shot.source, name)));
    for request in requests {
        let heard = request.send(daemon.client()).await;
        if let Heard::Yes(Some(operation)) = &heard {
            daemon.unless_it_ends(end_of(daemon.client(), operation)).await;
        }
        scene.note(&request, heard);
    }
}

/// Asks for one thing after the other, as long as there is somebody to ask.
async fn live(scene: &mut Scene, daemon: &Daemon, name: &str, life: &[Step]) -> Result<()> {
    for step in life {
        if *step == Step::Ask(Wish::Dies) {
            let client = daemon.client();
            // A daemon that has not taken it over yet finds it gone: that is another way.
            let heard = daemon.unless_it_ends(burst::run(client, name, &["true"], &[])).await;
            ensure!(matches!(heard, Some(Ok(()))), "nobody hears the machine that is to die");
            kill_machine_of(scene, name)?;
            if daemon.unless_it_ends(runs_no_more(client, name)).await.is_none() {
                return Ok(());
            }
            continue;
        }
        let request = request(scene, name, *step)?;
        let heard = request.send(daemon.client()).await;
        scene.tally.requests += 1;
        scene.tally.unanswered += u64::from(heard == Heard::Nothing);
        scene.note(&request, heard.clone());
        let Heard::Yes(operation) = heard else { return Ok(()) };
        if let Some(operation) = operation {
            let Some(over) = daemon.unless_it_ends(end_of(daemon.client(), &operation)).await
            else {
                return Ok(());
            };
            scene.was_told(&request, (operation, over));
        }
    }
    Ok(())
}

fn kill_machine_of(scene: &mut Scene, name: &str) -> Result<()> {
    let id = scene.book.get(name).and_then(|entry| entry.id.clone());
    let id = id.context("nobody knows which sandbox it is")?;
    let heard = kill_machine(&scene.place.home().sandbox(&id))?;
    scene.note_wish(name, Wish::Dies, heard);
    Ok(())
}

/// Waits until the daemon has seen that a machine is gone.
async fn runs_no_more(client: &Client, name: &str) {
    while client.show(name).await.is_ok_and(|sandbox| sandbox.state == "running") {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What a step asks for, with everything that it is about in the books.
fn request(scene: &mut Scene, name: &str, step: Step) -> Result<Request> {
    let snapshot = format!("{name}@{TAG}");
    let (name, entry, wish) = match step {
        Step::Ask(wish @ (Wish::Create | Wish::CreateAndStart)) => {
            (name.to_owned(), Entry::new(Afterwards::Stays, None), wish)
        }
        Step::From(part) => {
            let made = Made::FromSnapshot(snapshot, part);
            (format!("{name}-from"), Entry::made(made), Wish::CreateAndStart)
        }
        Step::Ask(Wish::Snapshot) => {
            scene.shelf.insert(snapshot, Shot::of(name));
            return Ok(Request::snapshot(name, TAG));
        }
        Step::Ask(Wish::DropSnapshot) => return Ok(Request::drop_snapshot(name, &snapshot)),
        Step::Ask(Wish::Fork) => {
            let request = Request::fork(name, &format!("{name}-copy"), COPIES);
            for copy in request.copies() {
                scene.book.insert(copy, Entry::made(Made::Copy(name.to_owned())));
            }
            return Ok(request);
        }
        Step::Ask(wish) => return Ok(Request::plain(name, wish)),
    };
    let request = Request::create(&name, &entry, wish)?;
    scene.book.insert(name, entry);
    Ok(request)
}

/// Waits for the end of an operation; what it came to, if somebody tells.
async fn end_of(client: &Client, operation: &OperationId) -> Option<OperationStatus> {
    loop {
        let status = client.operation(operation).await.ok()?.status;
        if status.is_final() {
            return Some(status);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_checkpoint_is_on_some_way() {
        for checkpoint in CHECKPOINTS {
            assert!(WAYS.iter().any(|way| way.leads_past(checkpoint)), "{checkpoint}");
        }
        for checkpoint in WAYS.iter().flat_map(|way| way.machine_ends) {
            assert!(CHECKPOINTS.contains(checkpoint), "{checkpoint}");
        }
    }
}
