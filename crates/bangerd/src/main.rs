//! `bangerd`: the daemon of one owner's sandboxes.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use banger_host::home::{Home, HomeEnv};
use bangerd::assets::{DEFAULT_PATH, Sources, guest_programs};
use bangerd::checkpoint::{Checkpoint, Checkpoints};
use bangerd::config::{Config, Fetching};
use bangerd::daemon::{self, Settings};
use bangerd::machine::HelperProgram;
use bangerd::spares;
use clap::{Parser, ValueEnum};
use tracing::level_filters::LevelFilter;

/// How long what is under way may take to end with the daemon.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// The daemon of one owner's sandboxes
///
/// `banger` starts it when it is needed. Sandboxes do not end with it: the next one takes them
/// over.
#[derive(Debug, Parser)]
#[command(name = "bangerd", version)]
struct Args {
    /// Open a copy of the database, tell what would become of it, and leave it alone
    #[arg(long)]
    check_migrations: bool,
    /// Print the OpenAPI document of the API
    #[arg(long)]
    openapi: bool,
    /// The form of the log, on standard error
    #[arg(long, value_enum, default_value_t)]
    log: LogForm,
    /// Log more: connections, and what is usual
    #[arg(long, short)]
    verbose: bool,
    /// The number of a descriptor that is a listening socket
    #[arg(long, hide = true)]
    socket_fd: Option<RawFd>,
    /// The number of a descriptor to tell that it is ready
    #[arg(long, hide = true)]
    ready_fd: Option<RawFd>,
    /// Most machines that wait to become sandboxes; 0: none [default: by the host's memory]
    #[arg(long, env = "BANGER_SPARES")]
    spares: Option<usize>,
    /// Stop at a checkpoint: `NAME=kill`, `NAME=hold` or `NAME=stop`
    #[arg(long, hide = true)]
    checkpoint: Vec<Checkpoint>,
    #[command(subcommand)]
    internal: Option<Internal>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogForm {
    /// Lines for people and the journal
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Programs that run beside a sandbox, in this executable so that there is only one to install.
#[derive(Debug, clap::Subcommand)]
enum Internal {
    /// Carries a sandbox's network
    #[command(hide = true)]
    Relay {
        /// Its addresses and its mark
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "bangerd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    if let Some(Internal::Relay { args }) = args.internal {
        // Whoever ends all processes called `bangerd` means the daemon, not all networks.
        rustix::thread::set_name(c"banger-relay").context("cannot name this process")?;
        return Ok(banger_net::user::relay_inherited(&args)?);
    }
    if args.openapi {
        return print(&bangerd::openapi());
    }
    let sources = sources()?;
    if args.check_migrations {
        return print(&daemon::check_migrations(&sources.home)?);
    }
    log_to_stderr(args.log, args.verbose);
    end_with_any_panic();
    let fetching = fetching(&sources)?;
    let relay = HelperProgram { program: program()?, args: vec!["relay".into()] };
    let socket = args.socket_fd.map(inherited).transpose()?;
    let ready = args.ready_fd.map(inherited).transpose()?.map(File::from);
    let checkpoints = Checkpoints::new(args.checkpoint);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Whoever waits for a word on it reads the log when it is closed: the reason is there by then.
    let word = ready.as_ref().map(File::try_clone).transpose()?;
    let ended = runtime.block_on(daemon::run(Settings {
        sources,
        fetching,
        relay,
        socket,
        ready,
        spares: args.spares.unwrap_or_else(spares::default_most),
        checkpoints,
    }));
    if let Err(error) = &ended {
        tracing::error!("{error:#}");
    }
    drop(word);
    runtime.shutdown_timeout(END_PATIENCE);
    ended
}

fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// How images are fetched: as the owner has set, with the credentials that Docker's users have.
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
fn fetching(sources: &Sources) -> Result<Fetching> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = var("DOCKER_CONFIG").or_else(|| Some(var("HOME")?.join(".docker")));
    let mut fetching = Config::read(&sources.home.config())?.fetching()?;
    fetching.settings.credentials = docker.map(|dir| dir.join("config.json"));
    fetching.settings.search_path = sources.path.clone();
    fetching.settings.roots = var("SSL_CERT_FILE");
    Ok(fetching)
}

#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
fn sources() -> Result<Sources> {
    let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let home = Home::from_env(&HomeEnv::from_process(), &current)?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let agent = guest_programs(&program()?).join("banger-agent");
    Ok(Sources { home, path, agent })
}

fn program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot tell where this program is")
}

/// A descriptor that whoever started this program has left open for it.
#[expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]
fn inherited(number: RawFd) -> Result<OwnedFd> {
    if number <= 2 || !Path::new(&format!("/proc/self/fd/{number}")).exists() {
        bail!("descriptor {number} is not open");
    }
    // SAFETY: it is open, as was just seen, and nobody else in this process knows its number.
    // JUSTIFICATION: there is no other way to take over a descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
        .with_context(|| format!("cannot use descriptor {number}"))?;
    Ok(fd)
}

fn log_to_stderr(form: LogForm, verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    match form {
        LogForm::Text => builder.init(),
        LogForm::Json => builder.json().init(),
    }
}

/// A task that panics would leave a sandbox that nobody drives. The next daemon knows what to do
/// about a daemon that died; nobody knows what to do about one that half lives.
fn end_with_any_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("ending after a panic");
        std::process::abort();
    }));
}
