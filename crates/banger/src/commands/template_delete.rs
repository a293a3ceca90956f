//! `banger template delete`.

use banger_model::ExitCode;
use clap_complete::ArgValueCandidates;

use crate::commands::{completion, delete_each};
use crate::error::CommandError;

/// Delete templates
///
/// What a sandbox that runs was made from stays. Prints the id of each that goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger template delete 5a277d5a2e62544d\n  \
                        banger template rm 5a27 f51d")]
pub(crate) struct Args {
    /// The templates: ids or beginnings of ids
    #[arg(required = true, value_name = "ID", add = ArgValueCandidates::new(completion::templates))]
    ids: Vec<String>,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    delete_each(&args.ids, verbosity, async |client, id| {
        Ok(client.delete_template(id).await?.map_or_else(|| id.clone(), |it| it.id.to_string()))
    })
}
