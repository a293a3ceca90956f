//! `banger completion`, and what completes to names.

use banger_host::fs::list_dir;
use banger_host::home::Home;
use banger_model::ExitCode;
use clap::ValueEnum;
use clap_complete::CompletionCandidate;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  source <(banger completion bash)\n  \
                        source <(banger completion zsh)\n  banger completion fish | source")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// The shells that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
    let completer: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let program = Context::from_process()?.program;
    let mut script = Vec::new();
    let program = program.to_string_lossy();
    completer.write_registration("COMPLETE", "banger", "banger", &program, &mut script)?;
    output::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// The images that are here.
pub(crate) fn images() -> Vec<CompletionCandidate> {
    names(Home::images)
}

/// The kernels that are here.
pub(crate) fn kernels() -> Vec<CompletionCandidate> {
    names(Home::kernels)
}

/// Names of entries; none where nothing can be read, for a shell has no use for errors.
fn names(dir: fn(&Home) -> std::path::PathBuf) -> Vec<CompletionCandidate> {
    let Ok(context) = Context::from_process() else { return Vec::new() };
    let names = list_dir(&dir(&context.home)).unwrap_or_default();
    names
        .into_iter()
        .filter(|name| !name.to_string_lossy().starts_with('.'))
        .map(CompletionCandidate::new)
        .collect()
}
