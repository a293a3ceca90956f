//! One boot that hangs among others that do not.

use std::path::Path;

use banger_crash::held;
use banger_crash::place::Tools;

#[tokio::test]
async fn a_boot_that_hangs_holds_up_no_other_and_can_be_deleted() {
    let built = Path::new(env!("CARGO_BIN_EXE_scripted-vmm")).parent().unwrap();
    let tools = match Tools::beside(built) {
        Ok(tools) => tools,
        Err(why) => return banger_testkit::skipped(&format!("{why:#}")),
    };
    let tally = held::run(&tools).await.unwrap();
    assert!(tally.violations.is_empty(), "{tally}: {:#?}", tally.violations);
}
