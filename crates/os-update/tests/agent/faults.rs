//! What must not change when something else goes wrong.

use std::fs;

use banger_trust::SecretKey;
use banger_update::{BootLoader as _, Grub, HostFiles, Slot, SlotStatus, State};
use os_update::agent::{AgentError, Orders, Outcome, Reboot, Run, Signatures};
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release, run};
use crate::server::Server;

const DRY: Orders = Orders { run: Run::Dry, ..PLAIN };

/// An appliance with 2.0.0 in its passive slot.
fn staged() -> (Appliance, Server) {
    let mut appliance = Appliance::new();
    Release::new("2.0.0").publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    appliance.apply(PLAIN).unwrap();
    (appliance, server)
}

/// One that has booted 2.0.0, on trial.
fn on_trial() -> (Appliance, Server) {
    let (appliance, server) = staged();
    appliance.activate(PLAIN).unwrap();
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    (appliance, server)
}

#[test]
fn a_server_that_does_not_answer_takes_nothing_away() {
    let (mut appliance, server) = staged();
    drop(server);
    assert!(appliance.check(PLAIN).is_err());
    let record = appliance.record();
    assert!(matches!(record.state, State::Staged(..)) && record.last_error.is_some());
    assert!(matches!(appliance.activate(PLAIN), Ok(Outcome::OnTrial(_))));
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    appliance.set(Key::HealthCommand, "/bin/false");
    appliance.set(Key::HealthDeadline, "1s");
    assert!(appliance.healthcheck().is_err());
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    // Whether nobody answers, or the same is offered again.
    assert!(appliance.apply(PLAIN).is_err());
    assert!(matches!(appliance.record().state, State::RolledBack { .. }));
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    assert_eq!(appliance.apply(PLAIN).unwrap_err().exit_code(), 3);
    assert!(matches!(appliance.record().state, State::RolledBack { .. }));
}

#[test]
fn t06_what_is_activated_is_signed_by_a_key_of_today() {
    let mut appliance = Appliance::new();
    Release::new("2.0.0").publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    let key = appliance.secret.public().to_base64();
    let other = SecretKey::from_seed([8; 32]).public().to_base64();
    for (then, now) in [("", &key), (&key, &other)] {
        appliance.set(Key::Pubkey, then);
        let signatures = if then.is_empty() { Signatures::Insecure } else { Signatures::Required };
        appliance.apply(Orders { signatures, ..PLAIN }).unwrap();
        appliance.set(Key::Pubkey, now);
        let error = appliance.activate(PLAIN).unwrap_err();
        assert!(matches!(error, AgentError::StagedUntrusted { .. }), "{error}");
        assert_eq!((error.exit_code(), appliance.boot("2.0.0")), (5, Slot::A));
    }
    // What is staged once more, by the key of today, is.
    appliance.set(Key::Pubkey, &key);
    appliance.apply(PLAIN).unwrap();
    assert!(matches!(appliance.activate(PLAIN), Ok(Outcome::OnTrial(_))));
}

#[test]
fn dry_runs_write_nothing_whatever_they_find() {
    let (mut appliance, _server) = staged();
    let kernel = appliance.path("boot/os/b/vmlinuz");
    let good = fs::read(&kernel).unwrap();
    fs::write(&kernel, b"damaged").unwrap();
    let before = (appliance.record(), appliance.bootable());
    assert!(matches!(
        appliance.agent().activate(DRY, Reboot::Later),
        Err(AgentError::Corrupted { .. })
    ));
    appliance.set(Key::MaintenanceWindow, "03:00-03:00");
    assert!(appliance.apply(DRY).is_err());
    assert_eq!((appliance.record(), appliance.bootable()), before);
    appliance.set(Key::MaintenanceWindow, "");
    fs::write(&kernel, good).unwrap();
    // The trial is over, and nobody has said so yet.
    appliance.activate(PLAIN).unwrap();
    for _ in 0..3 {
        assert_eq!(appliance.boot("2.0.0"), Slot::B);
    }
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    let before = (appliance.record(), appliance.bootable());
    assert!(run(appliance.agent().healthcheck(DRY, Reboot::Later)).is_ok());
    assert_eq!((appliance.record(), appliance.bootable()), before);
}

