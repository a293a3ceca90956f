//! The way back to the other system, as an operator wants it: a trial, too.

use banger_update::{
    Attempt, Effect, Event, HostFiles, Passive, ReleaseId, Return, Slot, SlotStatus, State, Trial,
};

use super::session::Session;
use super::{Agent, AgentError, GivenUp, Orders, Outcome, Reboot, Run, nonce};

/// What is written down as the reason.
const REASON: &str = "an operator rolled it back";

impl Agent {
    /// Has the boot loader try the other system, which was there before. What runs goes on if that
    /// one does not prove itself. What is on trial is given up at once, and what is staged dropped.
    ///
    /// # Errors
    /// When there is no other system that can be started.
    pub fn rollback(&self, orders: Orders, reboot: Reboot) -> Result<Outcome, AgentError> {
        let loader = self.loader();
        let mut session = Session::begin(self, loader.as_ref(), orders.run)?;
        let (event, outcome) = match session.engine.record().state.clone() {
            State::Trial(trial) => (give_up(&session, &trial), Outcome::RolledBack),
            State::Staged(release, _) => (Event::Discard, Outcome::Dropped(release.version)),
            State::Returning(back) => {
                let from = back.given_up.version;
                if session.seen.booted.slot != Some(back.attempt.slot) {
                    // It was decided already, and the boot is still to come.
                    self.restart_if(orders, reboot)?;
                    return Ok(Outcome::Returning { slot: back.attempt.slot, from });
                }
                (Event::Unhealthy(REASON.to_owned()), Outcome::RolledBack)
            }
            _ => {
                let back = self.way_back(&session, orders.given_up)?;
                let (slot, from) = (back.attempt.slot, back.given_up.version.clone());
                (Event::GoBack(back), Outcome::Returning { slot, from })
            }
        };
        if orders.run == Run::Dry {
            return Ok(outcome);
        }
        let effects = session.happen(event)?;
        if effects.contains(&Effect::Reboot) || matches!(outcome, Outcome::Returning { .. }) {
            self.restart_if(orders, reboot)?;
        }
        Ok(outcome)
    }

    fn restart_if(&self, orders: Orders, reboot: Reboot) -> Result<(), AgentError> {
        if orders.run == Run::Real && reboot == Reboot::Now {
            self.restart.carry_out()?;
        }
        Ok(())
    }

    /// To the slot beside the one that runs, which has to be whole, and startable.
    fn way_back(&self, session: &Session<'_>, given_up: GivenUp) -> Result<Return, AgentError> {
        session.free()?;
        let runs = session.seen.booted.slot.ok_or(AgentError::NoSlot)?;
        let slot = !runs;
        let status = session.seen.boot.as_ref().map(|view| view.status(slot));
        if status != Some(SlotStatus::Good) {
            return Err(AgentError::NoWayBack);
        }
        let there = self.fingerprint(slot)?;
        if given_up == GivenUp::Refused && session.engine.record().failed.contains(&there) {
            return Err(AgentError::GivenUp { slot: slot.to_string() });
        }
        let fingerprint = self.fingerprint(runs)?;
        let given_up = ReleaseId { version: session.seen.running.clone(), fingerprint };
        let boot_id = session.seen.boot_id.clone();
        let attempt = Attempt { slot, nonce: nonce()?, boot_id };
        Ok(Return { given_up, reason: REASON.to_owned(), attempt })
    }

    /// What lies in a slot, whole.
    fn fingerprint(&self, slot: Slot) -> Result<banger_trust::Sha256Digest, AgentError> {
        let passive = Passive::beside(&HostFiles, self.layout(), !slot)?;
        passive.fingerprint()?.ok_or(AgentError::NoWayBack)
    }
}

/// The end of a trial, whether it runs or is still to be booted.
fn give_up(session: &Session<'_>, trial: &Trial) -> Event {
    if session.seen.booted.slot == Some(trial.attempt.slot) {
        Event::Unhealthy(REASON.to_owned())
    } else {
        Event::FellBack(REASON.to_owned())
    }
}
