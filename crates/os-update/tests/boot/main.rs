//! Real GRUB, Debian's kernel and an initramfs with `os-update` in it, under QEMU: whatever
//! happens to an update, the old system runs or the new one, and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]
#![expect(clippy::disallowed_methods, reason = "these tests make and damage disks")]

mod disk;
mod initramfs;
mod kernel;
mod machine;

use std::time::Duration;

use disk::{Disk, Firmware, Loader, System};
use machine::{Machine, Seen};

/// Serves and applies the release that lies on the disk, and starts it.
const UPDATE: &str = "serve\nos-update apply && os-update activate --reboot\n";

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
fn a_good_update_is_committed() {
    let kit = needed!();
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::Ours);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("2.0.0", "Committed", None);
    assert_eq!(seen.boots(), ["1.0.0", "2.0.0"]);
}

#[test]
fn a_good_update_is_committed_under_uefi() {
    let kit = needed!();
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::Ours);
    let seen = Machine::start(&kit, &disk, Firmware::Uefi).run_to_end();
    seen.assert_ends("2.0.0", "Committed", None);
}

#[test]
fn a_system_that_panics_or_hangs_is_given_up() {
    let kit = needed!();
    let panics = Disk::make(&kit, System::new("2.0.0").with("exit 1"), UPDATE, Loader::Ours);
    let seen = Machine::start(&kit, &panics, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("it did not prove itself in any of its boots"));

    let hangs = System::new("2.0.0").with("echo @HANGS; while :; do sleep 1000; done");
    let hangs = Disk::make(&kit, hangs, UPDATE, Loader::Ours);
    // The test is the watchdog.
    Machine::start(&kit, &hangs, Firmware::Bios).run_to("@HANGS").cut();
    let seen = Machine::start(&kit, &hangs, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("it did not prove itself in any of its boots"));
}

#[test]
fn a_system_that_is_not_well_is_given_up() {
    let kit = needed!();
    let sick =
        System::new("2.0.0").with("echo health_command=/bin/false >> /etc/kubesolo/update.conf");
    let disk = Disk::make(&kit, sick, UPDATE, Loader::Ours);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("the health check failed: command"));
}

#[test]
fn a_slot_that_is_damaged_after_it_was_activated_is_not_started() {
    let kit = needed!();
    let after = "serve\nos-update apply && os-update activate\necho x > /boot/os/b/vmlinuz\n\
                 sync; reboot -f\n";
    let disk = Disk::make(&kit, System::new("2.0.0"), after, Loader::Ours);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("the boot loader could not start it"));
}

#[test]
fn a_boot_loader_that_reads_another_environment_is_told_of() {
    let kit = needed!();
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::Deaf);
    let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
    seen.assert_ends("1.0.0", "RolledBack", Some("the boot loader ignores our environment"));
}

/// Set to the number of cuts.
const ROUNDS: &str = "BANGER_POWER_CUTS";
/// Cuts in a plain run.
const DEFAULT_ROUNDS: u64 = 4;
/// An update with both boots takes longer than this nowhere.
const LONGEST: Duration = Duration::from_secs(120);

#[test]
fn the_power_may_go_at_any_moment_of_an_update() {
    let kit = needed!();
    let rounds = std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok());
    let rounds: u64 = rounds.unwrap_or(DEFAULT_ROUNDS);
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::Ours);
    let whole = {
        let measured = disk.copy("measured");
        let begun = std::time::Instant::now();
        Machine::start(&kit, &measured, Firmware::Bios).run_to_end().assert_ends(
            "2.0.0",
            "Committed",
            None,
        );
        begun.elapsed().min(LONGEST)
    };
    for round in 0..rounds {
        let disk = disk.copy(&format!("round{round}"));
        // Evenly over the time that an update takes, and each round of a longer run elsewhere.
        let part = (f64::from(u32::try_from(round).unwrap()) * 0.618_034 + 0.2).fract();
        let at = whole.mul_f64(part);
        let cut = Machine::start(&kit, &disk, Firmware::Bios).run_for(at);
        let seen = Machine::start(&kit, &disk, Firmware::Bios).run_to_end();
        let (version, state) =
            assert_settled(&seen, &format!("round {round}, cut after {at:?}, after\n{}", cut.text));
        println!("round {round}: cut after {:.2} s: {version}, {state}", at.as_secs_f32());
        std::fs::remove_file(&disk.path).unwrap();
    }
}

/// Whatever runs is whole, since it says what it is, and what is remembered fits it.
fn assert_settled(seen: &Seen, context: &str) -> (String, String) {
    let (version, state) = seen.end();
    let fits = match version.as_str() {
        "1.0.0" => {
            ["Idle", "Available", "Staged", "Failed", "RolledBack"].contains(&state.as_str())
        }
        "2.0.0" => state == "Committed",
        _ => false,
    };
    assert!(fits, "{version} runs, {state}: {context}\nthen\n{}", seen.text);
    (version, state)
}