#[test]
fn f11_a_trial_that_cannot_be_judged_is_given_up() {
    let version: fn(&Appliance) = |a| fs::write(a.path("version"), "VERSION_ID=12\n").unwrap();
    let state: fn(&Appliance) = |a| {
        fs::remove_dir_all(a.path("state")).unwrap();
        fs::write(a.path("state"), "no directory").unwrap();
    };
    for damage in [version, state] {
        let (appliance, _server) = on_trial();
        damage(&appliance);
        assert!(appliance.healthcheck().is_err());
        let view = Grub::new(&HostFiles, appliance.layout()).view().unwrap();
        assert_eq!((view.next(), view.b), (Some(Slot::A), SlotStatus::Bad));
    }
    // What proved itself is left alone.
    let (appliance, _server) = on_trial();
    appliance.healthcheck().unwrap();
    version(&appliance);
    assert!(appliance.healthcheck().is_err());
    assert_eq!(Grub::new(&HostFiles, appliance.layout()).view().unwrap().next(), Some(Slot::B));
}

#[test]
fn f04_a_health_check_waits_for_whoever_is_at_work() {
    let (mut appliance, _server) = on_trial();
    appliance.set(Key::HealthDeadline, "20s");
    let lock = banger_host::lock::FileLock::acquire(&appliance.path("state/lock")).unwrap();
    let (begin, begun) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        begun.recv().unwrap();
        drop(lock);
    });
    begin.send(()).unwrap();
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Committed(_))));
    other.join().unwrap();
}

#[test]
fn f08_a_committed_system_that_cannot_be_loaded_any_more_is_told_of_and_made_anew() {
    let (appliance, _server) = on_trial();
    appliance.healthcheck().unwrap();
    // The boot loader has taken the other one.
    appliance.boot("2.0.0");
    appliance.say_booted(Slot::A, "none", "1.0.0");
    assert!(matches!(appliance.healthcheck(), Ok(Outcome::Healthy(_))));
    let record = appliance.record();
    assert!(matches!(record.state, State::Failed(_)), "{:?}", record.state);
    assert!(record.last_error.unwrap().contains("slot A runs"));
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
    let activated = appliance.activate(PLAIN);
    assert!(matches!(activated, Ok(Outcome::OnTrial(_))), "{activated:?}");
}

#[test]
fn what_is_staged_can_be_dropped_and_what_runs_goes_on() {
    let (appliance, _server) = staged();
    let dropped = appliance.agent().rollback(PLAIN, Reboot::Later);
    assert!(matches!(dropped, Ok(Outcome::Dropped(_))), "{dropped:?}");
    assert!(matches!(appliance.activate(PLAIN), Err(AgentError::NothingStaged(_))));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
}

