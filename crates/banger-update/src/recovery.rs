//! What a state means after a boot, a crash or a power cut. Pure.

use banger_trust::{Sha256Digest, Version};

use crate::boot::{BootView, SlotStatus};
use crate::record::Record;
use crate::slot::Slot;
use crate::state::{Attempt, Failure, Phase, ReleaseId, Return, State, Trial};
use crate::transition::{Effect, Event};

/// What GRUB's script says there when it starts what it should not, for lack of anything better.
const RESCUE: &str = "rescue";

/// What the boot loader told the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The slot that was started.
    pub slot: Option<Slot>,
    /// The nonce that was in the environment.
    pub nonce: Option<String>,
    /// How it came to be started.
    pub boot: Option<String>,
    /// The slot that could not be loaded just before.
    pub failed: Option<Slot>,
}

impl CommandLine {
    /// What entries of systemd-boot say in the place of the trials that are left: those are counted
    /// in their names.
    pub const COUNTED: &str = "counted";

    /// Whether the boot loader said that it could not load this slot, or had nothing that it was
    /// allowed to start.
    pub fn fell_back_from(&self, slot: Slot) -> bool {
        self.boot.as_deref() == Some(RESCUE) || self.failed == Some(slot)
    }

    /// Reads `/proc/cmdline`: of words that come twice, the last counts, as for the kernel.
    pub fn parse(text: &str) -> Self {
        let last = |name: &str| {
            let words = text.split_ascii_whitespace().rev();
            words.filter_map(|word| word.strip_prefix(name)).find_map(|rest| rest.strip_prefix('='))
        };
        Self {
            slot: last("os_update.slot").and_then(|text| text.parse().ok()),
            nonce: last("os_update.nonce").map(str::to_owned),
            boot: last("os_update.boot").map(str::to_owned),
            failed: last("os_update.failed").and_then(|text| text.parse().ok()),
        }
    }
}

/// What can be seen of a machine that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What the boot loader told.
    pub booted: CommandLine,
    /// What it will do next; `None` when its environment is unusable.
    pub boot: Option<BootView>,
    /// This boot.
    pub boot_id: String,
    /// The version that runs, as far as it says.
    pub running: Version,
    /// What lies in the slot that [`forgotten`] names, whose files are not read without need.
    pub forgotten: Option<Sha256Digest>,
}

/// The slot of which the boot loader knows that it is being tried, or was in vain, and nobody else.
/// What lies in it has to be found out, lest it is tried again and again.
pub fn forgotten(record: &Record, seen: &Observed) -> Option<Slot> {
    let (boot, slot) = (seen.boot.as_ref()?, seen.booted.slot?);
    if matches!(boot.status(slot), SlotStatus::Trial { .. }) {
        let (state, _) = recover(&record.state, Written::Earlier, seen)?;
        return (state != record.state && state.attempt().is_some()).then_some(slot);
    }
    // A state that was lost, and not one that has come to rest since.
    let lost = record.state == State::Idle && record.boot_id.is_none();
    let in_vain = boot.status(!slot) == SlotStatus::Trial { left: 0 };
    (lost && in_vain).then_some(!slot)
}

/// When a state was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Since the machine was started.
    InThisBoot,
    /// Before that, or nobody knows.
    Earlier,
}

/// Whether the machine has to start again before anything else begins: something was decided, and
/// what runs is not what that was decided for.
pub(crate) fn restart_is_due(state: &State, written: Written, seen: &Observed) -> bool {
    let decided_now = written == Written::InThisBoot;
    match state {
        State::Trial(Trial { attempt, .. }) | State::Returning(Return { attempt, .. }) => {
            attempt.boot_id == seen.boot_id
        }
        State::RolledBack { to, .. } => decided_now && seen.booted.slot == Some(!*to),
        State::Failed(Failure { phase: Phase::Returning, .. }) => {
            let status = seen.boot.as_ref().zip(seen.booted.slot);
            let given_up = status.is_some_and(|(boot, slot)| !boot.status(slot).is_startable());
            decided_now && given_up
        }
        _ => false,
    }
}

