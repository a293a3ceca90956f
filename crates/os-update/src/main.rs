//! `os-update`: reads the command line, runs one command, and tells how it went.
#![forbid(unsafe_code)]

mod cli;
mod output;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use banger_host::fs::{create_new, is_there, read_bounded, read_text, write_atomic};
use banger_trust::SecretKey;
use banger_trust::gates::Hours;
use banger_update::{Engine, HostFiles, KernelArgs, Slot, grub_config};
use clap::Parser as _;
use os_update::agent::{
    Agent, AgentError, GivenUp, Orders, Reboot, Run, Signatures, install, settle,
};
use os_update::cloud_init;
use os_update::dns::Resolver;
use os_update::http::Patience;
use os_update::settings::{ConfFile, MAX_CONF, Merged, Settings, parse_conf};
use os_update::status::{Status, metrics};

use cli::{Cli, Command};
use output::Output;

/// Longest file that is signed.
const MAX_SIGNED: u64 = 4 << 30;
/// Longest private key.
const MAX_KEY: u64 = 16 * 1024;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.common.output);
    match run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            let known = error.downcast_ref::<AgentError>().map_or(1, AgentError::exit_code);
            ExitCode::from(known)
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<()> {
    match &cli.command {
        Command::Sign { key, text, files } => {
            let form = if *text { Form::Base64 } else { Form::Raw };
            return files.iter().try_for_each(|file| sign(key, file, form));
        }
        Command::Genkey { name } => return genkey(name, output),
        Command::Serve { listen, dir } => return serve(*listen, dir, output),
        Command::CloudInit { file } => return take_user_data(&cli.common.conf, file, output),
        Command::GrubConfig { args } => {
            output.plain(&grub_config(&KernelArgs::parse(args)?));
            return Ok(());
        }
        _ => {}
    }
    let (merged, settings) = settings(&cli, output)?;
    let agent = Agent::new(settings, Patience::default(), Resolver::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let orders = orders(&cli);
    let outcome = match &cli.command {
        Command::Check => runtime.block_on(agent.check(orders)),
        Command::Apply { .. } => {
            let mut progress = output.progress();
            runtime.block_on(agent.apply(orders, &mut progress))
        }
        Command::Activate(restart) => agent.activate(orders, when(restart.reboot)),
        Command::Rollback { restart, .. } => agent.rollback(orders, when(restart.reboot)),
        Command::Healthcheck { no_reboot } => {
            runtime.block_on(agent.healthcheck(orders, when(!no_reboot)))
        }
        Command::BootInstall { slot } => {
            let slot: Slot = slot.parse()?;
            let settings = agent.settings();
            install(&settings.boot_dir, settings.loader, &settings.kernel_args, slot)?;
            return Ok(());
        }
        _ => return tell(&cli.command, &agent, &merged, output),
    };
    // A check that has no end is not waited for.
    runtime.shutdown_background();
    output.outcome(&outcome?);
    Ok(())
}

/// The settings, valid. A system on trial that has none is given up.
fn settings(cli: &Cli, output: &Output) -> Result<(Merged, Settings)> {
    let file = read_conf(&cli.common.conf);
    let known = file.as_ref().cloned().unwrap_or_default();
    known.warnings.iter().for_each(|warning| output.warn(warning));
    let merged = Merged::new(&cli.common.flags(), &known);
    let valid = file.map(drop).and_then(|()| Ok(settle(&merged)?));
    if let (Err(_), Command::Healthcheck { no_reboot }) = (&valid, &cli.command)
        && !cli.common.dry_run
    {
        let nothing_said = Merged::new(&BTreeMap::new(), &ConfFile::default());
        let least = settle(&merged.least()).or_else(|_| settle(&nothing_said))?;
        let agent = Agent::new(least, Patience::default(), Resolver::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let given_up = runtime.block_on(agent.give_up_undecided(when(!no_reboot)));
        runtime.shutdown_background();
        given_up?;
    }
    Ok((merged, valid?))
}

/// What only looks.
fn tell(command: &Command, agent: &Agent, merged: &Merged, output: &Output) -> Result<()> {
    let dir = &agent.settings().state_dir;
    if matches!(command, Command::History) {
        output.history(&Engine::history(&HostFiles, dir));
        return Ok(());
    }
    let record = Engine::look(&HostFiles, dir);
    let seen = agent.observe()?;
    if matches!(command, Command::Metrics) {
        output.plain(&metrics(&record, &seen));
        return Ok(());
    }
    let keys = agent.settings().keys.iter().flat_map(|keys| keys.iter());
    let keys = keys.map(|key| key.id().to_string()).collect();
    output.status(&Status::new(&record, &seen, merged, keys));
    Ok(())
}

fn orders(cli: &Cli) -> Orders {
    let insecure = matches!(cli.command, Command::Apply { insecure_skip_verify: true });
    let even_given_up = matches!(cli.command, Command::Rollback { given_up: true, .. });
    Orders {
        given_up: if even_given_up { GivenUp::Wanted } else { GivenUp::Refused },
        hours: if cli.common.force { Hours::Ignore } else { Hours::Keep },
        signatures: if insecure { Signatures::Insecure } else { Signatures::Required },
        run: if cli.common.dry_run { Run::Dry } else { Run::Real },
    }
}

fn when(now: bool) -> Reboot {
    if now { Reboot::Now } else { Reboot::Later }
}

/// A file that is missing says nothing; one that cannot be read is an error.
fn read_conf(path: &Path) -> Result<ConfFile> {
    if !is_there(path) {
        return Ok(ConfFile::default());
    }
    Ok(parse_conf(&read_text(path, MAX_CONF)?))
}

fn take_user_data(conf: &Path, file: &Path, output: &Output) -> Result<()> {
    let text = read_text(file, cloud_init::MAX_LEN as u64)?;
    let block = cloud_init::parse(&text)
        .with_context(|| format!("cannot take the updates block of {}", file.display()))?;
    let conf = &std::path::absolute(conf)?;
    let existing = if is_there(conf) { read_text(conf, MAX_CONF)? } else { String::new() };
    let (merged, refused) = cloud_init::merge(&existing, &block);
    refused.iter().for_each(|line| output.warn(line));
    if let Some(text) = merged {
        // What makes no sense would stay for good, and later user data could not mend it.
        settle(&Merged::new(&BTreeMap::new(), &parse_conf(&text)))
            .with_context(|| format!("the updates block of {} is not taken", file.display()))?;
        if let Some(dir) = conf.parent() {
            banger_host::fs::create_private_dir(dir)?;
        }
        write_atomic(conf, text.as_bytes())?;
    }
    Ok(())
}

/// How a signature is written.
#[derive(Clone, Copy, Debug)]
enum Form {
    Raw,
    Base64,
}

fn sign(key: &Path, file: &Path, form: Form) -> Result<()> {
    let secret = SecretKey::parse(&read_bounded(key, MAX_KEY)?)
        .with_context(|| format!("cannot sign with {}", key.display()))?;
    let signature = secret.sign(&read_bounded(file, MAX_SIGNED)?);
    let bytes = match form {
        Form::Raw => signature.bytes().to_vec(),
        Form::Base64 => format!("{}\n", signature.to_base64()).into_bytes(),
    };
    let mut name = std::path::absolute(file)?.into_os_string();
    name.push(".sig");
    write_atomic(Path::new(&name), &bytes)?;
    Ok(())
}

fn genkey(name: &Path, output: &Output) -> Result<()> {
    use std::io::Write as _;
    let secret = SecretKey::from_seed(banger_host::random::bytes()?);
    let with = |ending: &str| {
        let mut path = name.as_os_str().to_owned();
        path.push(ending);
        std::path::PathBuf::from(path)
    };
    // Keys are never overwritten.
    for (path, text) in [(with(".key"), secret.to_pem()), (with(".pub"), secret.public().to_pem())]
    {
        let mut file = create_new(&path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
    }
    output.plain(&format!("{}\n", secret.public().to_base64()));
    Ok(())
}

fn serve(listen: std::net::SocketAddr, dir: &Path, output: &Output) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        output.plain(&format!("http://{}\n", listener.local_addr()?));
        Ok(os_update::serve::serve(listener, dir.to_owned()).await?)
    })
}
