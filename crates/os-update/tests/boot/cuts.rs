//! The power goes at any instant of an update: whatever boots then is whole, and says what it is.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::UPDATE;
use crate::disk::{Disk, Firmware, Kit, Loader, System};
use crate::machine::{Machine, Seen};
use crate::recording::{Cut, Recording};

/// Set to the number of random cuts.
const ROUNDS: &str = "BANGER_POWER_CUTS";
/// Random cuts in a plain run, besides those behind each step.
const DEFAULT_ROUNDS: u64 = 12;
/// Machines at once.
const AT_ONCE: usize = 2;

#[test]
fn the_power_may_go_at_any_moment_of_an_update() {
    let kit = match Kit::find() {
        Ok(kit) => kit,
        Err(missing) => return banger_testkit::skipped(&missing),
    };
    let disk = Disk::make(&kit, System::new("2.0.0"), UPDATE, Loader::Grub);
    let (seen, recording) = Machine::record(&kit, &disk, Firmware::Bios);
    seen.assert_ends("2.0.0", "Committed", None);
    assert_eq!(seen.boots(), ["1.0.0", "2.0.0"]);
    let steps = recording.steps();
    println!("{} requests to the disk, {} steps", recording.len(), steps.len());
    assert_every_step(&steps);
    let rounds = std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok());
    let random = (0..rounds.unwrap_or(DEFAULT_ROUNDS)).map(|number| recording.any(number));
    let cuts: Vec<Cut> = steps.into_iter().chain(random).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (version, state) = try_cut(&kit, &recording, cut);
                    println!("cut at {}, {} lost: {version}, {state}", cut.step, cut.lost.len());
                }
            });
        }
    });
}

/// Each state of apply, activate and commit is among the steps, and what the boot loader is told
/// and what it counts down itself.
fn assert_every_step(steps: &[Cut]) {
    let at = |wanted: &str| {
        let found = steps.iter().position(|cut| cut.step.contains(wanted));
        found.unwrap_or_else(|| panic!("{wanted} is not among {steps:#?}"))
    };
    let order = [
        "state Checking",
        "state Available",
        "state Downloading",
        "state Verifying",
        "state Staging",
        "state Staged",
        "state Trial",
        "ba, a good, b 1",
        "ba, a good, b 0",
        "ba, a good, b good",
        "state Committed",
    ];
    assert!(order.map(at).is_sorted(), "{steps:#?}");
}

/// What a machine makes of the disk that a cut leaves.
fn try_cut(kit: &Kit, recording: &Recording, cut: &Cut) -> (String, String) {
    let disk = recording.disk_after(cut, &cut.step.replace([' ', ','], "-"));
    let seen = Machine::start(kit, &disk, Firmware::Bios).run_to_end();
    std::fs::remove_file(&disk.path).unwrap();
    assert_settled(&seen, cut)
}

/// Whatever runs is whole, since it says what it is, and what is remembered fits it.
fn assert_settled(seen: &Seen, cut: &Cut) -> (String, String) {
    let (version, state) = seen.end();
    let fits = match version.as_str() {
        "1.0.0" => ["Idle", "Available", "Staged", "Failed", "RolledBack"].contains(&&*state),
        "2.0.0" => state == "Committed",
        _ => false,
    };
    assert!(fits, "{version} runs, {state}, after {cut:?}:\n{}", seen.text);
    (version, state)
}
