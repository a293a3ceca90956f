//! What is to be built, as the command line says it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use banger_host::fs;
use banger_model::{DiskSize, ImageName, Limits, WantedImage};

use super::Args;
use crate::commands::kernel;
use crate::context;
use crate::error::{CommandError, Kind};

/// What `--docker` adds.
const DOCKER_PACKAGES: [&str; 3] = ["docker.io", "iptables", "ca-certificates"];
/// Longest provisioning script, in bytes: what fits into one argument.
const MAX_SCRIPT_LEN: u64 = Limits::MAX_ARG_LEN as u64 - 1;

/// Installs its arguments with whatever the image installs with. What is said goes to standard
/// error: standard output is for the image's name.
const INSTALL: &str = r#"set -e; exec >&2 </dev/null
if command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends -- "$@"
    apt-get clean
    rm -rf /var/lib/apt/lists/*
elif command -v apk >/dev/null; then apk add --no-cache -- "$@"
elif command -v dnf >/dev/null; then dnf install -y --setopt=install_weak_deps=0 -- "$@" && dnf clean all
else echo 'the image has neither apt-get nor apk nor dnf' >&2; exit 1
fi"#;
/// Runs its argument as a script of its own, which may name its interpreter.
const PROVISION: &str = r#"exec >&2 </dev/null
printf '%s' "$1" > /run/banger-provision && chmod 700 /run/banger-provision || exit 1
case $1 in '#!'*) /run/banger-provision ;; *) sh -e /run/banger-provision ;; esac
status=$?; rm -f /run/banger-provision; exit $status"#;

/// What is to be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: ImageName,
    pub(super) size: Option<DiskSize>,
    /// The directory of its kernel's modules, if they are not to be those that the kernel has anyway.
    pub(super) modules: Option<String>,
    pub(super) recipe: Recipe,
}

#[derive(Debug)]
pub(super) enum Recipe {
    /// Another image, and what is added to it.
    Image {
        from: WantedImage,
        steps: Vec<Step>,
    },
    Dockerfile {
        file: PathBuf,
        context: PathBuf,
    },
}

impl Recipe {
    /// What the image says that it was made of. One of the same Dockerfile and directory takes the place
    /// of the one before, as `docker build -t` has it; what a sandbox was turned into is unique.
    pub(super) fn made_of(&self) -> Option<String> {
        match self {
            Self::Image { .. } => None,
            Self::Dockerfile { file, context } => {
                Some(format!("{} built in {}", file.display(), context.display()))
            }
        }
    }
}

/// One command, and what it is for.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) what: String,
    pub(super) argv: Vec<String>,
}

impl Step {
    pub(super) fn shell(
        what: String,
        script: &str,
        arguments: impl IntoIterator<Item = String>,
    ) -> Self {
        let sh = ["/bin/sh", "-c", script, "sh"].map(str::to_owned);
        Self { what, argv: sh.into_iter().chain(arguments).collect() }
    }

    pub(super) fn install(packages: Vec<String>) -> Self {
        Self::shell(format!("installing {}", packages.join(", ")), INSTALL, packages)
    }
}

impl Plan {
    pub(super) fn of(args: Args) -> Result<Self, CommandError> {
        let usage = |error| CommandError::new(Kind::Usage, error);
        let current = context::current_dir()?;
        let (name, recipe) = match (args.from, args.file) {
            (Some(from), _) => {
                let name = args.target.to_str().unwrap_or_default();
                let name = name.parse().map_err(|error| usage(anyhow::Error::from(error)))?;
                let mut packages = args.packages;
                if args.docker {
                    packages.extend(DOCKER_PACKAGES.map(str::to_owned));
                }
                let mut steps = Vec::new();
                steps.extend((!packages.is_empty()).then(|| Step::install(packages)));
                if let Some(script) = args.provision {
                    let text = read_script(&current.join(&script))?;
                    let what = format!("running {}", script.display());
                    steps.push(Step::shell(what, PROVISION, [text]));
                }
                (name, Recipe::Image { from, steps })
            }
            (None, Some(file)) => {
                let context = current.join(&args.target);
                let context = context
                    .canonicalize()
                    .with_context(|| format!("there is no directory {}", context.display()))?;
                let named = || name_of(&context);
                let name = args.name.map_or_else(named, Ok).map_err(usage)?;
                let file = current.join(file);
                let file = file
                    .canonicalize()
                    .with_context(|| format!("there is no file {}", file.display()))?;
                (name, Recipe::Dockerfile { file, context })
            }
            (None, None) => return Err(usage(anyhow!("say --from IMAGE or -f DOCKERFILE"))),
        };
        let modules = args.modules.as_deref().map(kernel::absolute).transpose()?;
        Ok(Self { name, size: args.size, modules, recipe })
    }
}

fn read_script(path: &Path) -> Result<String> {
    let bytes = fs::read_bounded(path, MAX_SCRIPT_LEN)?;
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))
}

fn name_of(context: &Path) -> Result<ImageName> {
    let name = context.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.to_ascii_lowercase().replace('_', "-");
    plain.parse().with_context(|| format!("{name:?} makes no name; give one with --name"))
}

#[cfg(test)]
mod tests {
    use banger_api::types::PullImage;

    use super::*;

    #[test]
    fn a_dockerfile_is_the_same_in_the_same_directory_only() {
        let of = |file: &str, context: &str| {
            Recipe::Dockerfile { file: file.into(), context: context.into() }.made_of().unwrap()
        };
        assert_eq!(of("/a/Dockerfile", "/a"), of("/a/Dockerfile", "/a"));
        assert_ne!(of("/a/Dockerfile", "/a"), of("/a/other", "/a"));
        assert_ne!(of("/a/Dockerfile", "/a"), of("/a/Dockerfile", "/b"));
        let longest = format!("/{}", "x".repeat(4095));
        assert!(of(&longest, &longest).len() <= PullImage::MAX_MADE_OF);
    }

    #[test]
    fn an_image_of_a_directory_is_called_like_it() {
        assert_eq!(name_of(Path::new("/src/My_App")).unwrap().as_str(), "my-app");
        assert!(name_of(Path::new("/")).is_err());
        assert!(name_of(Path::new("/x/-")).is_err());
    }
}
