//! A disk with one partition in a file, made without root: ext4 behind GRUB, or FAT as UEFI
//! firmware wants it.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;

use crate::disk::Kit;
use crate::kernel::run;

const SECTOR: u64 = 512;
/// Where the partition begins, in sectors: what is before it is GRUB's.
const BEGIN: u64 = 2048;
/// Length of the partition in bytes.
const LEN: u64 = 192 << 20;
/// GRUB's modules that the script takes, besides those of the firmware.
const MODULES: [&str; 9] =
    ["part_msdos", "ext2", "normal", "linux", "loadenv", "test", "echo", "search", "configfile"];

/// The file system of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Fat,
}

impl FileSystem {
    /// How the system mounts it.
    pub(crate) fn mount_options(self) -> &'static str {
        match self {
            Self::Ext4 => "-t ext4",
            Self::Fat => "-t vfat -o umask=077",
        }
    }

    /// Its number in a partition table.
    fn number(self) -> u8 {
        match self {
            Self::Ext4 => 0x83,
            Self::Fat => 0xef,
        }
    }
}

/// Writes a disk with what lies in `tree`.
pub(crate) fn write(kit: &Kit, tree: &Path, file_system: FileSystem, to: &Path) {
    let partition = to.with_extension("part");
    fs::File::create(&partition).unwrap().set_len(LEN).unwrap();
    match file_system {
        FileSystem::Ext4 => {
            let mut make = Command::new("mkfs.ext4");
            run(make.args(["-q", "-F", "-E", "root_owner=0:0", "-d"]).args([tree, &partition]))
                .unwrap();
        }
        FileSystem::Fat => {
            run(Command::new("mkfs.vfat").args(["-F", "16", "-s", "8"]).arg(&partition)).unwrap();
            let mut copy = Command::new("mcopy");
            copy.arg("-i").arg(&partition).arg("-s");
            let entries = fs::read_dir(tree).unwrap();
            copy.args(entries.map(|entry| entry.unwrap().path())).arg("::/");
            run(&mut copy).unwrap();
        }
    }
    let mut disk = fs::File::create(to).unwrap();
    disk.set_len(BEGIN * SECTOR + LEN).unwrap();
    disk.write_all(&head(kit, file_system)).unwrap();
    for (at, block) in fs::read(&partition).unwrap().chunks(1 << 16).enumerate() {
        // Holes stay holes.
        if block.iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(BEGIN * SECTOR + ((at as u64) << 16))).unwrap();
            disk.write_all(block).unwrap();
        }
    }
    disk.sync_all().unwrap();
    fs::remove_file(partition).unwrap();
}

/// What comes before the partition: its table, and GRUB for a BIOS.
fn head(kit: &Kit, file_system: FileSystem) -> Vec<u8> {
    let mut head = vec![0; 512];
    if file_system == FileSystem::Ext4 {
        head = fs::read(kit.bios.join("boot.img")).unwrap();
        head.truncate(512);
        let core = kit.dir.path().join("core.img");
        mkimage("i386-pc", "(hd0,msdos1)/grub", &["biosdisk"], None, &core);
        head.extend(fs::read(core).unwrap());
    }
    // Where the partition table belongs, GRUB's file has code for floppies.
    head[446..510].fill(0);
    head[446..462].copy_from_slice(&entry(file_system.number()));
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert!(head.len() as u64 <= BEGIN * SECTOR);
    head
}

/// The one entry of the partition table.
fn entry(number: u8) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[0] = 0x80;
    entry[4] = number;
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

/// Writes GRUB for UEFI, which looks for its script on all disks.
pub(crate) fn write_grub_efi(kit: &Kit, to: &Path) {
    let early = kit.dir.path().join("early.cfg");
    let text = "search --file --set=root /grub/grub.cfg\nset prefix=($root)/grub\n";
    fs::write(&early, text).unwrap();
    mkimage("x86_64-efi", "/grub", &["fat"], Some(&early), to);
}
