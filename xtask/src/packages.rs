//! The Debian packages that banger and its tests need on a host. This is the only list.

use anyhow::{Result, bail};

use crate::command::{Program, find};

/// A program, or a file with its path, and the package that it comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    program: &'static str,
    package: &'static str,
}

const fn package(program: &'static str, package: &'static str) -> Package {
    Package { program, package }
}

/// What running sandboxes takes, and making the default image and kernel.
pub(crate) const TO_RUN: [Package; 9] = [
    package("qemu-system-x86_64", "qemu-system-x86"),
    package("passt", "passt"),
    package("mmdebstrap", "mmdebstrap"),
    // Maps the users of an image that is made without root.
    package("newuidmap", "uidmap"),
    package("mke2fs", "e2fsprogs"),
    package("unshare", "util-linux"),
    package("setpriv", "util-linux"),
    package("apt-get", "apt"),
    package("dpkg-deb", "dpkg"),
];

/// What only tests run: they compare what banger makes with what the usual tools make of it.
pub(crate) const TO_TEST: [Package; 20] = [
    package("busybox", "busybox-static"),
    package("cpio", "cpio"),
    package("debugfs", "e2fsprogs"),
    package("depmod", "kmod"),
    package("docker-registry", "docker-registry"),
    package("git", "git"),
    package("grub-editenv", "grub-common"),
    package("grub-mkimage", "grub-common"),
    package("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    package("/usr/lib/grub/x86_64-efi/normal.mod", "grub-efi-amd64-bin"),
    package("ip", "iproute2"),
    package("mcopy", "mtools"),
    package("mkfs.vfat", "dosfstools"),
    package("mount", "mount"),
    package("openssl", "openssl"),
    package("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    package("skopeo", "skopeo"),
    package("systemd-analyze", "systemd"),
    package("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", "systemd-boot-efi"),
    package("umoci", "umoci"),
];

/// What building the small kernel takes.
pub(crate) const TO_BUILD_KERNEL: [Package; 9] = [
    package("/usr/src/linux-source-6.1.tar.xz", "linux-source-6.1"),
    package("/usr/include/libelf.h", "libelf-dev"),
    package("bc", "bc"),
    package("bison", "bison"),
    package("flex", "flex"),
    package("gcc", "gcc"),
    package("make", "make"),
    package("strip", "binutils"),
    package("xz", "xz-utils"),
];

/// Makes sure that all of these are installed.
///
/// # Errors
/// When some are missing and cannot be installed. If that is for lack of the right to, the one
/// command that does it is printed on standard output.
pub(crate) fn ensure(needed: &[Package]) -> Result<()> {
    let missing = missing(needed, |program| find(program).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let Some(root) = Root::find() else {
        println!("{}", install_line(&missing));
        bail!("packages are missing, and installing them needs root: run the line above");
    };
    eprintln!("      installing {}", missing.join(" "));
    let install = || {
        let apt = root.apt_get().args(["install", "--yes", "--no-install-recommends"]);
        apt.args(&missing).run()
    };
    // Lists that are there may still be too old: their packages are gone from the archive.
    if has_lists() && install().is_ok() {
        return Ok(());
    }
    root.apt_get().arg("update").run()?;
    install()
}

/// The packages of the programs that are not there, each once, in the order of the list.
fn missing(needed: &[Package], is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for need in needed {
        if !is_there(need.program) && !packages.contains(&need.package) {
            packages.push(need.package);
        }
    }
    packages
}

fn install_line(packages: &[&str]) -> String {
    format!("apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Whether apt knows any packages: images of containers come without lists.
fn has_lists() -> bool {
    let is_list = |name: std::ffi::OsString| name.to_string_lossy().contains("_Packages");
    std::fs::read_dir("/var/lib/apt/lists")
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| is_list(e.file_name()))))
}

/// How this user may act as root.
#[derive(Clone, Copy, Debug)]
enum Root {
    /// Is root.
    Already,
    /// Through sudo.
    Sudo,
}

impl Root {
    fn find() -> Option<Self> {
        use std::io::IsTerminal as _;
        let id = Program::new("id").arg("-u").capture().unwrap_or_default();
        if id.trim() == "0" {
            return Some(Self::Already);
        }
        find("sudo")?;
        let silent = Program::new("sudo").args(["-n", "true"]).succeeds();
        // Where somebody can be asked for the password, sudo may ask.
        let asked = || {
            std::io::stdin().is_terminal()
                && Program::new("sudo").arg("-v").status().is_ok_and(|status| status.success())
        };
        (silent || asked()).then_some(Self::Sudo)
    }

    fn apt_get(self) -> Program {
        let program = match self {
            Self::Already => Program::new("env"),
            Self::Sudo => Program::new("sudo").arg("env"),
        };
        program.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]).aside()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_package_is_named_once() {
        let all = [TO_RUN.as_slice(), TO_TEST.as_slice()].concat();
        assert!(missing(&all, |_| true).is_empty());
        let named = missing(&all, |program| !["mke2fs", "debugfs", "passt"].contains(&program));
        assert_eq!(named, ["passt", "e2fsprogs"]);
        assert_eq!(install_line(&named), "apt-get install --no-install-recommends passt e2fsprogs");
    }
}
