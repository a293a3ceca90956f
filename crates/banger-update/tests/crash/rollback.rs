//! The power goes while an operator goes back to the old system: the machine boots one of both,
//! what is remembered fits what runs, and what ran goes on unless the old one has proved itself.

use banger_update::{
    Attempt, BootLoader as _, BootView, CommandLine, Effect, Engine, Event, Failure, Grub, Phase,
    Return, Slot, SlotStatus, State, Tries,
};

use crate::disk::Disk;
use crate::{
    NOW, Outcome, after_boot, assert_bootable, boot, cut_everywhere, installed, layout, release,
    seen, state_dir, update,
};

/// A machine on which the update in B has proved itself.
fn committed() -> Disk {
    let disk = installed();
    update(&disk).unwrap();
    let booted = boot(&disk);
    after_boot(&disk, &booted, &Event::Healthy).unwrap();
    disk.flush();
    disk
}

/// One that was told to go back, and has booted so many times since.
fn going_back(boots: usize) -> (Disk, Option<CommandLine>) {
    let disk = committed();
    go_back(&disk).unwrap();
    disk.flush();
    let booted = (0..boots).map(|_| boot(&disk)).last();
    (disk, booted)
}

fn go_back(disk: &Disk) -> Outcome<()> {
    let grub = Grub::new(disk, layout());
    let booted = CommandLine { slot: Some(Slot::B), ..CommandLine::default() };
    let seen = seen(disk, booted, "third");
    let (mut engine, _) = Engine::open(disk, state_dir(), &grub, Tries::default(), &seen, NOW)?;
    let attempt = Attempt { slot: Slot::A, nonce: "n3".into(), boot_id: "third".into() };
    let back = Return { given_up: release(), reason: "not wanted".into(), attempt };
    engine.happen(Event::GoBack(back), NOW)?;
    Ok(())
}

/// What the health check does after a boot; whether the machine starts again.
fn judge(disk: &Disk, booted: &CommandLine, verdict: &Event) -> Outcome<(State, bool)> {
    let grub = Grub::new(disk, layout());
    let seen = seen(disk, booted.clone(), "fourth");
    let (mut engine, mut effects) =
        Engine::open(disk, state_dir(), &grub, Tries::default(), &seen, NOW)?;
    let attempt = engine.record().state.attempt();
    if attempt.is_some_and(|attempt| Some(attempt.slot) == booted.slot) {
        effects.extend(engine.happen(verdict.clone(), NOW)?);
    }
    Ok((engine.record().state.clone(), effects.contains(&Effect::Reboot)))
}

/// Boots until it comes to rest: what is remembered, what runs, and what would be started.
fn rest(disk: &Disk, verdict: &Event, context: &str) -> (State, Slot, BootView) {
    for _ in 0..5 {
        assert_bootable(disk, context);
        let booted = boot(disk);
        let (state, starts_again) = judge(disk, &booted, verdict).unwrap();
        if !starts_again {
            let view = Grub::new(disk, layout()).view().unwrap();
            return (state, booted.slot.unwrap(), view);
        }
    }
    panic!("{context}: it starts again and again");
}

/// The old system has proved itself, or what ran goes on.
fn assert_fits(disk: &Disk, verdict: &Event, context: &str) -> Slot {
    let (state, runs, view) = rest(disk, verdict, context);
    let context = format!("{context}: {state:?}, {runs} runs, {view:?}");
    assert_eq!((view.first, view.status(runs)), (runs, SlotStatus::Good), "{context}");
    match runs {
        Slot::A => {
            assert!(matches!(state, State::RolledBack { to: Slot::A, .. }), "{context}");
            // Should A be lost, B is there.
            assert_eq!(view.b, SlotStatus::Good, "{context}");
        }
        Slot::B => {
            let failed = matches!(state, State::Failed(Failure { phase: Phase::Returning, .. }));
            assert!(failed || matches!(state, State::Committed(..)), "{context}");
        }
    }
    runs
}

fn verdicts() -> [Event; 2] {
    [Event::Healthy, Event::Unhealthy("sick".into())]
}

#[test]
fn f01_the_power_may_go_at_any_step_of_the_way_back() {
    for verdict in verdicts() {
        let (steps, _) = cut_everywhere(&committed(), &go_back, &|disk, context| {
            let runs = assert_fits(disk, &verdict, context);
            assert!(runs == Slot::B || verdict == Event::Healthy, "{context}");
        });
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn f01_the_power_may_go_at_any_step_of_the_verdict_on_the_way_back() {
    // In the first of its boots, and in the last.
    for boots in [1, usize::from(Tries::default().get())] {
        let (disk, booted) = going_back(boots);
        let booted = booted.unwrap();
        assert_eq!(booted.slot, Some(Slot::A));
        for verdict in verdicts() {
            let run = |disk: &Disk| judge(disk, &booted, &verdict).map(drop);
            let (steps, _) = cut_everywhere(&disk, &run, &|disk, context| {
                let runs = assert_fits(disk, &verdict, &format!("{boots} boots, {context}"));
                assert!(runs == Slot::B || verdict == Event::Healthy, "{context}");
            });
            assert!(steps > 10, "{steps}");
        }
    }
}

#[test]
fn f11_what_ran_goes_on_if_the_old_system_never_comes_up() {
    let (disk, _) = going_back(usize::from(Tries::default().get()));
    let runs = assert_fits(&disk, &Event::Healthy, "it hangs in each of its boots");
    assert_eq!(runs, Slot::B);
    let record = Engine::look(&disk, state_dir());
    let error = record.last_error.unwrap();
    assert!(error.contains("slot A did not prove itself") && error.contains("2.0.0"), "{error}");
    assert!(record.failed.is_empty(), "what goes on was not given up");
}

#[test]
fn f08_what_ran_is_started_if_the_old_system_is_lost_later() {
    let (disk, booted) = going_back(1);
    judge(&disk, &booted.unwrap(), &Event::Healthy).unwrap();
    let record = Engine::look(&disk, state_dir());
    assert_eq!(record.failed, [release().fingerprint], "it is not offered again");
    // GRUB cannot load A, and says so to B.
    let view = Grub::new(&disk, layout()).view().unwrap();
    assert!(view.b.is_startable());
    let fallen = CommandLine {
        slot: Some(Slot::B),
        boot: Some("good".into()),
        failed: Some(Slot::A),
        ..CommandLine::default()
    };
    let (state, starts_again) = judge(&disk, &fallen, &Event::Healthy).unwrap();
    assert!(matches!(state, State::Failed(_)) && !starts_again, "{state:?}");
}
