//! Where things are: this repository, its build results, cargo's own directories.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::Program;

/// The directories of one developer's checkout.
#[derive(Debug)]
pub(crate) struct Place {
    /// The root of the repository.
    pub(crate) root: PathBuf,
    /// Build results. Given to every cargo explicitly, so that they are found again.
    pub(crate) target: PathBuf,
    /// Cargo's directory, with `bin` in it.
    pub(crate) cargo_home: PathBuf,
    /// The platform that this machine's compiler compiles for.
    pub(crate) triple: String,
}

impl Place {
    /// Finds them by the environment that cargo gives.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in no repository")?
            .to_owned();
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let target = variable("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
        let cargo_home = match (variable("CARGO_HOME"), variable("HOME")) {
            (Some(home), _) => PathBuf::from(home),
            (None, Some(home)) => Path::new(&home).join(".cargo"),
            (None, None) => anyhow::bail!("neither CARGO_HOME nor HOME is set"),
        };
        let said = Program::new("rustc").arg("-vV").capture()?;
        let triple = said
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc -vV does not say its host platform")?
            .to_owned();
        Ok(Self { target: root.join(target), root, cargo_home, triple })
    }

    /// Where a `banger` among the build results looks for the programs of guests: beside the
    /// directory it is in.
    pub(crate) fn guest_programs(&self) -> PathBuf {
        self.target.join("lib/banger")
    }
}
