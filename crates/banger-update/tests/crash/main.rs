//! The power goes between any two writes, and what was not synced is lost or reordered: what then
//! boots is always the old system or the new one, whole; and what the next boot makes of it, too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod disk;
mod rollback;

use std::path::Path;

use banger_model::Timestamp;
use banger_trust::{
    Artifact, ArtifactName, KeySet, SecretKey, Sha256Digest, SignedBy, Trust, Version,
};
use banger_update::{
    BootLoader as _, BootView, CommandLine, ENV_COPIES, Effect, Engine, Event, Files as _, Grub,
    Layout, Observed, Passive, ReleaseId, Slot, SlotStatus, StageError, State, Tries,
};
use disk::{Disk, Losses, Told};

/// An error is the power cut.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const OLD: [&[u8]; 2] = [b"old kernel", b"old system"];
const NEW: [&[u8]; 2] = [b"the new kernel", b"the new system"];

const STALE: [&[u8]; 2] = [b"older kernel", b"older system"];

fn layout() -> Layout {
    Layout::under(Path::new("/boot"))
}

fn state_dir() -> &'static Path {
    Path::new("/state")
}

/// A machine on which A runs, with the update before last in B.
fn installed() -> Disk {
    let disk = Disk::default();
    for (slot, pair) in [(Slot::A, OLD), (Slot::B, STALE)] {
        disk.make_dir(&layout().slot(slot));
        for (name, content) in ArtifactName::ALL.into_iter().zip(pair) {
            disk.put(&layout().file(slot, name), content);
        }
    }
    for copy in ENV_COPIES {
        disk.make_dir(layout().boot().join(copy).parent().unwrap());
    }
    disk.make_dir(state_dir());
    Grub::new(&disk, layout()).install(&BootView::starting(Slot::A)).unwrap();
    disk.flush();
    disk
}

fn release() -> ReleaseId {
    let digests = NEW.map(Sha256Digest::of);
    let both = [&digests[0].bytes()[..], digests[1].bytes()].concat();
    ReleaseId { version: Version::new(2, 0, 0), fingerprint: Sha256Digest::of(&both) }
}

/// What GRUB's script does: the slot that starts, the nonce that it passes on, and one trial less.
fn boot(disk: &Disk) -> CommandLine {
    let grub = Grub::new(disk, layout());
    let view = grub.view().unwrap_or_else(|_| BootView::starting(Slot::A));
    let slot = view.next().unwrap();
    if let SlotStatus::Trial { left } = view.status(slot) {
        let left = left - 1;
        disk.edit_env(slot, left);
    }
    CommandLine { slot: Some(slot), nonce: Some(view.nonce), ..CommandLine::default() }
}

fn seen(disk: &Disk, booted: CommandLine, boot_id: &str) -> Observed {
    let boot = Grub::new(disk, layout()).view().ok();
    Observed {
        booted,
        boot,
        boot_id: boot_id.into(),
        running: Version::new(1, 0, 0),
        forgotten: None,
    }
}

