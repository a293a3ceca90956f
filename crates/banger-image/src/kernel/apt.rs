//! Debian's kernel package, fetched by apt without touching the host's own apt.
//!
//! The host's sources and keyrings decide what is trusted; lists, cache and package status are
//! private. So it works without root and on a host whose lists are empty, and a third party's
//! source that fails does not matter as long as Debian's answers.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::{HostError, fs};
use banger_model::Progress;
use thiserror::Error;

use crate::hosttools::{APT_CACHE, APT_GET, HostTool, MissingPackages};

/// Fetching lists or a package may take this long: 30 MB over a slow line.
const DOWNLOAD_TIME: Duration = Duration::from_secs(30 * 60);
/// Looking something up in fetched lists.
const LOOK_UP_TIME: Duration = Duration::from_secs(60);
/// Longest line of apt's progress that is looked at.
const MAX_LINE: u64 = 64 * 1024;

/// Settings that the command line cannot make: what the host runs after an update must not run
/// after ours.
const CONFIG: &str = r#"// Written anew whenever it is needed.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg;
"#;

/// Why a package could not be had.
#[derive(Debug, Error)]
pub enum AptError {
    /// apt itself is missing.
    #[error(transparent)]
    Missing(#[from] MissingPackages),
    /// Private directories could not be made.
    #[error("cannot prepare apt's directories")]
    Prepare(#[source] HostError),
    /// The package is in no source that could be reached.
    #[error("apt does not find the package {package}: are Debian's sources set up and reachable?")]
    NotFound {
        /// The package.
        package: String,
        /// What apt said while fetching its lists, or when asked.
        source: HostError,
    },
    /// apt describes the package in a way that is not understood.
    #[error("apt describes the package {package} without {lacks}")]
    Strange {
        /// The package.
        package: String,
        /// What is lacking.
        lacks: &'static str,
    },
    /// The download failed.
    #[error("cannot download the package {package}")]
    Download {
        /// The package.
        package: String,
        /// Why not.
        source: HostError,
    },
}

/// A package as apt's lists describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Digest of the package file, from the signed lists.
    pub sha256: String,
    /// Length of the package file in bytes.
    pub size: u64,
    /// First package that it depends on.
    pub first_dependency: Option<String>,
}

/// apt with a state of its own.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
    update: Option<HostError>,
}

impl Apt {
    /// Fetches the lists of the host's sources into `dir`.
    pub(super) fn update(dir: &Path, progress: &dyn Progress) -> Result<Self, AptError> {
        for sub in ["state/lists/partial", "cache/archives/partial", "download"] {
            fs::create_private_dir(&dir.join(sub)).map_err(AptError::Prepare)?;
        }
        let prepared = fs::write_atomic(&dir.join("apt.conf"), CONFIG.as_bytes())
            .and_then(|()| fs::write_atomic(&dir.join("state/status"), b""));
        prepared.map_err(AptError::Prepare)?;
        let mut apt = Self { dir: dir.to_owned(), update: None };
        progress.stage("fetching Debian's package lists");
        let tool = apt.tool(APT_GET)?.arg("update");
        // Some other source may have failed: whether that matters shows when the package is
        // looked up.
        apt.update = follow(tool, 0, progress).err();
        Ok(apt)
    }

    /// Describes the version of a package that apt would install.
    pub(super) fn describe(&mut self, package: &str) -> Result<Package, AptError> {
        let found = self
            .tool(APT_CACHE)?
            .args(["show", "--no-all-versions", package])
            .capture(LOOK_UP_TIME)
            .map_err(|source| AptError::NotFound {
                package: package.to_owned(),
                source: self.update.take().unwrap_or(source),
            })?;
        parse_package(&String::from_utf8_lossy(&found))
            .map_err(|lacks| AptError::Strange { package: package.to_owned(), lacks })
    }

    /// Downloads a package, which apt verifies, and returns where it is.
    pub(super) fn download(
        &self,
        package: &Package,
        progress: &dyn Progress,
    ) -> Result<PathBuf, AptError> {
        let failed = |source| AptError::Download { package: package.name.clone(), source };
        progress.stage(&format!("downloading {}", package.name));
        let dir = self.dir.join("download");
        let exact = format!("{}={}", package.name, package.version);
        let tool = self.tool(APT_GET)?.args(["download", &exact]).dir(&dir);
        follow(tool, package.size, progress).map_err(failed)?;
        let names = fs::list_dir(&dir).map_err(failed)?;
        names.last().map(|name| dir.join(name)).ok_or(AptError::Strange {
            package: package.name.clone(),
            lacks: "a file in its download",
        })
    }

