//! `banger vm run`: a command in a sandbox that exists for it alone.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use anyhow::{Context as _, Result};
use banger_host::terminal::{is_terminal, window_size};
use banger_link::{Command, Window};
use banger_model::{
    CpuCount, DiskSize, EnvVar, ExitCode, ImageName, KernelName, Limits, MemorySize, SandboxSpec,
};
use banger_vmm::probe::Finding;
use bangerd::assets::Assets;
use bangerd::sandbox::{Disposal, Network, Sandbox};
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap_complete::ArgValueCandidates;

use crate::commands::completion;
use crate::context::{self, Context};
use crate::error::{CommandError, Kind};
use crate::output::notice;
use crate::{progress, session};

/// Run a command in a new sandbox and throw the sandbox away
///
/// Without a command you get the image's login shell on your terminal. The exit status is the
/// command's own, or 125 when the sandbox failed, 126 when the command cannot be executed, 127
/// when it does not exist, 128 and the signal's number when a signal ended it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  banger vm run\n  banger vm run -- python3 -c 'print(6*7)'\n  \
                        tar c . | banger vm run -- sh -c 'tar x && make'\n  \
                        banger vm run --memory 2G --cpus 2 -it -- bash"
)]
pub(crate) struct Args {
    /// The image that is the sandbox's root file system
    #[arg(long, default_value = "debian-bookworm", add = ArgValueCandidates::new(completion::images))]
    image: ImageName,
    /// The kernel that the sandbox boots
    #[arg(long, default_value = "debian-cloud", add = ArgValueCandidates::new(completion::kernels))]
    kernel: KernelName,
    /// Virtual CPUs [default: 2 with KVM, 1 without]
    #[arg(long)]
    cpus: Option<CpuCount>,
    /// Memory, such as 512M or 2G
    #[arg(long, default_value_t = MemorySize::DEFAULT)]
    memory: MemorySize,
    /// Size of the writable disk; it takes only the space that is written
    #[arg(long, default_value_t = DiskSize::DEFAULT)]
    disk: DiskSize,
    /// Set an environment variable of the command; NAME alone takes its value from here
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(env_var))]
    env: Vec<EnvSetting>,
    /// Run the command as this user of the image: a name or a number, with :GROUP if you like
    #[arg(long, short)]
    user: Option<OsString>,
    /// Run the command in this directory of the sandbox
    #[arg(long, short)]
    workdir: Option<OsString>,
    /// Pass standard input on (always done; accepted for the habit)
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
    /// Keep the sandbox's disk and logs when the command has ended
    #[arg(long)]
    keep: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What `--env` asks for; nothing when it names a variable that is not set here.
type EnvSetting = Option<EnvVar>;

/// A variable as written, or with its value of this process.
#[expect(clippy::disallowed_methods, reason = "`--env NAME` means the value here")]
fn env_var(text: OsString) -> Result<EnvSetting, banger_model::SpecError> {
    let mut bytes = text.clone().into_vec();
    if !bytes.contains(&b'=') && !bytes.is_empty() {
        let Some(value) = std::env::var_os(&text) else { return Ok(None) };
        bytes.push(b'=');
        bytes.extend(value.into_vec());
    }
    EnvVar::parse(&bytes).map(Some)
}

pub(crate) fn run(args: Args) -> Result<ExitCode, CommandError> {
    check_command(&args.command)?;
    for (option, value) in [("--user", &args.user), ("--workdir", &args.workdir)] {
        if value.as_ref().is_some_and(|value| value.is_empty()) {
            let error = anyhow::anyhow!("{option} is empty");
            return Err(CommandError::new(Kind::Usage, error).hint("leave it out"));
        }
    }
    if args.tty && !is_terminal(std::io::stdin()) {
        let error = anyhow::anyhow!("-t asks for a terminal, but standard input is none");
        return Err(CommandError::new(Kind::Usage, error).hint("leave out -t"));
    }
    let runtime = context::runtime().map_err(|error| CommandError::new(Kind::Sandbox, error))?;
    let ended = runtime.block_on(in_sandbox(args));
    // Threads that still watch a file or read standard input end with the process.
    runtime.shutdown_background();
    ended.map_err(CommandError::of_sandbox)
}

