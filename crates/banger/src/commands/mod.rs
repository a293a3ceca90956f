//! One file per command: its arguments, whose doc comments are its help, and what it does.

pub(crate) mod bench;
pub(crate) mod completion;
pub(crate) mod doctor;
pub(crate) mod internal;
pub(crate) mod man;
pub(crate) mod version;
pub(crate) mod vm_run;

use banger_model::ExitCode;

use crate::cli::{Bench, Cli, Command, Vm};
use crate::error::CommandError;

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, CommandError> {
    match cli.command {
        Command::Vm(Vm::Run(args)) => vm_run::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(Bench::Start(args)) => bench::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Internal(internal) => internal::run(internal),
    }
}
