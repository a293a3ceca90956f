//! `banger vm start`, `stop`, `restart`, `kill`, `pause` and `resume`: what is asked of sandboxes that are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use banger_api::client::{Client, ClientError, Force, SandboxAction};
use banger_api::types::Operation;
use banger_model::{ExitCode, OperationStatus, Progress, Silent};
use clap_complete::ArgValueCandidates;
use tokio::task::JoinSet;

use crate::commands::{completion, with_daemon};
use crate::error::{CommandError, Failures, Kind};
use crate::{output, progress};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Return as soon as it is asked for
    #[arg(long)]
    no_wait: bool,
    /// The sandboxes: names, ids or beginnings of ids
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(completion::sandboxes))]
    names: Vec<String>,
}

/// What is asked of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Act(SandboxAction),
    Delete(Force),
}

/// Whether the end of what was asked is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    ForEnd,
    No,
}

pub(crate) fn run(
    args: &Args,
    action: SandboxAction,
    verbosity: u8,
) -> Result<ExitCode, CommandError> {
    let wait = if args.no_wait { Wait::No } else { Wait::ForEnd };
    order(&args.names, Order::Act(action), wait, verbosity)
}

/// Asks the same of some sandboxes at once; prints the name of each as it is done, and what failed
/// in the order in which it was asked.
pub(super) fn order(
    names: &[String],
    order: Order,
    wait: Wait,
    verbosity: u8,
) -> Result<ExitCode, CommandError> {
    // Where there are several, their bars would be in each other's way.
    let shown: Arc<dyn Progress> =
        if names.len() == 1 { progress::to_stderr() } else { Arc::new(Silent) };
    with_daemon(verbosity, async |client| {
        let mut orders = JoinSet::new();
        let mut asked: Vec<&String> = Vec::new();
        for name in names {
            if asked.contains(&name) {
                continue;
            }
            let done = carry_out(client.clone(), name.clone(), order, wait, shown.clone());
            let at = asked.len();
            asked.push(name);
            orders.spawn(async move { (at, done.await) });
        }
        drop(shown);
        let mut failed = BTreeMap::new();
        while let Some(done) = orders.join_next().await {
            match done.map_err(anyhow::Error::from)? {
                (_, Ok(name)) => output::line(name)?,
                (at, Err(error)) => drop(failed.insert(at, error)),
            }
        }
        let mut failures = Failures::told_at(verbosity);
        failed.into_values().for_each(|error| failures.add(error));
        failures.end()
    })
}

async fn carry_out(
    client: Client,
    name: String,
    order: Order,
    wait: Wait,
    progress: Arc<dyn Progress>,
) -> Result<String, CommandError> {
    let asked = match order {
        Order::Act(action) => client.act(&name, action).await,
        Order::Delete(force) => client.delete(&name, force).await,
    };
    let operation = asked?;
    let name = operation.name.to_string();
    if wait == Wait::No {
        return Ok(name);
    }
    let operation = follow(&client, operation, &*progress).await?;
    match &operation.status {
        OperationStatus::Failed { error, .. } => Err(not_done(&operation, error, order)),
        OperationStatus::Cancelled { .. } => Err(not_done(&operation, "it was called off", order)),
        OperationStatus::Running | OperationStatus::Succeeded { .. } => Ok(name),
    }
}

async fn follow(
    client: &Client,
    operation: Operation,
    progress: &dyn Progress,
) -> Result<Operation, ClientError> {
    if operation.status.is_final() {
        return Ok(operation);
    }
    progress::follow(client, &operation.id, progress).await
}

fn not_done(operation: &Operation, why: &str, order: Order) -> CommandError {
    let name = &operation.name;
    let starts = matches!(
        order,
        Order::Act(SandboxAction::Start | SandboxAction::Restart | SandboxAction::Resume)
    );
    let verb = match order {
        Order::Act(SandboxAction::Start) => "start",
        Order::Act(SandboxAction::Stop) => "stop",
        Order::Act(SandboxAction::Kill) => "end",
        Order::Act(SandboxAction::Restart) => "start again",
        Order::Act(SandboxAction::Pause) => "pause",
        Order::Act(SandboxAction::Resume) => "resume",
        Order::Delete(_) => "go",
    };
    let error = CommandError::new(Kind::Failed, anyhow!("sandbox {name} did not {verb}: {why}"));
    if starts {
        error.hint(format!("`banger vm logs {name}` shows what it wrote to its console"))
    } else {
        error
    }
}
