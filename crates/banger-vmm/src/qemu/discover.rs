//! Finding QEMU on the host.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::HostError;
use banger_host::command::{Tool, find_program};
use thiserror::Error;

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";
/// How long it may take to say its version: 30 ms when it is in the page cache.
const PATIENCE: Duration = Duration::from_secs(30);

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// What comes first.
    pub major: u32,
    /// What comes second.
    pub minor: u32,
    /// What comes third.
    pub micro: u32,
}

impl QemuVersion {
    /// The first version with `-netdev stream`.
    pub const MINIMUM: Self = Self { major: 7, minor: 2, micro: 0 };
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Why there is no QEMU to use.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// It is not on the search path.
    #[error("QEMU is not installed: install the package qemu-system-x86")]
    Missing,
    /// It does not run.
    #[error("cannot ask {program} for its version", program = program.display())]
    Ask {
        /// The program.
        program: PathBuf,
        /// What failed.
        source: HostError,
    },
    /// It says something else than a version.
    #[error("{program} does not say its version but {said:?}", program = program.display())]
    Strange {
        /// The program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// It is too old.
    #[error(
        "QEMU {found} is too old: {minimum} or later is needed, so update the package qemu-system-x86",
        minimum = QemuVersion::MINIMUM
    )]
    TooOld {
        /// Its version.
        found: QemuVersion,
    },
}

/// Finds QEMU on a search path such as the value of `PATH`, and asks it for its version.
pub(crate) fn discover(path: &OsStr) -> Result<(PathBuf, QemuVersion), DiscoverError> {
    let program = find_program(PROGRAM, path).ok_or(DiscoverError::Missing)?;
    let said = Tool::new(&program)
        .arg("--version")
        .capture(PATIENCE)
        .map_err(|source| DiscoverError::Ask { program: program.clone(), source })?;
    let version = judge(&program, &String::from_utf8_lossy(&said))?;
    Ok((program, version))
}

fn judge(program: &Path, said: &str) -> Result<QemuVersion, DiscoverError> {
    match parse(said) {
        None => {
            let said = said.lines().next().unwrap_or_default().chars().take(100).collect();
            Err(DiscoverError::Strange { program: program.to_owned(), said })
        }
        Some(found) if found < QemuVersion::MINIMUM => Err(DiscoverError::TooOld { found }),
        Some(found) => Ok(found),
    }
}

/// The version in a text such as `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)`.
fn parse(said: &str) -> Option<QemuVersion> {
    let (_, rest) = said.split_once(" version ")?;
    let number = rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?;
    let mut parts = number.split('.').map(str::parse);
    let mut part = || parts.next().and_then(Result::ok);
    let (major, minor) = (part()?, part()?);
    Some(QemuVersion { major, minor, micro: part().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str) -> Result<String, String> {
        judge(Path::new("/q"), said)
            .map(|version| version.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(check(debian), Ok("7.2.22".into()));
        assert_eq!(check("QEMU emulator version 10.1.0-rc2"), Ok("10.1.0".into()));
        assert_eq!(check("QEMU emulator version 9.0 (v9)"), Ok("9.0.0".into()));
    }

    #[test]
    fn old_and_strange_programs_are_refused() {
        let old = check("QEMU emulator version 7.1.9").unwrap_err();
        assert!(old.starts_with("QEMU 7.1.9 is too old: 7.2.0 or later"), "{old}");
        for strange in ["", "QEMU emulator version seven", "version 7", " version 99999999999.0"] {
            assert!(check(strange).unwrap_err().contains("does not say its version"), "{strange}");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = discover(OsStr::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "QEMU is not installed: install the package qemu-system-x86");
    }
}
