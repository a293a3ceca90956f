//! The way back to the old system, as an operator wants it.

use std::fs;

use banger_update::{BootLoader as _, Engine, Grub, HostFiles, Slot, SlotStatus, State};
use os_update::agent::{AgentError, GivenUp, Orders, Outcome, Reboot, Run};
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release};
use crate::server::Server;

/// An appliance on which 2.0.0 has proved itself in B, with 1.0.0 still in A.
fn updated() -> (Appliance, Server) {
    let mut appliance = Appliance::new();
    Release::new("2.0.0").publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    appliance.apply(PLAIN).unwrap();
    appliance.activate(PLAIN).unwrap();
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    appliance.healthcheck().unwrap();
    (appliance, server)
}

fn back(appliance: &Appliance) -> Result<Outcome, AgentError> {
    appliance.agent().rollback(PLAIN, Reboot::Later)
}

fn status(appliance: &Appliance, slot: Slot) -> SlotStatus {
    Grub::new(&HostFiles, appliance.layout()).view().unwrap().status(slot)
}

fn assert_returning(outcome: &Result<Outcome, AgentError>) {
    let to_a = matches!(outcome, Ok(Outcome::Returning { slot: Slot::A, from })
        if from.to_string() == "2.0.0");
    assert!(to_a, "{outcome:?}");
}

#[test]
fn the_old_system_proves_itself_and_what_was_given_up_is_not_offered_again() {
    let (appliance, _server) = updated();
    assert_returning(&back(&appliance));
    assert!(matches!(appliance.record().state, State::Returning(_)));
    // Once more is as good as once.
    assert_returning(&back(&appliance));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    assert_eq!(status(&appliance, Slot::A), SlotStatus::Trial { left: 2 });
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Returned(_))));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    let record = appliance.record();
    assert!(matches!(record.state, State::RolledBack { to: Slot::A, .. }), "{:?}", record.state);
    assert_eq!(record.last_error.as_deref(), Some("an operator rolled it back"));
    assert_eq!(status(&appliance, Slot::B), SlotStatus::Good, "should A be lost");
    assert_eq!(appliance.apply(PLAIN).unwrap_err().exit_code(), 3, "it was given up");
    let history = Engine::history(&HostFiles, &appliance.path("state"));
    let told: Vec<_> = history.iter().rev().map(|entry| entry.state.as_str()).collect();
    assert!(told.contains(&"Returning") && told.contains(&"RolledBack"), "{told:?}");
}

#[test]
fn what_ran_goes_on_if_the_old_system_is_not_well() {
    let (mut appliance, _server) = updated();
    assert_returning(&back(&appliance));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    appliance.set(Key::HealthCommand, "/bin/false");
    appliance.set(Key::HealthDeadline, "1s");
    assert_eq!(appliance.healthcheck().unwrap_err().exit_code(), 6);
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    let record = appliance.record();
    assert!(matches!(record.state, State::Failed(_)), "{:?}", record.state);
    let error = record.last_error.unwrap();
    assert!(error.starts_with("slot A did not prove itself: the health check failed"), "{error}");
    assert!(error.ends_with("2.0.0 in slot B goes on"), "{error}");
    assert!(record.failed.is_empty(), "2.0.0 was not given up after all");
    assert_eq!(status(&appliance, Slot::B), SlotStatus::Good);
    assert!(matches!(back(&appliance), Err(AgentError::NoWayBack)));
}

#[test]
fn f11_what_ran_goes_on_if_the_old_system_never_comes_up_or_cannot_be_judged() {
    let (appliance, _server) = updated();
    assert_returning(&back(&appliance));
    for _ in 0..3 {
        assert_eq!(appliance.boot("2.0.0"), Slot::A);
    }
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Healthy(_))));
    assert!(matches!(appliance.record().state, State::Failed(_)));

    let (appliance, _server) = updated();
    assert_returning(&back(&appliance));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    fs::write(appliance.path("version"), "VERSION_ID=12\n").unwrap();
    assert!(appliance.healthcheck().is_err());
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Healthy(_))));
    assert!(matches!(appliance.record().state, State::Failed(_)));
}

#[test]
fn another_system_than_the_one_that_was_to_be_tried_is_not_believed() {
    let (appliance, _server) = updated();
    assert_returning(&back(&appliance));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    appliance.say_booted(Slot::A, "another nonce", "1.0.0");
    assert_eq!(appliance.healthcheck().unwrap_err().exit_code(), 6);
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
}

#[test]
fn an_operator_can_stop_it_while_the_old_system_is_tried() {
    let (appliance, _server) = updated();
    assert_returning(&back(&appliance));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    assert!(matches!(back(&appliance), Ok(Outcome::RolledBack)));
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    assert!(matches!(appliance.record().state, State::Failed(_)));
}

#[test]
fn there_is_a_way_back_long_after_the_update_and_none_before_it() {
    assert!(matches!(back(&Appliance::new()), Err(AgentError::NoWayBack)));
    let (appliance, _server) = updated();
    assert!(matches!(appliance.check(PLAIN), Ok(Outcome::UpToDate(_))));
    assert_eq!(appliance.record().state, State::Idle);
    assert_returning(&back(&appliance));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    appliance.healthcheck().unwrap();
    assert_eq!(appliance.apply(PLAIN).unwrap_err().exit_code(), 3, "it was given up");
}

#[test]
fn f13_what_was_given_up_is_gone_back_to_only_if_somebody_insists() {
    let (appliance, _server) = updated();
    assert_returning(&back(&appliance));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    appliance.healthcheck().unwrap();
    // Now, and when the state is about something else.
    for _ in 0..2 {
        let before = (appliance.record(), appliance.bootable());
        let error = back(&appliance).unwrap_err();
        assert!(matches!(error, AgentError::GivenUp { .. }) && error.exit_code() == 3, "{error}");
        assert_eq!((appliance.record(), appliance.bootable()), before);
        Release::new("1.0.0").publish(&appliance.path("www"), &appliance.secret);
        let _ = appliance.check(PLAIN);
    }
    let insisting = Orders { given_up: GivenUp::Wanted, ..PLAIN };
    let outcome = appliance.agent().rollback(insisting, Reboot::Later);
    assert!(matches!(outcome, Ok(Outcome::Returning { slot: Slot::B, .. })), "{outcome:?}");
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Returned(_))));
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
}

#[test]
fn a_dry_run_only_tells() {
    let (appliance, _server) = updated();
    let before = (appliance.record(), appliance.bootable());
    let dry = Orders { run: Run::Dry, ..PLAIN };
    assert_returning(&appliance.agent().rollback(dry, Reboot::Later));
    assert_eq!((appliance.record(), appliance.bootable()), before);
}

#[test]
fn f08_there_is_no_way_back_to_what_cannot_be_read() {
    let (appliance, _server) = updated();
    fs::remove_file(appliance.path("boot/os/a/kubesolo-os.gz")).unwrap();
    let before = appliance.bootable();
    assert!(matches!(back(&appliance), Err(AgentError::NoWayBack)));
    assert_eq!(appliance.bootable(), before);
}
