//! `cargo xtask check`: what needs no sandbox to be found wrong. Also the beginning of
//! `cargo xtask test`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::command::Program;
use crate::place::Place;
use crate::steps::Steps;

pub(crate) fn run(place: &Place) -> Result<ExitCode> {
    let mut steps = Steps::new(3);
    style(place, &mut steps)?;
    steps.next("Checking the rules of the tree");
    Program::cargo(place, "test").args(["--locked", "-p", "xtask"]).run()?;
    Ok(steps.finish("All checks passed"))
}

/// Formatting and lints: two steps.
pub(crate) fn style(place: &Place, steps: &mut Steps) -> Result<()> {
    steps.next("Checking the formatting");
    ensure_component(place, "fmt", "rustfmt")?;
    Program::cargo(place, "fmt").args(["--all", "--check"]).run()?;
    steps.next("Checking the lints");
    ensure_component(place, "clippy", "clippy")?;
    Program::cargo(place, "clippy")
        .args(["--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
        .run()
}

/// A minimal toolchain comes without these.
fn ensure_component(place: &Place, subcommand: &str, component: &str) -> Result<()> {
    if Program::cargo(place, subcommand).arg("--version").succeeds() {
        return Ok(());
    }
    Program::new("rustup")
        .args(["component", "add", component])
        .run()
        .with_context(|| format!("this Rust toolchain lacks {component}"))
}
