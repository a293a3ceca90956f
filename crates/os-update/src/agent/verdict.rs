//! The verdict on a system that was just booted.

use banger_trust::Version;
use banger_update::{Effect, Event, State};

use super::session::Session;
use super::{Agent, AgentError, Orders, Outcome, Reboot, Run, give_up_undecided};
use crate::health::{Expected, Running, until_well};
use crate::machine;

impl Agent {
    /// Has a system that was just booted prove itself, and commits it or gives it up. One that is
    /// not on trial is checked, and nothing follows.
    ///
    /// # Errors
    /// When it is not well.
    pub async fn healthcheck(&self, orders: Orders, reboot: Reboot) -> Result<Outcome, AgentError> {
        let checked = self.judge_boot(orders, reboot).await;
        if let (Err(error), Run::Real) = (&checked, orders.run)
            && !matches!(error, AgentError::Unhealthy(_) | AgentError::Busy)
        {
            give_up_undecided(&self.settings, reboot)?;
        }
        checked
    }

    async fn judge_boot(&self, orders: Orders, reboot: Reboot) -> Result<Outcome, AgentError> {
        let loader = self.loader();
        let mut session =
            Session::begin_after_boot(self, loader.as_ref(), orders.run, reboot).await?;
        let state = &session.engine.record().state;
        let expected = Expected::of(state).filter(|e| e.attempt.boot_id != session.seen.boot_id);
        let seen = session.seen.clone();
        let proven = if_proven(state, &seen.running);
        let running = Running {
            slot: seen.booted.slot,
            nonce: seen.booted.nonce.as_deref(),
            version: &seen.running,
        };
        let findings = until_well(&self.settings.health, expected.as_ref(), &running).await;
        let problems: Vec<String> = findings
            .iter()
            .filter_map(|f| f.problem.as_ref().map(|problem| format!("{}: {problem}", f.check)))
            .collect();
        let problems = problems.join("; ");
        match (expected, problems.is_empty()) {
            (None, true) => Ok(Outcome::Healthy(findings)),
            (Some(_), true) => {
                if orders.run == Run::Real {
                    session.happen(Event::Healthy)?;
                }
                Ok(proven)
            }
            (Some(_), false) if orders.run == Run::Real => {
                let reason = format!("the health check failed: {problems}");
                let effects = session.happen(Event::Unhealthy(reason))?;
                if reboot == Reboot::Now && effects.contains(&Effect::Reboot) {
                    machine::reboot()?;
                }
                Err(AgentError::Unhealthy(problems))
            }
            (_, false) => Err(AgentError::Unhealthy(problems)),
        }
    }
}

/// How it ends for what has to prove itself, if it does.
fn if_proven(state: &State, running: &Version) -> Outcome {
    match state {
        State::Trial(trial) => Outcome::Committed(trial.release.version.clone()),
        _ => Outcome::Returned(running.clone()),
    }
}
