//! `cargo xtask kernel`: a small kernel for sandboxes, from Debian's source package.
//!
//! Everything that boots a sandbox is built in, so nothing is loaded and nothing is looked for.
//! `xtask/kernel/microvm.config` says what is in it. The same source and compiler make the same kernel.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::Program;
use crate::install::replace;
use crate::packages;
use crate::place::Place;
use crate::steps::Steps;

/// Debian's package of the source, which is one archive.
const ARCHIVE: &str = "/usr/src/linux-source-6.1.tar.xz";
/// The directory in it.
const TREE: &str = "linux-source-6.1";
/// What is in the kernel, below the repository.
const CONFIG: &str = "xtask/kernel/microvm.config";
/// What a kernel would otherwise say of who built it, and when.
const BUILT: [&str; 3] =
    ["KBUILD_BUILD_TIMESTAMP=2026-01-01", "KBUILD_BUILD_USER=banger", "KBUILD_BUILD_HOST=banger"];

pub(crate) fn run(place: &Place, args: &[OsString]) -> Result<ExitCode> {
    ensure!(args.is_empty(), "it takes no arguments");
    let work = place.target.join("kernel");
    let mut steps = Steps::new(4);
    steps.next("Looking for the host's packages");
    packages::ensure(&packages::TO_BUILD_KERNEL)?;
    steps.next("Unpacking the kernel's source");
    let tree = unpack(&work)?;
    steps.next("Choosing what is in it");
    let config = place.root.join(CONFIG);
    configure(&tree, &config)?;
    steps.next("Building it: some minutes the first time");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    make(&tree).arg(format!("-j{jobs}")).args(BUILT).arg("vmlinux").run()?;
    let stripped = tree.join("vmlinux.stripped");
    let strip = Program::new("strip").args(["--strip-debug", "-o"]);
    strip.arg(&stripped).arg(tree.join("vmlinux")).run()?;
    let vmlinux = work.join("vmlinux");
    replace(&stripped, &vmlinux)?;
    println!("{}", vmlinux.display());
    eprintln!("      next: banger kernel import microvm --vmlinux {}", vmlinux.display());
    Ok(steps.finish("Built"))
}

/// The source, unpacked once: what is there under its name is whole.
fn unpack(work: &Path) -> Result<PathBuf> {
    let tree = work.join(TREE);
    if tree.is_dir() {
        return Ok(tree);
    }
    let aside = work.join(".unpacking");
    if aside.exists() {
        std::fs::remove_dir_all(&aside).context("cannot remove a half-unpacked source")?;
    }
    std::fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    Program::new("tar").args(["--extract", "--file", ARCHIVE, "--directory"]).arg(&aside).run()?;
    std::fs::rename(aside.join(TREE), &tree).context("the archive has no source of a kernel")?;
    std::fs::remove_dir(&aside).context("cannot remove an empty directory")?;
    Ok(tree)
}

fn make(tree: &Path) -> Program {
    Program::new("make").args(["--silent", "--directory"]).arg(tree).aside()
}

/// Configures the source so, and nothing else. A line that has no effect is an error: it would be
/// missed only where a sandbox needs it.
fn configure(tree: &Path, config: &Path) -> Result<()> {
    make(tree).arg("allnoconfig").env("KCONFIG_ALLCONFIG", config).run()?;
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let lost = lost(&read(config)?, &read(&tree.join(".config"))?);
    if lost.is_empty() { Ok(()) } else { bail!("these have no effect: {}", lost.join(", ")) }
}

/// The lines of what was asked for that are not in what came of it.
fn lost(asked: &str, got: &str) -> Vec<String> {
    let holds = |line: &str| match line.strip_suffix("=n") {
        Some(name) => !got.lines().any(|got| got.starts_with(&format!("{name}="))),
        None => got.lines().any(|got| got == line),
    };
    let lines = asked.lines().filter(|line| line.starts_with("CONFIG_"));
    lines.filter(|line| !holds(line)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_effect_is_named() {
        let asked = "# a comment\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"x\"\nCONFIG_D=n\nCONFIG_E=y\n";
        let got = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\nCONFIG_D=y\nCONFIG_EE=y\n";
        assert_eq!(lost(asked, got), ["CONFIG_D=n", "CONFIG_E=y"]);
    }
}
