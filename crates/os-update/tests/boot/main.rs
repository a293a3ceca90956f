//! Real GRUB, Debian's kernel and an initramfs with `os-update` in it, under QEMU: whatever
//! happens to an update, the old system runs or the new one, and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]
#![expect(clippy::disallowed_methods, reason = "these tests make and damage disks")]

mod cuts;
mod disk;
mod image;
mod initramfs;
mod kernel;
mod machine;
mod recording;
mod systemd;

use disk::{Disk, Firmware, Loader, System};
use machine::Machine;

/// Serves and applies the release that lies on the disk, and starts it.
const UPDATE: &str = "serve\nos-update apply && os-update activate --reboot\n";
/// The same, and what the new system does when it has proved itself.
const UPDATE_AND: &str = "printf '%s\\n' '@PLAN' > /boot/plan\nserve\n\
                          os-update apply && os-update activate --reboot\n";
/// What ends in a panic of the kernel, and soon in a boot: PID 1 ends.
const PANIC: &str = "echo 1 > /proc/sys/kernel/panic; exit 1";
/// What never does anything again, under a watchdog.
const HANG: &str = "insmod /softdog soft_margin=2; exec 3>/dev/watchdog; echo @HANGS; \
                    while :; do sleep 1000; done";
/// What a system says of one that was tried and never said anything.
const NEVER_UP: &str = "it did not prove itself in any of its boots";

/// What a test needs, or nothing after saying what is missing.
macro_rules! needed {
    () => {
        match disk::Kit::find() {
            Ok(kit) => kit,
            Err(missing) => return banger_testkit::skipped(&missing),
        }
    };
}

#[test]
fn a_good_update_is_committed_under_uefi() {
    let kit = needed!();
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::Grub);
    let seen = Machine::start(&kit, &disk, Firmware::Uefi).run_to_end();
    seen.assert_ends("2.0.0", "Committed", None);
}

#[test]
fn a_system_that_panics_or_hangs_is_given_up() {
    let kit = needed!();
    let panics = Disk::make(&kit, System::new("2.0.0").with(PANIC), UPDATE, Loader::Grub);
    let seen = Machine::start(&kit, &panics, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some(NEVER_UP));

    let hangs = Disk::make(&kit, System::new("2.0.0").with(HANG), UPDATE, Loader::Grub);
    let seen = Machine::start(&kit, &hangs, Firmware::Bios).run_to_end();
    assert!(seen.text.contains("@HANGS"), "{}", seen.text);
    seen.assert_ends("1.0.0", "RolledBack", Some(NEVER_UP));
}

#[test]
fn a_system_that_cannot_even_be_judged_is_given_up() {
    let kit = needed!();
    let nameless = System::new("2.0.0").with("echo nonsense > /etc/version");
    let disk = Disk::make(&kit, nameless, UPDATE, Loader::Grub);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("it was given up"));
}

#[test]
fn a_system_that_is_not_well_is_given_up() {
    let kit = needed!();
    let sick =
        System::new("2.0.0").with("echo health_command=/bin/false >> /etc/kubesolo/update.conf");
    let disk = Disk::make(&kit, sick, UPDATE, Loader::Grub);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("the health check failed: command"));
}

#[test]
fn a_slot_that_is_damaged_is_not_activated_and_not_started() {
    let kit = needed!();
    let plan = "serve\nos-update apply\n\
                printf x | dd of=/boot/os/b/vmlinuz bs=1 seek=4096 conv=notrunc; sync\n\
                os-update activate --reboot\nreport\n\
                os-update apply && os-update activate\n\
                echo x > /boot/os/b/vmlinuz; sync; reboot -f\n";
    let disk = Disk::make(&kit, System::new("2.0.0"), plan, Loader::Grub);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_told("1.0.0", "Failed", "slot B does not hold what was staged in it");
    seen.assert_ends("1.0.0", "RolledBack", Some("the boot loader could not start it"));
    assert_eq!(seen.boots(), ["1.0.0"]);
}

#[test]
fn a_boot_loader_that_reads_another_environment_is_told_of() {
    let kit = needed!();
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::DeafGrub);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("the boot loader ignores our environment"));
}

#[test]
fn a_damaged_copy_of_the_environment_does_not_count_for_grub_either() {
    let kit = needed!();
    let plan = "serve\nos-update apply && os-update activate\n\
                sed 's/^slot_b=1/slot_b=x/' /boot/os/env1/env > /tmp/env\n\
                cat /tmp/env > /boot/os/env1/env; sync; reboot -f\n";
    let disk = Disk::make(&kit, System::new("2.0.0"), plan, Loader::Grub);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("2.0.0", "Committed", None);
}

#[test]
fn systemd_boot_starts_what_was_updated() {
    let kit = needed!();
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::SystemdBoot);
    let seen = Machine::start(&kit, &disk, Firmware::Uefi).run_to_end();
    seen.assert_ends("2.0.0", "Committed", None);
    assert_eq!(seen.boots(), ["1.0.0", "2.0.0"]);
    // It stays.
    let seen = Machine::start(&kit, &disk, Firmware::Uefi).run_to_end();
    seen.assert_ends("2.0.0", "Committed", None);
}

#[test]
fn systemd_boot_goes_back_to_the_old_entry() {
    let kit = needed!();
    let panics = System::new("2.0.0").with(PANIC);
    let disk = Disk::make(&kit, panics, UPDATE, Loader::SystemdBoot);
    let seen = Machine::start(&kit, &disk, Firmware::Uefi).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some(NEVER_UP));
}

#[test]
fn what_ran_goes_on_if_the_old_system_is_lost_on_the_way_back() {
    let kit = needed!();
    let back = "os-update rollback; echo x > /boot/os/a/vmlinuz; sync; reboot -f";
    let plan = UPDATE_AND.replace("@PLAN", back);
    let disk = Disk::make(&kit, System::new("2.0.0"), &plan, Loader::Grub);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_told("2.0.0", "Committed", "");
    let reason = "the boot loader could not start it; 2.0.0 in slot B goes on";
    seen.assert_ends("2.0.0", "Failed", Some(reason));
}

#[test]
fn systemd_boot_tries_the_old_system_and_it_proves_itself() {
    let kit = needed!();
    let plan = UPDATE_AND.replace("@PLAN", "os-update rollback --reboot");
    let disk = Disk::make(&kit, System::new("2.0.0"), &plan, Loader::SystemdBoot);
    let seen = Machine::start(&kit, &disk, Firmware::Uefi).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("an operator rolled it back"));
    assert_eq!(seen.boots(), ["1.0.0", "2.0.0", "1.0.0"]);
}
