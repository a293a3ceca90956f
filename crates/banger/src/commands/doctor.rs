//! `banger doctor`.

use banger_model::ExitCode;

use crate::error::CommandError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<ExitCode, CommandError> {
    Ok(ExitCode::SUCCESS)
}