/// Refuses before anything is made what no Linux would take.
fn check_command(command: &[OsString]) -> Result<(), CommandError> {
    if command.first().is_some_and(|program| program.is_empty()) {
        let error = anyhow::anyhow!("the command's name is empty");
        return Err(CommandError::new(Kind::Usage, error));
    }
    let long = command.iter().any(|arg| arg.len() >= Limits::MAX_ARG_LEN);
    let total: usize = command.iter().map(|arg| arg.len() + 1).sum();
    if long || total > Limits::MAX_ARGS_LEN {
        let error = anyhow::anyhow!(
            "the command's arguments are too long: {} bytes at most, {} for one",
            Limits::MAX_ARGS_LEN,
            Limits::MAX_ARG_LEN
        );
        return Err(CommandError::new(Kind::Usage, error).hint("pass data on standard input"));
    }
    Ok(())
}

async fn in_sandbox(args: Args) -> Result<ExitCode> {
    let context = Context::from_process()?;
    let swept = tokio::task::spawn_blocking({
        let home = context.home.clone();
        move || bangerd::sweep(&home)
    });
    let mut interrupts = session::Interrupts::listen()?;
    let started = tokio::select! {
        started = start(&context, &args) => started,
        signal = interrupts.fatal() => return Ok(signal),
    };
    let (sandbox, assets) = started?;
    // Said when it is news; later `banger doctor` tells.
    if let Finding::New(verdict) = &assets.kvm
        && let Some(why) = verdict.notice()
    {
        notice(&why);
    }
    match sandbox.network() {
        Network::Connected => {}
        Network::HostOffline => {
            notice("the sandbox has no network: this host has no default route");
        }
        Network::Failed(ended) => notice(&format!("the sandbox has no network: {ended}")),
    }
    let command = command(&args, &assets);
    let ended = session::attach(&sandbox, command, interrupts).await;
    let kept = args.keep.then(|| sandbox.dir().to_owned());
    let removed = sandbox.end().await;
    if let Some(dir) = kept {
        notice(&format!("kept in {0}; remove it with `rm -r {0}`", dir.display()));
    }
    // What dead owners left is no reason to wait, nor to fail.
    if swept.is_finished()
        && let Ok(Err(error)) = swept.await
    {
        notice(&format!("an old sandbox could not be removed: {error:#}"));
    }
    let code = ended?;
    removed.context("the sandbox did not end as it should")?;
    Ok(code)
}

async fn start(context: &Context, args: &Args) -> Result<(Sandbox, Assets)> {
    let sources = context.sources()?;
    let assets =
        Assets::prepare(&sources, &args.image, &args.kernel, progress::to_stderr()).await?;
    let spec = SandboxSpec {
        image: args.image.clone(),
        kernel: args.kernel.clone(),
        cpus: args.cpus,
        memory: args.memory,
        disk: args.disk,
    };
    let disposal = if args.keep { Disposal::Keep } else { Disposal::Remove };
    let helpers = context.helpers();
    let sandbox = Sandbox::start(&context.home, &assets, &spec, disposal, &helpers).await?;
    Ok((sandbox, assets))
}

/// What to run: the user's wishes before the image's.
fn command(args: &Args, assets: &Assets) -> Command {
    let config = assets.image.config();
    let own = |text: &String| text.clone().into_bytes();
    let interactive = args.command.is_empty();
    let argv = match interactive {
        true => config.shell.iter().map(own).collect(),
        false => args.command.iter().map(|arg| arg.clone().into_vec()).collect(),
    };
    let wants_terminal = args.tty || (interactive && is_terminal(std::io::stdin()));
    let terminal = wants_terminal.then(terminal_window);
    let mut env: Vec<EnvVar> = Vec::new();
    let image_env = config.env.iter().map(|(name, value)| format!("{name}={value}"));
    let term = terminal.and_then(|_| env_var("TERM".into()).ok().flatten());
    let image_env = image_env.filter_map(|var| EnvVar::parse(var.as_bytes()).ok());
    for var in image_env.chain(term).chain(args.env.iter().flatten().cloned()) {
        env.retain(|old| old.name() != var.name());
        env.push(var);
    }
    Command {
        argv,
        env,
        cwd: args.workdir.clone().map(OsString::into_vec).or_else(|| {
            // Another user may not enter the directory that the image means for its own.
            args.user.is_none().then(|| own(&config.workdir))
        }),
        user: Some(args.user.clone().map_or_else(|| own(&config.user), OsString::into_vec)),
        terminal,
    }
}

fn terminal_window() -> Window {
    let size = window_size(std::io::stdout()).or_else(|| window_size(std::io::stdin()));
    size.map_or(Window { rows: 24, cols: 80 }, |size| Window { rows: size.rows, cols: size.cols })
}
