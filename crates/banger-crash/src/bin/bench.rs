//! The daemon's bench as a program; `cargo xtask bench` builds what it needs and runs it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use banger_crash::bench::{self, BURSTS};
use banger_crash::place::Tools;

/// What is wanted.
struct Wanted {
    bursts: usize,
    form: Form,
}

/// The form of the output.
enum Form {
    Text,
    Json,
}

fn main() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<()> {
    let wanted = parse(std::env::args().skip(1))?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let tools = Tools::beside(program.parent().context("it lies nowhere")?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tell = |what: &str| eprintln!("measuring: {what}");
    let report = runtime.block_on(bench::run(&tools, wanted.bursts, tell))?;
    match wanted.form {
        Form::Text => print!("{report}"),
        Form::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Wanted> {
    let mut wanted = Wanted { bursts: BURSTS, form: Form::Text };
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.next().as_deref()) {
            ("-o" | "--output", Some("json")) => wanted.form = Form::Json,
            ("-o" | "--output", Some("text")) => wanted.form = Form::Text,
            ("--bursts", Some(number)) => {
                let number = number.parse().ok().filter(|number| *number > 0);
                wanted.bursts = number.context("--bursts needs a whole number")?;
            }
            _ => bail!("usage: bench [--bursts N] [-o text|json]"),
        }
    }
    Ok(wanted)
}
