//! `cargo xtask crash`: kills the daemon at any instant, again and again, and looks what remains.
//!
//! Rounds are numbered and draw everything from their number, so a long run is resumed, and a
//! round that found something repeated, with `--from-round`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::command::Program;
use crate::place::Place;
use crate::steps::Steps;
use crate::{build, packages};

pub(crate) fn run(place: &Place, args: Vec<OsString>) -> Result<ExitCode> {
    let mut steps = Steps::new(5);
    steps.next("Looking for the host's packages");
    packages::ensure(&packages::TO_RUN)?;
    steps.next("Building the guest's programs");
    build::guest_programs(place)?;
    steps.next("Building the daemon and what kills it");
    Program::cargo(place, "build")
        .args(["--locked", "-p", "bangerd", "-p", "banger-crash", "--bins"])
        .run()?;
    Program::cargo(place, "build")
        .args(["--locked", "-p", "banger-image", "--example", "prepare"])
        .run()?;
    steps.next("Making the kernel and the image that tests share");
    let home = place.target.join("test-home");
    let debug = place.target.join("debug");
    Program::new(debug.join("examples/prepare")).arg(&home).run()?;
    steps.next("Killing the daemon");
    Program::new(debug.join("crash")).args(args).env("BANGER_TEST_HOME", &home).run()?;
    Ok(steps.finish("Nothing was lost and nothing is left over"))
}
