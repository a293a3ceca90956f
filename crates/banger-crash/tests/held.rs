//! One boot that hangs among others that do not, and a snapshot whose operation does.

use std::path::Path;

use banger_crash::book::Wish;
use banger_crash::held;
use banger_crash::place::Tools;

fn tools() -> Option<Tools> {
    let built = Path::new(env!("CARGO_BIN_EXE_scripted-vmm")).parent()?;
    Tools::beside(built).map_err(|why| banger_testkit::skipped(&format!("{why:#}"))).ok()
}

#[tokio::test]
async fn a_snapshot_that_is_being_taken_is_there_exactly_if_its_operation_says_so() {
    let Some(tools) = tools() else { return };
    for meanwhile in [Wish::DropSnapshot, Wish::Kill, Wish::DeleteForced] {
        let tally = held::run_snapshot(&tools, meanwhile).await.unwrap();
        assert!(tally.violations.is_empty(), "{meanwhile:?}, {tally}: {:#?}", tally.violations);
    }
}

#[tokio::test]
async fn a_sandbox_whose_machine_is_gone_does_not_run_whatever_is_asked() {
    let Some(tools) = tools() else { return };
    for meanwhile in [Wish::Pause, Wish::Snapshot, Wish::Restart] {
        let tally = held::run_end(&tools, meanwhile).await.unwrap();
        assert!(tally.violations.is_empty(), "{meanwhile:?}, {tally}: {:#?}", tally.violations);
    }
}

#[tokio::test]
async fn a_guest_that_answers_no_more_can_be_killed_while_it_is_taken_up() {
    let Some(tools) = tools() else { return };
    for taken_up_by in [Wish::Resume, Wish::Fork] {
        let tally = held::run_deaf(&tools, taken_up_by).await.unwrap();
        assert!(tally.violations.is_empty(), "{taken_up_by:?}, {tally}: {:#?}", tally.violations);
    }
}

#[tokio::test]
async fn a_guest_that_refuses_its_identity_goes_on_as_what_it_was_and_nobody_else_does() {
    let Some(tools) = tools() else { return };
    let tally = held::run_defiant(&tools).await.unwrap();
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
}

#[tokio::test]
async fn memory_that_was_saved_before_goes_with_the_next_daemon() {
    let Some(tools) = tools() else { return };
    let tally = held::run_older(&tools).await.unwrap();
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
}

#[tokio::test]
async fn a_boot_that_hangs_holds_up_no_other_and_can_be_deleted() {
    let Some(tools) = tools() else { return };
    let tally = held::run(&tools).await.unwrap();
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
}
