//! A power cut at each named point of the daemon's work, and as soon as somebody was told that
//! something is done.

use anyhow::Result;
use banger_host::fs::remove_all;
use bangerd::checkpoint::CHECKPOINTS;
use tokio::task::JoinSet;

use super::{BYSTANDER, RUN, WAYS, Way, daemon_ends_at, live, tidy};
use crate::draw::Draw;
use crate::place::{Ground, Tools};
use crate::scene::Scene;
use crate::tally::Tally;

/// Where the power goes.
#[derive(Clone, Copy)]
enum Until {
    /// At this checkpoint.
    Checkpoint(&'static str),
    /// When so many steps are done, and somebody was told.
    Told(usize),
}

/// Which ways are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// Every one, and the power goes everywhere on it.
    All,
    /// A few, and it goes when somebody was told that all is done.
    Few,
}

/// On these everything begins that is on the disk for long.
const FEW: [&str; 3] = ["pause", "snapshot", "disk"];

/// Cuts the power everywhere on these ways; the ways side by side, each with a disk of its own.
///
/// # Errors
/// When the harness itself fails.
pub async fn run(tools: &Tools, ways: Ways) -> Result<Tally> {
    let mut all = JoinSet::new();
    for way in WAYS.iter().filter(|way| ways == Ways::All || FEW.contains(&way.name)) {
        let tools = tools.clone();
        all.spawn(async move {
            let mut scene = Scene::begin_on(&tools, Ground::Own)?;
            let outcome = walk(&mut scene, way, ways).await;
            Ok::<_, anyhow::Error>(scene.end(way.name, outcome))
        });
    }
    let mut whole = Tally::default();
    while let Some(tally) = all.join_next().await {
        whole.add(tally??);
    }
    Ok(whole)
}

async fn walk(scene: &mut Scene, way: &Way, ways: Ways) -> Result<()> {
    let daemon = scene.start(way.name).await?;
    live(scene, &daemon, BYSTANDER, &[RUN]).await?;
    scene.check(way.name, daemon, Vec::new()).await?;
    if ways == Ways::Few {
        return cut_at(scene, way, Until::Told(way.life.len())).await;
    }
    for checkpoint in CHECKPOINTS.into_iter().filter(|name| way.leads_past(name)) {
        cut_at(scene, way, Until::Checkpoint(checkpoint)).await?;
    }
    for steps in 0..=way.life.len() {
        cut_at(scene, way, Until::Told(steps)).await?;
    }
    Ok(())
}

async fn cut_at(scene: &mut Scene, way: &Way, until: Until) -> Result<()> {
    let round = match until {
        Until::Checkpoint(checkpoint) => format!("{checkpoint}-{}-power", way.name),
        Until::Told(steps) => format!("told-{steps}-{}-power", way.name),
    };
    let name = round.replace('.', "-");
    let daemon = scene.start(&round).await?;
    tidy(scene, &daemon).await;
    scene.check(&round, daemon, Vec::new()).await?;
    for step in way.before {
        // Looked at each time: who is asked what is in its memory can be asked again.
        let daemon = scene.start(&round).await?;
        live(scene, &daemon, &name, &[*step]).await?;
        scene.check(&round, daemon, Vec::new()).await?;
    }
    match until {
        Until::Checkpoint(checkpoint) => {
            if checkpoint.starts_with("template.") {
                remove_all(&scene.place.home().templates())?;
            }
            daemon_ends_at(scene, (&round, &name), way, checkpoint).await?;
            scene.place.cut()?;
            scene.tally.cuts += 1;
        }
        Until::Told(steps) => {
            let daemon = scene.start(&round).await?;
            live(scene, &daemon, &name, &way.life[..steps]).await?;
            scene.power_goes(&daemon).await?;
        }
    }
    scene.power_comes_back().await?;
    let daemon = scene.start(&round).await?;
    scene.check(&round, daemon, Vec::new()).await?;
    let mut draw = Draw::new(scene.tally.cuts);
    scene.revive(&round, &mut draw).await
}
