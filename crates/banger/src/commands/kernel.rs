//! `banger kernel`: what sandboxes boot.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use banger_api::types::{ImportKernel, Kernel};
use banger_model::{Bytes, ExitCode, KernelName};
use clap_complete::ArgValueCandidates;

use crate::commands::fetching::{self, Wanted};
use crate::commands::listing::Listing;
use crate::commands::{completion, delete_each, with_daemon};
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::output::{self, Format, Table, shown};

/// Make a kernel of files on this host
///
/// It needs virtio over MMIO found through ACPI, ext4 and overlayfs, built in or as modules. Prints its
/// name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    banger kernel import mine --vmlinux ./vmlinux --modules ./install\n  \
    banger vm run --kernel mine -- uname -r")]
pub(crate) struct ImportArgs {
    /// What it is to be called
    name: KernelName,
    /// The kernel: an uncompressed vmlinux, or a bzImage (gzip, lz4, xz or zstd)
    #[arg(long, value_name = "FILE")]
    vmlinux: PathBuf,
    /// Its modules, compressed or not: a directory with lib/modules/RELEASE in it, or that itself
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

pub(crate) fn import(args: &ImportArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let made = import_files(&args.name, &args.vmlinux, args.modules.as_deref(), verbosity)?;
    output::line(made.as_str())?;
    Ok(ExitCode::SUCCESS)
}

/// Has the daemon make a kernel of these files.
pub(crate) fn import_files(
    name: &KernelName,
    vmlinux: &Path,
    modules: Option<&Path>,
    verbosity: u8,
) -> Result<KernelName, CommandError> {
    let wanted = ImportKernel {
        name: name.clone(),
        vmlinux: absolute(vmlinux)?,
        modules: modules.map(absolute).transpose()?,
    };
    let made = with_daemon(verbosity, async |client| Ok(client.import_kernel(&wanted).await?))?;
    Ok(made.name)
}

/// Fetch a kernel from a catalog
///
/// What `banger catalog show` lists. One that is here already is not fetched again. Prints its name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger kernel pull debian-cloud")]
pub(crate) struct PullArgs {
    /// The kernel
    name: KernelName,
}

pub(crate) fn pull(args: &PullArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    fetching::run(&Context::from_process()?, &Wanted::Kernel(&args.name), verbosity)
}

/// The path as the daemon has to be told it.
pub(crate) fn absolute(path: &Path) -> Result<String, CommandError> {
    let path = context::current_dir()?.join(path);
    Ok(path.to_str().context("the path is not UTF-8")?.to_owned())
}

/// List kernels
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger kernel list\n  banger kernel list -o json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn list(args: &ListArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let kernels = with_daemon(verbosity, async |client| Ok(client.kernels().await?))?;
    args.listing.show(&kernels, |it| it.name.to_string(), table)
}

fn table(kernels: &[Kernel]) -> String {
    let mut table = Table::new(["NAME", "RELEASE", "SIZE", "USED BY"]);
    for kernel in kernels {
        table.row([
            kernel.name.to_string(),
            shown(kernel.release.as_bytes()),
            Bytes::new(kernel.size).to_string(),
            kernel.used_by.join(","),
        ]);
    }
    table.render(&[])
}

/// Show a kernel
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger kernel show debian-cloud")]
pub(crate) struct ShowArgs {
    /// The kernel
    #[arg(add = ArgValueCandidates::new(completion::kernels))]
    name: KernelName,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn show(args: &ShowArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let kernel = with_daemon(verbosity, async |client| Ok(client.kernel(&args.name).await?))?;
    match args.output {
        Format::Json => output::json(&kernel)?,
        Format::Text => output::text(&text(&kernel))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(kernel: &Kernel) -> String {
    let mut pairs = vec![
        ("name", kernel.name.to_string()),
        ("release", shown(kernel.release.as_bytes())),
        ("source", shown(kernel.source.as_bytes())),
        ("size", Bytes::new(kernel.size).to_string()),
    ];
    pairs.extend(kernel.used_by.iter().map(|user| ("used by", user.clone())));
    output::pairs(&pairs)
}

/// Delete kernels
///
/// One that a sandbox boots or an image wants stays. Prints the name of each that goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger kernel rm mine")]
pub(crate) struct DeleteArgs {
    /// The kernels
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(completion::kernels))]
    names: Vec<KernelName>,
}

pub(crate) fn delete(args: &DeleteArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    delete_each(&args.names, verbosity, async |client, name| {
        client.delete_kernel(name).await?;
        Ok(name.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_shown_with_who_boots_them() {
        let kernel: Kernel = serde_json::from_value(serde_json::json!({
            "name": "mine", "release": "6.1.0", "source": "/x/vmlinux", "size": 70 << 20,
            "used_by": ["web"],
        }))
        .unwrap();
        assert_eq!(
            table(std::slice::from_ref(&kernel)),
            "NAME  RELEASE  SIZE  USED BY\nmine  6.1.0    70M   web\n"
        );
        assert!(text(&kernel).contains("/x/vmlinux"), "{}", text(&kernel));
    }
}
