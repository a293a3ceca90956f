//! The power goes while an operator goes back to the old system: the machine boots one of both,
//! what is remembered fits what runs, and what ran goes on unless the old one has proved itself.

use std::cmp::Reverse;
use std::path::Path;

use banger_trust::{ArtifactName, Version};
use banger_update::{
    Attempt, BootLoader, BootView, CommandLine, Effect, Engine, Event, Failure, Files as _, Grub,
    KernelArgs, Observed, Phase, Return, Slot, SlotStatus, State, SystemdBoot, Tries,
};

use crate::disk::Disk;
use crate::{
    NEW, NOW, OLD, Outcome, after_boot, assert_bootable, cut_everywhere, installed, layout,
    release, state_dir, update,
};

/// Where systemd-boot has its entries.
const ENTRIES: &str = "/boot/loader/entries";

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Grub,
    SystemdBoot,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Grub, Self::SystemdBoot];

    fn loader(self, disk: &Disk) -> Box<dyn BootLoader + '_> {
        let args = KernelArgs::parse("").unwrap();
        match self {
            Self::Grub => Box::new(Grub::new(disk, layout())),
            Self::SystemdBoot => Box::new(SystemdBoot::new(disk, layout(), args)),
        }
    }

    /// What starts, and one trial less.
    fn boot(self, disk: &Disk) -> CommandLine {
        match self {
            Self::Grub => crate::boot(disk),
            Self::SystemdBoot => boot_entry(disk),
        }
    }

    /// A machine on which the update in B has proved itself.
    fn committed(self) -> Disk {
        let disk = match self {
            Self::Grub => {
                let disk = installed();
                update(&disk).unwrap();
                let booted = self.boot(&disk);
                after_boot(&disk, &booted, &Event::Healthy).unwrap();
                disk
            }
            Self::SystemdBoot => with_entries(),
        };
        disk.flush();
        disk
    }

    /// One that was told to go back, and has booted so many times since.
    fn going_back(self, boots: usize) -> (Disk, Option<CommandLine>) {
        let disk = self.committed();
        self.go_back(&disk).unwrap();
        disk.flush();
        let booted = (0..boots).map(|_| self.boot(&disk)).last();
        (disk, booted)
    }

    fn go_back(self, disk: &Disk) -> Outcome<()> {
        let loader = self.loader(disk);
        let booted = CommandLine { slot: Some(Slot::B), ..CommandLine::default() };
        let mut engine = open(disk, loader.as_ref(), booted, "third")?.0;
        let attempt = Attempt { slot: Slot::A, nonce: "n3".into(), boot_id: "third".into() };
        let back = Return { given_up: release(), reason: "not wanted".into(), attempt };
        engine.happen(Event::GoBack(back), NOW)?;
        Ok(())
    }

    /// What the health check does after a boot; whether the machine starts again.
    fn judge(self, disk: &Disk, booted: &CommandLine, verdict: &Event) -> Outcome<(State, bool)> {
        let loader = self.loader(disk);
        let (mut engine, mut effects) = open(disk, loader.as_ref(), booted.clone(), "fourth")?;
        let attempt = engine.record().state.attempt();
        if attempt.is_some_and(|attempt| Some(attempt.slot) == booted.slot) {
            effects.extend(engine.happen(verdict.clone(), NOW)?);
        }
        Ok((engine.record().state.clone(), effects.contains(&Effect::Reboot)))
    }

    /// Boots until it comes to rest: what is remembered, what runs, and what would be started.
    fn rest(self, disk: &Disk, verdict: &Event, context: &str) -> (State, Slot, BootView) {
        for _ in 0..5 {
            if self == Self::Grub {
                assert_bootable(disk, context);
            }
            let booted = self.boot(disk);
            let (state, starts_again) = self.judge(disk, &booted, verdict).unwrap();
            if !starts_again {
                let view = self.loader(disk).view().unwrap();
                return (state, booted.slot.unwrap(), view);
            }
        }
        panic!("{context}: it starts again and again");
    }

    /// The old system has proved itself, or what ran goes on.
    fn assert_fits(self, disk: &Disk, verdict: &Event, context: &str) -> Slot {
        let (state, runs, view) = self.rest(disk, verdict, context);
        let context = format!("{self:?}, {context}: {state:?}, {runs} runs, {view:?}");
        assert_eq!((view.first, view.status(runs)), (runs, SlotStatus::Good), "{context}");
        match runs {
            Slot::A => {
                assert!(matches!(state, State::RolledBack { to: Slot::A, .. }), "{context}");
                // Should A be lost, B is there.
                assert_eq!(view.b, SlotStatus::Good, "{context}");
            }
            Slot::B => {
                let failed =
                    matches!(state, State::Failed(Failure { phase: Phase::Returning, .. }));
                let before = matches!(state, State::Committed(..) | State::Idle);
                assert!(failed || before, "{context}");
            }
        }
        runs
    }
}

fn open<'a>(
    disk: &'a Disk,
    loader: &'a dyn BootLoader,
    booted: CommandLine,
    boot_id: &str,
) -> Outcome<(Engine<'a, Disk>, Vec<Effect>)> {
    let _ = loader.mend(&booted);
    let (boot, boot_id) = (loader.view().ok(), boot_id.to_owned());
    let running = Version::new(1, 0, 0);
    let seen = Observed { booted, boot, boot_id, running, forgotten: None };
    Ok(Engine::open(disk, state_dir(), loader, Tries::default(), &seen, NOW)?)
}

