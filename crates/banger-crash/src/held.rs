//! What never comes to its end: a boot of which the others take no notice, and which can be deleted;
//! a snapshot that is taken, and nobody was told; a guest that does not answer any more.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use banger_api::client::Client;
use banger_api::types::Sandbox;
use banger_host::clock::Deadline;

use crate::ask::Request;
use crate::book::{Afterwards, Entry, Heard, Wish};
use crate::burst::{self, RunFailed, kill_machine};
use crate::daemon::{Daemon, LOOK_AGAIN, PATIENCE};
use crate::place::Tools;
use crate::scene::Scene;
use crate::scripted::LIFE_SCRIPT;
use crate::shelf::Shot;
use crate::tally::Tally;
use crate::world::HALF_SAVED;

/// Sandboxes that are started at the same time; the first that comes so far is held.
const SANDBOXES: usize = 8;
/// Where it is held: its machine is there, and has not executed anything.
const CHECKPOINT: &str = "start.prepared=hold";
const ROUND: &str = "held";
/// Where a snapshot is held: it is whole, and nobody was told.
const WRITTEN: &str = "snapshot.kept=hold";
/// Where the daemon stands still when it has seen that a machine is gone.
const ENDED: &str = "end.seen=stop";
/// How long a request may take into the socket of a daemon.
const SENT: Duration = Duration::from_millis(20);
/// What it is of, and which one it is.
const SOURCE: &str = "box";
const TAG: &str = "1";
/// How its copies are called, and how many there are: more than may come up at the same time.
const COPY: &str = "copy";
const COPIES: u16 = 20;

/// Holds one boot among others, deletes all, and looks at what remains.
///
/// # Errors
/// When the harness itself fails.
pub async fn run(tools: &Tools) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = hold(&mut scene).await;
    Ok(scene.end(ROUND, outcome))
}

async fn hold(scene: &mut Scene) -> Result<()> {
    let life = scene.next_life(ROUND);
    let args = ["--checkpoint".to_owned(), CHECKPOINT.to_owned()];
    let daemon = Daemon::spawn(&scene.place, &life, &args)?;
    ensure!(daemon.answers().await?, "bangerd ended at once");
    let client = daemon.client();
    for number in 0..SANDBOXES {
        create(scene, client, format!("box-{number}")).await?;
    }
    let running = all_but_one_run(client).await?;
    for name in &running {
        match burst::run(client, name, &["true"], &[]).await {
            Ok(()) => {}
            Err(RunFailed::NoDaemon) => bail!("bangerd is gone"),
            Err(RunFailed::Otherwise(why)) => bail!("true does not run in {name}: {why}"),
        }
    }
    let held = the_held_one(client).await?;
    for name in running.iter().chain([&held]) {
        delete(scene, client, name).await?;
    }
    all_are_gone(client, &held).await?;
    daemon.stop().await?;
    let next = scene.start(ROUND).await?;
    scene.check(ROUND, next, Vec::new()).await?;
    ensure!(scene.book.is_empty(), "not deleted: {:?}", scene.book.keys());
    Ok(())
}

/// Holds a snapshot that is on the disk and whose operation is not over, asks for something else
/// meanwhile, and kills the daemon: what its successor has is what everybody was told.
///
/// # Errors
/// When the harness itself fails.
pub async fn run_snapshot(tools: &Tools, meanwhile: Wish) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = hold_snapshot(&mut scene, meanwhile).await;
    Ok(scene.end(ROUND, outcome))
}

async fn hold_snapshot(scene: &mut Scene, meanwhile: Wish) -> Result<()> {
    let life = scene.next_life(ROUND);
    let args = ["--checkpoint".to_owned(), WRITTEN.to_owned()];
    let daemon = Daemon::spawn(&scene.place, &life, &args)?;
    ensure!(daemon.answers().await?, "bangerd ended at once");
    let client = daemon.client();
    create(scene, client, SOURCE.to_owned()).await?;
    runs(client).await?;
    let deadline = Deadline::after(PATIENCE);
    let snapshot = format!("{SOURCE}@{TAG}");
    scene.shelf.insert(snapshot.clone(), Shot::of(SOURCE));
    send(scene, client, Request::snapshot(SOURCE, TAG)).await;
    while client.snapshots().await?.is_empty() {
        ensure!(!deadline.passed(), "no snapshot is taken");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let request = match meanwhile {
        Wish::DropSnapshot => Request::drop_snapshot(SOURCE, &snapshot),
        wish => Request::plain(SOURCE, wish),
    };
    send(scene, client, request).await;
    daemon.kill().await?;
    scene.tally.kills += 1;
    let next = scene.start(ROUND).await?;
    scene.check(ROUND, next, Vec::new()).await
}

/// Asks for what only a machine that runs can do, when the daemon has just seen that it does not:
/// whatever is answered, the sandbox does not run afterwards.
///
/// # Errors
/// When the harness itself fails.
pub async fn run_end(tools: &Tools, meanwhile: Wish) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = hold_end(&mut scene, meanwhile).await;
    Ok(scene.end(ROUND, outcome))
}

