//! Programs that run beside a sandbox, in this executable so that there is only one to install.

use std::path::PathBuf;

use banger_model::ExitCode;
use clap::Subcommand;

use crate::error::CommandError;

#[derive(Debug, Subcommand)]
pub(crate) enum Internal {
    /// Removes a sandbox when its owner is gone
    Keeper {
        /// The sandbox's directory
        dir: PathBuf,
    },
    /// Carries a sandbox's network
    Relay {
        /// Its addresses and its mark
        args: Vec<String>,
    },
}

pub(crate) fn run(internal: Internal) -> Result<ExitCode, CommandError> {
    match internal {
        Internal::Keeper { dir } => bangerd::keeper::run(&dir)?,
        Internal::Relay { args } => {
            banger_net::user::relay_inherited(&args).map_err(anyhow::Error::from)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
