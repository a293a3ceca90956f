//! `banger doctor`: a report on this host.

use banger_model::ExitCode;
use bangerd::doctor::{Check, Level, judge, observe};

use crate::context::{self, Context};
use crate::error::CommandError;
use crate::output::{self, Format};

/// Tell what this host can do, and what to do about what it cannot
///
/// The exit status is 1 when something stands in the way of running sandboxes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger doctor\n  banger doctor -o json")]
pub(crate) struct Args {
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let sources = Context::from_process()?.sources_unchecked();
    let runtime = context::runtime()?;
    let checks = judge(&runtime.block_on(observe(&sources)));
    match args.output {
        Format::Json => output::json(&checks)?,
        Format::Text => {
            for check in &checks {
                print(check)?;
            }
        }
    }
    let failed = checks.iter().any(|check| check.level == Level::Fail);
    Ok(if failed { ExitCode::FAILED } else { ExitCode::SUCCESS })
}

fn print(check: &Check) -> Result<(), CommandError> {
    let green = anstyle::AnsiColor::Green.on_default();
    let yellow = anstyle::AnsiColor::Yellow.on_default();
    let red = anstyle::AnsiColor::Red.on_default();
    let (style, word) = match check.level {
        Level::Ok => (green, "ok  "),
        Level::Warn => (yellow, "warn"),
        Level::Fail => (red, "fail"),
    };
    output::styled(style, word, &format!("  {:<15}  {}", check.name, check.found))?;
    match &check.advice {
        Some(advice) => output::line(format!("                       → {advice}")),
        None => Ok(()),
    }
}
