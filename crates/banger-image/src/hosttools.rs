//! The host's programs that are needed, found by name, and the packages they come in.

use std::ffi::OsStr;
use std::path::PathBuf;

use banger_host::command::{Tool, find_program};
use thiserror::Error;

/// Where the programs that make images, kernels and disks are looked for. The user's own path may
/// lack the directories of system programs, or have other programs of the same names.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostTool {
    name: &'static str,
    package: &'static str,
}

pub(crate) const APT_GET: HostTool = HostTool::new("apt-get", "apt");
pub(crate) const APT_CACHE: HostTool = HostTool::new("apt-cache", "apt");
pub(crate) const DPKG_DEB: HostTool = HostTool::new("dpkg-deb", "dpkg");
pub(crate) const TAR: HostTool = HostTool::new("tar", "tar");
pub(crate) const E2FSCK: HostTool = HostTool::new("e2fsck", "e2fsprogs");
pub(crate) const MKE2FS: HostTool = HostTool::new("mke2fs", "e2fsprogs");
pub(crate) const MMDEBSTRAP: HostTool = HostTool::new("mmdebstrap", "mmdebstrap");
pub(crate) const NEWUIDMAP: HostTool = HostTool::new("newuidmap", "uidmap");
pub(crate) const RM: HostTool = HostTool::new("rm", "coreutils");
pub(crate) const SH: HostTool = HostTool::new("sh", "dash");
pub(crate) const UNSHARE: HostTool = HostTool::new("unshare", "util-linux");

/// Programs that this host lacks.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("this host lacks {list}: install with `apt-get install {list}`", list = packages.join(" "))]
pub struct MissingPackages {
    /// The Debian packages to install.
    pub packages: Vec<&'static str>,
}

impl HostTool {
    /// A program and the Debian package that it comes in.
    pub(crate) const fn new(name: &'static str, package: &'static str) -> Self {
        Self { name, package }
    }

    /// Where the program is.
    pub(crate) fn find(self) -> Result<PathBuf, MissingPackages> {
        find_program(self.name, OsStr::new(PATH))
            .ok_or_else(|| MissingPackages { packages: vec![self.package] })
    }

    /// The program ready to get its arguments. It speaks English, and it ends with the thread
    /// that runs it: what it works on is removed or made anew by the next one.
    pub(crate) fn tool(self) -> Result<Tool, MissingPackages> {
        let tool = Tool::new(self.find()?).env("PATH", PATH).env("LC_ALL", "C.UTF-8");
        Ok(tool.ends_with_caller())
    }
}

/// All of them.
const ALL: [HostTool; 9] =
    [APT_GET, APT_CACHE, DPKG_DEB, MKE2FS, MMDEBSTRAP, NEWUIDMAP, RM, SH, UNSHARE];

/// Looks whether everything is there that making images, kernels and disks takes. Root can do
/// without the package `uidmap`.
///
/// # Errors
/// [`MissingPackages`], each once.
pub fn require_all() -> Result<(), MissingPackages> {
    require(&ALL)
}

/// Looks whether all of these are there, so that all that lack are named at once.
pub(crate) fn require(tools: &[HostTool]) -> Result<(), MissingPackages> {
    let mut packages: Vec<_> =
        tools.iter().filter(|tool| tool.find().is_err()).map(|tool| tool.package).collect();
    packages.dedup();
    if packages.is_empty() { Ok(()) } else { Err(MissingPackages { packages }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_missing_packages_are_named_at_once() {
        let absent = |package| HostTool::new("no-such-program", package);
        let error = require(&[DPKG_DEB, absent("one"), absent("two"), absent("two")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this host lacks one two: install with `apt-get install one two`"
        );
    }
}
