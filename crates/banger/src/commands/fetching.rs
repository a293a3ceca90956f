//! What the daemon fetches or makes of what is there: an image or a kernel, with progress.

use anyhow::anyhow;
use banger_api::client::{Client, ClientError};
use banger_api::types::{Operation, ProblemCode, PullImage};
use banger_host::random;
use banger_model::{ExitCode, KernelName, OperationId, OperationStatus};

use crate::context::{self, Context};
use crate::error::CommandError;
use crate::session::Interrupts;
use crate::{output, progress};

/// How often a daemon is asked that goes away meanwhile: the next one goes on from what is here.
const ATTEMPTS: usize = 5;

/// What is to be here.
#[derive(Debug)]
pub(crate) enum Wanted<'a> {
    /// An image.
    Image(&'a PullImage),
    /// A kernel.
    Kernel(&'a KernelName),
}

impl Wanted<'_> {
    async fn ask(&self, client: &Client, id: &OperationId) -> Result<Operation, ClientError> {
        match self {
            Self::Image(wanted) => client.pull(wanted, id).await,
            Self::Kernel(name) => client.pull_kernel(name, id).await,
        }
    }
}

/// Has the daemon do it, with progress, and prints what it is called.
pub(crate) fn run(
    context: &Context,
    wanted: &Wanted<'_>,
    verbosity: u8,
) -> Result<ExitCode, CommandError> {
    let runtime = context::runtime()?;
    let fetched = runtime.block_on(async {
        fetch(&context.client(verbosity), wanted, &mut Interrupts::listen()?).await
    });
    runtime.shutdown_background();
    output::line(fetched?)?;
    Ok(ExitCode::SUCCESS)
}

/// What it is called. Interrupted, it is called off.
pub(crate) async fn fetch(
    client: &Client,
    wanted: &Wanted<'_>,
    interrupts: &mut Interrupts,
) -> Result<String, CommandError> {
    let id = OperationId::from_random(random::bytes()?);
    let operation = tokio::select! {
        ended = to_the_end(client, wanted, &id) => ended?,
        code = interrupts.fatal() => {
            // It may be over by now.
            let _ = client.cancel(&id).await;
            return Err(CommandError::interrupted(code));
        }
    };
    match operation.status {
        OperationStatus::Failed { error, .. } => Err(anyhow!(error).into()),
        OperationStatus::Cancelled { .. } => Err(anyhow!("it was called off").into()),
        OperationStatus::Running | OperationStatus::Succeeded { .. } => Ok(operation.name),
    }
}

async fn to_the_end(
    client: &Client,
    wanted: &Wanted<'_>,
    id: &OperationId,
) -> Result<Operation, ClientError> {
    let shown = progress::to_stderr();
    let mut attempt = 1;
    loop {
        let operation = wanted.ask(client, id).await?;
        match progress::follow(client, &operation.id, &*shown).await {
            // Another daemon has come, which knows nothing of it.
            Err(ClientError::Problem(problem))
                if problem.code == ProblemCode::NotFound && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            ended => return ended,
        }
    }
}
