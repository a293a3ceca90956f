//! `cargo xtask bench`: how fast the daemon answers and how little it takes, as it is released.
//!
//! Nothing of it needs a machine to run: the monitor is made up. `banger bench start` measures
//! real ones.

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
    steps.next("Building the daemon as it is released, and what measures it");
    build::banger(place)?;
    let measure = ["--release", "--locked", "-p", "banger-crash", "--bins"];
    Program::cargo(place, "build").args(measure).aside().run()?;
    let prepare = ["--release", "--locked", "-p", "banger-image", "--example", "prepare"];
    Program::cargo(place, "build").args(prepare).aside().run()?;
    steps.next("Making the kernel and the image that tests share");
    let home = place.target.join("test-home");
    let release = place.target.join("release");
    Program::new(release.join("examples/prepare")).arg(&home).aside().run()?;
    steps.next("Measuring: best while nothing else runs");
    Program::new(release.join("bench")).args(args).env("BANGER_TEST_HOME", &home).run()?;
    Ok(steps.finish("Measured"))
}
