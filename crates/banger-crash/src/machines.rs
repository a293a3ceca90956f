//! Talks to everything that runs: which machine it is, and what is in its memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use banger_api::client::Client;
use banger_api::types::Sandbox;

use crate::book::{Book, Boot, Entry, Rest};
use crate::burst::{self, RunFailed};
use crate::check::{Said, Wrongs};
use crate::lives::{self, Expected, Life};
use crate::scripted::LIFE_SCRIPT;
use crate::shelf::Shelf;

/// How long a machine may take to say which it is, before that is a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that runs.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) boot: Boot,
    /// None where the guest does not tell.
    pub(crate) life: Option<Life>,
    /// Whether its memory is that of another machine that is gone, or of the same for sure.
    pub(crate) remembers: Remembers,
}

/// Whether a machine remembers something of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembers {
    /// It was made of saved memory, and that was to be found in it.
    AnothersLife,
    /// It need not.
    Nothing,
}

/// Talks to everything that runs; the machines that answered.
pub(crate) async fn look(
    client: &Client,
    (book, shelf): (&Book, &Shelf),
    said: &Said,
) -> Result<(BTreeMap<String, Found>, Wrongs)> {
    let (mut all, mut wrongs) = (BTreeMap::new(), Wrongs::new());
    for (name, sandbox) in &said.sandboxes {
        if sandbox.state != "running" {
            continue;
        }
        if let Err(RunFailed::Otherwise(why)) = burst::run(client, name, &["true"], &[]).await {
            wrongs.push(format!("true does not run in {name}: {why}"));
        }
        let shown = shown_whole(client, name).await?;
        let detail = shown.detail.as_ref();
        let pid = detail.and_then(|detail| detail.vmm_pid);
        let id = detail.and_then(|detail| detail.boot_id.clone());
        let (Some(pid), Some(id)) = (pid, id) else {
            wrongs.push(format!("{name} runs and does not say in which machine: {detail:?}"));
            continue;
        };
        let boot = Boot { pid, id };
        let entry = book.get(name);
        wrongs.extend(entry.and_then(|entry| other_machine(name, entry, &boot)));
        let life = match ask_life(client, name).await {
            Ok(life) => Some(life),
            Err(why) => {
                wrongs.push(format!("the memory of {name} is not what it should be: {why}"));
                None
            }
        };
        let expected = entry.map(|entry| lives::expected(entry, sandbox.boots, book, shelf));
        let expected = expected.unwrap_or(Expected::Anything);
        let wrong = life
            .as_ref()
            .and_then(|life| expected.wrong(life).or_else(|| lives::disk_wrong(entry?, life)));
        wrongs.extend(wrong.map(|wrong| {
            format!(
                "{name} {wrong}; it was {entry:?}, and has begun to start {} times",
                sandbox.boots
            )
        }));
        let same = entry.and_then(|entry| entry.boot.as_ref()).is_some_and(|had| had.pid == pid);
        let remembers = match expected {
            Expected::GoesOn(_) if !same => Remembers::AnothersLife,
            _ => Remembers::Nothing,
        };
        all.insert(name.clone(), Found { boot, life, remembers });
    }
    Ok((all, wrongs))
}

/// What is shown of a sandbox that runs, asked for again while its machine is not heard: the daemon
/// waits two seconds for it, and a host full of machines may need more.
async fn shown_whole(client: &Client, name: &str) -> Result<Sandbox> {
    let begin = Instant::now();
    loop {
        let shown = client.show(name).await?;
        let is_told = shown.detail.as_ref().is_some_and(|detail| detail.boot_id.is_some());
        if is_told || shown.state != "running" || begin.elapsed() > PATIENCE {
            return Ok(shown);
        }
    }
}

/// What is wrong when it is not in the machine, or not in the boot of it, in which it has to be.
fn other_machine(name: &str, entry: &Entry, boot: &Boot) -> Option<String> {
    if let Some(kept) = entry.undisturbed().filter(|kept| *kept != boot) {
        return Some(format!("nobody touched {name}, and its machine {kept:?} is {boot:?}"));
    }
    let had = entry.boot.as_ref().filter(|_| entry.was == Rest::Running);
    let other = had.filter(|had| !entry.may_have_ended() && had.id != boot.id)?;
    Some(format!("{name} was paused at most, and its boot {other:?} is {boot:?}"))
}

async fn ask_life(client: &Client, name: &str) -> Result<Life, String> {
    let told = burst::output(client, name, &["sh", "-c", LIFE_SCRIPT]).await;
    match told {
        Ok(told) => String::from_utf8_lossy(&told).parse(),
        Err(RunFailed::NoDaemon) => Err("bangerd is gone".to_owned()),
        Err(RunFailed::Otherwise(why)) => Err(why),
    }
}
