//! Each gate, closed: the exit status, the reason, and that nothing has changed.

use banger_trust::gates::Hours;
use banger_update::State;
use os_update::agent::{Orders, Outcome, Signatures};
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release};
use crate::server::Server;

const FORCE: Orders = Orders { hours: Hours::Ignore, ..PLAIN };

/// Publishes a release, and checks that it is refused with this status and reason, by force, too.
fn refused(release: &Release, change: impl Fn(&mut Appliance), status: u8, reason: &str) {
    let mut appliance = Appliance::new();
    release.publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    change(&mut appliance);
    let before = appliance.bootable();
    for orders in [PLAIN, FORCE] {
        let error = appliance.apply(orders).unwrap_err();
        assert_eq!(error.exit_code(), status, "{error}");
        let last = appliance.record().last_error.unwrap_or_default();
        assert!(last.contains(reason), "{last}");
        assert_eq!(appliance.bootable(), before);
    }
}

#[test]
fn f16_force_skips_the_window_and_nothing_else() {
    let newer = || Release::new("2.0.0");
    let nothing = |_: &mut Appliance| {};
    refused(&newer().with(r#", "channel": "beta""#), nothing, 3, "channel");
    refused(&newer().with(r#", "architecture": "riscv64""#), nothing, 3, "riscv64");
    refused(&newer().with(r#", "min_compatible_version": "1.5.0""#), nothing, 4, "1.5.0");
    refused(&newer().with(r#", "expires": "2026-10-01""#), nothing, 3, "expired");
    let later = r#", "rollout": {"start": "2099-01-01", "hours": 1, "percent": 100}"#;
    refused(&newer().with(later), nothing, 3, "turn");
    refused(&Release::new("0.9.0"), nothing, 3, "older");
    refused(
        &newer(),
        |a| std::fs::remove_file(a.path("www/latest.json.sig")).unwrap(),
        5,
        "signed",
    );
}

#[test]
fn f15_the_window_comes_before_any_request_and_force_opens_it() {
    let mut appliance = Appliance::new();
    let release = Release::new("2.0.0");
    release.publish(&appliance.path("www"), &appliance.secret);
    appliance.set(Key::MaintenanceWindow, "03:00-03:00");
    // Nobody listens: a request would fail in another way.
    appliance.set(Key::Server, "http://127.0.0.1:1");
    let error = appliance.apply(PLAIN).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(appliance.record().last_error.unwrap().contains("maintenance window"));
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    assert!(matches!(appliance.apply(FORCE), Ok(Outcome::Staged(_))));
    assert_eq!(
        appliance.activate(PLAIN).unwrap_err().exit_code(),
        3,
        "and again before the switch"
    );
    assert!(matches!(appliance.activate(FORCE), Ok(Outcome::OnTrial(_))));
}

#[test]
fn t09_a_manifest_of_yesterday_is_refused_and_poisons_nothing() {
    let mut appliance = Appliance::new();
    let www = appliance.path("www");
    let server = Server::of(&www);
    appliance.set(Key::Server, &server.url);
    let publish = |version: &str, serial: u64| {
        let more = format!(r#", "serial": {serial}, "expires": "2099-01-01""#);
        Release::new(version).with(&more).publish(&www, &appliance.secret);
    };
    publish("2.0.0", 10);
    assert!(matches!(appliance.check(PLAIN), Ok(Outcome::Available(_))));
    publish("1.5.0", 9);
    let error = appliance.check(PLAIN).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(appliance.record().last_error.unwrap().contains("replays"));
    // T11: what was refused for another reason raises nothing.
    Release::new("2.0.0")
        .with(r#", "serial": 99, "expires": "2099-01-01", "channel": "beta""#)
        .publish(&www, &appliance.secret);
    assert!(appliance.check(PLAIN).is_err());
    publish("2.0.0", 11);
    assert!(matches!(appliance.check(PLAIN), Ok(Outcome::Available(_))));
    Release::new("2.0.0").publish(&www, &appliance.secret);
    assert!(appliance.check(PLAIN).is_err(), "neither serial nor expiry any more");
}

#[test]
fn t06_without_a_key_one_can_look_and_installing_takes_a_word_on_the_command_line() {
    let mut appliance = Appliance::new();
    Release::new("2.0.0").publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    let insecure = Orders { signatures: Signatures::Insecure, ..PLAIN };
    let error = appliance.apply(insecure).unwrap_err();
    assert_eq!(error.exit_code(), 2, "where there is a key, it is used: {error}");
    appliance.set(Key::Pubkey, "");
    let before = appliance.bootable();
    assert!(matches!(appliance.check(PLAIN), Ok(Outcome::Unverified(_))));
    assert_eq!(appliance.record().state, State::Idle, "nothing follows from it");
    assert_eq!(appliance.apply(PLAIN).unwrap_err().exit_code(), 3);
    assert_eq!(appliance.bootable(), before);
    // Digests count all the same.
    let kernel = appliance.path("www/vmlinuz");
    let good = std::fs::read(&kernel).unwrap();
    std::fs::write(&kernel, [&good[..], b"x"].concat()).unwrap();
    assert_eq!(appliance.apply(insecure).unwrap_err().exit_code(), 5);
    std::fs::write(&kernel, good).unwrap();
    assert!(matches!(appliance.apply(insecure), Ok(Outcome::Staged(_))));
}

#[test]
fn a_machine_without_an_id_keeps_a_place_of_its_own_in_rollouts() {
    let place = || {
        let mut appliance = Appliance::new();
        let www = appliance.path("www");
        Release::new("2.0.0").publish(&www, &appliance.secret);
        let server = Server::of(&www);
        appliance.set(Key::Server, &server.url);
        let id = appliance.path("machine-id");
        appliance.check(PLAIN).unwrap();
        assert_eq!(appliance.record().place, None, "it has an id");
        std::fs::write(&id, "uninitialized\n").unwrap();
        appliance.check(PLAIN).unwrap();
        let place = appliance.record().place.unwrap();
        appliance.check(PLAIN).unwrap();
        assert_eq!(appliance.record().place, Some(place), "it stays");
        place
    };
    assert_ne!(place(), place());
}

#[test]
fn t17_a_clock_that_is_ahead_moves_nothing_that_is_remembered() {
    let mut appliance = Appliance::new();
    let www = appliance.path("www");
    // The clock of this host is far ahead of when that was signed.
    let dates = r#", "release_date": "2026-11-02", "expires": "2999-01-01T00:00:00Z""#;
    Release::new("2.0.0").with(dates).publish(&www, &appliance.secret);
    let server = Server::of(&www);
    appliance.set(Key::Server, &server.url);
    appliance.check(PLAIN).unwrap();
    let signed = banger_trust::parse_time("2026-11-02").unwrap();
    assert_eq!(appliance.record().last_good, signed);
}
