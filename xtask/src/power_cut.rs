//! `cargo xtask power-cut`: cuts the power of a machine while it updates itself, again and again,
//! and looks what boots then: real GRUB, under QEMU.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::command::Program;
use crate::place::Place;
use crate::steps::Steps;
use crate::{build, packages};

/// Random cuts when nothing is said. Each is a boot of about ten seconds; two go on at once.
const ROUNDS: u32 = 20;

pub(crate) fn run(place: &Place, args: Vec<OsString>) -> Result<ExitCode> {
    let rounds = parse(args)?;
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

fn parse(args: Vec<OsString>) -> Result<u32> {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    match args.iter().map(AsRef::as_ref).collect::<Vec<&str>>().as_slice() {
        [] => Ok(ROUNDS),
        ["--rounds", number] => {
            let rounds = number.parse().ok().filter(|rounds| *rounds > 0);
            rounds.context("--rounds needs a whole number")
        }
        _ => bail!("usage: cargo xtask power-cut [--rounds N]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_a_number() {
        let check = |args: &[&str]| parse(args.iter().map(OsString::from).collect());
        assert_eq!(check(&[]).unwrap(), ROUNDS);
        assert_eq!(check(&["--rounds", "200"]).unwrap(), 200);
        for bad in [&["--rounds"][..], &["--rounds", "0"], &["x"]] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