async fn hold_end(scene: &mut Scene, meanwhile: Wish) -> Result<()> {
    let life = scene.next_life(ROUND);
    let args = ["--checkpoint".to_owned(), ENDED.to_owned()];
    let daemon = Daemon::spawn(&scene.place, &life, &args)?;
    ensure!(daemon.answers().await?, "bangerd ended at once");
    let client = daemon.client();
    create(scene, client, SOURCE.to_owned()).await?;
    runs(client).await?;
    kill_machine(&scene.place.home().sandbox(&client.show(SOURCE).await?.id))?;
    scene.note(&Request::plain(SOURCE, Wish::Dies), Heard::Nothing);
    daemon.stands_still().await?;
    scene.shelf.insert(format!("{SOURCE}@{TAG}"), Shot::of(SOURCE));
    let request = match meanwhile {
        Wish::Snapshot => Request::snapshot(SOURCE, TAG),
        wish => Request::plain(SOURCE, wish),
    };
    let (heard, went_on) = tokio::join!(request.send(client), async {
        // The request waits in the daemon's socket, unless this host is very slow.
        tokio::time::sleep(SENT).await;
        daemon.go_on()
    });
    went_on?;
    scene.note(&request, heard);
    scene.check(ROUND, daemon, Vec::new()).await
}

/// Takes up a guest that does not answer when it is told who it is, or makes copies of it, and has
/// those end that do not come up.
///
/// # Errors
/// When the harness itself fails.
pub async fn run_deaf(tools: &Tools, taken_up_by: Wish) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = deafen(&mut scene, taken_up_by).await;
    Ok(scene.end(ROUND, outcome))
}

/// Takes up a guest that refuses to be told who it is: it goes on as what it was, and a copy of it,
/// which must not, does not come up.
///
/// # Errors
/// When the harness itself fails.
pub async fn run_defiant(tools: &Tools) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = defy(&mut scene).await;
    Ok(scene.end(ROUND, outcome))
}

async fn defy(scene: &mut Scene) -> Result<()> {
    let daemon = scene.start(ROUND).await?;
    let client = daemon.client();
    create(scene, client, SOURCE.to_owned()).await?;
    runs(client).await?;
    let told = async || {
        let told = burst::output(client, SOURCE, &["sh", "-c", LIFE_SCRIPT]).await;
        let told = String::from_utf8(told.ok().context("it does not tell its life")?)?;
        Ok::<_, anyhow::Error>(told.split(' ').next().unwrap_or_default().to_owned())
    };
    let life = told().await?;
    if burst::run(client, SOURCE, &["defy"], &[]).await.is_err() {
        bail!("the guest does not refuse");
    }
    send(scene, client, Request::plain(SOURCE, Wish::Pause)).await;
    becomes(client, SOURCE, "paused").await?;
    send(scene, client, Request::plain(SOURCE, Wish::Resume)).await;
    runs(client).await?;
    ensure!(told().await? == life, "it has lost its memory");
    let fork = Request::fork(SOURCE, COPY, 1);
    ensure!(matches!(fork.send(client).await, Heard::Yes(_)), "no copies are made");
    for name in fork.copies() {
        becomes(client, &name, "failed").await?;
        let _ = Request::plain(&name, Wish::DeleteForced).send(client).await;
    }
    let _ = Request::plain(SOURCE, Wish::DeleteForced).send(client).await;
    all_are_gone(client, SOURCE).await?;
    daemon.stop().await
}

async fn deafen(scene: &mut Scene, taken_up_by: Wish) -> Result<()> {
    let daemon = scene.start(ROUND).await?;
    let client = daemon.client();
    create(scene, client, SOURCE.to_owned()).await?;
    runs(client).await?;
    if burst::run(client, SOURCE, &["deafen"], &[]).await.is_err() {
        bail!("the guest does not become deaf");
    }
    let stuck = match taken_up_by {
        Wish::Fork => {
            let fork = Request::fork(SOURCE, COPY, COPIES);
            ensure!(matches!(fork.send(client).await, Heard::Yes(_)), "no copies are made");
            fork.copies()
        }
        wish => {
            send(scene, client, Request::plain(SOURCE, Wish::Pause)).await;
            becomes(client, SOURCE, "paused").await?;
            send(scene, client, Request::plain(SOURCE, wish)).await;
            vec![SOURCE.to_owned()]
        }
    };
    for name in &stuck {
        becomes(client, name, "starting").await?;
    }
    for name in &stuck {
        let killed = Request::plain(name, Wish::Kill).send(client).await;
        ensure!(matches!(killed, Heard::Yes(_)), "{name} is not killed: {killed:?}");
        becomes(client, name, "stopped").await?;
    }
    for name in stuck.iter().map(String::as_str).chain([SOURCE]) {
        // The source may be the one that was stuck, and gone.
        let _ = Request::plain(name, Wish::DeleteForced).send(client).await;
    }
    all_are_gone(client, SOURCE).await?;
    daemon.stop().await
}

