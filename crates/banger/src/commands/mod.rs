//! One file per command: its arguments, whose doc comments are its help, and what it does.

pub(crate) mod bench;
pub(crate) mod catalog;
pub(crate) mod catalog_make;
pub(crate) mod command_args;
pub(crate) mod completion;
mod consent;
pub(crate) mod doctor;
pub(crate) mod fetching;
pub(crate) mod image_build;
pub(crate) mod image_cache;
pub(crate) mod image_delete;
pub(crate) mod image_list;
pub(crate) mod image_promote;
pub(crate) mod image_pull;
pub(crate) mod image_register;
pub(crate) mod image_show;
pub(crate) mod kernel;
mod listing;
pub(crate) mod man;
pub(crate) mod snapshot_delete;
pub(crate) mod snapshot_list;
pub(crate) mod spec_args;
pub(crate) mod template_delete;
pub(crate) mod template_list;
pub(crate) mod template_prune;
pub(crate) mod version;
pub(crate) mod vm_act;
pub(crate) mod vm_cp;
pub(crate) mod vm_create;
pub(crate) mod vm_delete;
pub(crate) mod vm_exec;
pub(crate) mod vm_fork;
pub(crate) mod vm_list;
pub(crate) mod vm_logs;
pub(crate) mod vm_prune;
pub(crate) mod vm_run;
pub(crate) mod vm_show;
pub(crate) mod vm_snapshot;
pub(crate) mod vm_stats;
pub(crate) mod volume;

use banger_api::client::{Client, ClientError, SandboxAction};
use banger_model::ExitCode;

