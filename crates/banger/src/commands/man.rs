//! `banger man`: the manual, made from the same words as `--help`.

use std::path::{Path, PathBuf};

use banger_host::fs::{create_private_dir, write_atomic};
use banger_model::ExitCode;
use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::error::CommandError;

/// Write the man pages into a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to: one file for each command
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    create_private_dir(&args.dir)?;
    let mut root = Cli::command();
    root.build();
    write_pages(&root, "banger", &args.dir)?;
    Ok(ExitCode::SUCCESS)
}

fn write_pages(command: &clap::Command, name: &str, dir: &Path) -> Result<(), CommandError> {
    let mut page = Vec::new();
    let named = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(named).title(name.to_uppercase()).render(&mut page)?;
    write_atomic(&dir.join(format!("{name}.1")), &page)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        if sub.get_name() != "help" {
            write_pages(sub, &format!("{name}-{}", sub.get_name()), dir)?;
        }
    }
    Ok(())
}