/// What follows from a state that was left behind, if anything: the state to go on from, and what
/// has to be done. Applying it twice changes nothing more.
pub fn recover(state: &State, written: Written, seen: &Observed) -> Option<(State, Vec<Effect>)> {
    match state {
        State::Checking | State::Downloading(_) | State::Verifying(_) | State::Staging(_) => {
            // Who was at it is gone: it held the lock. The slot is closed, so nothing is lost.
            let phase = state.phase().unwrap_or(Phase::Checking);
            Some(failed(phase, "it was interrupted".to_owned()))
        }
        State::Trial(Trial { attempt, .. }) | State::Returning(Return { attempt, .. }) => {
            judge_attempt(state, attempt, seen)
        }
        State::Failed(Failure { phase: Phase::Returning, .. }) => discard(state, seen),
        State::Committed(_, slot) => {
            if seen.booted.slot == Some(!*slot) {
                let error = format!(
                    "slot {slot} has proved itself, and slot {} runs: the boot loader could not start it",
                    !*slot
                );
                return Some(failed(Phase::Trial, error));
            }
            // It was written down that the slot is good, and perhaps the loader was not told.
            let told = seen.boot.as_ref().is_none_or(|boot| boot.status(*slot) == SlotStatus::Good);
            (seen.booted.slot == Some(*slot) && !told)
                .then(|| (state.clone(), vec![Effect::Commit(*slot)]))
        }
        State::RolledBack { to, .. } => go_back(state, *to, written, seen),
        State::Idle | State::Blocked { .. } | State::Failed(_) => orphan(seen),
        State::Available(_) | State::Staged(..) => None,
    }
}

/// A slot was given up, and the other one is to run.
fn go_back(
    state: &State,
    to: Slot,
    written: Written,
    seen: &Observed,
) -> Option<(State, Vec<Effect>)> {
    let runs_what_was_given_up = seen.booted.slot == Some(!to);
    let told =
        seen.boot.as_ref().map(|boot| boot.first == to && boot.status(to) == SlotStatus::Good);
    // It was told before this boot: whatever keeps it from that slot, another boot would end here again.
    let in_vain =
        seen.booted.fell_back_from(to) || (told == Some(true) && written == Written::Earlier);
    if runs_what_was_given_up && in_vain {
        let error = format!(
            "slot {to} was selected and cannot be loaded: slot {} runs, which was given up",
            !to
        );
        return Some(failed(Phase::Trial, error));
    }
    let select = (!told?).then_some(Effect::Select(to));
    let reboot = runs_what_was_given_up.then_some(Effect::Reboot);
    let effects: Vec<Effect> = select.into_iter().chain(reboot).collect();
    (!effects.is_empty()).then(|| (state.clone(), effects))
}

/// What may be tried again.
fn failed(phase: Phase, error: String) -> (State, Vec<Effect>) {
    (State::Failed(Failure { phase, error, retryable: true }), vec![])
}

fn judge_attempt(
    state: &State,
    attempt: &Attempt,
    seen: &Observed,
) -> Option<(State, Vec<Effect>)> {
    let told =
        seen.boot.as_ref().map(|boot| (boot.nonce == attempt.nonce, boot.status(attempt.slot)));
    if seen.boot_id == attempt.boot_id {
        // Not rebooted yet. If the loader was never told, whoever decided it died in between.
        let never = matches!(told, Some((false, _)));
        return never.then(|| state.clone().apply(Event::NeverTold).ok()).flatten();
    }
    if seen.booted.slot == Some(attempt.slot) {
        // It runs: the health check has the word.
        return None;
    }
    let event = match (seen.booted.slot, told) {
        (None, _) => Event::FellBack(
            "the boot loader does not say which slot it started: it ignores our environment"
                .to_owned(),
        ),
        (Some(_), Some((false, _))) => Event::NeverTold,
        (Some(_), Some((true, SlotStatus::Trial { left }))) => {
            Event::FellBack(why_not_started(&seen.booted, attempt, left).to_owned())
        }
        (Some(_), Some((true, _))) => Event::FellBack("it was given up".to_owned()),
        (Some(_), None) => Event::FellBack("the boot loader's environment is unusable".to_owned()),
    };
    state.clone().apply(event).ok()
}

/// Why another slot runs than the one that was to be tried, with so many trials left to it.
fn why_not_started(booted: &CommandLine, attempt: &Attempt, left: u8) -> &'static str {
    // Entries have each their own nonce: only the one that is tried would pass it on.
    let passes_on = booted.boot.as_deref() != Some(CommandLine::COUNTED);
    let heard = booted.nonce.as_deref() == Some(attempt.nonce.as_str());
    if passes_on && !heard {
        "the boot loader ignores our environment"
    } else if left > 0 || booted.failed == Some(attempt.slot) {
        "the boot loader could not start it"
    } else {
        "it did not prove itself in any of its boots"
    }
}

/// The way back has failed, and perhaps the boot loader was not told.
fn discard(state: &State, seen: &Observed) -> Option<(State, Vec<Effect>)> {
    let boot = seen.boot.as_ref()?;
    let is_tried = |slot: &Slot| matches!(boot.status(*slot), SlotStatus::Trial { .. });
    let tried = Slot::ALL.into_iter().find(is_tried)?;
    let reboot = (seen.booted.slot == Some(tried)).then_some(Effect::Reboot);
    Some((state.clone(), [Effect::Select(!tried)].into_iter().chain(reboot).collect()))
}

