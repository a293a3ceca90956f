//! `banger image register`: a root file system on this host becomes an image.

use std::path::PathBuf;

use anyhow::Context as _;
use banger_api::types::PullImage;
use banger_model::{DiskSize, ExitCode, ImageName, KernelName};
use clap_complete::ArgValueCandidates;

use crate::commands::completion;
use crate::commands::fetching::{self, Wanted};
use crate::context::{self, Context};
use crate::error::CommandError;

/// Make an image of a root file system on this host
///
/// It is copied. A directory keeps owners and modes as far as you may read them. What kind of file it
/// is shows in the file. Prints the image's name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger image register mine --rootfs ./root.tar.zst\n  \
                        banger image register mine --rootfs ./rootfs.ext4\n  \
                        banger image register mine --rootfs ./tree --size 20G")]
pub(crate) struct Args {
    /// What the image is to be called
    name: ImageName,
    /// The root file system: a directory, a tar (plain, gzip or zstd) or a file with ext4
    #[arg(long, value_name = "PATH")]
    rootfs: PathBuf,
    /// The kernel that its sandboxes boot; fetched if it is only in a catalog [default: debian-cloud]
    #[arg(long, add = ArgValueCandidates::new(completion::kernels))]
    kernel: Option<KernelName>,
    /// Size of the disk that its sandboxes write to, where --disk does not say otherwise [default: 8G,
    /// or a quarter more than the image where that is more]
    #[arg(long)]
    size: Option<DiskSize>,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let path = context::current_dir()?.join(args.rootfs);
    let path = path.to_str().context("the path is not UTF-8")?;
    let wanted = PullImage {
        source: format!("rootfs:{path}"),
        name: Some(args.name),
        kernel: args.kernel,
        disk: args.size,
        made_of: None,
    };
    fetching::run(&Context::from_process()?, &Wanted::Image(&wanted), verbosity)
}
