//! `banger image pull`: an image is fetched, or taken from a file.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use banger_api::client::{Client, ClientError};
use banger_api::types::{Operation, ProblemCode, PullImage};
use banger_host::home::Home;
use banger_host::{fs, random};
use banger_model::{ExitCode, ImageName, ImageReference, OperationId, OperationStatus};

use crate::context::{self, Context};
use crate::error::{CommandError, Kind};
use crate::session::Interrupts;
use crate::{output, progress};

/// How often a daemon is asked that goes away meanwhile: the next one goes on from what is here.
const ATTEMPTS: usize = 5;
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
                        banger image pull --name app ghcr.io/org/app@sha256:...\n  \
                        docker save app | banger image pull --name app -")]
pub(crate) struct Args {
    /// What the image is to be called [default: made from REF, alpine-3.20 for alpine:3.20]
    #[arg(long)]
    name: Option<ImageName>,
    /// Where it is
    #[arg(value_name = "REF")]
    source: String,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let context = Context::from_process()?;
    let from = From::parse(&context.home, args.source)?;
    let wanted = PullImage { source: from.source.clone(), name: args.name };
    make(&context, &wanted, verbosity)
}

/// Has the daemon make an image, with progress, and prints what it is called.
pub(crate) fn make(
    context: &Context,
    wanted: &PullImage,
    verbosity: u8,
) -> Result<ExitCode, CommandError> {
    let runtime = context::runtime()?;
    let ended = runtime.block_on(pull(&context.client(verbosity), wanted));
    runtime.shutdown_background();
    let Some(operation) = ended? else { return Ok(ExitCode(130)) };
    match operation.status {
        OperationStatus::Failed { error, .. } => Err(anyhow!(error).into()),
        OperationStatus::Cancelled { .. } => Err(anyhow!("it was called off").into()),
        OperationStatus::Running | OperationStatus::Succeeded { .. } => {
            output::line(operation.name)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where an image comes from, as the daemon is told. What was put aside for it goes with this.
struct From {
    source: String,
    aside: Option<std::path::PathBuf>,
}

impl Drop for From {
    fn drop(&mut self) {
        if let Some(aside) = &self.aside {
            let _ = fs::remove_all(aside);
        }
    }
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
            return Ok(Self { source: format!("{kind}{absolute}"), aside: None });
        }
        let parsed = source.parse::<ImageReference>();
        parsed.map_err(|error| CommandError::new(Kind::Usage, error))?;
        Ok(Self { source, aside: None })
    }

    /// The daemon reads files: what comes in is made one.
    fn standard_input(home: &Home) -> anyhow::Result<Self> {
        let id = OperationId::from_random(random::bytes()?);
        fs::ensure_private_dir(home.cache())?;
        let aside = home.cache().join(format!("import-{id}"));
        let mut file = fs::create_new(&aside)?;
        let from = Self { source: format!("archive:{}", shown(&aside)?), aside: Some(aside) };
        std::io::copy(&mut std::io::stdin().lock(), &mut file)
            .context("cannot keep the archive")?;
        Ok(from)
    }
}

fn shown(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the home's path is not UTF-8")
}

/// Nothing when whoever asked has interrupted it.
pub(crate) async fn pull(client: &Client, wanted: &PullImage) -> anyhow::Result<Option<Operation>> {
    let id = OperationId::from_random(random::bytes()?);
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        ended = to_the_end(client, wanted, &id) => Ok(Some(ended?)),
        _ = interrupts.fatal() => {
            // It may be over by now.
            let _ = client.cancel(&id).await;
            Ok(None)
        }
    }
}

async fn to_the_end(
    client: &Client,
    wanted: &PullImage,
    id: &OperationId,
) -> Result<Operation, ClientError> {
    let shown = progress::to_stderr();
    let mut attempt = 1;
    loop {
        let operation = client.pull(wanted, id).await?;
        match progress::follow(client, &operation.id, &*shown).await {
            // Another daemon has come, which knows nothing of it.
            Err(ClientError::Problem(problem))
                if problem.code == ProblemCode::NotFound && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            ended => return ended,
        }
    }
}
