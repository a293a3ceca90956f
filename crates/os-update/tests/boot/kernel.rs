//! Debian's kernel for clouds, with the modules that a disk takes, from its package.

use std::path::{Path, PathBuf};
use std::process::Command;

use banger_host::lock::FileLock;

/// What a virtio disk takes, FAT on it, and a watchdog, in the order of loading.
pub(crate) const MODULES: [&str; 11] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "fs/nls/nls_cp437",
    "fs/nls/nls_ascii",
    "fs/fat/fat",
    "fs/fat/vfat",
    "drivers/watchdog/watchdog",
];
/// A watchdog of the kernel alone, which is loaded by whoever wants it.
const SOFTDOG: &str = "drivers/watchdog/softdog";

/// An unpacked package.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) modules: Vec<PathBuf>,
    pub(crate) softdog: PathBuf,
}

impl Kernel {
    /// Fetches it with apt, once.
    pub(crate) fn find() -> Result<Self, String> {
        let dir = banger_testkit::test_home().join("cache/os-update-kernel");
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let _lock = FileLock::acquire(&dir.join("lock")).map_err(|error| error.to_string())?;
        let tree = dir.join("tree");
        if !tree.join("boot").is_dir() {
            fetch(&dir, &tree)?;
        }
        let image = only(&tree.join("boot"), "vmlinuz-")?;
        let release = only(&tree.join("lib/modules"), "")?;
        let kernel = release.join("kernel");
        let module = |name| kernel.join(format!("{name}.ko"));
        let (modules, softdog) = (MODULES.map(module).to_vec(), module(SOFTDOG));
        Ok(Self { image, modules, softdog })
    }
}

fn fetch(dir: &Path, tree: &Path) -> Result<(), String> {
    let depends = || {
        let output =
            Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output();
        let text = String::from_utf8_lossy(&output.ok()?.stdout).into_owned();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?;
        Some(line.to_owned())
    };
    let package = depends().or_else(|| {
        let _ = Command::new("apt-get").args(["update", "--quiet"]).output();
        depends()
    });
    let package = package.ok_or("apt knows no linux-image-cloud-amd64")?;
    run(Command::new("apt-get").args(["download", &package]).current_dir(dir))?;
    let deb = only(dir, "linux-image-")?;
    let aside = dir.join("aside");
    let _ = std::fs::remove_dir_all(&aside);
    run(Command::new("dpkg-deb").arg("-x").args([&deb, &aside]))?;
    std::fs::rename(aside, tree).map_err(|error| error.to_string())
}

fn only(dir: &Path, prefix: &str) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(dir).map_err(|error| error.to_string())?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = paths.find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    found.ok_or_else(|| format!("no {prefix}* in {}", dir.display()))
}

/// Runs a tool, and says what it said if it fails.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