/// The state was lost while a slot was being tried: what runs is on trial whatever we remember,
/// and the health check has to decide about it.
fn orphan(seen: &Observed) -> Option<(State, Vec<Effect>)> {
    let boot = seen.boot.as_ref()?;
    let slot = seen.booted.slot?;
    if !matches!(boot.status(slot), SlotStatus::Trial { .. }) {
        return None;
    }
    let release = ReleaseId {
        version: seen.running.clone(),
        fingerprint: seen.forgotten.unwrap_or_else(|| Sha256Digest::of(b"unknown")),
    };
    let attempt = Attempt { slot, nonce: boot.nonce.clone(), boot_id: String::new() };
    Some((State::Trial(Trial { release, attempt }), vec![]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recover(state: &State, seen: &Observed) -> Option<(State, Vec<Effect>)> {
        super::recover(state, Written::InThisBoot, seen)
    }

    fn release() -> ReleaseId {
        ReleaseId { version: Version::new(2, 0, 0), fingerprint: Sha256Digest::of(b"r") }
    }

    fn attempt(slot: Slot) -> Attempt {
        Attempt { slot, nonce: "n2".into(), boot_id: "before".into() }
    }

    fn trial() -> State {
        State::Trial(Trial { release: release(), attempt: attempt(Slot::B) })
    }

    fn seen(slot: Option<Slot>, nonce: &str, boot: BootView, boot_id: &str) -> Observed {
        let booted = CommandLine { slot, nonce: Some(nonce.into()), ..CommandLine::default() };
        let running = Version::new(1, 0, 0);
        let boot_id = boot_id.into();
        Observed { booted, boot: Some(boot), boot_id, running, forgotten: None }
    }

    fn trying(left: u8) -> BootView {
        let view = BootView { nonce: "n2".into(), ..BootView::starting(Slot::B) };
        view.with(Slot::B, SlotStatus::Trial { left })
    }

    fn reason(outcome: Option<(State, Vec<Effect>)>) -> String {
        match outcome.unwrap() {
            (State::RolledBack { reason, to: Slot::A, .. }, effects) => {
                assert_eq!(effects, [Effect::Select(Slot::A)]);
                reason
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn f11_a_trial_is_judged_by_what_booted() {
        let old = Some(Slot::A);
        assert_eq!(recover(&trial(), &seen(old, "n1", trying(3), "before")), None, "still to boot");
        assert_eq!(recover(&trial(), &seen(Some(Slot::B), "n2", trying(2), "now")), None);
        let used_up = reason(recover(&trial(), &seen(old, "n2", trying(0), "now")));
        assert_eq!(used_up, "it did not prove itself in any of its boots");
        let unloadable = reason(recover(&trial(), &seen(old, "n2", trying(2), "now")));
        assert_eq!(unloadable, "the boot loader could not start it");
        let mut told = seen(old, "n2", trying(0), "now");
        told.booted.failed = Some(Slot::B);
        assert_eq!(reason(recover(&trial(), &told)), "the boot loader could not start it");
        let deaf = reason(recover(&trial(), &seen(old, "n1", trying(3), "now")));
        assert_eq!(deaf, "the boot loader ignores our environment");
        let mute = reason(recover(&trial(), &seen(None, "", trying(3), "now")));
        assert!(mute.contains("ignores our environment"));
    }

    #[test]
    fn f11_a_trial_of_systemd_boot_is_judged_by_its_counter_alone() {
        let check = |left: u8, expected: &str| {
            // The entry of the old slot has no nonce, or an old one.
            let mut counted = seen(Some(Slot::A), "n1", trying(left), "now");
            counted.booted.boot = Some(CommandLine::COUNTED.into());
            assert_eq!(reason(recover(&trial(), &counted)), expected);
        };
        check(0, "it did not prove itself in any of its boots");
        check(2, "the boot loader could not start it");
    }

    #[test]
    fn f01_a_trial_that_the_loader_never_heard_of_is_staged_again() {
        let untold = BootView::starting(Slot::A).with(Slot::B, SlotStatus::Bad);
        for boot_id in ["before", "now"] {
            let (state, effects) =
                recover(&trial(), &seen(Some(Slot::A), "none", untold.clone(), boot_id)).unwrap();
            assert_eq!((state, effects.len()), (State::Staged(release(), Slot::B), 0));
        }
    }

    #[test]
    fn f14_a_trial_that_was_forgotten_still_needs_the_health_check() {
        let (state, _) =
            recover(&State::Idle, &seen(Some(Slot::B), "n2", trying(2), "now")).unwrap();
        assert!(state.attempt().is_some_and(|at| at.slot == Slot::B), "{state:?}");
        assert_eq!(recover(&State::Idle, &seen(Some(Slot::A), "n2", trying(2), "now")), None);
    }

    #[test]
    fn f01_what_was_decided_is_told_to_the_loader_again() {
        let committed = State::Committed(release(), Slot::B);
        let again = recover(&committed, &seen(Some(Slot::B), "n2", trying(2), "now"));
        assert_eq!(again.unwrap().1, [Effect::Commit(Slot::B)]);
        let done = trying(2).with(Slot::B, SlotStatus::Good);
        assert_eq!(recover(&committed, &seen(Some(Slot::B), "n2", done, "now")), None);
        let given_up = State::RolledBack { release: release(), to: Slot::A, reason: "sick".into() };
        let again = recover(&given_up, &seen(Some(Slot::B), "n2", trying(2), "now"));
        assert_eq!(again.unwrap().1, [Effect::Select(Slot::A), Effect::Reboot]);
        let selected = BootView::starting(Slot::A).with(Slot::B, SlotStatus::Bad);
        let again = recover(&given_up, &seen(Some(Slot::B), "n2", selected.clone(), "now"));
        assert_eq!(again.unwrap().1, [Effect::Reboot]);
        assert_eq!(recover(&given_up, &seen(Some(Slot::A), "n2", selected, "now")), None);
    }

    #[test]
    fn f08_what_cannot_be_started_is_told_of_and_is_no_reason_to_restart_for_ever() {
        let given_up = State::RolledBack { release: release(), to: Slot::A, reason: "sick".into() };
        let selected = BootView::starting(Slot::A).with(Slot::B, SlotStatus::Bad);
        let mut rescued = seen(Some(Slot::B), "n2", selected, "now");
        rescued.booted.boot = Some(RESCUE.into());
        rescued.booted.failed = Some(Slot::A);
        let (state, effects) = recover(&given_up, &rescued).unwrap();
        assert!(matches!(state, State::Failed(_)) && effects.is_empty(), "{state:?} {effects:?}");
        // Another loader does not say so: it was told, the machine was started, and here it is again.
        rescued.booted.boot = Some(CommandLine::COUNTED.into());
        rescued.booted.failed = None;
        assert_eq!(recover(&given_up, &rescued).unwrap().1, [Effect::Reboot]);
        assert!(restart_is_due(&given_up, Written::InThisBoot, &rescued));
        let (state, effects) = super::recover(&given_up, Written::Earlier, &rescued).unwrap();
        assert!(matches!(state, State::Failed(_)) && effects.is_empty(), "{state:?} {effects:?}");
        rescued.boot = Some(trying(2));
        let (_, effects) = super::recover(&given_up, Written::Earlier, &rescued).unwrap();
        assert_eq!(effects, [Effect::Select(Slot::A), Effect::Reboot], "it was not told yet");
        let committed = State::Committed(release(), Slot::B);
        let boot = BootView::starting(Slot::B);
        let (state, effects) =
            recover(&committed, &seen(Some(Slot::A), "n2", boot, "now")).unwrap();
        assert!(matches!(state, State::Failed(_)) && effects.is_empty(), "{state:?} {effects:?}");
    }

    #[test]
    fn f01_what_was_under_way_failed_and_may_be_tried_again() {
        for state in [State::Checking, State::Downloading(release()), State::Staging(release())] {
            let boot = BootView::starting(Slot::A);
            let (state, effects) =
                recover(&state, &seen(Some(Slot::A), "none", boot, "now")).unwrap();
            assert!(matches!(state, State::Failed(Failure { retryable: true, .. })));
            assert!(effects.is_empty());
        }
    }

    #[test]
    fn recovery_comes_to_rest() {
        let views = [trying(3), trying(0), BootView::starting(Slot::A)];
        for view in views {
            for slot in [Some(Slot::A), Some(Slot::B), None] {
                for nonce in ["n1", "n2"] {
                    for boot_id in ["before", "now"] {
                        let seen = seen(slot, nonce, view.clone(), boot_id);
                        let Some((state, _)) = recover(&trial(), &seen) else { continue };
                        let again = recover(&state, &seen);
                        let rests = again.as_ref().is_none_or(|(next, _)| *next == state);
                        assert!(rests, "{state:?} {again:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_word_of_a_command_line_counts() {
        let line =
            CommandLine::parse("quiet os_update.slot=a os_update.slot=b os_update.nonce=x y");
        assert_eq!((line.slot, line.nonce.as_deref()), (Some(Slot::B), Some("x")));
        assert_eq!(CommandLine::parse("os_update.slot=c xos_update.slot=a").slot, None);
    }
}
