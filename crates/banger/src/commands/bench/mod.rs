//! `banger bench`: how long things take here, beside what else there is.

mod burst;
mod compare;
mod exec;
mod fork;
mod pull;
mod run;
mod start;
mod subject;

use std::path::PathBuf;
use std::time::Duration;

use banger_model::ExitCode;
use serde::Serialize;

use crate::error::CommandError;
use crate::output::{self, Format};

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    Start(start::Args),
    Run(run::Args),
    Exec(exec::Args),
    Fork(fork::Args),
    Burst(burst::Args),
    Pull(pull::Args),
}

pub(crate) fn run(bench: &Bench) -> Result<ExitCode, CommandError> {
    match bench {
        Bench::Start(args) => start::run(args),
        Bench::Run(args) => run::run(args),
        Bench::Exec(args) => exec::run(args),
        Bench::Fork(args) => fork::run(args),
        Bench::Burst(args) => burst::run(args),
        Bench::Pull(args) => pull::run(args),
    }
}

/// How a report is shown.
#[derive(Debug, clap::Args)]
struct Shown {
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// An earlier report of the same measurement (`-o json`), to compare this one with
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

impl Shown {
    fn show<R: Serialize>(
        &self,
        report: &R,
        print: impl FnOnce(&R) -> Result<(), CommandError>,
    ) -> Result<ExitCode, CommandError> {
        match self.output {
            Format::Json => output::json(report)?,
            Format::Text => print(report)?,
        }
        if let Some(file) = &self.compare {
            let compared = compare::compare(report, file)?;
            match self.output {
                Format::Json => output::notice(&compared),
                Format::Text => output::text(&compared)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How a time varies, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Distribution {
    min: f64,
    p50: f64,
    p90: f64,
    max: f64,
}

impl Distribution {
    /// Of these times, of which there is one at least.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        // The nearest rank: the smallest time that so many per cent do not exceed.
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { min: at(0), p50: at(50), p90: at(90), max: at(100) }
    }

    /// Its line in a table.
    fn line(&self, name: &str) -> String {
        let Self { min, p50, p90, max } = self;
        format!("{name:<36}{min:>8.0}{p50:>8.0}{p90:>8.0}{max:>8.0}")
    }
}

/// The first line of a table.
fn heading() -> String {
    format!("{:<36}{:>8}{:>8}{:>8}{:>8}", "", "min", "p50", "p90", "max")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times = (1..=10).rev().map(Duration::from_millis).collect();
        let expected = Distribution { min: 1.0, p50: 5.0, p90: 9.0, max: 10.0 };
        assert_eq!(Distribution::of(times), expected);
        let one = Distribution::of(vec![Duration::from_millis(7)]);
        assert_eq!((one.min, one.max), (7.0, 7.0));
    }
}
