//! `banger vm run`: a command in a sandbox that exists for it alone.

use std::ffi::OsString;

use anyhow::{Result, anyhow, bail};
use banger_api::client::{Client, ClientError, Force, SandboxAction};
use banger_api::types::{Command, CreateSandbox, Created, MainCommand, Text};
use banger_model::{Disposal, ExitCode, Labels, Lifetime, OperationStatus, RestartPolicy};

use crate::commands::command_args::CommandArgs;
use crate::commands::spec_args::{MadeOf, SpecArgs};
use crate::context::{self, Context};
use crate::error::{CommandError, Kind};
use crate::lease::Lease;
use crate::output::notice;
use crate::{progress, session};

/// How often a sandbox is asked for when the daemon goes away while it is: with its lease it is
/// the same one each time.
const ATTEMPTS: usize = 5;

/// Run a command in a new sandbox and throw the sandbox away
///
/// Without a command you get what the image is for, or its login shell on your terminal. An image
/// that is not here is fetched from its registry first. The exit status is the
/// command's own, or 125 when the sandbox failed, 126 when the command cannot be executed, 127
/// when it does not exist, 128 and the signal's number when a signal ended it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  banger vm run\n  banger vm run -- python3 -c 'print(6*7)'\n  \
                        tar c . | banger vm run -- sh -c 'tar x && make'\n  \
                        banger vm run --memory 2G --cpus 2 -it -- bash\n  \
                        banger vm run --image alpine:3.20 -- cat /etc/os-release\n  \
                        banger vm run --from web@1 -- make test"
)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// Keep the sandbox, stopped, when the command has ended
    #[arg(long)]
    keep: bool,
    /// Run the command with this program before it in place of the image's own entrypoint; an
    /// empty text for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    #[command(flatten)]
    command: CommandArgs,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let disposal = args.disposal();
    let made_of = args.spec.made_of()?;
    let entrypoint = args.entrypoint.map(|program| {
        let program = Some(program).filter(|program| !program.is_empty());
        program.into_iter().map(Text::from).collect()
    });
    let command = Command { main: Some(MainCommand { entrypoint }), ..args.command.command()? };
    let context = Context::from_process()?;
    let runtime = context::runtime().map_err(|error| CommandError::new(Kind::Sandbox, error))?;
    let ended = runtime.block_on(in_sandbox(&context, verbosity, made_of, disposal, command));
    // Threads that still read standard input end with the process.
    runtime.shutdown_background();
    ended.map_err(CommandError::of_sandbox)
}

impl Args {
    fn disposal(&self) -> Disposal {
        if self.keep { Disposal::Keep } else { Disposal::Remove }
    }
}

async fn in_sandbox(
    context: &Context,
    verbosity: u8,
    (spec, from): MadeOf,
    disposal: Disposal,
    command: Command,
) -> Result<ExitCode> {
    let client = context.client(verbosity);
    let mut interrupts = session::Interrupts::listen()?;
    // Held to the end of the function: whatever becomes of this program, the sandbox goes with
    // it, or stays when it is to be kept.
    let lease = match disposal {
        Disposal::Remove => Some(Lease::take(&context.home)?),
        Disposal::Keep => None,
    };
    let wanted = CreateSandbox {
        name: None,
        spec,
        from,
        labels: Labels::default(),
        lifetime: Lifetime {
            ttl: None,
            idle_timeout: None,
            restart: RestartPolicy::No,
            disposal,
            lease: lease.as_ref().map(Lease::id),
        },
        start: true,
    };
    let started = tokio::select! {
        started = start(&client, &wanted) => started,
        code = interrupts.fatal() => return Ok(code),
    };
    let name = started?;
    let ended = session::run(&client, &name, command, interrupts).await;
    let parted = part(&client, &name, disposal).await;
    let code = ended?;
    parted?;
    Ok(code)
}

/// Makes a sandbox and waits until it runs; returns how it is called.
pub(crate) async fn start(client: &Client, wanted: &CreateSandbox) -> Result<String> {
    let created = create(client, wanted).await?;
    follow_start(client, &created).await?;
    Ok(created.sandbox.id.to_string())
}

/// Follows the start of a sandbox that was made.
pub(crate) async fn follow_start(client: &Client, created: &Created) -> Result<()> {
    let Some(operation) = &created.operation else {
        bail!("the daemon does not start the sandbox")
    };
    let shown = progress::to_stderr();
    match progress::follow(client, operation, &*shown).await?.status {
        OperationStatus::Succeeded { .. } => Ok(()),
        OperationStatus::Failed { error, .. } => Err(anyhow!(error)),
        _ => Err(anyhow!("the start of the sandbox was called off")),
    }
}

/// Makes a sandbox.
pub(crate) async fn create(
    client: &Client,
    wanted: &CreateSandbox,
) -> Result<Created, ClientError> {
    let mut attempt = 1;
    loop {
        match client.create(wanted).await {
            Err(ClientError::Interrupted { .. })
                if wanted.lifetime.lease.is_some() && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Leaves the sandbox as its disposal says. That it goes is remembered by now; nobody need wait
/// until it is gone.
async fn part(client: &Client, sandbox: &str, disposal: Disposal) -> Result<()> {
    match disposal {
        Disposal::Remove => match client.delete(sandbox, Force::Yes).await {
            // Its lease falls with this program, so it goes in any case.
            Ok(_) | Err(ClientError::Interrupted { .. } | ClientError::Problem(_)) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Disposal::Keep => {
            let operation = client.act(sandbox, SandboxAction::Stop).await?;
            let shown = progress::to_stderr();
            progress::follow(client, &operation.id, &*shown).await?;
            notice(&format!(
                "kept as {0}: `banger vm start {0}` starts it, `banger vm delete {0}` deletes it",
                operation.name
            ));
            Ok(())
        }
    }
}
