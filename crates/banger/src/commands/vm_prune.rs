//! `banger vm prune`: all sandboxes that do not run go at once.

use std::io::{BufRead as _, Read as _, Write as _};

use anyhow::anyhow;
use banger_api::client::Client;
use banger_api::types::{PruneRequest, Pruned};
use banger_host::terminal::is_terminal;
use banger_model::{Bytes, ExitCode, LabelFilter, OperationStatus, Silent};

use crate::commands::with_daemon;
use crate::error::{CommandError, Kind};
use crate::output::{self, notice};
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
    /// Tell which they are and delete none
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Most bytes of an answer that are read.
const MAX_ANSWER: u64 = 80;

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let asks = !args.dry_run && !args.yes;
    if asks && !(is_terminal(std::io::stdin()) && is_terminal(std::io::stderr())) {
        let error = anyhow!("prune asks before it deletes, and there is no terminal to ask on");
        return Err(CommandError::new(Kind::Usage, error)
            .hint("--yes deletes without asking, --dry-run tells what would go"));
    }
    let labels: Vec<String> = args.labels.iter().map(ToString::to_string).collect();
    with_daemon(verbosity, async |client| {
        if args.dry_run || asks {
            let request = PruneRequest { labels: labels.clone(), dry_run: true };
            let would_go = client.prune(&request).await?;
            if would_go.sandboxes.is_empty() {
                notice("there is nothing to delete");
                return Ok(ExitCode::SUCCESS);
            }
            if args.dry_run {
                names(&would_go)?;
                notice(&format!("{} would be deleted", amount(&would_go)));
                return Ok(ExitCode::SUCCESS);
            }
            if !agreed(&would_go)? {
                notice("nothing is deleted");
                return Ok(ExitCode::SUCCESS);
            }
        }
        let pruned = client.prune(&PruneRequest { labels, dry_run: false }).await?;
        finish(&client, &pruned).await
    })
}

/// Waits until they are gone.
async fn finish(client: &Client, pruned: &Pruned) -> Result<ExitCode, CommandError> {
    if pruned.sandboxes.is_empty() {
        notice("there is nothing to delete");
        return Ok(ExitCode::SUCCESS);
    }
    for operation in &pruned.operations {
        let ended = progress::follow(client, operation, &Silent).await?;
        if let OperationStatus::Failed { error, .. } = ended.status {
            let error = anyhow!("sandbox {} did not go: {error}", ended.name);
            return Err(CommandError::new(Kind::Failed, error));
        }
    }
    names(pruned)?;
    notice(&format!("{} deleted", amount(pruned)));
    Ok(ExitCode::SUCCESS)
}

fn names(pruned: &Pruned) -> Result<(), CommandError> {
    let names: String = pruned.sandboxes.iter().map(|s| format!("{}\n", s.name)).collect();
    output::text(&names)
}

fn amount(pruned: &Pruned) -> String {
    let count = pruned.sandboxes.len();
    let word = if count == 1 { "sandbox" } else { "sandboxes" };
    format!("{count} {word} of {}", Bytes::new(pruned.space))
}

fn agreed(pruned: &Pruned) -> Result<bool, CommandError> {
    let mut stderr = anstream::stderr().lock();
    for sandbox in &pruned.sandboxes {
        writeln!(stderr, "{}", sandbox.name)?;
    }
    write!(stderr, "Delete {} for good? [y/N] ", amount(pruned))?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().take(MAX_ANSWER).read_line(&mut answer)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        for yes in ["y\n", "Y\n", " yes \n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yeah\n", "delete\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
