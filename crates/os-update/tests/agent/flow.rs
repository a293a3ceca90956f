//! From a check to a verdict.

use std::fs;

use banger_trust::gates::Hours;
use banger_update::{Slot, State};
use os_update::agent::{AgentError, Orders, Outcome, Run};
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release};
use crate::server::Server;

fn served(release: &Release) -> (Appliance, Server) {
    let mut appliance = Appliance::new();
    release.publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    (appliance, server)
}

#[test]
fn a_good_update_is_staged_tried_and_committed() {
    let release = Release::new("2.0.0");
    let (appliance, _server) = served(&release);
    assert!(matches!(appliance.check(PLAIN), Ok(Outcome::Available(_))));
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
    assert_eq!(fs::read(appliance.path("boot/os/b/vmlinuz")).unwrap(), release.kernel);
    assert_eq!(appliance.boot("2.0.0"), Slot::A, "staged is not activated");
    // Once more: nothing is fetched again, and it stays staged.
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
    assert!(matches!(appliance.activate(PLAIN), Ok(Outcome::OnTrial(_))));
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Committed(_))));
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    let record = appliance.record();
    assert!(matches!(record.state, State::Committed(..)));
    assert_eq!(record.committed, Some("2.0.0".parse().unwrap()));
    assert!(matches!(appliance.check(PLAIN), Ok(Outcome::UpToDate(_))));
}

#[test]
fn f11_f13_what_is_not_well_is_given_up_and_not_tried_again() {
    let (mut appliance, _server) = served(&Release::new("2.0.0"));
    appliance.set(Key::HealthCommand, "/bin/false");
    appliance.set(Key::HealthDeadline, "1s");
    appliance.apply(PLAIN).unwrap();
    appliance.activate(PLAIN).unwrap();
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    let error = appliance.healthcheck().unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    let record = appliance.record();
    assert!(record.last_error.unwrap().contains("the health check failed: command"));
    assert!(matches!(record.state, State::RolledBack { .. }));
    let before = appliance.bootable();
    let error = appliance.apply(PLAIN).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert_eq!(appliance.bootable(), before);
}

#[test]
fn f11_what_never_comes_up_is_rolled_back_by_the_boot_loader() {
    let (appliance, _server) = served(&Release::new("2.0.0"));
    appliance.apply(PLAIN).unwrap();
    appliance.activate(PLAIN).unwrap();
    for _ in 0..3 {
        assert_eq!(appliance.boot("2.0.0"), Slot::B);
    }
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    // The health unit of the old system settles it.
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Healthy(_))));
    let record = appliance.record();
    assert_eq!(record.last_error.as_deref(), Some("it did not prove itself in any of its boots"));
    assert_eq!(record.failed.len(), 1);
}

#[test]
fn t13_another_version_than_the_signed_one_is_given_up() {
    let (appliance, _server) = served(&Release::new("2.0.0"));
    appliance.apply(PLAIN).unwrap();
    appliance.activate(PLAIN).unwrap();
    assert_eq!(appliance.boot("1.9.0"), Slot::B);
    let error = appliance.healthcheck().unwrap_err().to_string();
    assert!(error.contains("1.9.0 runs, and 2.0.0 was installed"), "{error}");
    assert_eq!(appliance.boot("1.9.0"), Slot::A);
}

#[test]
fn a_slot_that_was_damaged_after_staging_is_not_activated() {
    let (appliance, _server) = served(&Release::new("2.0.0"));
    appliance.apply(PLAIN).unwrap();
    let path = appliance.path("boot/os/b/kubesolo-os.gz");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = appliance.activate(PLAIN).unwrap_err();
    assert!(matches!(error, AgentError::Corrupted { .. }) && error.exit_code() == 5, "{error}");
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    assert!(matches!(appliance.record().state, State::Failed(_)));
    // It is fetched anew.
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
    assert!(matches!(appliance.activate(PLAIN), Ok(Outcome::OnTrial(_))));
}

#[test]
fn a_boot_loader_that_ignores_our_environment_is_told_of() {
    let (appliance, _server) = served(&Release::new("2.0.0"));
    appliance.apply(PLAIN).unwrap();
    appliance.activate(PLAIN).unwrap();
    appliance.boot("2.0.0");
    appliance.count_down(Slot::B, 3);
    appliance.say_booted(Slot::A, "none", "1.0.0");
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Healthy(_))));
    let error = appliance.record().last_error.unwrap();
    assert_eq!(error, "the boot loader ignores our environment");
}

#[test]
fn f04_two_at_once_do_not_meet() {
    let (mut appliance, _server) = served(&Release::new("2.0.0"));
    // A health check waits so long.
    appliance.set(Key::HealthDeadline, "1s");
    fs::create_dir_all(appliance.path("state")).unwrap();
    let _held = banger_host::lock::FileLock::acquire(&appliance.path("state/lock")).unwrap();
    for error in [
        appliance.apply(PLAIN).unwrap_err(),
        appliance.activate(PLAIN).unwrap_err(),
        appliance.healthcheck().unwrap_err(),
    ] {
        assert_eq!(error.exit_code(), 7);
    }
}

#[test]
fn f14_a_state_file_that_makes_no_sense_is_put_aside_and_an_update_goes_on() {
    let (appliance, _server) = served(&Release::new("2.0.0"));
    fs::create_dir_all(appliance.path("state")).unwrap();
    for text in ["", "{", "{\"schema\": 99}", "[]"] {
        fs::write(appliance.path("state/state.json"), text).unwrap();
        assert!(matches!(appliance.check(PLAIN), Ok(Outcome::Available(_))), "{text}");
        assert_eq!(fs::read_to_string(appliance.path("state/state.unusable")).unwrap(), text);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let (appliance, _server) = served(&Release::new("2.0.0"));
    let before = appliance.bootable();
    let dry = Orders { run: Run::Dry, hours: Hours::Keep, ..PLAIN };
    assert!(matches!(appliance.apply(dry), Ok(Outcome::Available(_))));
    assert!(matches!(appliance.check(dry), Ok(Outcome::Available(_))));
    assert_eq!(appliance.bootable(), before);
    assert_eq!(appliance.record(), banger_update::Record::default());
}

#[test]
fn stepping_stones_are_followed_to_the_first_that_can_be_taken() {
    let mut appliance = Appliance::new();
    let www = appliance.path("www");
    let via = r#", "min_compatible_version": "2.0.0", "via": [{"version": "2.1.0", "url": "v2.1/latest.json"}]"#;
    Release::new("3.0.0").with(via).publish(&www, &appliance.secret);
    let absolute = r#", "min_compatible_version": "1.0.0""#;
    let step = Release::new("2.1.0").with(absolute);
    step.publish(&www.join("v2.1"), &appliance.secret);
    // Its files lie beside its own manifest; addresses are those of the server.
    let server = Server::of(&www);
    appliance.set(Key::Server, &server.url);
    let outcome = appliance.check(PLAIN).unwrap();
    assert!(matches!(&outcome, Outcome::Available(v) if v.to_string() == "2.1.0"), "{outcome:?}");
    Release::new("2.2.0").publish(&www.join("v2.1"), &appliance.secret);
    let error = appliance.check(PLAIN).unwrap_err();
    assert!(matches!(error, AgentError::WrongStep { .. }), "{error}");
    Release::new("3.0.0")
        .with(r#", "min_compatible_version": "2.0.0""#)
        .publish(&www, &appliance.secret);
    let error = appliance.check(PLAIN).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(matches!(appliance.record().state, State::Blocked { .. }));
}
