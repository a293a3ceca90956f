//! `cargo xtask power-cut`: cuts the power of a machine while it updates itself, again and again,
//! and looks what boots then: real GRUB, under QEMU.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::command::Program;
use crate::place::Place;
use crate::steps::Steps;
use crate::{build, packages, rounds};

/// Random cuts when nothing is said. Each is a boot of about ten seconds; two go on at once.
const ROUNDS: u32 = 20;

pub(crate) fn run(place: &Place, args: Vec<OsString>) -> Result<ExitCode> {
    let rounds = rounds::parse("power-cut", &args, ROUNDS)?;
    let mut steps = Steps::new(3);
    steps.next("Looking for the host's packages");
    packages::ensure(&[packages::TO_RUN.as_slice(), packages::TO_TEST.as_slice()].concat())?;
    steps.next("Building the update agent as it is shipped");
    build::os_update(place, build::Shape::Shipped)?;
    steps.next(&format!("Cutting the power behind each step, and {rounds} times elsewhere"));
    Program::cargo(place, "test")
        .args(["--locked", "-p", "os-update", "--test", "boot", "--", "--nocapture"])
        .arg("the_power_may_go_at_any_moment_of_an_update")
        .env("BANGER_POWER_CUTS", rounds.to_string())
        .env("BANGER_TEST_AGENT_DIR", place.guest_programs())
        .env("BANGER_TEST_HOME", place.target.join("test-home"))
        .env("BANGER_REQUIRE_ALL", "1")
        .run()?;
    Ok(steps.finish("Every machine booted the old system or the new one"))
}
