//! `banger vm delete`.

use banger_api::client::Force;
use banger_model::ExitCode;
use clap_complete::ArgValueCandidates;

use crate::commands::completion;
use crate::commands::vm_act::{Order, Wait, order};
use crate::error::CommandError;

/// Delete sandboxes and everything in them
///
/// There is no way back. What runs is deleted only with --force.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm delete web\n  banger vm delete --force web db")]
pub(crate) struct Args {
    /// Delete them even if they run
    #[arg(long, short)]
    force: bool,
    /// Return as soon as it is asked for
    #[arg(long)]
    no_wait: bool,
    /// The sandboxes: names, ids or beginnings of ids
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(completion::sandboxes))]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let force = if args.force { Force::Yes } else { Force::No };
    let wait = if args.no_wait { Wait::No } else { Wait::ForEnd };
    order(&args.names, Order::Delete(force), wait, verbosity)
}
