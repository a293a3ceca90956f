//! An initramfs that is a whole little system: busybox, `os-update`, and a script as PID 1.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::kernel::{Kernel, MODULES};

/// What the system does at each boot. `@` begins what the test reads.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in /lib/*.ko; do insmod $module; done
while [ ! -b /dev/vda1 ] && [ ! -b /dev/vdb1 ]; do usleep 50000; done
for disk in /dev/vda1 /dev/vdb1; do mount @MOUNT@ $disk /boot 2>/dev/null && break; done
ip link set lo up
serve() { os-update serve --listen 127.0.0.1:8080 /boot/www & }
report() { echo "@BOOT $(cat /etc/version) $(os-update status -o json | tr -d '\n')"; }
@EXTRA@
os-update healthcheck
report
if [ -f /boot/plan ]; then
  mv /boot/plan /boot/plan.done; sync
  . /boot/plan.done
  report
fi
umount /boot; sync
echo "@END"
poweroff -f
"#;

/// What is special about a system.
pub(crate) struct Contents<'a> {
    pub(crate) version: &'a str,
    pub(crate) extra: &'a str,
    pub(crate) conf: &'a str,
    /// How the disk is mounted.
    pub(crate) mount: &'a str,
    pub(crate) kernel: &'a Kernel,
    pub(crate) os_update: &'a Path,
    pub(crate) busybox: &'a Path,
}

/// Writes the archive, compressed.
pub(crate) fn write(contents: &Contents<'_>, to: &Path) {
    let mut archive = Archive::default();
    for dir in ["bin", "boot", "dev", "etc", "etc/kubesolo", "lib", "proc", "sys", "tmp"] {
        archive.add(dir, 0o040_755, b"");
    }
    let init = INIT.replace("@EXTRA@", contents.extra).replace("@MOUNT@", contents.mount);
    archive.add("init", 0o100_755, init.as_bytes());
    archive.add("etc/version", 0o100_644, format!("{}\n", contents.version).as_bytes());
    archive.add("etc/kubesolo/update.conf", 0o100_644, contents.conf.as_bytes());
    // The name of the server is known by this alone: there is no C library to ask.
    archive.add("etc/hosts", 0o100_644, b"127.0.0.1 updates.example.com\n");
    archive.add("etc/machine-id", 0o100_644, b"0123456789abcdef0123456789abcdef\n");
    archive.add("bin/busybox", 0o100_755, &std::fs::read(contents.busybox).unwrap());
    archive.add("bin/os-update", 0o100_755, &std::fs::read(contents.os_update).unwrap());
    for (number, (name, path)) in MODULES.iter().zip(&contents.kernel.modules).enumerate() {
        let name = format!("lib/{number}-{}.ko", name.rsplit('/').next().unwrap());
        archive.add(&name, 0o100_644, &std::fs::read(path).unwrap());
    }
    archive.add("softdog", 0o100_644, &std::fs::read(&contents.kernel.softdog).unwrap());
    archive.end();
    let gzip = Command::new("gzip").arg("-1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut gzip = gzip.unwrap();
    let mut stdin = gzip.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&archive.0).unwrap());
    let output = gzip.wait_with_output().unwrap();
    writer.join().unwrap();
    std::fs::write(to, output.stdout).unwrap();
}

/// The format `newc`: cpio(5).
#[derive(Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

impl Archive {
    pub(crate) fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let fields = [0, mode, 0, 0, 1, 0, u32::try_from(content.len()).unwrap(), 0, 0, 0, 0];
        self.0.extend_from_slice(b"070701");
        for field in fields.into_iter().chain([u32::try_from(name.len()).unwrap() + 1, 0]) {
            self.0.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(content);
        self.pad();
    }

    /// Nothing follows.
    pub(crate) fn end(&mut self) {
        self.add("TRAILER!!!", 0, b"");
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }
}
