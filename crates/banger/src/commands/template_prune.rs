//! `banger template prune`: all templates that are not in use go at once.

use banger_api::types::PruneTemplatesRequest;
use banger_model::{Bytes, ExitCode};

use crate::commands::consent::{Consent, Goods, Heap, Prune};
use crate::commands::with_daemon;
use crate::error::CommandError;

/// Delete all templates that are not in use
///
/// They are made again when a sandbox needs them. Prints the id of each.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger template prune --dry-run\n  \
                        banger template prune --yes")]
pub(crate) struct Args {
    #[command(flatten)]
    consent: Consent,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    args.consent.check()?;
    with_daemon(verbosity, async |client| {
        let prune = async |how: Prune| {
            let request = PruneTemplatesRequest { dry_run: how.is_dry_run() };
            let pruned = client.prune_templates(&request).await?;
            Ok(Heap {
                goods: Goods::Templates,
                names: pruned.templates.iter().map(|template| template.id.to_string()).collect(),
                space: Bytes::new(pruned.space),
            })
        };
        args.consent.carry_out(prune).await
    })
}
