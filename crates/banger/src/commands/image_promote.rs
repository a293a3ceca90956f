//! `banger image promote`: a sandbox becomes an image.

use banger_api::types::PullImage;
use banger_model::{ExitCode, ImageName};
use clap_complete::ArgValueCandidates;

use crate::commands::completion;
use crate::commands::fetching::{self, Wanted};
use crate::context::Context;
use crate::error::CommandError;

/// Make an image of what is in a sandbox at rest
///
/// The sandbox stays as it is. The image wishes what the sandbox's own image wishes; hostname, machine
/// id and the keys of an SSH server stay out of it, and so does what is mounted: volumes, and
/// what Docker keeps. Prints the image's name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm stop web\n  banger image promote web web-base\n  \
                        banger vm run --image web-base")]
pub(crate) struct Args {
    /// The sandbox: its name, its id or the beginning of its id
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::sandboxes))]
    sandbox: String,
    /// What the image is to be called
    name: ImageName,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let wanted = PullImage {
        source: format!("sandbox:{}", args.sandbox),
        name: Some(args.name),
        kernel: None,
        disk: None,
        made_of: None,
    };
    fetching::run(&Context::from_process()?, &Wanted::Image(&wanted), verbosity)
}
