//! `banger catalog`, for whoever makes one: a directory that any web server can serve.

use std::path::{Path, PathBuf};

use banger_host::home::Home;
use banger_model::{ExitCode, ImageName, ImageReference, KernelName, Timestamp};
use bangerd::catalog::{Build, Index, Offered, generate_key, show_time, sign, verify};

use crate::commands::vm_list::now;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{self, notice};
use crate::progress;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// An index that nobody renews is void after so many days.
const DAYS: u32 = 30;
/// Longest time that makes sense: what is valid for ever can be held back for ever.
const MAX_DAYS: i64 = 3650;

/// Make a catalog of images and kernels that are here
///
/// DIR then has `index.json`, a bundle for each image and kernel, and with `--key` the signature
/// `index.json.sig`. Put it on any web server. Bundles of an earlier index stay in it for those who
/// still have that index. Prints the serial.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger catalog build --image tools --key key.pem public/\n  \
                  banger catalog build --image app=our-app --oci alpine=alpine@sha256:... public/")]
pub(crate) struct BuildArgs {
    /// An image that is here, and what it is to be called in the catalog if that is something else;
    /// may be repeated
    #[arg(long = "image", value_name = "NAME[=OTHER]")]
    images: Vec<Offered<ImageName, ImageName>>,
    /// A kernel that is here; kernels that the images want are in the catalog without that; may be
    /// repeated
    #[arg(long = "kernel", value_name = "NAME[=OTHER]")]
    kernels: Vec<Offered<KernelName, KernelName>>,
    /// An image in a registry, by its digest; may be repeated
    #[arg(long = "oci", value_name = "NAME=REF@DIGEST")]
    pinned: Vec<Offered<ImageReference, ImageName>>,
    /// The number of this index [default: one more than that of the index in DIR]
    #[arg(long)]
    serial: Option<u64>,
    /// Days after which nobody believes this index any more
    #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
    days: u32,
    /// The private key to sign with
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The directory
    dir: PathBuf,
}

/// Sign the index of a catalog
///
/// Nothing but the index and the key is needed, so it can be done where the key is kept. Prints the
/// public key.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger catalog sign --key key.pem public/")]
pub(crate) struct SignArgs {
    /// The private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The directory
    dir: PathBuf,
}

/// Verify a catalog as whoever pulls from it does
///
/// Every byte is read: the signature, and all that is in the bundles.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger catalog verify --key PUBLIC public/")]
pub(crate) struct VerifyArgs {
    /// The public key, as base64, hexadecimal digits or PEM
    #[arg(long, value_name = "PUBLIC")]
    key: String,
    /// The directory
    dir: PathBuf,
}

/// Make a key to sign catalogs with
///
/// The private key is written to FILE, for you alone; keep it away from the web server. Prints the
/// public key, which goes into `config.toml` of those who pull.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger catalog genkey key.pem")]
pub(crate) struct GenkeyArgs {
    /// A file that is not there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) fn build(args: BuildArgs) -> Result<ExitCode, CommandError> {
    let home = Context::from_process()?.home;
    let key = args.key.clone();
    let dir = args.dir.clone();
    let index = made(args, &home, &dir)?;
    match key {
        Some(key) => drop(sign(&dir, &key).map_err(anyhow::Error::from)?),
        None => notice("it is not signed yet: `banger catalog sign` does that"),
    }
    output::line(index.serial.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn made(args: BuildArgs, home: &Home, dir: &Path) -> Result<Index, CommandError> {
    let BuildArgs { images, kernels, pinned, serial, days, .. } = args;
    let expires = Timestamp(now().0.saturating_add(u64::from(days) * DAY_MS));
    let build = Build { home, dir, images, kernels, pinned, serial, expires };
    Ok(build.run(&*progress::to_stderr()).map_err(anyhow::Error::from)?)
}

pub(crate) fn run_sign(args: &SignArgs) -> Result<ExitCode, CommandError> {
    output::line(sign(&args.dir, &args.key).map_err(anyhow::Error::from)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run_verify(args: &VerifyArgs) -> Result<ExitCode, CommandError> {
    let verified = verify(&args.dir, &args.key, now(), &*progress::to_stderr());
    let index = verified.map_err(anyhow::Error::from)?;
    let (serial, until) = (index.serial, show_time(index.expires));
    let (images, kernels) = (index.images.len(), index.kernels.len());
    output::line(format!(
        "serial {serial}, valid until {until}, {images} images, {kernels} kernels"
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn genkey(args: &GenkeyArgs) -> Result<ExitCode, CommandError> {
    output::line(generate_key(&args.file).map_err(anyhow::Error::from)?)?;
    Ok(ExitCode::SUCCESS)
}