    fn tool(&self, tool: HostTool) -> Result<Tool, AptError> {
        let set = |option: &str, path: &str| format!("{option}={}", self.dir.join(path).display());
        let options = [
            set("Dir::State", "state"),
            set("Dir::State::status", "state/status"),
            set("Dir::Cache", "cache"),
            // The private directories are closed to apt's own user.
            "APT::Sandbox::User=root".to_owned(),
            "APT::Status-Fd=1".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=2".to_owned(),
            // A source that fails is told by the exit status, so that its reason can be shown.
            "APT::Update::Error-Mode=any".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false".to_owned(),
        ];
        let config = self.dir.join("apt.conf");
        let tool = tool.tool()?.env("DEBIAN_FRONTEND", "noninteractive").arg("-c").arg(config);
        Ok(options.iter().fold(tool.arg("-q"), |tool, option| tool.args(["-o", option])))
    }
}

/// Runs apt and passes its progress on, as a share of `size` bytes.
fn follow(tool: Tool, size: u64, progress: &dyn Progress) -> Result<(), HostError> {
    let mut running = tool.stream(DOWNLOAD_TIME)?;
    if let Some(stdout) = running.take_stdout() {
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        while let Ok(1..) = std::io::Read::take(&mut lines, MAX_LINE).read_until(b'\n', &mut line) {
            let done = parse_status(&String::from_utf8_lossy(&line)).filter(|_| size > 0);
            if let Some(permyriad) = done {
                progress.advance(size.saturating_mul(permyriad) / 10_000, Some(size));
            }
            line.clear();
        }
    }
    running.finish()
}

/// How far a download is, in hundredths of a per cent, from a line of apt's status
/// (`dlstatus:1:33.3333:Retrieving file 1 of 3`).
pub fn parse_status(line: &str) -> Option<u64> {
    let mut fields = line.trim().split(':');
    if fields.next() != Some("dlstatus") {
        return None;
    }
    let (whole, fraction) = fields.nth(1)?.split_once('.')?;
    let hundredths: String = fraction.chars().chain("00".chars()).take(2).collect();
    let permyriad =
        whole.parse::<u64>().ok()?.checked_mul(100)? + hundredths.parse::<u64>().ok()?;
    Some(permyriad.min(10_000))
}

/// A package from the first paragraph that `apt-cache show` prints.
///
/// # Errors
/// The name of the field that is lacking or makes no sense.
pub fn parse_package(text: &str) -> Result<Package, &'static str> {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let text =
        |name: &'static str| field(name).filter(|text| plain(text)).map(str::to_owned).ok_or(name);
    let is_name = |name: &&str| {
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    Ok(Package {
        name: field("Package").filter(is_name).ok_or("Package")?.to_owned(),
        version: text("Version")?,
        sha256: text("SHA256")?,
        size: field("Size").and_then(|size| size.parse().ok()).ok_or("Size")?,
        first_dependency: field("Depends")
            .and_then(|depends| depends.split([' ', ',', '|']).next())
            .filter(is_name)
            .map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = "Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)
Description: Linux for x86-64 cloud (meta-package)
Size: 1504
SHA256: 00be21c0

Package: linux-image-cloud-amd64
Version: 1
";

    #[test]
    fn the_first_paragraph_describes_the_package() {
        let package = parse_package(META).unwrap();
        assert_eq!(package.version, "6.1.192-2");
        assert_eq!(package.size, 1504);
        assert_eq!(package.first_dependency.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn what_is_lacking_or_could_be_an_option_is_refused() {
        assert_eq!(parse_package(""), Err("Package"));
        assert_eq!(parse_package("Package: a\nVersion: 1\nSize: 2\n"), Err("SHA256"));
        assert_eq!(parse_package("Package: -oDir=x\n"), Err("Package"));
        let hostile = META.replace("linux-image-6.1.0-56", "--option");
        assert_eq!(parse_package(&hostile).unwrap().first_dependency, None);
    }

    #[test]
    fn progress_is_read_from_status_lines() {
        assert_eq!(parse_status("dlstatus:1:33.3333:Retrieving file 1 of 3\n"), Some(3333));
        assert_eq!(parse_status("dlstatus:1:7.5:x"), Some(750));
        assert_eq!(parse_status("dlstatus:1:999.0:x"), Some(10_000));
        for other in ["", "pmstatus:a:1.0:x", "dlstatus:1", "dlstatus:1:x.y:z"] {
            assert_eq!(parse_status(other), None, "{other}");
        }
    }
}
