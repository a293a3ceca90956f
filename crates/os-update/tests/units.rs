//! The units that come with the program, as systemd reads them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]
#![expect(clippy::disallowed_methods, reason = "tests run the tools that users have")]

use std::fs;
use std::path::Path;
use std::process::Command;

const UNITS: [&str; 3] = ["os-update.service", "os-update.timer", "os-update-health.service"];

/// What systemd has to say about a unit with a change in it.
fn verify(change: impl Fn(String) -> String) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = fs::read_to_string(Path::new("units").join(unit)).unwrap();
        // Where the program would be.
        let text = text.replace("/usr/bin/os-update", env!("CARGO_BIN_EXE_os-update"));
        fs::write(dir.path().join(unit), change(text)).unwrap();
    }
    let units = UNITS.map(|unit| dir.path().join(unit));
    let output =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Units of the host may have faults; those are not ours.
    let ours = said.lines().filter(|line| line.contains("os-update"));
    (output.status.success(), ours.collect::<Vec<_>>().join("\n"))
}

#[test]
fn systemd_has_nothing_to_say_about_them() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return banger_testkit::skipped("systemd-analyze is not installed: install systemd");
    }
    let (well, said) = verify(|text| text);
    assert!(well && said.is_empty(), "{said}");
    // It would have something to say.
    let (_, said) = verify(|text| text.replace("ExecStart=", "ExecStrat="));
    assert!(said.contains("ExecStrat"), "{said}");
}

/// Each status that is not a failure of the service is one that the program has for refusals.
#[test]
fn a_refusal_is_no_failure_of_the_service() {
    let text = fs::read_to_string("units/os-update.service").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("SuccessExitStatus=")).unwrap();
    assert_eq!(line, "3 4 7", "refused by a gate, blocked, another one at work");
}