/// Everything up to the boot of the new system.
fn update(disk: &Disk) -> Outcome<()> {
    let secret = SecretKey::from_seed([1; 32]);
    let trust = Trust::Keys(KeySet::new([secret.public()])?);
    let by = SignedBy::Key(secret.public().id());
    let grub = Grub::new(disk, layout());
    let booted =
        CommandLine { slot: Some(Slot::A), nonce: Some("none".into()), ..CommandLine::default() };
    let seen = seen(disk, booted, "first");
    let (mut engine, _) = Engine::open(disk, state_dir(), &grub, Tries::default(), &seen, NOW)?;
    engine.happen(Event::Check, NOW)?;
    engine.happen(Event::Found(release()), NOW)?;
    engine.happen(Event::Fetch { into: Slot::B }, NOW)?;
    let passive = Passive::beside(disk, layout(), Slot::A)?;
    let mut files = Vec::new();
    for (name, content) in ArtifactName::ALL.into_iter().zip(NEW) {
        let sha256 = Sha256Digest::of(content);
        let (url, size) = (String::new(), Some(content.len() as u64));
        let artifact = Artifact { name, url, signature_url: None, sha256, size };
        let mut incoming = passive.incoming(&artifact, &trust, &by, Some(secret.sign(content)))?;
        let at = usize::try_from(incoming.len())?;
        for piece in content[at..].chunks(8) {
            incoming.write(piece.to_vec())?;
        }
        files.push((name, incoming.finish()?));
    }
    engine.happen(Event::Received { into: Slot::B }, NOW)?;
    for (name, file) in &files {
        passive.read_back(*name, file)?;
    }
    engine.happen(Event::Same { into: Slot::B }, NOW)?;
    passive.place(&files)?;
    engine.happen(Event::Placed { into: Slot::B }, NOW)?;
    let (nonce, boot_id) = ("n2".to_owned(), "first".to_owned());
    engine.happen(Event::Activate { nonce, boot_id }, NOW)?;
    Ok(())
}

/// What follows after a boot: what was left open is settled, and then `event` happens to a trial.
fn after_boot(disk: &Disk, booted: &CommandLine, event: &Event) -> Outcome<State> {
    let grub = Grub::new(disk, layout());
    let seen = seen(disk, booted.clone(), "second");
    let (mut engine, _) = Engine::open(disk, state_dir(), &grub, Tries::default(), &seen, NOW)?;
    let on_trial = matches!(&engine.record().state, State::Trial(_));
    if on_trial && booted.slot == Some(Slot::B) {
        let _: Vec<Effect> = engine.happen(event.clone(), NOW)?;
    }
    Ok(engine.record().state.clone())
}

/// What would be started now is the old pair or the new one, and what would be started if that
/// could not be loaded is whole, too.
fn assert_bootable(disk: &Disk, context: &str) {
    let grub = Grub::new(disk, layout());
    let view = grub.view().unwrap_or_else(|error| panic!("{context}: {error}"));
    let first = view.next().unwrap_or_else(|| panic!("{context}: nothing is startable"));
    for slot in Slot::ALL.into_iter().filter(|slot| view.status(*slot).is_startable()) {
        let read = |name| disk.read(&layout().file(slot, name), 100).unwrap().unwrap_or_default();
        let pair = ArtifactName::ALL.map(read);
        let is = |known: [&[u8]; 2]| pair[0] == known[0] && pair[1] == known[1];
        let right = match slot {
            Slot::A => is(OLD),
            Slot::B if first == Slot::B => is(NEW),
            Slot::B => is(NEW) || is(STALE),
        };
        assert!(right, "{context}: slot {slot} holds {pair:?}, {view:?}");
    }
}

/// Cuts `run` after each of its steps, in each way of losing what was not synced; what follows is
/// handed to `then`.
fn cut_everywhere(
    start: &Disk,
    run: &dyn Fn(&Disk) -> Outcome<()>,
    then: &dyn Fn(&Disk, &str),
) -> (usize, usize) {
    let (mut steps, mut ends) = (0, 0);
    for fuel in 0.. {
        let disk = start.copy();
        disk.give_fuel(fuel);
        let finished = run(&disk).is_ok();
        for losses in Losses::all(&disk) {
            ends += 1;
            then(&disk.after_cut(&losses), &format!("cut after step {fuel}, {losses:?}"));
        }
        if finished {
            steps = fuel;
            break;
        }
    }
    (steps, ends)
}

