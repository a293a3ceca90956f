//! The command line, as clap knows it. Its doc comments are the help texts.

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, catalog, catalog_make, completion, doctor, image_build, image_cache, image_delete,
    image_list, image_promote, image_pull, image_register, image_show, kernel, man,
    snapshot_delete, snapshot_list, template_delete, template_list, template_prune, version,
    vm_act, vm_cp, vm_create, vm_delete, vm_exec, vm_fork, vm_list, vm_logs, vm_prune, vm_run,
    vm_show, vm_snapshot, vm_stats, volume,
};

/// Disposable Linux sandboxes, each a virtual machine of its own.
///
/// `banger vm run` gives you a real Linux with its own kernel and throws it away on exit;
/// `banger vm create` gives you one that stays until you delete it.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  banger vm run                 a shell in a new sandbox\n  \
                  banger vm run -- uname -a     one command in a new sandbox\n  \
                  banger vm create web          a sandbox that stays\n  \
                  banger vm exec -it web        a shell in it\n  \
                  banger ps                     the sandboxes that run\n  \
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
    /// Images, which sandboxes are made of
    #[command(subcommand)]
    Image(Image),
    /// Kernels, which sandboxes boot
    #[command(subcommand)]
    Kernel(Kernel),
    /// Catalogs, where names of images come from
    #[command(subcommand)]
    Catalog(Catalog),
    /// Volumes, disks that outlive sandboxes
    #[command(subcommand)]
    Volume(Volume),
    /// Templates, which sandboxes are made from
    #[command(subcommand)]
    Template(Template),
    /// Snapshots, what sandboxes were at one moment
    #[command(subcommand)]
    Snapshot(Snapshot),
    Ps(vm_list::PsArgs),
    Doctor(doctor::Args),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    Version(version::Args),
    Completion(completion::Args),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man(man::Args),
}

/// A sandbox is named by its name, its id, or the beginning of its id. What has no text here has
/// it beside its arguments: a line here would hide all of that.
#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    Run(vm_run::Args),
    Create(vm_create::Args),
    Exec(vm_exec::Args),
    #[command(visible_alias = "ls")]
    List(vm_list::Args),
    Show(vm_show::Args),
    /// Start sandboxes
    #[command(after_help = "Examples:\n  banger vm start web\n  banger vm start web db")]
    Start(vm_act::Args),
    /// Stop sandboxes with their disks in order
    #[command(after_help = "Examples:\n  banger vm stop web\n  \
                            banger vm stop $(banger ps -q --label app=shop)")]
    Stop(vm_act::Args),
    /// Stop sandboxes and start them again
    #[command(after_help = "Examples:\n  banger vm restart web")]
    Restart(vm_act::Args),
    /// Stop sandboxes at once, as pulling the plug does
    #[command(after_help = "Examples:\n  banger vm kill web")]
    Kill(vm_act::Args),
    /// Save the memory of sandboxes to the disk and end their machines
    ///
    /// Processes, files and timers go on when you resume it; connections to the outside may not.
    /// A paused sandbox takes no memory and no processor, and outlives a restart of this host.
    #[command(after_help = "Examples:\n  banger vm pause web\n  banger vm pause $(banger ps -q)")]
    Pause(vm_act::Args),
    /// Take sandboxes up where they were paused
    #[command(after_help = "Examples:\n  banger vm resume web")]
    Resume(vm_act::Args),
    Snapshot(vm_snapshot::Args),
    Fork(vm_fork::Args),
    #[command(visible_alias = "rm")]
    Delete(vm_delete::Args),
    Prune(vm_prune::Args),
    Logs(vm_logs::Args),
    Stats(vm_stats::Args),
    Cp(vm_cp::Args),
}

/// An image is named by its name here, or by where it is in a registry.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    Pull(image_pull::Args),
    Build(image_build::Args),
    Promote(image_promote::Args),
    Register(image_register::Args),
    #[command(visible_alias = "ls")]
    List(image_list::Args),
    Show(image_show::Args),
    #[command(visible_alias = "rm")]
    Delete(image_delete::Args),
    /// What was fetched for images
    #[command(subcommand)]
    Cache(ImageCache),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCache {
    #[command(visible_alias = "ls")]
    List(image_cache::ListArgs),
    Prune(image_cache::PruneArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Kernel {
    Pull(kernel::PullArgs),
    Import(kernel::ImportArgs),
    #[command(visible_alias = "ls")]
    List(kernel::ListArgs),
    Show(kernel::ShowArgs),
    #[command(visible_alias = "rm")]
    Delete(kernel::DeleteArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Catalog {
    #[command(visible_alias = "ls")]
    Show(catalog::ShowArgs),
    Update(catalog::UpdateArgs),
    Build(catalog_make::BuildArgs),
    Sign(catalog_make::SignArgs),
    Verify(catalog_make::VerifyArgs),
    Genkey(catalog_make::GenkeyArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    Create(volume::CreateArgs),
    #[command(visible_alias = "ls")]
    List(volume::ListArgs),
    Show(volume::ShowArgs),
    Resize(volume::ResizeArgs),
    #[command(visible_alias = "rm")]
    Delete(volume::DeleteArgs),
}

/// A template is named by its id or the beginning of its id.
#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    #[command(visible_alias = "ls")]
    List(template_list::Args),
    #[command(visible_alias = "rm")]
    Delete(template_delete::Args),
    Prune(template_prune::Args),
}

/// A snapshot is named by the name of its sandbox and its tag.
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    #[command(visible_alias = "ls")]
    List(snapshot_list::Args),
    #[command(visible_alias = "rm")]
    Delete(snapshot_delete::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_not_given_has_a_value_that_makes_sense() {
        use clap::error::ErrorKind;
        let mut open = vec![(vec!["banger".to_owned()], Cli::command())];
        while let Some((path, command)) = open.pop() {
            if let Err(error) = Cli::try_parse_from(&path) {
                let kind = error.kind();
                assert!(kind != ErrorKind::ValueValidation, "{path:?}: {error}");
                assert!(kind != ErrorKind::InvalidValue, "{path:?}: {error}");
            }
            for below in command.get_subcommands() {
                let name = below.get_name().to_owned();
                open.push(([path.clone(), vec![name]].concat(), below.clone()));
            }
        }
    }

    #[test]
    fn every_command_says_what_it_does_and_those_with_more_to_say_say_it() {
        let mut open = vec![Cli::command()];
        let mut long = 0;
        while let Some(command) = open.pop() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            long += usize::from(command.get_long_about().is_some());
            open.extend(command.get_subcommands().cloned());
        }
        assert!(long >= 8, "{long}");
    }
}
