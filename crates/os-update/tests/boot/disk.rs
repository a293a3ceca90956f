//! The disk of an appliance: a boot loader, both slots, the state, and a release that waits to be
//! installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_trust::{SecretKey, Sha256Digest};
use banger_update::{KernelArgs, Slot, grub_config};
use os_update::agent::install;
use os_update::settings;

use crate::image::{self, FileSystem};
use crate::initramfs::{self, Contents};
use crate::kernel::{Kernel, run};

/// What kernels are told; the last three words save a tenth of a boot.
const ARGS: &str = "console=ttyS0 quiet loglevel=3 norandmaps cryptomgr.notests no_timer_check";

/// What is installed on this host to make disks of and to run them.
#[derive(Debug)]
pub(crate) struct Kit {
    pub(crate) kernel: Kernel,
    pub(crate) os_update: PathBuf,
    busybox: PathBuf,
    pub(crate) bios: PathBuf,
    pub(crate) uefi: PathBuf,
    systemd_boot: PathBuf,
    pub(crate) dir: tempfile::TempDir,
}

impl Kit {
    /// Looks for everything; an error says what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let there = |path: &str| {
            let path = PathBuf::from(path);
            if path.exists() { Ok(path) } else { Err(format!("there is no {}", path.display())) }
        };
        for path in [
            "/usr/bin/qemu-system-x86_64",
            "/usr/bin/grub-mkimage",
            "/usr/lib/grub/x86_64-efi/normal.mod",
            "/usr/sbin/mkfs.ext4",
            "/usr/sbin/mkfs.vfat",
            "/usr/bin/mcopy",
        ] {
            there(path)?;
        }
        Ok(Self {
            kernel: Kernel::find()?,
            os_update: banger_testkit::static_os_update()
                .ok_or("there is no static os-update: run `cargo xtask test`")?,
            busybox: there("/usr/bin/busybox").or_else(|_| there("/bin/busybox"))?,
            bios: there("/usr/lib/grub/i386-pc")?,
            uefi: there("/usr/share/OVMF/OVMF_CODE_4M.fd")?,
            systemd_boot: there("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")?,
            dir: tempfile::tempdir().map_err(|error| error.to_string())?,
        })
    }
}

/// What a machine starts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    Uefi,
}

/// What the firmware starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loader {
    /// GRUB with the script that reads our environment.
    Grub,
    /// GRUB with one that starts slot A, whatever the environment says.
    DeafGrub,
    /// systemd-boot, which only UEFI can start.
    SystemdBoot,
}

impl Loader {
    fn file_system(self) -> FileSystem {
        match self {
            Self::Grub | Self::DeafGrub => FileSystem::Ext4,
            Self::SystemdBoot => FileSystem::Fat,
        }
    }

    /// Its name in the settings.
    fn setting(self) -> &'static str {
        match self {
            Self::Grub | Self::DeafGrub => "grub",
            Self::SystemdBoot => "systemd-boot",
        }
    }

    /// What is on the disk because of it.
    fn install(self, kit: &Kit, tree: &Path) {
        let args = KernelArgs::parse(ARGS).unwrap();
        let (loader, script) = match self {
            Self::Grub => (settings::Loader::Grub, grub_config(&args)),
            Self::DeafGrub => (
                settings::Loader::Grub,
                format!(
                    "linux ($root)/os/a/vmlinuz {ARGS} os_update.slot=a\n\
                     initrd ($root)/os/a/kubesolo-os.gz\nboot\n"
                ),
            ),
            Self::SystemdBoot => {
                for dir in ["EFI/BOOT", "loader/entries"] {
                    fs::create_dir_all(tree.join(dir)).unwrap();
                }
                fs::copy(&kit.systemd_boot, tree.join("EFI/BOOT/BOOTX64.EFI")).unwrap();
                fs::write(tree.join("loader/loader.conf"), "timeout 0\n").unwrap();
                (settings::Loader::SystemdBoot, String::new())
            }
        };
        fs::write(tree.join("grub/grub.cfg"), script).unwrap();
        install(tree, loader, &args, Slot::A).unwrap();
    }
}

