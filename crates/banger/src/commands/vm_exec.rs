//! `banger vm exec`: a command in a sandbox that runs.

use banger_model::ExitCode;
use clap_complete::ArgValueCandidates;

use crate::commands::command_args::CommandArgs;
use crate::commands::completion;
use crate::context::{self, Context};
use crate::error::{CommandError, Kind};
use crate::session;

/// Run a command in a sandbox that runs
///
/// Without a command you get the image's login shell on your terminal. The exit status is the
/// command's own, or 125 when the sandbox failed, 126 when the command cannot be executed, 127
/// when it does not exist, 128 and the signal's number when a signal ended it. The command goes
/// on when this program is killed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm exec -it web\n  \
                        banger vm exec web -- ps aux\n  \
                        tar c . | banger vm exec web -- tar x -C /srv")]
pub(crate) struct Args {
    /// The sandbox
    #[arg(value_name = "SANDBOX", add = ArgValueCandidates::new(completion::sandboxes))]
    sandbox: String,
    #[command(flatten)]
    command: CommandArgs,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let command = args.command.command()?;
    let context = Context::from_process()?;
    let runtime = context::runtime().map_err(|error| CommandError::new(Kind::Sandbox, error))?;
    let ended = runtime.block_on(async {
        let interrupts = session::Interrupts::listen()?;
        session::run(&context.client(verbosity), &args.sandbox, command, interrupts).await
    });
    // Threads that still read standard input end with the process.
    runtime.shutdown_background();
    ended.map_err(CommandError::of_sandbox)
}
