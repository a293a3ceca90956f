//! `banger image delete`: what nobody needs goes.

use banger_model::ExitCode;
use clap_complete::ArgValueCandidates;

use crate::commands::{completion, delete_each};
use crate::error::CommandError;

/// Delete images
///
/// One that a sandbox or a snapshot needs stays. What was fetched for it stays in the cache, so
/// that it can be had again without the network. Prints the name of each.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger image delete alpine-3.20\n  \
                        banger image rm $(banger image list -q)")]
pub(crate) struct Args {
    /// The images: their names, or where they are in a registry
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(completion::images))]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    delete_each(&args.names, verbosity, async |client, name| {
        Ok(client.delete_image(name).await?.name.to_string())
    })
}
