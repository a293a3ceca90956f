//! The crash test as a program; `cargo xtask crash` builds what it needs and runs it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use banger_crash::checkpoints::power::{self, Ways};
use banger_crash::place::Tools;
use banger_crash::power::can_be_cut;
use banger_crash::rounds::{Ends, Machines, Rounds};
use banger_crash::tally::Tally;
use banger_crash::{checkpoints, rounds};

/// Rounds when nothing is said.
const ROUNDS: u64 = 100;

/// What is wanted.
struct Wanted {
    rounds: u64,
    from: u64,
    real: u64,
    /// Rounds without power, if that is to be tried instead.
    power: Option<u64>,
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
    if let Some(rounds) = wanted.power {
        return cut(tools, wanted.from, rounds).await;
    }
    let mut whole = Tally::default();
    if wanted.from == 0 {
        whole = checkpoints::run(tools).await?;
        println!("checkpoints: {whole}");
    }
    let (machines, ends) = (Machines::Scripted, Ends::Daemon);
    let scripted = Rounds { from: wanted.from, count: wanted.rounds, machines, ends };
    whole.add(rounds::run(tools, scripted, |next, tally| tell("scripted", next, tally)).await?);
    if wanted.real > 0 {
        let tools = Tools { monitor: None, ..tools.clone() };
        let real = Rounds { from: 0, count: wanted.real, machines: Machines::Real, ends };
        whole.add(rounds::run(&tools, real, |next, tally| tell("real", next, tally)).await?);
    }
    Ok(whole)
}

async fn cut(tools: &Tools, from: u64, count: u64) -> Result<Tally> {
    can_be_cut().context("the power cannot be cut here")?;
    let mut whole = Tally::default();
    if from == 0 {
        whole = power::run(tools, Ways::All).await?;
        println!("checkpoints without power: {whole}");
    }
    let (machines, ends) = (Machines::Scripted, Ends::Power);
    let cut = Rounds { from, count, machines, ends };
    whole.add(rounds::run(tools, cut, |next, tally| tell("without power", next, tally)).await?);
    Ok(whole)
}

fn tell(what: &str, next: u64, tally: &Tally) {
    println!("{what}, next is round {next}: {tally}");
    if let Some(violation) = tally.violations.last() {
        println!("  the last: {violation}");
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Wanted> {
    let mut wanted = Wanted { rounds: ROUNDS, from: 0, real: 0, power: None };
    while let Some(arg) = args.next() {
        let number = args.next().and_then(|number| number.parse().ok());
        let number = number.with_context(|| format!("{arg} needs a whole number"));
        match arg.as_str() {
            "--rounds" => wanted.rounds = number?,
            "--from-round" => wanted.from = number?,
            "--real" => wanted.real = number?,
            "--power" => wanted.power = Some(number?),
            _ => bail!("usage: crash [--rounds N | --power N] [--from-round K] [--real N]"),
        }
    }
    Ok(wanted)
}
