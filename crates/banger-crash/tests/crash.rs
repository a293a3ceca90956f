//! Every checkpoint and a few random rounds: what a change can break at once. `cargo xtask crash`
//! runs as many rounds as one likes.

use std::path::Path;

use banger_crash::checkpoints::power::{self, Ways};
use banger_crash::place::Tools;
use banger_crash::power::can_be_cut;
use banger_crash::rounds::{Ends, Machines, Rounds};
use banger_crash::{checkpoints, rounds};

/// What a few seconds are enough for.
const ROUNDS: u64 = 15;
const CUTS: u64 = 8;

fn tools() -> Option<Tools> {
    let built = Path::new(env!("CARGO_BIN_EXE_scripted-vmm")).parent()?;
    Tools::beside(built).map_err(|why| banger_testkit::skipped(&format!("{why:#}"))).ok()
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_checkpoint_is_followed_by_one_that_goes_on() {
    let Some(tools) = tools() else { return };
    let tally = checkpoints::run(&tools).await.unwrap();
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
    assert!(tally.kills > 0 && tally.kept > 0, "{tally}");
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_instant_is_followed_by_one_that_goes_on() {
    let Some(tools) = tools() else { return };
    let (machines, ends) = (Machines::Scripted, Ends::Daemon);
    let wanted = Rounds { from: 0, count: ROUNDS, machines, ends };
    let tally = rounds::run(&tools, wanted, |_, _| {}).await.unwrap();
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
    assert_eq!(tally.rounds, ROUNDS);
    assert!(tally.kills >= ROUNDS && tally.sandboxes > 0, "{tally}");
}

#[tokio::test]
async fn what_was_promised_is_there_when_the_power_comes_back() {
    let Some(tools) = tools() else { return };
    if let Err(why) = can_be_cut() {
        let why = format!("the power cannot be cut here: {why:#}");
        return banger_testkit::skipped_on_this_machine(&why);
    }
    let mut tally = power::run(&tools, Ways::Few).await.unwrap();
    let (machines, ends) = (Machines::Scripted, Ends::Power);
    let wanted = Rounds { from: 0, count: CUTS, machines, ends };
    tally.add(rounds::run(&tools, wanted, |_, _| {}).await.unwrap());
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
    assert!(tally.cuts >= CUTS && tally.memories > 0 && tally.snapshots > 0, "{tally}");
}
