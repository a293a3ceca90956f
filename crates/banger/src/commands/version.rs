//! `banger version`.

use banger_model::ExitCode;
use serde::Serialize;

use crate::error::CommandError;
use crate::output::{self, Format};

/// Show the version
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What this build is. Field names are stable.
#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    commit: &'static str,
    built: &'static str,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("BANGER_COMMIT"),
        built: env!("BANGER_BUILT"),
    };
    match args.output {
        Format::Json => output::json(&version)?,
        Format::Text => output::line(format!(
            "banger {} (commit {}, built {})",
            version.version, version.commit, version.built
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