#[test]
fn f01_the_power_may_go_at_any_step_of_an_update_and_of_its_recovery() {
    let (steps, ends) = cut_everywhere(&installed(), &update, &|disk, context| {
        assert_bootable(disk, context);
        let booted = boot(disk);
        let settle = |disk: &Disk| after_boot(disk, &booted, &Event::Healthy).map(drop);
        // Once more, at each step of the recovery.
        for fuel in 0.. {
            let again = disk.copy();
            again.give_fuel(fuel);
            let finished = settle(&again).is_ok();
            for losses in [Losses::none(), Losses::everything(&again)] {
                let again = again.after_cut(&losses);
                let context = format!("{context}, then at step {fuel} of the recovery");
                assert_bootable(&again, &context);
                let booted = boot(&again);
                let state = after_boot(&again, &booted, &Event::Healthy).unwrap();
                assert_bootable(&again, &context);
                assert_rests(&state, &booted, &context);
            }
            if finished {
                break;
            }
        }
    });
    assert!(steps > 60 && ends > steps, "{steps} steps, {ends} ends");
}

/// What is remembered fits what runs.
fn assert_rests(state: &State, booted: &CommandLine, context: &str) {
    let fits = match state {
        State::Committed(..) => booted.slot == Some(Slot::B),
        State::Idle | State::Available(_) | State::Staged(..) | State::Failed(_) => {
            booted.slot == Some(Slot::A)
        }
        _ => false,
    };
    assert!(fits, "{context}: {state:?} with {booted:?}");
}