/// A machine that systemd-boot starts, with both slots good, and B first.
fn with_entries() -> Disk {
    let disk = Disk::default();
    for (slot, pair) in [(Slot::A, OLD), (Slot::B, NEW)] {
        disk.make_dir(&layout().slot(slot));
        for (name, content) in ArtifactName::ALL.into_iter().zip(pair) {
            disk.put(&layout().file(slot, name), content);
        }
    }
    disk.make_dir(Path::new(ENTRIES));
    disk.make_dir(state_dir());
    for slot in Slot::ALL {
        let loader = SystemdBoot::new(&disk, layout(), KernelArgs::parse("").unwrap());
        loader.install(slot).unwrap();
    }
    disk
}

/// What systemd-boot does: what is used up comes last, then the highest version first; and a counter is
/// a name.
fn boot_entry(disk: &Disk) -> CommandLine {
    let names = disk.list(Path::new(ENTRIES)).unwrap();
    let first = names
        .into_iter()
        .filter_map(|name| Some((counter(name.strip_suffix(".conf")?), name)))
        .min_by_key(|(counter, name)| {
            (matches!(counter, Some((0, _))), Reverse(number(&text_of(disk, name), "version ")))
        });
    let (counter, name) = first.unwrap();
    let booted = CommandLine::parse(&text_of(disk, &name));
    if let Some((left @ 1.., done)) = counter {
        let letter = booted.slot.unwrap().letter();
        let to = format!("os-{letter}+{}-{}.conf", left - 1, done + 1);
        let at = |name: &str| Path::new(ENTRIES).join(name);
        disk.rename(&at(&name), &at(&to)).unwrap();
        disk.flush();
    }
    booted
}

fn text_of(disk: &Disk, name: &str) -> String {
    let bytes = disk.read(&Path::new(ENTRIES).join(name), 4096).unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}

fn number(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |rest| rest.parse().unwrap())
}

/// The boots that are left, and those that were.
fn counter(stem: &str) -> Option<(u32, u32)> {
    let (left, done) = stem.split_once('+')?.1.split_once('-')?;
    Some((left.parse().unwrap(), done.parse().unwrap()))
}

fn verdicts() -> [Event; 2] {
    [Event::Healthy, Event::Unhealthy("sick".into())]
}

#[test]
fn f01_the_power_may_go_at_any_step_of_the_way_back() {
    for (kind, verdict) in Kind::ALL.into_iter().flat_map(|kind| verdicts().map(|v| (kind, v))) {
        let run = |disk: &Disk| kind.go_back(disk);
        let (steps, _) = cut_everywhere(&kind.committed(), &run, &|disk, context| {
            let runs = kind.assert_fits(disk, &verdict, context);
            assert!(runs == Slot::B || verdict == Event::Healthy, "{context}");
        });
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn f01_the_power_may_go_at_any_step_of_the_verdict_on_the_way_back() {
    // In the first of its boots, and in the last.
    let boots = [1, usize::from(Tries::default().get())];
    for (kind, boots) in Kind::ALL.into_iter().flat_map(|kind| boots.map(|boots| (kind, boots))) {
        let (disk, booted) = kind.going_back(boots);
        let booted = booted.unwrap();
        assert_eq!(booted.slot, Some(Slot::A));
        for verdict in verdicts() {
            let run = |disk: &Disk| kind.judge(disk, &booted, &verdict).map(drop);
            let (steps, _) = cut_everywhere(&disk, &run, &|disk, context| {
                let runs = kind.assert_fits(disk, &verdict, &format!("{boots} boots, {context}"));
                assert!(runs == Slot::B || verdict == Event::Healthy, "{context}");
            });
            assert!(steps > 5, "{steps}");
        }
    }
}

#[test]
fn f11_what_ran_goes_on_if_the_old_system_never_comes_up() {
    for kind in Kind::ALL {
        let (disk, _) = kind.going_back(usize::from(Tries::default().get()));
        let runs = kind.assert_fits(&disk, &Event::Healthy, "it hangs in each of its boots");
        assert_eq!(runs, Slot::B);
        let record = Engine::look(&disk, state_dir());
        let error = record.last_error.unwrap();
        assert!(
            error.contains("slot A did not prove itself") && error.contains("2.0.0"),
            "{error}"
        );
        assert!(record.failed.is_empty(), "what goes on was not given up");
    }
}

#[test]
fn f08_what_ran_is_started_if_the_old_system_is_lost_later() {
    for kind in Kind::ALL {
        let (disk, booted) = kind.going_back(1);
        kind.judge(&disk, &booted.unwrap(), &Event::Healthy).unwrap();
        let record = Engine::look(&disk, state_dir());
        assert_eq!(record.failed, [release().fingerprint], "it is not offered again");
        assert!(kind.loader(&disk).view().unwrap().b.is_startable());
    }
    // GRUB cannot load A, and says so to B.
    let (disk, booted) = Kind::Grub.going_back(1);
    Kind::Grub.judge(&disk, &booted.unwrap(), &Event::Healthy).unwrap();
    let fallen = CommandLine {
        slot: Some(Slot::B),
        boot: Some("good".into()),
        failed: Some(Slot::A),
        ..CommandLine::default()
    };
    let (state, starts_again) = Kind::Grub.judge(&disk, &fallen, &Event::Healthy).unwrap();
    assert!(matches!(state, State::Failed(_)) && !starts_again, "{state:?}");
}
