//! The command line, as clap knows it. Its doc comments are the help texts.

use clap::{Parser, Subcommand};

use crate::commands::{bench, completion, doctor, internal, man, version, vm_run};

/// Disposable Linux sandboxes, each a virtual machine of its own.
///
/// `banger vm run` gives you a real Linux with its own kernel and throws it away on exit.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  banger vm run                 a shell in a new sandbox\n  \
                  banger vm run -- uname -a     one command in a new sandbox\n  \
                  banger doctor                 what this host can do"
)]
pub(crate) struct Cli {
    /// Say more: the causes of errors, what is done behind the scenes
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sandboxes
    #[command(subcommand)]
    Vm(Vm),
    /// Tell what this host can do, and what to do about what it cannot
    Doctor(doctor::Args),
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
    /// Show the version
    Version(version::Args),
    /// Print the completion script of a shell
    Completion(completion::Args),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man(man::Args),
    /// Programs that run beside a sandbox
    #[command(subcommand, hide = true)]
    Internal(internal::Internal),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    /// Run a command in a new sandbox and throw the sandbox away
    Run(vm_run::Args),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The time from nothing to a command's end, beside the least that the host allows
    Start(bench::Args),
}
