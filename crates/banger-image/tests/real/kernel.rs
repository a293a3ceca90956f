//! The kernel made from Debian's package, as it lies in the home.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::command::Tool;
use banger_host::{HostError, fs};
use banger_image::kernel::modinfo::Modinfo;
use mkext4::reader::Fs;

const SOON: Duration = Duration::from_secs(120);

#[test]
fn the_kernel_is_whole_and_its_boot_modules_are_in_order() {
    let Some(kernel) = super::support::kernel() else { return };
    kernel.verify().unwrap();
    assert!(kernel.release().ends_with("-cloud-amd64"), "{}", kernel.release());
    let order = &kernel.info().boot_modules;
    let place = |name: &str| order.iter().position(|module| module == name).expect(name);
    assert!(place("virtio_ring") < place("virtio"));
    for driver in ["virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng"] {
        assert!(place("virtio") < place(driver), "{driver}");
    }
    assert!(place("failover") < place("net_failover"));
    assert!(place("net_failover") < place("virtio_net"));
    place("overlay");
    let config = fs::read_text(&kernel.config(), 1 << 20).unwrap();
    assert!(config.contains("CONFIG_EXT4_FS="));
}

#[test]
fn the_modules_are_an_image_with_what_modprobe_needs() {
    let Some(kernel) = super::support::kernel() else { return };
    Tool::new("/sbin/e2fsck").arg("-fn").arg(kernel.modules()).capture(SOON).unwrap();
    let image = Fs::open(File::open(kernel.modules()).unwrap()).unwrap();
    let read = |path: &str| image.read_file(image.resolve(path).unwrap()).unwrap();
    let dependencies = String::from_utf8(read("modules.dep")).unwrap();
    let line = dependencies.lines().find(|line| line.contains("/virtio_net.ko:")).unwrap();
    assert!(line.ends_with("kernel/drivers/virtio/virtio_ring.ko"), "{line}");
    let first = dependencies.lines().next().unwrap().split(':').next().unwrap();
    Modinfo::of_module(&read(first)).unwrap();
}

/// The indexes that do not depend on the order among equals are, byte for byte, what kmod's own
/// program makes of the same modules.
#[test]
fn the_indexes_are_those_of_depmod() {
    let Some(kernel) = super::support::kernel() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("lib/modules").join(kernel.release());
    fs::create_private_dir(&tree).unwrap();
    let image = Fs::open(File::open(kernel.modules()).unwrap()).unwrap();
    let ours = |name: &str| image.read_file(image.resolve(name).unwrap()).unwrap();
    let dump = format!("rdump / {}", tree.display());
    Tool::new("/sbin/debugfs").args(["-R", &dump]).arg(kernel.modules()).capture(SOON).unwrap();
    let depmod = Tool::new("/sbin/depmod").arg("-b").arg(dir.path()).arg(kernel.release());
    match depmod.capture(SOON) {
        Err(HostError::NoProgram { .. }) => {
            return banger_testkit::skipped("depmod is not installed");
        }
        other => drop(other.unwrap()),
    }
    for name in ["modules.alias.bin", "modules.builtin.bin", "modules.builtin.alias.bin"] {
        assert!(fs::read_bounded(&tree.join(name), 1 << 24).unwrap() == ours(name), "{name}");
    }
}

#[test]
fn an_initramfs_is_made_once_for_each_program() {
    let Some(kernel) = super::support::kernel() else { return };
    let home = super::support::home();
    let dir = tempfile::tempdir().unwrap();
    let program = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write_atomic(&path, content).unwrap();
        path
    };
    let (one, same, other) = (program("1", b"one"), program("2", b"one"), program("3", b"three"));
    let made = |program: &Path| kernel.initramfs(&home, program).unwrap();
    let path = made(&one);
    assert_eq!(path, made(&same));
    assert_ne!(path, made(&other));
    let bytes = fs::read_bounded(&path, 1 << 26).unwrap();
    assert!(bytes.windows(13).any(|window| window == b"modules/order"));

    // What is cut short is made again; several at once agree.
    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(made(&one), path));
        }
    });
    assert!(fs::read_bounded(&path, 1 << 26).unwrap() == bytes);
    for path in [path, made(&other)] {
        fs::remove_all(&path).unwrap();
    }
}

#[test]
fn opening_a_kernel_is_cheap() {
    let Some(kernel) = super::support::kernel() else { return };
    let home = super::support::home();
    let deadline = Deadline::after(Duration::from_secs(1));
    for _ in 0..20 {
        banger_image::Kernel::open(&home, kernel.name()).unwrap();
    }
    assert!(!deadline.passed(), "opening reads little, whatever the size of the kernel");
}

#[test]
fn unknown_kernels_are_told_with_what_can_be_made() {
    let home = super::support::home();
    let name = "no-such-kernel".parse().unwrap();
    let error = banger_image::Kernel::ensure(&home, &name, &banger_model::Silent).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("there is no kernel no-such-kernel: here are "), "{text}");
    assert!(text.ends_with("can be made: debian-cloud"), "{text}");
}
