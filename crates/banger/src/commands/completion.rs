//! `banger completion`, and what completes to names.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use banger_api::client::{Client, ClientError, SocketPath};
use banger_api::types::{Snapshot, Template};
use banger_host::fs::list_dir;
use banger_host::home::Home;
use banger_model::ExitCode;
use clap::ValueEnum;
use clap_complete::CompletionCandidate;
use clap_complete::engine::{PathCompleter, ValueCompleter as _};

use crate::context::{self, Context};
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

/// How long a daemon may take to tell what it has: somebody waits for the key they pressed.
const PATIENCE: Duration = Duration::from_millis(500);

/// The sandboxes that are here, if a daemon runs: none is started for this.
pub(crate) fn sandboxes() -> Vec<CompletionCandidate> {
    sandbox_names().into_iter().map(CompletionCandidate::new).collect()
}

/// What may stand on either side of a copy: paths here, and sandboxes with a colon.
pub(crate) fn sandboxes_and_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = PathCompleter::any().complete(current);
    let begun = current.to_string_lossy();
    let names = sandbox_names().into_iter().map(|name| format!("{name}:"));
    candidates.extend(names.filter(|n| n.starts_with(&*begun)).map(CompletionCandidate::new));
    candidates
}

/// The templates that are here, if a daemon runs.
pub(crate) fn templates() -> Vec<CompletionCandidate> {
    let templates = listed(async |client| client.templates().await);
    let candidate = |template: Template| {
        let about = format!("{}, {}", template.image, template.memory);
        CompletionCandidate::new(template.id.to_string()).help(Some(about.into()))
    };
    templates.into_iter().map(candidate).collect()
}

/// The volumes that are here, if a daemon runs, as the beginning of a mount.
pub(crate) fn volumes() -> Vec<CompletionCandidate> {
    let volumes = listed(async |client| client.volumes().await);
    volumes.iter().map(|volume| CompletionCandidate::new(format!("{}:", volume.name))).collect()
}

/// The names of the volumes that are here, if a daemon runs.
pub(crate) fn volume_names() -> Vec<CompletionCandidate> {
    let volumes = listed(async |client| client.volumes().await);
    volumes.iter().map(|volume| CompletionCandidate::new(volume.name.as_str())).collect()
}

/// The snapshots that are here, if a daemon runs.
pub(crate) fn snapshots() -> Vec<CompletionCandidate> {
    let snapshots = listed(async |client| client.snapshots().await);
    let candidate = |snapshot: Snapshot| {
        let about = match snapshot.damaged {
            Some(_) => "damaged".to_owned(),
            None => format!("{}, {}", snapshot.image, snapshot.memory),
        };
        CompletionCandidate::new(snapshot.name.to_string()).help(Some(about.into()))
    };
    snapshots.into_iter().map(candidate).collect()
}

fn sandbox_names() -> Vec<String> {
    let sandboxes = listed(async |client| client.list(&[]).await);
    sandboxes.into_iter().map(|sandbox| sandbox.name.to_string()).collect()
}

/// What a daemon lists, if one runs and tells it soon.
fn listed<T>(list: impl AsyncFnOnce(Client) -> Result<Vec<T>, ClientError>) -> Vec<T> {
    let Ok(context) = Context::from_process() else { return Vec::new() };
    let Ok(runtime) = context::runtime() else { return Vec::new() };
    let client = Client::new(Arc::new(SocketPath(context.home.socket())));
    let listed = runtime.block_on(async { tokio::time::timeout(PATIENCE, list(client)).await });
    listed.ok().and_then(Result::ok).unwrap_or_default()
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
