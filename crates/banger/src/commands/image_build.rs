//! `banger image build`: an image is made in a sandbox, of another image or of a Dockerfile.

mod modules;
mod plan;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow};
use banger_api::client::{Client, Force, SandboxAction};
use banger_api::types::{Command, CreateSandbox, PullImage, Text};
use banger_host::scratch::Scratch;
use banger_model::{
    DiskSize, Disposal, ExitCode, ImageName, KernelName, Labels, Lifetime, MemorySize,
    RestartPolicy, SandboxSpec, WantedImage,
};
use bangerd::catalog::embedded;
use clap_complete::ArgValueCandidates;
use tokio::sync::Mutex;

use self::modules::OwnKernel;
use self::plan::{Plan, Recipe, Step};
use crate::commands::fetching::{self, Wanted};
use crate::commands::{completion, vm_cp, vm_run};
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::lease::Lease;
use crate::output::{self, notice};
use crate::progress;
use crate::session::{self, Interrupts};

/// What builds Dockerfiles: made of the default image when it is first needed.
const BUILDER: &str = "banger-builder";
const BUILDER_BASE: &str = "debian-bookworm";
const BUILDER_PACKAGES: [&str; 2] = ["buildah", "ca-certificates"];
/// Where a Dockerfile is built, in the sandbox.
const PLACE: &str = "/build";
/// The memory of a sandbox that builds: package managers want more than a shell.
const MEMORY: &str = "1G";

/// Builds the Dockerfile that was copied, and writes what comes out as an archive.
const BUILD: &str = r#"exec >&2 </dev/null; cd /build
buildah build --isolation chroot -f /build/Dockerfile -t built /build/context &&
buildah push built oci-archive:/build/image.tar:built"#;

/// Make an image in a sandbox
///
/// With --from, packages are installed in another image and a script is run in it; NAME is what comes
/// out. With -f, a Dockerfile is built with the directory CONTEXT. Everything runs in a sandbox that is
/// thrown away. Prints the image's name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    banger image build --from debian-bookworm --package nginx --provision setup.sh web\n  \
    banger image build --from debian-bookworm --docker docker\n  \
    banger image build --from debian-bookworm --modules ./install zfs\n  \
    banger image build -f Dockerfile .\n  \
    banger image build -f Dockerfile --name app ./src")]
#[command(group = clap::ArgGroup::new("recipe").required(true).args(["from", "file"]))]
pub(crate) struct Args {
    /// The image to begin with
    #[arg(long, value_name = "IMAGE", add = ArgValueCandidates::new(completion::images))]
    from: Option<WantedImage>,
    /// Install a package with the image's own package manager; may be repeated
    #[arg(long = "package", value_name = "PACKAGE", requires = "from")]
    packages: Vec<String>,
    /// Install Docker
    #[arg(long, requires = "from")]
    docker: bool,
    /// Run this script in it, as root
    #[arg(long, value_name = "SCRIPT", requires = "from")]
    provision: Option<PathBuf>,
    /// Size of the disk that is built on, and of those that the image's sandboxes write to where
    /// --disk does not say otherwise [default: what the image to begin with wishes, mostly 8G]
    #[arg(long)]
    size: Option<DiskSize>,
    /// Have these modules in its sandboxes, in the place of those that its kernel has: a directory with
    /// lib/modules/RELEASE in it, or that itself. Imports them as a kernel under the image's name
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Build this Dockerfile
    #[arg(long, short, value_name = "DOCKERFILE")]
    file: Option<PathBuf>,
    /// What the image of a Dockerfile is called [default: the name of CONTEXT]
    #[arg(long, short = 't', requires = "file")]
    name: Option<ImageName>,
    /// What the image is called (with --from), or the directory that is built (with -f)
    #[arg(value_name = "NAME|CONTEXT")]
    target: PathBuf,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let context = Context::from_process()?;
    let plan = Plan::of(args)?;
    let runtime = context::runtime()?;
    let made = runtime.block_on(async {
        let mut more = Interrupts::listen()?;
        let interrupts = Mutex::new(Interrupts::listen()?);
        let builder = Builder { client: context.client(verbosity), context: &context, interrupts };
        tokio::select! {
            made = builder.make(&plan) => made,
            // The first lets what was made be cleared up, for which the daemon has to answer.
            code = async { more.fatal().await; more.fatal().await } => {
                Err(CommandError::interrupted(code))
            }
        }
    });
    // What copies files may wait for one that does not answer.
    runtime.shutdown_background();
    output::line(made?.as_str())?;
    Ok(ExitCode::SUCCESS)
}

struct Builder<'a> {
    client: Client,
    context: &'a Context,
    /// Heard whatever the build is at, and from its beginning on. It has no process that a signal
    /// could be meant for: the whole of it ends.
    interrupts: Mutex<Interrupts>,
}