#[test]
fn t02_a_hint_to_the_signature_of_something_else_is_not_the_last_word() {
    for elsewhere in ["vmlinuz.sig", "page.html", "nothing"] {
        let mut appliance = Appliance::new();
        let www = appliance.path("www");
        let hint = format!(r#", "metadata_sig_url": "{elsewhere}""#);
        Release::new("2.0.0").with(&hint).publish(&www, &appliance.secret);
        fs::write(www.join("page.html"), "<html>log in</html>").unwrap();
        let server = Server::of(&www);
        appliance.set(Key::Server, &server.url);
        assert!(matches!(appliance.check(PLAIN), Ok(Outcome::Available(_))), "{elsewhere}");
        fs::remove_file(www.join("latest.json.sig")).unwrap();
        assert_eq!(appliance.check(PLAIN).unwrap_err().exit_code(), 5, "{elsewhere}");
    }
}

#[test]
fn stepping_stones_are_installed_from_where_they_lie() {
    let mut appliance = Appliance::new();
    let www = appliance.path("www");
    let via = r#", "min_compatible_version": "3.0.0", "via": [
        {"version": "3.0.0", "url": "v3/latest.json"}, {"version": "2.0.0", "url": "v2/latest.json"},
        {"version": "3.5.0", "url": "withdrawn/latest.json"}]"#;
    Release::new("4.0.0").with(via).publish(&www, &appliance.secret);
    Release::new("3.0.0")
        .with(r#", "min_compatible_version": "2.0.0""#)
        .publish(&www.join("v3"), &appliance.secret);
    let second = Release { kernel: b"kernel 2".to_vec(), ..Release::new("2.0.0") };
    second.publish(&www.join("v2"), &appliance.secret);
    let server = Server::of(&www);
    appliance.set(Key::Server, &server.url);
    // The furthest is gone, and the next needs the one before.
    let outcome = appliance.apply(PLAIN).unwrap();
    assert!(matches!(&outcome, Outcome::Staged(v) if v.to_string() == "2.0.0"), "{outcome:?}");
    assert_eq!(fs::read(appliance.path("boot/os/b/vmlinuz")).unwrap(), b"kernel 2");
    fs::remove_dir_all(www.join("v2")).unwrap();
    assert_eq!(appliance.check(PLAIN).unwrap_err().exit_code(), 4, "blocked");
}

/// Nothing that writes may begin, and nothing has changed.
fn assert_waits_for_a_restart(appliance: &Appliance) {
    let before = (appliance.record(), appliance.bootable());
    let back = appliance.agent().rollback(PLAIN, Reboot::Later);
    for outcome in [appliance.apply(PLAIN), appliance.check(PLAIN), appliance.activate(PLAIN), back]
    {
        let error = outcome.unwrap_err();
        assert!(matches!(error, AgentError::RestartFirst(_)), "{error}");
        assert_eq!(error.exit_code(), 3, "{error}");
    }
    assert_eq!((appliance.record(), appliance.bootable()), before);
}

#[test]
fn f08_nothing_is_written_while_what_was_given_up_still_runs() {
    let (mut appliance, _server) = on_trial();
    appliance.set(Key::HealthCommand, "/bin/false");
    appliance.set(Key::HealthDeadline, "1s");
    assert_eq!(appliance.healthcheck().unwrap_err().exit_code(), 6);
    // What lies in A is all that there is now.
    assert_waits_for_a_restart(&appliance);
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    let next = Release { kernel: b"another".to_vec(), ..Release::new("2.0.1") };
    next.publish(&appliance.path("www"), &appliance.secret);
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));

    // The same on the way back: B is what goes on.
    let (mut appliance, _server) = on_trial();
    appliance.healthcheck().unwrap();
    appliance.agent().rollback(PLAIN, Reboot::Later).unwrap();
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    appliance.set(Key::HealthCommand, "/bin/false");
    appliance.set(Key::HealthDeadline, "1s");
    assert_eq!(appliance.healthcheck().unwrap_err().exit_code(), 6);
    assert_waits_for_a_restart(&appliance);
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
}

#[test]
fn nothing_begins_while_a_boot_is_still_to_come_or_its_verdict() {
    let (appliance, _server) = staged();
    appliance.activate(PLAIN).unwrap();
    let refused = |appliance: &Appliance| {
        let before = (appliance.record(), appliance.bootable());
        let errors = [appliance.apply(PLAIN), appliance.check(PLAIN), appliance.activate(PLAIN)];
        assert_eq!((appliance.record(), appliance.bootable()), before);
        errors.map(Result::unwrap_err)
    };
    for error in refused(&appliance) {
        assert!(matches!(error, AgentError::RestartFirst(_)) && error.exit_code() == 3, "{error}");
    }
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    for error in refused(&appliance) {
        assert!(matches!(error, AgentError::Undecided(_)) && error.exit_code() == 3, "{error}");
    }
}

#[test]
fn f13_f14_what_was_given_up_is_not_offered_again_when_the_state_is_lost() {
    let lose: fn(&Appliance) = |a| fs::remove_file(a.path("state/state.json")).unwrap();
    let lose_all: fn(&Appliance) = |a| fs::remove_dir_all(a.path("state")).unwrap();
    let sick = |appliance: &mut Appliance| {
        appliance.set(Key::HealthCommand, "/bin/false");
        appliance.set(Key::HealthDeadline, "1s");
    };
    let assert_refused = |appliance: &Appliance| {
        let before = appliance.bootable();
        assert_eq!(appliance.apply(PLAIN).unwrap_err().exit_code(), 3);
        assert_eq!(appliance.bootable(), before);
    };
    // After the verdict: the history knows.
    let (mut appliance, _server) = on_trial();
    sick(&mut appliance);
    assert!(appliance.healthcheck().is_err());
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    lose(&appliance);
    assert_refused(&appliance);
    // Before it: what lies in the slot tells.
    let (mut appliance, _server) = on_trial();
    sick(&mut appliance);
    lose_all(&appliance);
    assert!(appliance.healthcheck().is_err());
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    assert_refused(&appliance);
    // And after trials of which nobody else knows than the boot loader.
    let (appliance, _server) = on_trial();
    (1..3).for_each(|_| assert_eq!(appliance.boot("2.0.0"), Slot::B));
    lose_all(&appliance);
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    assert_refused(&appliance);
}
