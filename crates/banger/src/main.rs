//! `banger`: disposable sandboxes from the command line.
//!
//! One file per command under `commands`; what they share is beside this file.

mod cli;
mod commands;
mod context;
mod daemon;
mod error;
mod lease;
mod output;
mod progress;
mod session;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

fn main() -> ExitCode {
    // Answers the shell when it asks for completions, and goes on otherwise.
    clap_complete::CompleteEnv::with_factory(cli::Cli::command).complete();
    let cli = cli::Cli::parse();
    let verbosity = cli.verbose;
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code.0),
        Err(error) => {
            error.print(verbosity);
            ExitCode::from(error.exit_code().0)
        }
    }
}