/// What comes out.
struct Target<'a> {
    name: &'a ImageName,
    /// What its sandboxes are to have.
    size: Option<DiskSize>,
    kernel: Option<KernelName>,
    made_of: Option<String>,
}

/// A sandbox that is built in. It goes with its lease, whatever becomes of this program.
struct Site {
    sandbox: String,
    _lease: Lease,
}

impl Builder<'_> {
    async fn make(&self, plan: &Plan) -> Result<ImageName, CommandError> {
        self.unless_interrupted(self.check_name(plan)).await??;
        let own = match &plan.modules {
            Some(modules) => Some(OwnKernel::import(self, plan, modules).await?),
            None => None,
        };
        let target = Target {
            name: &plan.name,
            size: plan.size,
            kernel: own.as_ref().map(|own| own.name.clone()),
            made_of: plan.recipe.made_of(),
        };
        let made = match &plan.recipe {
            Recipe::Image { from, steps } => self.of_image(&target, from, steps).await,
            Recipe::Dockerfile { file, context } => {
                self.of_dockerfile(&target, (file, context)).await
            }
        };
        if let Some(own) = own {
            // Why there is no image tells more than that its kernel remains, and the next build of the
            // same removes that.
            let swept = own.sweep(self).await;
            return made.and_then(|name| swept.map(|()| name));
        }
        made
    }

    /// What comes of some work, which ends with a signal.
    async fn unless_interrupted<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, CommandError> {
        let mut interrupts = self.interrupts.lock().await;
        tokio::select! {
            biased;
            code = interrupts.fatal() => Err(CommandError::interrupted(code)),
            done = work => Ok(done),
        }
    }

    /// What the daemon makes or fetches, which is called off by a signal.
    async fn fetch(&self, wanted: &Wanted<'_>) -> Result<String, CommandError> {
        let mut interrupts = self.interrupts.lock().await;
        fetching::fetch(&self.client, wanted, &mut interrupts).await
    }

    /// Whether the image can be called so in the end: the daemon would tell after all the work only.
    async fn check_name(&self, plan: &Plan) -> Result<(), CommandError> {
        let name = &plan.name;
        let taken = |by: &str| {
            let error = anyhow!("there is an image {name} already, of {by}");
            let hint = "choose another name, or remove it with `banger image delete NAME`";
            Err(CommandError::from(error).hint(hint.replace("NAME", name.as_str())))
        };
        let own = embedded().map_err(anyhow::Error::from)?;
        if own.images.contains_key(name) {
            return taken("this host's own making");
        }
        match self.client.image(name.as_str()).await {
            Ok(image)
                if image.name == *name && Some(&image.source) != plan.recipe.made_of().as_ref() =>
            {
                taken(&image.source)
            }
            // One that is damaged gives its name away; one of another name is from a repository
            // that is called like this.
            _ => Ok(()),
        }
    }

    async fn of_image(
        &self,
        target: &Target<'_>,
        from: &WantedImage,
        steps: &[Step],
    ) -> Result<ImageName, CommandError> {
        let site = self.begin(from.clone(), (target.size, target.kernel.clone())).await?;
        let made = self.of_site(target, &site, steps).await;
        let ended = self.end(site).await;
        made.and_then(|name| ended.map(|()| name))
    }

    async fn of_site(
        &self,
        target: &Target<'_>,
        site: &Site,
        steps: &[Step],
    ) -> Result<ImageName, CommandError> {
        for step in steps {
            self.step(site, step).await?;
        }
        self.unless_interrupted(self.stop(site)).await??;
        self.image(format!("sandbox:{}", site.sandbox), target).await
    }

    async fn stop(&self, site: &Site) -> Result<()> {
        let stopping = self.client.act(&site.sandbox, SandboxAction::Stop).await?;
        let shown = progress::to_stderr();
        progress::follow(&self.client, &stopping.id, &*shown).await?;
        Ok(())
    }

    async fn of_dockerfile(
        &self,
        target: &Target<'_>,
        recipe: (&Path, &Path),
    ) -> Result<ImageName, CommandError> {
        let builder = self.builder().await?;
        let site = self.begin(parsed(builder.as_str())?, (target.size, None)).await?;
        let aside = Scratch::begin(&self.context.home.imports())?;
        let built = self.build(&site, recipe, aside.path()).await;
        let ended = self.end(site).await;
        let archive = built.and_then(|archive| ended.map(|()| archive))?;
        let path = archive.to_str().context("the home's path is not UTF-8")?;
        self.image(format!("oci-archive:{path}"), target).await
    }

    /// Builds a Dockerfile; where what comes out is, as an archive in a directory here.
    async fn build(
        &self,
        site: &Site,
        (file, context): (&Path, &Path),
        dir: &Path,
    ) -> Result<PathBuf, CommandError> {
        let prepare = format!("mkdir -p {PLACE}/context");
        self.step(site, &Step::shell("copying what is built".to_owned(), &prepare, [])).await?;
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        for (from, to) in [(context.join("."), "context"), (file.to_owned(), "Dockerfile")] {
            let to = format!("{PLACE}/{to}").into_bytes();
            let copy = vm_cp::into(&self.client, &site.sandbox, bytes(&from), to);
            self.unless_interrupted(copy).await??;
        }
        let build = Step::shell(format!("building {}", file.display()), BUILD, []);
        self.step(site, &build).await?;
        let archive = dir.join("image.tar");
        let from = format!("{PLACE}/image.tar").into_bytes();
        let copy = vm_cp::out(&self.client, &site.sandbox, from, bytes(&archive));
        self.unless_interrupted(copy).await??;
        // The build may have put anything there.
        let kind = archive.symlink_metadata().context("cannot look at what was built")?;
        if !kind.is_file() {
            return Err(anyhow!("what was built is no file").into());
        }
        Ok(archive)
    }

    /// The image that Dockerfiles are built in.
    async fn builder(&self) -> Result<ImageName, CommandError> {
        let name: ImageName = parsed(BUILDER)?;
        if self.client.image(BUILDER).await.is_ok() {
            return Ok(name);
        }
        notice("making the image that builds Dockerfiles (once)");
        let install = Step::install(BUILDER_PACKAGES.map(str::to_owned).to_vec());
        let check = Step::shell("checking buildah".to_owned(), "buildah --version >&2", []);
        let steps = [install, check];
        let target = Target { name: &name, size: None, kernel: None, made_of: None };
        match self.of_image(&target, &parsed(BUILDER_BASE)?, &steps).await {
            // Somebody else may have made it meanwhile.
            Err(error) if !error.is_interrupted() && self.client.image(BUILDER).await.is_ok() => {
                Ok(name)
            }
            made => made,
        }
    }

    async fn begin(
        &self,
        image: WantedImage,
        (disk, kernel): (Option<DiskSize>, Option<KernelName>),
    ) -> Result<Site, CommandError> {
        let lease = Lease::take(&self.context.home)?;
        let memory: MemorySize = parsed(MEMORY)?;
        let has_modules = kernel.is_some();
        let spec = SandboxSpec { memory, disk, kernel, ..SandboxSpec::of(image) };
        let wanted = CreateSandbox {
            name: None,
            spec: Some(spec),
            from: None,
            labels: Labels::default(),
            lifetime: Lifetime {
                ttl: None,
                idle_timeout: None,
                restart: RestartPolicy::No,
                disposal: Disposal::Keep,
                lease: Some(lease.id()),
            },
            start: true,
        };
        // An answer to this comes at once, and without it nobody would know which sandbox it is.
        let created = vm_run::create(&self.client, &wanted).await?;
        let start = vm_run::follow_start(&self.client, &created);
        let started = self.unless_interrupted(start).await;
        let site = Site { sandbox: created.sandbox.id.to_string(), _lease: lease };
        match started.and_then(|started| Ok(started?)) {
            Ok(()) => Ok(site),
            Err(mut error) => {
                if has_modules && !error.is_interrupted() {
                    let told = modules::do_not_boot(&self.client, &site.sandbox, error);
                    error = self.unless_interrupted(told).await.unwrap_or_else(|error| error);
                }
                // It goes with its lease, but whether anybody needs its kernel is asked at once.
                let _ = self.end(site).await;
                Err(error)
            }
        }
    }

    async fn step(&self, site: &Site, step: &Step) -> Result<(), CommandError> {
        notice(&step.what);
        let command = Command {
            argv: step.argv.iter().map(|word| Text::from(word.as_str())).collect(),
            user: Some("0".into()),
            cwd: Some("/".into()),
            ..Command::default()
        };
        let run = session::run(&self.client, &site.sandbox, command, Interrupts::listen()?);
        match self.unless_interrupted(run).await?? {
            ExitCode::SUCCESS => Ok(()),
            ExitCode(status) => Err(anyhow!("{} failed with status {status}", step.what).into()),
        }
    }

    async fn image(&self, source: String, target: &Target<'_>) -> Result<ImageName, CommandError> {
        let wanted = PullImage {
            source,
            name: Some(target.name.clone()),
            kernel: target.kernel.clone(),
            disk: target.size,
            made_of: target.made_of.clone(),
        };
        Ok(parsed(&self.fetch(&Wanted::Image(&wanted)).await?)?)
    }

    /// The sandbox is of no use any more. It goes in any case: nobody need wait.
    async fn end(&self, site: Site) -> Result<(), CommandError> {
        self.client.delete(&site.sandbox, Force::Yes).await?;
        Ok(())
    }
}

fn parsed<T: FromStr>(text: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    Ok(text.parse()?)
}
