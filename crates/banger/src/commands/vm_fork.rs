//! `banger vm fork`: copies of a sandbox that runs, in which its processes go on.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use banger_api::client::Client;
use banger_api::types::{Created, ForkSandbox, Operation};
use banger_model::{ExitCode, Limits, OperationStatus, Progress, SandboxName};
use clap::value_parser;
use clap_complete::ArgValueCandidates;

use crate::commands::{completion, with_daemon};
use crate::error::{CommandError, Failures, Kind};
use crate::{output, progress};

/// Make copies of a sandbox that runs
///
/// Each copy has the memory, the processes and the disk of the sandbox as they are at this moment,
/// and a name, addresses and random numbers of its own. Connections to the outside end in the
/// copies. The sandbox itself stands still for a moment and runs on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm fork web\n  banger vm fork web -n 8 --name try\n  \
                        for vm in $(banger vm fork -q -n 3 web); do banger vm exec $vm -- ./attempt & done")]
pub(crate) struct Args {
    /// The sandbox: its name, its id or the beginning of its id
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(completion::sandboxes))]
    source: String,
    /// How many copies
    #[arg(
        long,
        short = 'n',
        default_value_t = 1,
        value_parser = value_parser!(u16).range(1..=i64::from(Limits::MAX_FORKS))
    )]
    count: u16,
    /// What the names of the copies begin with, a number behind it [default: the sandbox's name]
    #[arg(long, value_name = "PREFIX")]
    name: Option<SandboxName>,
    /// Print the names of the copies, each on a line, and nothing else
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let begin = Instant::now();
    with_daemon(verbosity, async |client| {
        let wanted = ForkSandbox { count: args.count, name: args.name.clone() };
        let forked = client.fork(&args.source, &wanted).await?;
        let shown = progress::to_stderr();
        let taken = progress::follow(&client, &forked.operation.id, &*shown).await?;
        judge(&taken)?;
        let (up, failures) = follow(&client, &forked.copies, verbosity, &*shown).await?;
        drop(shown);
        if args.quiet {
            output::text(&up.iter().map(|name| format!("{name}\n")).collect::<String>())?;
        } else if !up.is_empty() {
            output::line(summary(&taken, &up, begin.elapsed()))?;
        }
        failures.end()
    })
}

fn judge(taken: &Operation) -> Result<(), CommandError> {
    let why = match &taken.status {
        OperationStatus::Running | OperationStatus::Succeeded { .. } => return Ok(()),
        OperationStatus::Failed { error, .. } => error,
        OperationStatus::Cancelled { .. } => "it was called off",
    };
    let error = anyhow!("sandbox {} is not forked: {why}", taken.name);
    Err(CommandError::new(Kind::Failed, error))
}

/// Waits until each copy runs; returns the names of those that do.
async fn follow(
    client: &Client,
    copies: &[Created],
    verbosity: u8,
    shown: &dyn Progress,
) -> Result<(Vec<SandboxName>, Failures), CommandError> {
    let (mut up, mut failures) = (Vec::new(), Failures::told_at(verbosity));
    for Created { sandbox, operation } in copies {
        let name = &sandbox.name;
        let Some(operation) = operation else { continue };
        let why = match progress::follow(client, operation, shown).await?.status {
            OperationStatus::Running | OperationStatus::Succeeded { .. } => {
                up.push(name.clone());
                continue;
            }
            OperationStatus::Failed { error, .. } => error,
            OperationStatus::Cancelled { .. } => "it was called off".to_owned(),
        };
        let error = anyhow!("copy {name} is made, but did not start: {why}");
        failures.add(CommandError::new(Kind::Failed, error).hint(format!(
            "`banger vm start {name}` tries again, `banger vm delete {name}` deletes it"
        )));
    }
    Ok((up, failures))
}

fn summary(taken: &Operation, up: &[SandboxName], took: Duration) -> String {
    let names: Vec<_> = up.iter().map(SandboxName::as_str).collect();
    let still = taken.stood_still_ms.map(|ms| format!("; {} stood still for {ms} ms", taken.name));
    format!(
        "{} {} of {} in {} ms{}: {}",
        up.len(),
        if up.len() == 1 { "copy" } else { "copies" },
        taken.name,
        took.as_millis(),
        still.unwrap_or_default(),
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_who_and_at_what_price() {
        let taken: Operation = serde_json::from_value(serde_json::json!({
            "id": "0123456789abcdef", "action": "fork", "sandbox": "0123456789ab", "name": "web",
            "started": 1, "status": "succeeded", "at": 2, "stages": [], "log": [],
            "stood_still_ms": 120,
        }))
        .unwrap();
        let names = ["web-1".parse().unwrap(), "web-2".parse().unwrap()];
        assert_eq!(
            summary(&taken, &names, Duration::from_millis(400)),
            "2 copies of web in 400 ms; web stood still for 120 ms: web-1, web-2"
        );
        let older = Operation { stood_still_ms: None, ..taken };
        assert_eq!(
            summary(&older, &names[..1], Duration::from_millis(400)),
            "1 copy of web in 400 ms: web-1"
        );
    }
}
