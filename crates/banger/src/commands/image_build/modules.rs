//! An image with modules of its own: they are a kernel's, so it wants a kernel of its own, which is the one
//! that it would want anyway, with other modules.

use anyhow::{Context as _, Result, anyhow};
use banger_api::client::{Client, ClientError, Follow, LogQuery};
use banger_api::types::{ImportKernel, Kernel, LogSource, ProblemCode, PullImage};
use banger_host::fs::ensure_private_dir;
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_model::{ImageName, KernelName};

use super::Builder;
use super::plan::{Plan, Recipe};
use crate::commands::fetching::Wanted;
use crate::error::CommandError;
use crate::output::notice;

/// So many of the last lines of a console are shown.
const CONSOLE_LINES: u64 = 10;
/// Names that are tried where that of the image is taken by another kernel.
const MAX_NAMES: u32 = 99;

/// A kernel that was made for one image.
pub(super) struct OwnKernel {
    pub(super) name: KernelName,
    image: ImageName,
    source: String,
    _lock: FileLock,
}

impl OwnKernel {
    /// Imports the modules.
    pub(super) async fn import(
        builder: &Builder<'_>,
        plan: &Plan,
        modules: &str,
    ) -> Result<Self, CommandError> {
        notice(&format!("importing the modules of {modules}"));
        let base = base_kernel(builder, &plan.recipe).await?;
        // Over a slow network it takes longer to come than an answer may.
        builder.fetch(&Wanted::Kernel(&base)).await?;
        let mut wanted = ImportKernel {
            name: base.clone(),
            vmlinux: format!("{}{base}", ImportKernel::KERNEL),
            modules: Some(modules.to_owned()),
        };
        let (image, source) = (plan.name.clone(), wanted.source());
        for n in 1..=MAX_NAMES {
            wanted.name = numbered(&image, n)?;
            let Some(lock) = lock(&builder.context.home, &wanted.name)? else { continue };
            // A build that was killed, or an image that was replaced, may have left one.
            remove_left(&builder.client, &wanted.name, &source).await?;
            let import = builder.client.import_kernel(&wanted);
            match builder.unless_interrupted(import).await {
                Ok(Err(ClientError::Problem(said))) if said.code == ProblemCode::NameTaken => {}
                Ok(made) => return Ok(Self { name: made?.name, image, source, _lock: lock }),
                Err(interrupted) => {
                    // The daemon ends what nobody waits for; it may have been made by then.
                    let _ = remove_left(&builder.client, &wanted.name, &source).await;
                    return Err(interrupted);
                }
            }
        }
        let error = anyhow!("{MAX_NAMES} kernels are called {image} or nearly so");
        Err(CommandError::from(error).hint("remove some with `banger kernel rm`"))
    }

    /// Removes it if there is no image that wants it, and those before it that nobody wants any more.
    pub(super) async fn sweep(&self, builder: &Builder<'_>) -> Result<(), CommandError> {
        remove_left(&builder.client, &self.name, &self.source).await?;
        for kernel in builder.client.kernels().await? {
            if is_called_like(&kernel.name, &self.image)
                && let Some(_lock) = lock(&builder.context.home, &kernel.name)?
            {
                remove_left(&builder.client, &kernel.name, &self.source).await?;
            }
        }
        Ok(())
    }
}

/// What it means that a sandbox with such modules does not come up. Its console tells more, and goes with
/// it.
pub(super) async fn do_not_boot(
    client: &Client,
    sandbox: &str,
    error: CommandError,
) -> CommandError {
    let (source, tail) = (LogSource::Console, Some(CONSOLE_LINES));
    let query = LogQuery { source, follow: Follow::No, since: None, tail };
    let mut log = client.logs(sandbox, &query);
    let mut said = Vec::new();
    while let Some(Ok(chunk)) = log.next().await {
        said.extend(chunk.text.0);
    }
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    if !said.trim().is_empty() {
        notice(&format!("the last lines of its console:\n{}", said.trim_end()));
    }
    error.context("the sandbox to build in does not start with these modules").hint(
        "build the modules anew with the configuration of their kernel, or leave out --modules",
    )
}

/// The right to make and remove a kernel of this name, for as long as a build needs it; none while
/// another build has it.
fn lock(home: &Home, name: &KernelName) -> Result<Option<FileLock>> {
    ensure_private_dir(&home.imports())?;
    Ok(FileLock::try_acquire(&home.imports().join(format!("{name}.kernel.lock")))?)
}

/// Removes a kernel that was made in the same way, and that nobody needs. Whoever calls this has its
/// lock.
async fn remove_left(client: &Client, name: &KernelName, source: &str) -> Result<(), CommandError> {
    for kernel in client.kernels().await? {
        if kernel.name == *name && is_left(&kernel, source) {
            client.delete_kernel(name).await?;
        }
    }
    Ok(())
}

/// Whether a kernel may have been made for an image of this name.
fn is_called_like(kernel: &KernelName, image: &ImageName) -> bool {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let behind = kernel.as_str().strip_prefix(image.as_str());
    behind.is_some_and(|it| it.is_empty() || it.strip_prefix('-').is_some_and(is_number))
}

fn is_left(kernel: &Kernel, source: &str) -> bool {
    kernel.source == source && kernel.used_by.is_empty()
}

fn numbered(image: &ImageName, n: u32) -> Result<KernelName> {
    let name = if n == 1 { image.to_string() } else { format!("{image}-{n}") };
    name.parse().with_context(|| format!("a kernel cannot be called as the image {image}"))
}

/// The kernel that the image would want otherwise. What it is made of is fetched for that.
async fn base_kernel(builder: &Builder<'_>, recipe: &Recipe) -> Result<KernelName, CommandError> {
    let Recipe::Image { from, .. } = recipe else { return Ok(KernelName::default()) };
    let source = from.to_string();
    let image = match builder.client.image(&source).await {
        Err(ClientError::Problem(problem)) if problem.code == ProblemCode::NotFound => {
            let wanted = PullImage { source, name: None, kernel: None, disk: None, made_of: None };
            let name = builder.fetch(&Wanted::Image(&wanted)).await?;
            builder.client.image(&name).await?
        }
        found => found?,
    };
    Ok(image.kernel.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_the_same_build_is_known_by_name_source_and_use() {
        let image: ImageName = "web".parse().unwrap();
        let left = |name: &str, source: &str, used_by: &[&str]| {
            let kernel = Kernel {
                name: name.parse().unwrap(),
                release: "6.1.0".to_owned(),
                source: source.to_owned(),
                size: 1,
                used_by: used_by.iter().map(|user| (*user).to_owned()).collect(),
            };
            is_called_like(&kernel.name, &image) && is_left(&kernel, "here")
        };
        assert!(left("web", "here", &[]) && left("web-2", "here", &[]));
        assert!(!left("web", "elsewhere", &[]) && !left("web", "here", &["image web"]));
        assert!(!left("web-a", "here", &[]) && !left("web2", "here", &[]));
        assert_eq!(numbered(&image, 1).unwrap().as_str(), "web");
        assert_eq!(numbered(&image, 2).unwrap().as_str(), "web-2");
    }
}
