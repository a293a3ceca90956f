//! The disk of an appliance, made without root: GRUB before an ext4 partition with both slots, the
//! state, and a release that waits to be installed.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_trust::{SecretKey, Sha256Digest};
use banger_update::{KernelArgs, Slot, grub_config};
use os_update::agent::install_grub;

use crate::initramfs::{self, Contents};
use crate::kernel::{Kernel, run};

const SECTOR: u64 = 512;
/// Where the partition begins, in sectors: what is before it is GRUB's.
const BEGIN: u64 = 2048;
/// Length of the partition in bytes.
const LEN: u64 = 192 << 20;
/// GRUB's modules that the script takes, besides those of the firmware.
const MODULES: [&str; 9] =
    ["part_msdos", "ext2", "normal", "linux", "loadenv", "test", "echo", "search", "configfile"];

/// What is installed on this host to make disks of and to run them.
#[derive(Debug)]
pub(crate) struct Kit {
    kernel: Kernel,
    os_update: PathBuf,
    busybox: PathBuf,
    pub(crate) bios: PathBuf,
    pub(crate) uefi: PathBuf,
    pub(crate) dir: tempfile::TempDir,
}

impl Kit {
    /// Looks for everything; an error says what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let there = |path: &str| {
            let path = PathBuf::from(path);
            if path.exists() { Ok(path) } else { Err(format!("there is no {}", path.display())) }
        };
        there("/usr/bin/qemu-system-x86_64")?;
        there("/usr/bin/grub-mkimage")?;
        there("/usr/lib/grub/x86_64-efi/normal.mod")?;
        there("/usr/sbin/mkfs.ext4")?;
        Ok(Self {
            kernel: Kernel::find()?,
            os_update: banger_testkit::static_os_update()
                .ok_or("there is no static os-update: run `cargo xtask test`")?,
            busybox: there("/usr/bin/busybox").or_else(|_| there("/bin/busybox"))?,
            bios: there("/usr/lib/grub/i386-pc")?,
            uefi: there("/usr/share/OVMF/OVMF_CODE_4M.fd")?,
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

/// Which script GRUB runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loader {
    /// The one that reads our environment.
    Ours,
    /// One that starts slot A, whatever the environment says.
    Deaf,
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
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
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
            "server=http://127.0.0.1:8080\npubkey={}\nstate_dir=/boot/state\nboot_dir=/boot\n\
             version_file=/etc/version\ntries=1\nhealth_deadline=2s\nhealth_disk=/boot\n",
            secret.public().to_base64()
        );
        let system = |system: &System, to: &str| {
            let contents = Contents {
                version: &system.version,
                extra: &system.extra,
                conf: &conf,
                modules: &kit.kernel.modules,
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
        install_grub(&tree, Slot::A).unwrap();
        let args = KernelArgs::parse("console=ttyS0 quiet loglevel=3").unwrap();
        let script = match loader {
            Loader::Ours => grub_config(&args),
            Loader::Deaf => "linux ($root)/os/a/vmlinuz console=ttyS0 quiet os_update.slot=a\n\
                             initrd ($root)/os/a/kubesolo-os.gz\nboot\n"
                .to_owned(),
        };
        fs::write(tree.join("grub/grub.cfg"), script).unwrap();
        fs::write(tree.join("plan"), plan).unwrap();
        let disk = Self { path: kit.dir.path().join(format!("disk{number}")) };
        disk.fill(kit, &tree);
        fs::remove_dir_all(tree).unwrap();
        disk
    }

    /// Another disk with the same on it.
    pub(crate) fn copy(&self, name: &str) -> Self {
        let path = self.path.with_file_name(name);
        run(Command::new("cp").arg("--sparse=always").args([&self.path, &path])).unwrap();
        Self { path }
    }

    fn fill(&self, kit: &Kit, tree: &Path) {
        let partition = self.path.with_extension("part");
        let file = fs::File::create(&partition).unwrap();
        file.set_len(LEN).unwrap();
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-E", "root_owner=0:0", "-d"]).args([tree, &partition]);
        run(&mut make).unwrap();
        run(Command::new("cp").arg("--sparse=always").args([&partition, &self.path])).unwrap();
        fs::remove_file(&partition).unwrap();
        let content = fs::read(&self.path).unwrap();
        let mut disk = fs::File::create(&self.path).unwrap();
        disk.set_len(BEGIN * SECTOR + LEN).unwrap();
        for (at, block) in content.chunks(1 << 16).enumerate() {
            // Holes stay holes.
            if block.iter().any(|byte| *byte != 0) {
                let at = BEGIN * SECTOR + ((at as u64) << 16);
                disk.seek(SeekFrom::Start(at)).unwrap();
                disk.write_all(block).unwrap();
            }
        }
        let core = kit.dir.path().join("core.img");
        mkimage("i386-pc", "(hd0,msdos1)/grub", &["biosdisk"], None, &core);
        let mut boot = fs::read(kit.bios.join("boot.img")).unwrap();
        boot.truncate(512);
        // Where the partition table belongs, the file has code for floppies.
        boot[446..510].fill(0);
        boot[446..462].copy_from_slice(&entry());
        boot[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk.seek(SeekFrom::Start(0)).unwrap();
        disk.write_all(&boot).unwrap();
        disk.write_all(&fs::read(core).unwrap()).unwrap();
        disk.sync_all().unwrap();
    }
}

/// The one entry of the partition table.
fn entry() -> [u8; 16] {
    let mut entry = [0; 16];
    entry[0] = 0x80;
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&u32::try_from(BEGIN).unwrap().to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(LEN / SECTOR).unwrap().to_le_bytes());
    entry
}

fn mkimage(format: &str, prefix: &str, more: &[&str], early: Option<&Path>, to: &Path) {
    let mut make = Command::new("grub-mkimage");
    make.args(["-O", format, "-p", prefix, "-o"]).arg(to);
    if let Some(early) = early {
        make.arg("-c").arg(early);
    }
    run(make.args(MODULES).args(more)).unwrap();
}

/// A directory with GRUB for UEFI, which QEMU shows to the machine as a disk.
pub(crate) fn esp(kit: &Kit) -> PathBuf {
    let dir = kit.dir.path().join("esp");
    fs::create_dir_all(dir.join("EFI/BOOT")).unwrap();
    let early = kit.dir.path().join("early.cfg");
    let text = "search --file --set=root /grub/grub.cfg\nset prefix=($root)/grub\n";
    fs::write(&early, text).unwrap();
    let to = dir.join("EFI/BOOT/BOOTX64.EFI");
    mkimage("x86_64-efi", "/grub", &["fat"], Some(&early), &to);
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
