//! The crash test as a program; `cargo xtask crash` builds what it needs and runs it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use banger_crash::place::Tools;
use banger_crash::rounds::{Machines, Rounds};
use banger_crash::tally::Tally;
use banger_crash::{checkpoints, rounds};

/// Rounds when nothing is said.
const ROUNDS: u64 = 100;

/// What is wanted.
struct Wanted {
    rounds: u64,
    from: u64,
    real: u64,
}

fn main() -> ExitCode {
    match begin() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<ExitCode> {
    let wanted = parse(std::env::args().skip(1))?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let tools = Tools::beside(program.parent().context("it lies nowhere")?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = runtime.block_on(run(&tools, &wanted))?;
    println!("crash: {tally}");
    for violation in &tally.violations {
        println!("  {violation}");
    }
    Ok(if tally.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(tools: &Tools, wanted: &Wanted) -> Result<Tally> {
    let mut whole = Tally::default();
    if wanted.from == 0 {
        whole = checkpoints::run(tools).await?;
        println!("checkpoints: {whole}");
    }
    let scripted = Rounds { from: wanted.from, count: wanted.rounds, machines: Machines::Scripted };
    whole.add(rounds::run(tools, scripted, |next, tally| tell("scripted", next, tally)).await?);
    if wanted.real > 0 {
        let tools = Tools { monitor: None, ..tools.clone() };
        let real = Rounds { from: 0, count: wanted.real, machines: Machines::Real };
        whole.add(rounds::run(&tools, real, |next, tally| tell("real", next, tally)).await?);
    }
    Ok(whole)
}

fn tell(what: &str, next: u64, tally: &Tally) {
    println!("{what}, next is round {next}: {tally}");
    if let Some(violation) = tally.violations.last() {
        println!("  the last: {violation}");
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Wanted> {
    let mut wanted = Wanted { rounds: ROUNDS, from: 0, real: 0 };
    while let Some(arg) = args.next() {
        let place = match arg.as_str() {
            "--rounds" => &mut wanted.rounds,
            "--from-round" => &mut wanted.from,
            "--real" => &mut wanted.real,
            _ => bail!("usage: crash [--rounds N] [--from-round K] [--real N]"),
        };
        let number = args.next().and_then(|number| number.parse().ok());
        *place = number.with_context(|| format!("{arg} needs a whole number"))?;
    }
    Ok(wanted)
}