/// Leaves beside a paused sandbox's memory what was saved before, as a host does that loses its power
/// after it was removed and before that has reached the disk.
///
/// # Errors
/// When the harness itself fails.
pub async fn run_older(tools: &Tools) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = leave_older(&mut scene).await;
    Ok(scene.end(ROUND, outcome))
}

async fn leave_older(scene: &mut Scene) -> Result<()> {
    let daemon = scene.start(ROUND).await?;
    let client = daemon.client();
    create(scene, client, SOURCE.to_owned()).await?;
    runs(client).await?;
    send(scene, client, Request::plain(SOURCE, Wish::Pause)).await;
    becomes(client, SOURCE, "paused").await?;
    let older = scene.place.home().sandbox(&client.show(SOURCE).await?.id).join(HALF_SAVED);
    daemon.stop().await?;
    std::fs::create_dir(older)?;
    let next = scene.start(ROUND).await?;
    scene.check(ROUND, next, Vec::new()).await
}

/// Waits until the sandbox runs.
async fn runs(client: &Client) -> Result<()> {
    becomes(client, SOURCE, "running").await
}

/// Waits until a sandbox is so.
async fn becomes(client: &Client, name: &str, state: &str) -> Result<()> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let is = client.show(name).await?.state;
        if is == state {
            return Ok(());
        }
        ensure!(!deadline.passed(), "{name} is {is} and not {state}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn send(scene: &mut Scene, client: &Client, request: Request) {
    let heard = request.send(client).await;
    scene.tally.requests += 1;
    scene.note(&request, heard);
}

async fn create(scene: &mut Scene, client: &Client, name: String) -> Result<()> {
    let (entry, wish) = (Entry::new(Afterwards::Stays, None), Wish::CreateAndStart);
    let request = Request::create(&name, &entry, wish)?;
    let heard = request.send(client).await;
    ensure!(matches!(heard, Heard::Yes(_)), "{name} is not made: {heard:?}");
    scene.tally.requests += 1;
    scene.book.insert(name, entry);
    scene.note(&request, heard);
    Ok(())
}

async fn delete(scene: &mut Scene, client: &Client, name: &str) -> Result<()> {
    let request = Request::plain(name, Wish::DeleteForced);
    let heard = request.send(client).await;
    ensure!(matches!(heard, Heard::Yes(_)), "{name} is not deleted: {heard:?}");
    scene.tally.requests += 1;
    scene.note(&request, heard);
    Ok(())
}

/// Waits until only one does not run; the names of those that do.
async fn all_but_one_run(client: &Client) -> Result<Vec<String>> {
    let runs = |one: &Sandbox| (one.state == "running").then(|| one.name.to_string());
    let deadline = Deadline::after(PATIENCE);
    loop {
        let sandboxes = client.list(&[]).await?;
        let running: Vec<_> = sandboxes.iter().filter_map(runs).collect();
        if running.len() >= SANDBOXES - 1 {
            return Ok(running);
        }
        ensure!(!deadline.passed(), "one is held, and only {running:?} run");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The one that still starts, and whose operation still runs.
async fn the_held_one(client: &Client) -> Result<String> {
    let sandboxes = client.list(&[]).await?;
    let held: Vec<_> = sandboxes.iter().filter(|one| one.state != "running").collect();
    let [held] = held.as_slice() else { bail!("{} do not run", held.len()) };
    ensure!(held.state == "starting", "the one that is held is {}", held.state);
    let operations = client.operations().await?;
    let its = operations.iter().find(|operation| operation.sandbox.as_ref() == Some(&held.id));
    let status = &its.context("its start has no operation")?.status;
    ensure!(!status.is_final(), "the start of the one that is held is {status:?}");
    Ok(held.name.to_string())
}

/// Waits until nothing is there: what is held in its boot lets go when something else is asked
/// for.
async fn all_are_gone(client: &Client, held: &str) -> Result<()> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let sandboxes = client.list(&[]).await?;
        let left: Vec<_> =
            sandboxes.iter().map(|one| (one.name.as_str(), one.state.as_str())).collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(!deadline.passed(), "all are deleted, and {held} is held, but {left:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
