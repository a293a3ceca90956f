//! Which file systems a sandbox has and where, as data.
//!
//! Three stages: what the boot itself needs, how the root comes together, and what a program
//! expects to find once the root is in place. In the third stage the agent has already changed
//! its root, so that no symbolic link of the image leads out of it.

use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::disks::{Disks, node};

/// Where the image is mounted before it disappears under the overlay.
pub(super) const BASE: &str = "/base";
/// Where the sandbox's own disk is mounted before it disappears with the initramfs.
pub(super) const DISK: &str = "/disk";
/// Where the root of the sandbox comes together.
pub(super) const ROOT: &str = "/root";

/// The directory of the disk that holds what the sandbox changed.
pub(super) const UPPER: &str = "/disk/upper";
/// The overlay's own scratch directory; it has to be on the same file system.
pub(super) const WORK: &str = "/disk/work";
/// The directory of the disk for what cannot live on an overlay.
pub(super) const PLAIN: &str = "/disk/plain";

/// Directories whose users lay overlays of their own, which the kernel refuses on an overlay.
pub(super) const PLAIN_DIRS: [&str; 3] =
    ["/var/lib/containerd", "/var/lib/containers", "/var/lib/docker"];

const NOSUID: MountFlags = MountFlags::NOSUID;
const NODEV: MountFlags = MountFlags::NODEV;
const NOEXEC: MountFlags = MountFlags::NOEXEC;
const NONE: MountFlags = MountFlags::empty();

/// What follows when a mount is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// There is no sandbox without it.
    Required,
    /// Kernels are built without it, and programs live without it.
    Optional,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) fstype: &'static str,
    pub(super) flags: MountFlags,
    pub(super) options: &'static str,
    /// One more, which a kernel may be too old for.
    pub(super) wish: Option<&'static str>,
    pub(super) need: Need,
}

impl Mount {
    fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>, fstype: &'static str) -> Self {
        Self {
            source: source.into(),
            target: target.into(),
            fstype,
            flags: NONE,
            options: "",
            wish: None,
            need: Need::Required,
        }
    }

    /// A file system that the kernel makes up; it is its own source, as in /proc/mounts of
    /// every distribution.
    fn of_kernel(fstype: &'static str, target: &str, flags: MountFlags) -> Self {
        Self { flags, ..Self::new(fstype, target, fstype) }
    }

    const fn options(mut self, options: &'static str) -> Self {
        self.options = options;
        self
    }

    const fn wish(mut self, option: &'static str) -> Self {
        self.wish = Some(option);
        self
    }

    const fn optional(mut self) -> Self {
        self.need = Need::Optional;
        self
    }
}

/// What the boot itself needs.
pub(super) fn early() -> [Mount; 3] {
    [
        Mount::of_kernel("devtmpfs", "/dev", NOSUID),
        Mount::of_kernel("proc", "/proc", NOSUID | NODEV | NOEXEC),
        Mount::of_kernel("sysfs", "/sys", NOSUID | NODEV | NOEXEC),
    ]
}

/// The image and the disk.
///
/// `noload`: the image's journal is empty, and the device could not be written anyway.
/// `discard`: what is deleted in the sandbox is given back to the host's file system.
/// `noinit_itable`: the kernel would write zeroes over every inode table in the background and
/// so fill a sparse file of the host with nothing.
/// `no_prefetch_block_bitmaps`: nor need a thread read the maps of what is free before anybody writes. A
/// kernel before 5.13 has no such thread; it complains of the option and mounts without.
pub(super) fn disks(disks: &Disks) -> [Mount; 2] {
    let base = Mount::new(node(&disks.base), BASE, "ext4").options("noload");
    [
        Mount { flags: MountFlags::RDONLY, ..base },
        Mount::new(node(&disks.disk), DISK, "ext4")
            .options("discard,noinit_itable")
            .wish("no_prefetch_block_bitmaps"),
    ]
}

/// The root of the sandbox.
///
/// `redirect_dir`, `index`: renames of directories and hard links behave as on a plain disk.
/// `xino=auto`: a file has one device number and keeps its inode number, so that `du -x`, `tar`
/// and `rsync` see one file system. `metacopy`: changing the owner or mode of a file of the
/// image does not copy its contents; the attributes it trusts can only come from the disk that
/// belongs to this sandbox.
pub(super) fn overlay() -> Mount {
    Mount::new("overlay", ROOT, "overlay").options(
        "lowerdir=/base,upperdir=/disk/upper,workdir=/disk/work,\
         redirect_dir=on,index=on,xino=auto,metacopy=on",
    )
}

/// What programs expect to find, seen from the sandbox's root.
///
/// `/tmp` is missing on purpose: it stays on the disk, where it may grow as large as a build
/// needs. A tmpfs would take it out of the sandbox's memory.
pub(super) fn late(disks: &Disks, release: &str) -> Vec<Mount> {
    let modules = Mount::new(node(&disks.modules), Path::new("/lib/modules").join(release), "ext4")
        .options("noload");
    let [dev, proc, sys] = early();
    vec![
        proc,
        sys,
        dev,
        Mount::of_kernel("devpts", "/dev/pts", NOSUID | NOEXEC)
            .options("gid=5,mode=620,ptmxmode=666"),
        Mount::of_kernel("tmpfs", "/dev/shm", NOSUID | NODEV).options("mode=1777"),
        Mount::of_kernel("mqueue", "/dev/mqueue", NOSUID | NODEV | NOEXEC).optional(),
        Mount::of_kernel("cgroup2", "/sys/fs/cgroup", NOSUID | NODEV | NOEXEC)
            .options("nsdelegate")
            .optional(),
        Mount { flags: MountFlags::RDONLY | NOSUID | NODEV, ..modules },
    ]
}

/// The place for what does not outlive the machine.
pub(super) fn run() -> Mount {
    Mount::of_kernel("tmpfs", "/run", NOSUID | NODEV).options("mode=755,size=20%")
}

/// The symbolic links of `/dev` that are not the kernel's to make: (link, where to).
pub(super) const DEV_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn some_disks() -> Disks {
        Disks { base: "vda".into(), modules: "vdb".into(), disk: "vdc".into() }
    }

    #[test]
    fn image_and_modules_are_never_writable() {
        let [base, disk] = disks(&some_disks());
        assert!(base.flags.contains(MountFlags::RDONLY));
        assert!(!disk.flags.contains(MountFlags::RDONLY));
        let late = late(&some_disks(), "6.1.0");
        let modules = late.iter().find(|m| m.source == Path::new("/dev/vdb")).unwrap();
        assert!(modules.flags.contains(MountFlags::RDONLY));
        assert_eq!(modules.target, Path::new("/lib/modules/6.1.0"));
    }

    #[test]
    fn a_mount_comes_after_the_one_it_stands_on() {
        let late = late(&some_disks(), "6.1.0");
        for (at, mount) in late.iter().enumerate() {
            let under = |other: &Mount| {
                other.target != mount.target && mount.target.starts_with(&other.target)
            };
            assert!(!late[at..].iter().any(under), "{}", mount.target.display());
        }
    }

    #[test]
    fn the_overlay_names_the_directories_that_are_mounted() {
        for dir in [BASE, UPPER, WORK] {
            assert!(overlay().options.contains(&format!("dir={dir},")), "{dir}");
        }
        assert!(UPPER.starts_with(DISK) && WORK.starts_with(DISK) && PLAIN.starts_with(DISK));
    }
}
