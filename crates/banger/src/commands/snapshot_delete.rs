//! `banger snapshot delete`.

use banger_model::{ExitCode, SnapshotName};
use clap_complete::ArgValueCandidates;

use crate::commands::{completion, with_daemon};
use crate::error::{CommandError, Failures};
use crate::output;

/// Delete snapshots
///
/// Sandboxes that were made from one and have been up stay as they are. Prints the name of each
/// that goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger snapshot delete web@1\n  \
                        banger snapshot rm $(banger snapshot list -q)")]
pub(crate) struct Args {
    /// The snapshots: names with tags
    #[arg(required = true, value_name = "NAME@TAG", add = ArgValueCandidates::new(completion::snapshots))]
    names: Vec<SnapshotName>,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    with_daemon(verbosity, async |client| {
        let mut failures = Failures::told_at(verbosity);
        let mut asked: Vec<&SnapshotName> = Vec::new();
        for name in &args.names {
            if asked.contains(&name) {
                continue;
            }
            asked.push(name);
            match client.delete_snapshot(name).await {
                Ok(gone) => output::line(gone.name.to_string())?,
                Err(error) => failures.add(error.into()),
            }
        }
        failures.end()
    })
}