use crate::cli::{
    Catalog, Cli, Command, Image, ImageCache, Kernel, Snapshot, Template, Vm, Volume,
};
use crate::context::{self, Context};
use crate::error::{CommandError, Failures};
use crate::output;

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, CommandError> {
    let verbosity = cli.verbose;
    match cli.command {
        Command::Vm(command) => run_vm(command, verbosity),
        Command::Image(command) => run_image(command, verbosity),
        Command::Kernel(command) => run_kernel(command, verbosity),
        Command::Catalog(command) => run_catalog(command),
        Command::Volume(command) => run_volume(command, verbosity),
        Command::Template(command) => run_template(command, verbosity),
        Command::Snapshot(command) => run_snapshot(command, verbosity),
        Command::Ps(args) => vm_list::run_ps(&args, verbosity),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(what) => bench::run(&what),
        Command::Version(args) => version::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

fn run_vm(command: Vm, verbosity: u8) -> Result<ExitCode, CommandError> {
    let act = |args: &vm_act::Args, action| vm_act::run(args, action, verbosity);
    match command {
        Vm::Run(args) => vm_run::run(args, verbosity),
        Vm::Create(args) => vm_create::run(args, verbosity),
        Vm::Exec(args) => vm_exec::run(args, verbosity),
        Vm::List(args) => vm_list::run(&args, verbosity),
        Vm::Show(args) => vm_show::run(&args, verbosity),
        Vm::Start(args) => act(&args, SandboxAction::Start),
        Vm::Stop(args) => act(&args, SandboxAction::Stop),
        Vm::Restart(args) => act(&args, SandboxAction::Restart),
        Vm::Kill(args) => act(&args, SandboxAction::Kill),
        Vm::Pause(args) => act(&args, SandboxAction::Pause),
        Vm::Resume(args) => act(&args, SandboxAction::Resume),
        Vm::Snapshot(args) => vm_snapshot::run(&args, verbosity),
        Vm::Fork(args) => vm_fork::run(&args, verbosity),
        Vm::Delete(args) => vm_delete::run(&args, verbosity),
        Vm::Prune(args) => vm_prune::run(&args, verbosity),
        Vm::Logs(args) => vm_logs::run(&args, verbosity),
        Vm::Stats(args) => vm_stats::run(args, verbosity),
        Vm::Cp(args) => vm_cp::run(&args, verbosity),
    }
}

fn run_image(command: Image, verbosity: u8) -> Result<ExitCode, CommandError> {
    match command {
        Image::Pull(args) => image_pull::run(args, verbosity),
        Image::Build(args) => image_build::run(args, verbosity),
        Image::Promote(args) => image_promote::run(args, verbosity),
        Image::Register(args) => image_register::run(args, verbosity),
        Image::List(args) => image_list::run(&args, verbosity),
        Image::Show(args) => image_show::run(&args, verbosity),
        Image::Delete(args) => image_delete::run(&args, verbosity),
        Image::Cache(ImageCache::List(args)) => image_cache::list(&args, verbosity),
        Image::Cache(ImageCache::Prune(args)) => image_cache::prune(&args, verbosity),
    }
}

fn run_kernel(command: Kernel, verbosity: u8) -> Result<ExitCode, CommandError> {
    match command {
        Kernel::Pull(args) => kernel::pull(&args, verbosity),
        Kernel::Import(args) => kernel::import(&args, verbosity),
        Kernel::List(args) => kernel::list(&args, verbosity),
        Kernel::Show(args) => kernel::show(&args, verbosity),
        Kernel::Delete(args) => kernel::delete(&args, verbosity),
    }
}

fn run_catalog(command: Catalog) -> Result<ExitCode, CommandError> {
    match command {
        Catalog::Show(args) => catalog::show(&args),
        Catalog::Update(args) => catalog::update(&args),
        Catalog::Build(args) => catalog_make::build(args),
        Catalog::Sign(args) => catalog_make::run_sign(&args),
        Catalog::Verify(args) => catalog_make::run_verify(&args),
        Catalog::Genkey(args) => catalog_make::genkey(&args),
    }
}

fn run_volume(command: Volume, verbosity: u8) -> Result<ExitCode, CommandError> {
    match command {
        Volume::Create(args) => volume::create(args, verbosity),
        Volume::List(args) => volume::list(&args, verbosity),
        Volume::Show(args) => volume::show(&args, verbosity),
        Volume::Resize(args) => volume::resize(&args, verbosity),
        Volume::Delete(args) => volume::delete(&args, verbosity),
    }
}

fn run_template(command: Template, verbosity: u8) -> Result<ExitCode, CommandError> {
    match command {
        Template::List(args) => template_list::run(&args, verbosity),
        Template::Delete(args) => template_delete::run(&args, verbosity),
        Template::Prune(args) => template_prune::run(&args, verbosity),
    }
}

fn run_snapshot(command: Snapshot, verbosity: u8) -> Result<ExitCode, CommandError> {
    match command {
        Snapshot::List(args) => snapshot_list::run(&args, verbosity),
        Snapshot::Delete(args) => snapshot_delete::run(&args, verbosity),
    }
}

/// Does something with the daemon, which is started if need be.
fn with_daemon<T>(
    verbosity: u8,
    work: impl AsyncFnOnce(Client) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let context = Context::from_process()?;
    let runtime = context::runtime()?;
    let result = runtime.block_on(async { work(context.client(verbosity)).await });
    // Threads that still read standard input end with the process.
    runtime.shutdown_background();
    result
}

/// Has the daemon delete what was named, each once; prints what each is called as it goes.
fn delete_each<T: PartialEq>(
    named: &[T],
    verbosity: u8,
    delete: impl AsyncFn(&Client, &T) -> Result<String, ClientError>,
) -> Result<ExitCode, CommandError> {
    with_daemon(verbosity, async |client| {
        let mut failures = Failures::told_at(verbosity);
        for (at, one) in named.iter().enumerate() {
            if named[..at].contains(one) {
                continue;
            }
            match delete(&client, one).await {
                Ok(gone) => output::line(gone)?,
                Err(error) => failures.add(error.into()),
            }
        }
        failures.end()
    })
}
