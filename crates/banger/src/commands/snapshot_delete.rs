//! `banger snapshot delete`.

use banger_model::{ExitCode, SnapshotName};
use clap_complete::ArgValueCandidates;

use crate::commands::{completion, delete_each};
use crate::error::CommandError;

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
    delete_each(&args.names, verbosity, async |client, name| {
        client.delete_snapshot(name).await?;
        Ok(name.to_string())
    })
}