#[test]
fn f01_the_power_may_go_while_a_verdict_is_written_down() {
    let disk = installed();
    update(&disk).unwrap();
    disk.flush();
    let booted = boot(&disk);
    assert_eq!(booted.slot, Some(Slot::B));
    for verdict in [Event::Healthy, Event::Unhealthy("sick".into())] {
        let run = |disk: &Disk| after_boot(disk, &booted, &verdict).map(drop);
        let (steps, _) = cut_everywhere(&disk, &run, &|disk, context| {
            assert_bootable(disk, context);
            let booted = boot(disk);
            let state = after_boot(disk, &booted, &verdict).unwrap();
            assert_bootable(disk, context);
            let committed = matches!(state, State::Committed(..));
            assert_eq!(committed, verdict == Event::Healthy, "{context}: {state:?}");
        });
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn f01_the_power_may_go_while_the_last_trial_is_committed() {
    let disk = installed();
    update(&disk).unwrap();
    disk.flush();
    let booted = (0..3).map(|_| boot(&disk)).last().unwrap();
    let run = |disk: &Disk| after_boot(disk, &booted, &Event::Healthy).map(drop);
    cut_everywhere(&disk, &run, &|disk, context| {
        let booted = boot(disk);
        let state = after_boot(disk, &booted, &Event::Healthy).unwrap();
        // It is not said to have proved itself unless it runs.
        let fits = match booted.slot {
            Some(Slot::B) => matches!(state, State::Committed(..)),
            _ => matches!(state, State::RolledBack { .. }),
        };
        assert!(fits, "{context}: {state:?} with {booted:?}");
    });
}

#[test]
fn f11_a_system_that_never_comes_up_is_given_up_after_its_trials() {
    let disk = installed();
    update(&disk).unwrap();
    disk.flush();
    for _ in 0..3 {
        assert_eq!(boot(&disk).slot, Some(Slot::B));
    }
    let booted = boot(&disk);
    assert_eq!(booted.slot, Some(Slot::A));
    let state = after_boot(&disk, &booted, &Event::Healthy).unwrap();
    assert!(matches!(state, State::RolledBack { to: Slot::A, .. }), "{state:?}");
    let view = Grub::new(&disk, layout()).view().unwrap();
    assert_eq!((view.first, view.b), (Slot::A, SlotStatus::Bad));
}

#[test]
fn f03_a_disk_that_fails_at_any_step_leaves_what_runs() {
    for fuel in 0.. {
        let disk = installed();
        disk.give_fuel(fuel);
        let finished = update(&disk).is_ok();
        disk.mend();
        assert_bootable(&disk, &format!("failed at step {fuel}"));
        if finished {
            break;
        }
    }
}

#[test]
fn f03_after_one_failure_at_any_step_the_next_run_comes_to_its_end() {
    for step in 0.. {
        let disk = installed();
        disk.fail_once(step);
        let first = update(&disk);
        let context = format!("failed once at step {step}");
        assert_bootable(&disk, &context);
        if disk.mend() {
            assert!(step > 60 && first.is_ok());
            break;
        }
        // On trial already: nothing is begun anew before the boot.
        let on_trial = Grub::new(&disk, layout()).view().unwrap().first == Slot::B;
        if first.is_err() && !on_trial {
            update(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        let booted = boot(&disk);
        let state = after_boot(&disk, &booted, &Event::Healthy).unwrap();
        assert!(matches!(state, State::Committed(..)), "{context}: {state:?}");
    }
}

#[test]
fn f03_a_disk_that_is_full_is_not_left_so() {
    let mut finished = 0;
    let rooms = (0..4000).step_by(10).flat_map(|room| [(room, Told::Truth), (room, Told::Plenty)]);
    for (room, told) in rooms {
        let disk = installed();
        disk.give_room(room, told);
        let outcome = update(&disk);
        let context = format!("{room} bytes are free, {told:?} is told: {outcome:?}");
        let parts = disk.list(&layout().slot(Slot::B)).unwrap();
        let is_full = outcome.as_ref().is_err_and(|error| error.is::<StageError>());
        assert!(
            !is_full || !parts.iter().any(|name| name.ends_with(".part")),
            "{context}: {parts:?}"
        );
        assert_bootable(&disk, &context);
        let booted = boot(&disk);
        // The agent works, whether or not it can write down what it finds.
        let state = after_boot(&disk, &booted, &Event::Healthy);
        match (outcome, state) {
            (Ok(()), Ok(state)) => {
                finished += 1;
                assert!(matches!(state, State::Committed(..)), "{context}: {state:?}");
            }
            (Err(_), Ok(state)) => assert_rests(&state, &booted, &context),
            (_, Err(error)) => assert_eq!(booted.slot, Some(Slot::B), "{context}: {error}"),
        }
    }
    assert!(finished > 100, "{finished}");
}

/// Takes in a kernel that does not say its size, on a disk with so much room.
fn take_in(content: &[u8], room: usize, told: Told) -> (Result<(), StageError>, Vec<String>) {
    let disk = installed();
    let secret = SecretKey::from_seed([1; 32]);
    let trust = Trust::Keys(KeySet::new([secret.public()]).unwrap());
    let by = SignedBy::Key(secret.public().id());
    let (name, sha256) = (ArtifactName::Kernel, Sha256Digest::of(content));
    let artifact = Artifact { name, url: String::new(), signature_url: None, sha256, size: None };
    let passive = Passive::beside(&disk, layout(), Slot::A).unwrap();
    disk.give_room(room, told);
    let mut incoming =
        passive.incoming(&artifact, &trust, &by, Some(secret.sign(content))).unwrap();
    let taken = incoming.write(content.to_vec()).and_then(|()| incoming.finish().map(drop));
    (taken, disk.list(&layout().slot(Slot::B)).unwrap())
}

#[test]
fn f03_a_file_without_a_size_takes_the_room_that_there_is_and_no_more() {
    let old = STALE.iter().map(|file| file.len()).sum::<usize>();
    let (taken, names) = take_in(&vec![1; old + 3], 3, Told::Truth);
    assert!(
        taken.is_ok() && names.len() == 1,
        "what the slot held makes room: {taken:?} {names:?}"
    );
    let (taken, names) = take_in(&vec![1; old + 4], 3, Told::Truth);
    assert!(matches!(taken, Err(StageError::NoRoom { .. })) && names.is_empty(), "{names:?}");
    // Somebody else was faster.
    let (taken, names) = take_in(&[1; 8], 3, Told::Plenty);
    assert!(matches!(taken, Err(StageError::Host(_))), "{taken:?}");
    assert!(!names.iter().any(|name| name.ends_with(".part")), "{names:?}");
}
