//! Every checkpoint and a few random rounds: what a change can break at once. `cargo xtask crash`
//! runs as many rounds as one likes.

use std::path::Path;

use banger_crash::place::Tools;
use banger_crash::rounds::{Machines, Rounds};
use banger_crash::{checkpoints, rounds};

/// What a few seconds are enough for.
const ROUNDS: u64 = 15;

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
    let wanted = Rounds { from: 0, count: ROUNDS, machines: Machines::Scripted };
    let tally = rounds::run(&tools, wanted, |_, _| {}).await.unwrap();
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
    assert_eq!(tally.rounds, ROUNDS);
    assert!(tally.kills >= ROUNDS && tally.sandboxes > 0, "{tally}");
}
