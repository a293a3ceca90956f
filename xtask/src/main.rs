//! Development commands of banger: `cargo xtask COMMAND`.
//!
//! Everything that the README asks a reader to type, and everything CI runs, is here, in plain
//! Rust with one dependency: the first command on a fresh machine must not begin with a wait.
//! What the tree itself has to keep to (directions of crates, licences, documents) are the
//! tests of this crate.
#![expect(
    clippy::disallowed_methods,
    reason = "a development tool runs the developer's own programs on the developer's own tree"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line tool")]

mod bench;
mod bench_update;
mod build;
mod check;
mod command;
mod crash;
mod fuzz;
mod install;
mod kernel;
mod packages;
mod place;
mod power_cut;
mod rounds;
mod steps;
mod test;
mod try_it;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::place::Place;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  try [-- CMD ARGS...]           install what is missing, build, run CMD in a sandbox
  test [FILTER...]               install what tests need, run every test, or those named so
  check                          formatting, lints and the rules of the tree: the fast part of test
  fuzz [--minutes N] [TARGET]    look for inputs that break a decoder
  crash [--rounds N | --power N] [--from-round K] [--real N]
                                 kill the daemon N times (100) and look what became of its
                                 sandboxes; then N times with real ones (0); or cut the power of
                                 its disk at every point of its work and N other times
  bench [--bursts N] [-o json]   measure the daemon as it is released, without real machines
  kernel                         build a small kernel for sandboxes of Debian's source package
  bench-update [--rounds N]      measure an update of an appliance beside sha256sum of its bytes
  power-cut [--rounds N]         cut the power of an appliance that updates itself behind each of its
                                 steps and at N other moments (20), and look what boots";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let place = Place::find()?;
    let mut args = args.into_iter();
    let command = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    match command.to_str() {
        Some("try") => try_it::run(&place, rest),
        Some("test") => test::run(&place, rest),
        Some("check") if rest.is_empty() => check::run(&place),
        Some("fuzz") => fuzz::run(&place, rest),
        Some("crash") => crash::run(&place, rest),
        Some("bench") => bench::run(&place, rest),
        Some("kernel") => kernel::run(&place, &rest),
        Some("bench-update") => bench_update::run(&place, rest),
        Some("power-cut") => power_cut::run(&place, rest),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("that is no command\n\n{USAGE}"),
    }
}
