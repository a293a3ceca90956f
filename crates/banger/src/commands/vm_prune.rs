//! `banger vm prune`: all sandboxes that do not run go at once.

use anyhow::anyhow;
use banger_api::client::Client;
use banger_api::types::{PruneRequest, Pruned};
use banger_model::{Bytes, ExitCode, LabelFilter, OperationStatus, Silent};

use crate::commands::consent::{Consent, Goods, Heap, Prune};
use crate::commands::with_daemon;
use crate::error::{CommandError, Kind};
use crate::progress;

/// Delete all sandboxes that do not run
///
/// There is no way back. Prints the name of each.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm prune --dry-run\n  \
                        banger vm prune --label app=shop --yes")]
pub(crate) struct Args {
    /// Only those with this label, as KEY or KEY=VALUE; with all of them where repeated
    #[arg(long = "label", short, value_name = "KEY[=VALUE]")]
    labels: Vec<LabelFilter>,
    #[command(flatten)]
    consent: Consent,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    args.consent.check()?;
    let labels: Vec<String> = args.labels.iter().map(ToString::to_string).collect();
    with_daemon(verbosity, async |client| {
        let prune = async |how: Prune| {
            let request = PruneRequest { labels: labels.clone(), dry_run: how.is_dry_run() };
            finish(&client, client.prune(&request).await?).await
        };
        args.consent.carry_out(prune).await
    })
}

/// Waits until they are gone, if they go.
async fn finish(client: &Client, pruned: Pruned) -> Result<Heap, CommandError> {
    for operation in &pruned.operations {
        let ended = progress::follow(client, operation, &Silent).await?;
        if let OperationStatus::Failed { error, .. } = ended.status {
            let error = anyhow!("sandbox {} did not go: {error}", ended.name);
            return Err(CommandError::new(Kind::Failed, error));
        }
    }
    Ok(Heap {
        goods: Goods::Sandboxes,
        names: pruned.sandboxes.iter().map(|sandbox| sandbox.name.to_string()).collect(),
        space: Bytes::new(pruned.space),
    })
}
