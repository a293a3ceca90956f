//! A home of its own for the daemon that is killed, with what is costly to make shared.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use banger_host::home::Home;
use banger_host::owned;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::power::{self, Disk};

/// The name under which the daemon looks for a monitor.
const MONITOR: &str = "qemu-system-x86_64";
/// Where everything else is.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a process that is cleared away may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// The programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The daemon.
    pub daemon: PathBuf,
    /// What stands in for QEMU; none for QEMU itself.
    pub monitor: Option<PathBuf>,
}

/// What the home of a daemon stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The host's file system.
    Host,
    /// What the daemon keeps is on a file system of its own, whose power can be cut.
    Own,
}

/// A home in which nothing was ever made, and a search path.
#[derive(Debug)]
pub struct Place {
    // Taken down before the directory goes that it is in.
    disk: Option<Arc<Disk>>,
    root: TempDir,
    tools: Tools,
}

impl Tools {
    /// The programs beside this one, among the build results; `None`, with the reason, when
    /// something is missing.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn beside(dir: &Path) -> Result<Self> {
        let daemon = dir.join("bangerd");
        ensure!(daemon.is_file(), "bangerd is not built: run `cargo build -p bangerd`");
        let monitor = dir.join("scripted-vmm");
        ensure!(monitor.is_file(), "the scripted monitor is not built");
        let agent = dir.parent().unwrap_or(dir).join("lib/banger/banger-agent");
        ensure!(agent.is_file(), "the static guest agent is not built: run `cargo xtask test`");
        let made = banger_testkit::test_home().join("data/images");
        ensure!(made.is_dir(), "the home that tests share is not made: run `cargo xtask test`");
        Ok(Self { daemon, monitor: Some(monitor) })
    }
}

impl Place {
    /// Makes one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(tools: &Tools, ground: Ground) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("crash-").tempdir()?;
        let home = root.path().join("home");
        let disk = match ground {
            Ground::Host => None,
            Ground::Own => {
                Some(Arc::new(Disk::make(&root.path().join("image"), &home.join("state"))?))
            }
        };
        fs::create_dir_all(home.join("state/host"))?;
        fs::create_dir(root.path().join("bin"))?;
        let shared = banger_testkit::test_home();
        for part in ["data", "cache"] {
            symlink(shared.join(part), home.join(part))?;
        }
        // Copied: what is found out with a scripted monitor is true of no other.
        let facts = shared.join("state/host");
        for entry in fs::read_dir(&facts).into_iter().flatten().flatten() {
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), home.join("state/host").join(entry.file_name()))?;
            }
        }
        if let Some(monitor) = &tools.monitor {
            symlink(monitor, root.path().join("bin").join(MONITOR))?;
        }
        Ok(Self { disk, root, tools: tools.clone() })
    }

    /// The programs.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Where everything is.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `BANGER_HOME`.
    pub fn banger_home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// The home's directories.
    pub fn home(&self) -> Home {
        Home::under(&self.banger_home())
    }

    /// `PATH`.
    pub fn path(&self) -> OsString {
        let mut path = self.root().join("bin").into_os_string();
        path.push(":");
        path.push(SYSTEM_PATH);
        path
    }

    /// The log of one daemon.
    pub fn log(&self, life: &str) -> PathBuf {
        self.root().join(format!("{life}.log"))
    }

    /// Leaves everything there, to be looked at.
    pub fn keep(&mut self) {
        self.root.disable_cleanup(true);
    }

    /// Cuts the power: what is not on the disk by now does not get there any more.
    ///
    /// # Errors
    /// When it has none of its own.
    pub fn cut(&self) -> Result<()> {
        self.disk()?.cut()
    }

    /// What a start of the host finds: no process, and what is on the disk.
    ///
    /// # Errors
    /// When something does not end, or cannot be mounted again.
    pub async fn come_back(&self) -> Result<()> {
        let (root, disk) = (self.root().to_owned(), self.disk()?.clone());
        spawn_blocking(move || {
            power::end_processes(&root)?;
            disk.come_back()
        })
        .await?
    }

    fn disk(&self) -> Result<&Arc<Disk>> {
        self.disk.as_ref().context("this home stands on the host's file system")
    }

    /// Ends whatever runs in it.
    ///
    /// # Errors
    /// When something does not end.
    pub fn clear(&self) -> Result<()> {
        let sandboxes = self.home().sandboxes();
        let Ok(sandboxes) = sandboxes.canonicalize() else { return Ok(()) };
        for name in owned::directories_below(&sandboxes)? {
            for process in owned::find(&sandboxes.join(&name))? {
                process.kill(KILL_PATIENCE).context("cannot clear up")?;
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}
