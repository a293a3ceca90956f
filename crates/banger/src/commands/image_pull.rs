//! `banger image pull`: an image is fetched, or taken from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use banger_api::types::PullImage;
use banger_host::fs;
use banger_host::home::Home;
use banger_host::scratch::Scratch;
use banger_model::{DiskSize, ExitCode, ImageName, ImageReference, KernelName};
use clap_complete::ArgValueCandidates;

use crate::commands::fetching::{self, Wanted};
use crate::commands::{completion, kernel, with_daemon};
use crate::context::{self, Context};
use crate::error::{CommandError, Kind};

/// Images that are files on this host, by what stands before their paths.
const LOCAL: [&str; 3] = ["oci:", "oci-archive:", "docker-archive:"];

/// Fetch an image from a catalog or a registry, or take it from a file
///
/// REF is a name that `banger catalog show` lists, else a reference as `docker pull` takes it,
/// `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:REF]`, or `-` for an archive on
/// standard input. What is here already is not fetched again; a tag that has moved is. Prints the
/// image's name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger image pull alpine:3.20\n  \
                        banger image pull debian-bookworm\n  \
                        banger image pull --size 40G postgres:17\n  \
                        banger image pull --name app ghcr.io/org/app@sha256:...\n  \
                        docker save app | banger image pull --name app -")]
pub(crate) struct Args {
    /// What the image is to be called [default: made from REF, alpine-3.20 for alpine:3.20]
    #[arg(long)]
    name: Option<ImageName>,
    /// The kernel that its sandboxes boot; fetched if it is only in a catalog [default: debian-cloud]
    #[arg(long, visible_alias = "kernel", value_name = "KERNEL", add = ArgValueCandidates::new(completion::kernels))]
    kernel_ref: Option<KernelName>,
    /// Import this kernel for its sandboxes under the image's name, as `banger kernel import` does
    #[arg(long, value_name = "FILE", conflicts_with = "kernel_ref")]
    vmlinux: Option<PathBuf>,
    /// The modules of that kernel
    #[arg(long, value_name = "DIR", requires = "vmlinux")]
    modules: Option<PathBuf>,
    /// Size of the disk that its sandboxes write to, where --disk does not say otherwise [default: 8G,
    /// or a quarter more than the image where that is more]
    #[arg(long)]
    size: Option<DiskSize>,
    /// Where it is
    #[arg(value_name = "REF")]
    source: String,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let context = Context::from_process()?;
    let with_kernel = match args.vmlinux {
        Some(vmlinux) => Some((kernel_name(args.name.as_ref(), &args.source)?, vmlinux)),
        None => None,
    };
    let from = From::parse(&context.home, args.source)?;
    let imported = match with_kernel {
        Some((name, vmlinux)) => {
            Some(kernel::import_files(&name, &vmlinux, args.modules.as_deref(), verbosity)?)
        }
        None => None,
    };
    let wanted = PullImage {
        source: from.source.clone(),
        name: args.name,
        kernel: imported.clone().or(args.kernel_ref),
        disk: args.size,
        made_of: None,
    };
    let pulled = fetching::run(&context, &Wanted::Image(&wanted), verbosity);
    if let Some(kernel) = imported
        && !matches!(pulled, Ok(ExitCode::SUCCESS))
    {
        // It was for this image alone. Why there is none tells more than that it remains.
        let removed =
            with_daemon(verbosity, async |client| Ok(client.delete_kernel(&kernel).await?));
        return pulled.and_then(|code| removed.map(|_| code));
    }
    pulled
}

/// What a kernel is called that comes with an image.
fn kernel_name(image: Option<&ImageName>, source: &str) -> Result<KernelName, CommandError> {
    let own = || source.parse::<ImageReference>().ok().map(|reference| reference.default_name());
    let name = image.cloned().or_else(own);
    let name = name.and_then(|name| name.as_str().parse().ok());
    let unnamed = || anyhow!("the kernel is called as the image is: give it a name with --name");
    name.ok_or_else(|| CommandError::new(Kind::Usage, unnamed()))
}

/// Where an image comes from, as the daemon is told. What was put aside for it goes with this.
struct From {
    source: String,
    _aside: Option<Scratch>,
}

impl From {
    fn parse(home: &Home, source: String) -> Result<Self, CommandError> {
        if source == "-" {
            return Ok(Self::standard_input(home)?);
        }
        for kind in LOCAL {
            let Some(path) = source.strip_prefix(kind) else { continue };
            if path.is_empty() {
                let error = anyhow!("{kind} needs a path behind the colon");
                return Err(CommandError::new(Kind::Usage, error));
            }
            let current = context::current_dir()?;
            let absolute = current.join(path);
            let absolute = absolute.to_str().context("the path is not UTF-8")?;
            return Ok(Self { source: format!("{kind}{absolute}"), _aside: None });
        }
        let parsed = source.parse::<ImageReference>();
        parsed.map_err(|error| CommandError::new(Kind::Usage, error))?;
        Ok(Self { source, _aside: None })
    }

    /// The daemon reads files: what comes in is made one.
    fn standard_input(home: &Home) -> anyhow::Result<Self> {
        let aside = Scratch::begin(&home.imports())?;
        let path = aside.path().join("archive");
        let mut file = fs::create_new(&path)?;
        std::io::copy(&mut std::io::stdin().lock(), &mut file)
            .context("cannot keep the archive")?;
        Ok(Self { source: format!("archive:{}", shown(&path)?), _aside: Some(aside) })
    }
}

fn shown(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the home's path is not UTF-8")
}
