//! Random rounds: many requests at once, a kill at any instant, and a look at what remains.

use std::time::Duration;

use anyhow::{Context as _, Result};
use banger_host::home::Home;

use crate::burst::{Burst, Size};
use crate::daemon::Daemon;
use crate::draw::Draw;
use crate::place::{Ground, Tools};
use crate::scene::{Scene, Which};
use crate::tally::Tally;
use crate::witness::Witness;

/// Rounds in one home: what is remembered stays small, and what a round leaves is found by those
/// that follow.
const ROUNDS_IN_A_HOME: u64 = 50;
/// How far apart the requests of a burst are sent at most, in microseconds.
const SPREAD: u64 = 250_000;
/// A burst is killed so many microseconds after it began at the latest.
const LATEST_KILL: u64 = 300_000;
/// A recovery that is killed, too, is killed so many microseconds after it began at the latest.
const LATEST_RECOVERY_KILL: u64 = 120_000;
/// Most recoveries in a row that are killed.
const RECOVERY_KILLS: u64 = 3;
/// How many of a hundred are.
const RECOVERY_KILL_PERCENT: u64 = 25;

/// How many of a hundred cuts come as soon as something is told to be done, unless the time for it is
/// over before.
const ON_AN_ANSWER_PERCENT: u64 = 50;
/// The most that is waited for.
const ANSWERS: u64 = 8;

/// So many violations are enough to begin to look for their cause.
const ENOUGH: usize = 20;

/// Which rounds are to be run.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// The first one's number.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// What runs in the sandboxes.
    pub machines: Machines,
    /// What ends in their midst.
    pub ends: Ends,
}

/// What ends in the midst of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The daemon.
    Daemon,
    /// The host's power, and everything with it.
    Power,
}

impl Ends {
    fn ground(self) -> Ground {
        match self {
            Self::Daemon => Ground::Host,
            Self::Power => Ground::Own,
        }
    }
}

/// What runs in the sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machines {
    /// Made up ones.
    Scripted,
    /// Real ones: fewer at a time.
    Real,
}

impl Machines {
    fn size(self) -> Size {
        match self {
            Self::Scripted => Size { requests: 20, sandboxes: 12, spread: SPREAD },
            Self::Real => Size { requests: 8, sandboxes: 3, spread: SPREAD * self.factor() },
        }
    }

    /// How much longer everything takes.
    fn factor(self) -> u64 {
        match self {
            Self::Scripted => 1,
            Self::Real => 20,
        }
    }
}

/// Runs rounds; `tell` is told the figures after each home. A round that finds something ends its
/// home; the next begins afresh.
///
/// # Errors
/// When the harness itself fails.
pub async fn run(tools: &Tools, rounds: Rounds, tell: impl Fn(u64, &Tally)) -> Result<Tally> {
    let mut whole = Tally::default();
    let end = rounds.from + rounds.count;
    let mut next = rounds.from;
    while next < end && whole.violations.len() < ENOUGH {
        let mut scene = Scene::begin_on(tools, rounds.ends.ground())?;
        let last = end.min((next / ROUNDS_IN_A_HOME + 1) * ROUNDS_IN_A_HOME);
        while next < last {
            let outcome = match rounds.ends {
                Ends::Daemon => round(&mut scene, next, rounds.machines).await,
                Ends::Power => power_round(&mut scene, next, rounds.machines).await,
            };
            next += 1;
            if let Err(error) = outcome {
                if scene.tally.violations.is_empty() {
                    scene.violation(&format!("round-{}", next - 1), format!("{error:#}"));
                }
                break;
            }
        }
        whole.add(std::mem::take(&mut scene.tally));
        tell(next, &whole);
    }
    Ok(whole)
}

async fn round(scene: &mut Scene, number: u64, machines: Machines) -> Result<()> {
    let name = format!("round-{number}");
    let mut draw = Draw::new(number);
    let daemon = scene.start(&name).await?;
    let home = scene.place.home();
    let sent = burst(scene, &home, (&daemon, &mut draw)).send(number, machines.size())?;
    after(draw.below(LATEST_KILL * machines.factor())).await;
    daemon.kill().await?;
    scene.tally.kills += 1;
    let sent = scene.hear(&name, sent, Which::Leased).await?;
    let again = scene.clients_end(&mut draw);
    for _ in 0..RECOVERY_KILLS {
        if draw.chance(RECOVERY_KILL_PERCENT) {
            let life = scene.next_life(&name);
            let recovering = Daemon::spawn(&scene.place, &life, &[])?;
            after(draw.below(LATEST_RECOVERY_KILL)).await;
            recovering.kill().await?;
            scene.tally.kills += 1;
        }
    }
    let daemon = scene.start(&name).await.context("no recovery")?;
    scene.ask_again(&name, &daemon, &again).await?;
    let commands = scene.hear(&name, sent, Which::All).await?;
    scene.check(&name, daemon, commands).await
}

fn burst<'a>(
    scene: &'a mut Scene,
    home: &'a Home,
    (daemon, draw): (&'a Daemon, &'a mut Draw),
) -> Burst<'a> {
    Burst {
        client: daemon.client(),
        home,
        draw,
        book: &mut scene.book,
        shelf: &mut scene.shelf,
        leases: &mut scene.leases,
    }
}

/// The same without power: nobody who asked is there afterwards, and nothing that ran.
async fn power_round(scene: &mut Scene, number: u64, machines: Machines) -> Result<()> {
    let name = format!("power-{number}");
    let mut draw = Draw::new(number);
    let daemon = scene.start(&name).await?;
    let (home, witness) = (scene.place.home(), Witness::of(daemon.client()));
    let sent = burst(scene, &home, (&daemon, &mut draw)).send(number, machines.size())?;
    let latest = after(draw.below(LATEST_KILL * machines.factor()));
    if draw.chance(ON_AN_ANSWER_PERCENT) {
        let answers = usize::try_from(1 + draw.below(ANSWERS))?;
        tokio::select! {
            () = latest => {}
            () = witness.more(answers) => {}
        }
    } else {
        latest.await;
    }
    scene.power_goes(&daemon).await?;
    scene.hear(&name, sent, Which::All).await?;
    scene.were_told(witness.told());
    scene.power_comes_back().await?;
    for _ in 0..RECOVERY_KILLS {
        if draw.chance(RECOVERY_KILL_PERCENT) {
            let life = scene.next_life(&name);
            let recovering = Daemon::spawn(&scene.place, &life, &[])?;
            after(draw.below(LATEST_RECOVERY_KILL)).await;
            scene.power_goes(&recovering).await?;
            scene.power_comes_back().await?;
        }
    }
    let daemon = scene.start(&name).await.context("no recovery")?;
    scene.check(&name, daemon, Vec::new()).await?;
    scene.revive(&name, &mut draw).await
}

async fn after(micros: u64) {
    tokio::time::sleep(Duration::from_micros(micros)).await;
}
