//! Running other programs, with errors that name them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::place::Place;

/// Where programs are that only administrators usually run.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program with its arguments.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    command: Command,
}

impl Program {
    /// A program found on the path.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let name = program.as_ref().to_string_lossy().into_owned();
        Self { name, command: Command::new(program) }
    }

    /// The cargo that runs this, in the repository, with its results where they are expected.
    pub(crate) fn cargo(place: &Place, subcommand: &str) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut program = Self::new(cargo).arg(subcommand);
        program.name = format!("cargo {subcommand}");
        program.command.current_dir(&place.root).env("CARGO_TARGET_DIR", &place.target);
        program
    }

    pub(crate) fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it prints is no result of ours: it goes to standard error.
    pub(crate) fn aside(mut self) -> Self {
        self.command.stdout(std::io::stderr());
        self
    }

    /// Runs it on our own streams; how it ended.
    pub(crate) fn status(mut self) -> Result<ExitStatus> {
        self.command.status().with_context(|| format!("cannot run {}", self.name))
    }

    /// Runs it on our own streams; it has to succeed.
    pub(crate) fn run(self) -> Result<()> {
        let name = self.name.clone();
        match self.status()? {
            status if status.success() => Ok(()),
            status => bail!("{name} failed ({status})"),
        }
    }

    /// Whether it runs and succeeds, in silence.
    pub(crate) fn succeeds(mut self) -> bool {
        let quiet = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    }

    /// What it prints; it has to succeed.
    pub(crate) fn capture(mut self) -> Result<String> {
        let output = self.command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot run {}", self.name))?;
        if !output.status.success() {
            bail!("{} failed ({})", self.name, output.status);
        }
        String::from_utf8(output.stdout).with_context(|| format!("{} printed no text", self.name))
    }
}

/// Where a program is, on the path or among those of administrators.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
