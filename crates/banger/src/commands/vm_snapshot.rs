//! `banger vm snapshot`: what a sandbox is at this moment, kept.

use anyhow::anyhow;
use banger_model::{ExitCode, OperationStatus, SnapshotTag};
use clap_complete::ArgValueCandidates;

use crate::commands::{completion, with_daemon};
use crate::error::{CommandError, Kind};
use crate::{output, progress};

/// Take a snapshot of a sandbox that runs: its memory, its devices and its disk
///
/// The sandbox stands still while they are copied, and runs on. Prints the name of the snapshot,
/// `NAME@TAG`, from which `banger vm create --from` makes others whose processes go on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm snapshot web\n  \
                        banger vm snapshot web before-upgrade\n  \
                        banger vm create --from web@before-upgrade again")]
pub(crate) struct Args {
    /// The sandbox: its name, its id or the beginning of its id
    #[arg(add = ArgValueCandidates::new(completion::sandboxes))]
    name: String,
    /// What tells it apart from other snapshots of this sandbox [default: the next number]
    tag: Option<SnapshotTag>,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    with_daemon(verbosity, async |client| {
        let operation = client.snapshot(&args.name, args.tag.as_ref()).await?;
        let shown = progress::to_stderr();
        let ended = progress::follow(&client, &operation.id, &*shown).await?;
        drop(shown);
        let why = match &ended.status {
            OperationStatus::Running | OperationStatus::Succeeded { .. } => None,
            OperationStatus::Failed { error, .. } => Some(error.as_str()),
            OperationStatus::Cancelled { .. } => Some("it was called off"),
        };
        if let Some(why) = why {
            let error = anyhow!("no snapshot of {} is taken: {why}", ended.name);
            return Err(CommandError::new(Kind::Failed, error));
        }
        let tag = ended.tag.or(operation.tag);
        let tag = tag.ok_or_else(|| anyhow!("the daemon does not tell the snapshot's tag"))?;
        output::line(format!("{}@{tag}", ended.name))?;
        Ok(ExitCode::SUCCESS)
    })
}