/// The system of a release.
#[derive(Clone, Debug)]
pub(crate) struct System {
    version: String,
    extra: String,
}

impl System {
    pub(crate) fn new(version: &str) -> Self {
        Self { version: version.to_owned(), extra: String::new() }
    }

    /// With something in its PID 1, before the health check.
    pub(crate) fn with(mut self, extra: &str) -> Self {
        extra.clone_into(&mut self.extra);
        self
    }
}

/// A disk in a file.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) loader: Loader,
}

impl Disk {
    /// One that runs 1.0.0, does `plan` at its first boot, and has `next` as the newest release.
    pub(crate) fn make(kit: &Kit, next: System, plan: &str, loader: Loader) -> Self {
        let number = fs::read_dir(kit.dir.path()).unwrap().count();
        let tree = kit.dir.path().join(format!("tree{number}"));
        let secret = SecretKey::from_seed([3; 32]);
        for dir in ["os/a", "os/b", "grub", "www", "state"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        let conf = format!(
            "server=http://updates.example.com:8080\npubkey={}\nstate_dir=/boot/state\nboot_dir=/boot\n\
             boot_loader={}\nkernel_args={ARGS}\nversion_file=/etc/version\ntries=1\n\
             health_deadline=2s\nhealth_disk=/boot\n",
            secret.public().to_base64(),
            loader.setting()
        );
        let system = |system: &System, to: &str| {
            let contents = Contents {
                version: &system.version,
                extra: &system.extra,
                conf: &conf,
                mount: loader.file_system().mount_options(),
                kernel: &kit.kernel,
                os_update: &kit.os_update,
                busybox: &kit.busybox,
            };
            initramfs::write(&contents, &tree.join(to));
        };
        system(&System::new("1.0.0"), "os/a/kubesolo-os.gz");
        system(&next, "www/kubesolo-os.gz");
        for to in ["os/a/vmlinuz", "www/vmlinuz"] {
            fs::copy(&kit.kernel.image, tree.join(to)).unwrap();
        }
        publish(&tree.join("www"), &next.version, &secret);
        fs::write(tree.join("plan"), plan).unwrap();
        loader.install(kit, &tree);
        let disk = Self { path: kit.dir.path().join(format!("disk{number}")), loader };
        image::write(kit, &tree, loader.file_system(), &disk.path);
        fs::remove_dir_all(tree).unwrap();
        disk
    }

    /// Another disk with the same on it.
    pub(crate) fn copy(&self, name: &str) -> Self {
        let path = self.path.with_file_name(name);
        run(Command::new("cp").arg("--sparse=always").args([&self.path, &path])).unwrap();
        Self { path, ..*self }
    }
}

/// A directory with GRUB for UEFI, which QEMU shows to the machine as a disk.
pub(crate) fn esp(kit: &Kit) -> PathBuf {
    let dir = kit.dir.path().join("esp");
    fs::create_dir_all(dir.join("EFI/BOOT")).unwrap();
    image::write_grub_efi(kit, &dir.join("EFI/BOOT/BOOTX64.EFI"));
    dir
}

fn publish(www: &Path, version: &str, secret: &SecretKey) {
    let read = |name: &str| fs::read(www.join(name)).unwrap();
    let (kernel, system) = (read("vmlinuz"), read("kubesolo-os.gz"));
    let manifest = format!(
        r#"{{"version": "{version}", "vmlinuz_url": "vmlinuz", "vmlinuz_sha256": "{}",
            "vmlinuz_size": {}, "initramfs_url": "kubesolo-os.gz", "initramfs_sha256": "{}",
            "initramfs_size": {}, "architecture": "amd64", "channel": "stable"}}"#,
        Sha256Digest::of(&kernel),
        kernel.len(),
        Sha256Digest::of(&system),
        system.len()
    );
    fs::write(www.join("latest.json"), &manifest).unwrap();
    let contents =
        [("latest.json", manifest.as_bytes()), ("vmlinuz", &kernel), ("kubesolo-os.gz", &system)];
    for (name, content) in contents {
        fs::write(www.join(format!("{name}.sig")), secret.sign(content).bytes()).unwrap();
    }
}
