//! One kill at each named point of the daemon's work, and a second at the same one.

use anyhow::Result;
use banger_api::client::Client;
use banger_host::fs::remove_all;
use banger_model::OperationId;
use bangerd::checkpoint::CHECKPOINTS;

use crate::book::{Afterwards, Entry, Heard, Wish};
use crate::daemon::{Daemon, LOOK_AGAIN};
use crate::place::Tools;
use crate::scene::Scene;
use crate::tally::Tally;
use crate::{burst, check};

/// The life of a sandbox that nobody kills the daemon for.
const BYSTANDER: &str = "bystander";
/// Ways through a sandbox's life that lead past every checkpoint of their kind.
const LIVES: [(&str, &[Wish]); 4] = [
    ("stop", &[Wish::CreateAndStart, Wish::Stop, Wish::Delete]),
    ("kill", &[Wish::CreateAndStart, Wish::Kill, Wish::Delete]),
    ("force", &[Wish::CreateAndStart, Wish::DeleteForced]),
    ("restart", &[Wish::Create, Wish::Start, Wish::Restart, Wish::Stop, Wish::DeleteForced]),
];

/// How often the daemon is killed at the same point before one lives on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Once,
    Twice,
}

/// Kills a daemon at every checkpoint on every way that leads there; the ways side by side, each in
/// a home of its own, for most of the time is spent in waiting for the disk.
///
/// # Errors
/// When the harness itself fails.
pub async fn run(tools: &Tools) -> Result<Tally> {
    let [a, b, c, d] = LIVES.map(|(way, life)| go(tools, way, life));
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let mut whole = Tally::default();
    for tally in [a?, b?, c?, d?] {
        whole.add(tally);
    }
    Ok(whole)
}

async fn go(tools: &Tools, way: &str, life: &[Wish]) -> Result<Tally> {
    let mut scene = Scene::begin(tools)?;
    let outcome = walk(&mut scene, way, life).await;
    if let Err(error) = outcome
        && scene.tally.violations.is_empty()
    {
        scene.violation(way, format!("{error:#}"));
    }
    Ok(std::mem::take(&mut scene.tally))
}

async fn walk(scene: &mut Scene, way: &str, life: &[Wish]) -> Result<()> {
    let daemon = scene.start(way).await?;
    live(scene, &daemon, BYSTANDER, &[Wish::CreateAndStart]).await?;
    scene.check(way, daemon, Vec::new()).await?;
    // The scripted monitor has no memory to save: `e2e pause`, `e2e snapshot` and `e2e fork` kill at
    // those with real ones.
    let of_memory = |name: &&str| {
        ["pause.", "resume.", "snapshot.", "restore."].iter().any(|kind| name.starts_with(kind))
    };
    for checkpoint in CHECKPOINTS.into_iter().filter(|name| !of_memory(name)) {
        // A machine that is ended by force passes none of those of an orderly end.
        let leads_there = match way {
            "kill" => checkpoint != "stop.off",
            "force" => !checkpoint.starts_with("stop."),
            _ => true,
        };
        for times in [Times::Once, Times::Twice] {
            if leads_there {
                let round = format!("{checkpoint}-{way}-{}", times as u8 + 1);
                kill_at(scene, &round, checkpoint, life, times).await?;
            }
        }
    }
    Ok(())
}

async fn kill_at(
    scene: &mut Scene,
    round: &str,
    checkpoint: &str,
    life: &[Wish],
    times: Times,
) -> Result<()> {
    let args = ["--checkpoint".to_owned(), format!("{checkpoint}=kill")];
    let first = scene.next_life(round);
    if checkpoint.starts_with("template.") {
        // There is one already; machines that were made from it do without its name.
        remove_all(&scene.place.home().templates())?;
    }
    let daemon = Daemon::spawn(&scene.place, &first, &args)?;
    if daemon.answers().await? {
        live(scene, &daemon, &round.replace('.', "-"), life).await?;
    }
    // Its connections are closed a moment before it is gone.
    if daemon.ended().await.is_err() {
        scene.violation(round, "the checkpoint was not reached".to_owned());
    }
    scene.tally.kills += 1;
    if times == Times::Twice {
        let second = scene.next_life(round);
        let daemon = Daemon::spawn(&scene.place, &second, &args)?;
        // It ends there again, or had nothing left to do there.
        if daemon.answers().await? {
            daemon.unless_it_ends(check::settle(daemon.client(), &scene.book)).await;
        }
        daemon.kill().await?;
        scene.tally.kills += 1;
    }
    let daemon = scene.start(round).await?;
    scene.check(round, daemon, Vec::new()).await
}

/// Asks for one thing after the other, as long as there is somebody to ask.
async fn live(scene: &mut Scene, daemon: &Daemon, name: &str, life: &[Wish]) -> Result<()> {
    let client = daemon.client();
    let entry = Entry::new(Afterwards::Stays, None);
    scene.book.insert(name.to_owned(), entry.clone());
    for wish in life {
        let heard = match wish {
            Wish::Create | Wish::CreateAndStart => {
                let made = client.create(&burst::wanted(name, &entry, *wish)?).await;
                burst::heard(made.map(|made| made.operation))
            }
            wish => burst::ask(client, name, *wish).await,
        };
        scene.tally.requests += 1;
        scene.tally.unanswered += u64::from(heard == Heard::Nothing);
        scene.note(name, *wish, heard.clone());
        let Heard::Yes(operation) = heard else { return Ok(()) };
        if let Some(operation) = operation
            && daemon.unless_it_ends(end_of(client, &operation)).await.is_none()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Waits for the end of an operation.
async fn end_of(client: &Client, operation: &OperationId) {
    while client.operation(operation).await.is_ok_and(|operation| !operation.status.is_final()) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
