//! The verdict on a system that was just booted. Whatever goes wrong on the way to it, a trial has an
//! end: what cannot be judged in time is given up.

use std::time::Duration;

use banger_host::clock::Deadline;
use banger_trust::Version;
use banger_update::{Effect, Event, State};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::session::Session;
use super::{Agent, AgentError, Orders, Outcome, Reboot, Run};
use crate::health::{Expected, Finding, Running, until_well};

impl Agent {
    /// Has a system that was just booted prove itself, and commits it or gives it up. One that is
    /// not on trial is checked, and nothing follows.
    ///
    /// # Errors
    /// When it is not well.
    pub async fn healthcheck(&self, orders: Orders, reboot: Reboot) -> Result<Outcome, AgentError> {
        let checked = self.judge_in_time(orders, reboot).await;
        if let (Err(error), Run::Real) = (&checked, orders.run)
            && !matches!(error, AgentError::Unhealthy(_))
        {
            self.give_up_undecided(reboot).await?;
        }
        checked
    }

    /// Beside the caller, who does not wait for ever: whoever reads a disk that hangs does not come
    /// back.
    async fn judge_in_time(&self, orders: Orders, reboot: Reboot) -> Result<Outcome, AgentError> {
        let deadline = self.settings.health.deadline;
        let after: Duration = deadline + self.grace();
        let (agent, handle) = (self.clone(), Handle::current());
        let judge = move || handle.block_on(agent.judge_boot(orders, reboot));
        match timeout(after, spawn_blocking(judge)).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(end)) => match end.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(AgentError::NoVerdict { after }),
            },
            Err(_) => Err(AgentError::NoVerdict { after }),
        }
    }

    async fn judge_boot(&self, orders: Orders, reboot: Reboot) -> Result<Outcome, AgentError> {
        let loader = self.loader();
        let deadline = Deadline::after(self.settings.health.deadline);
        let begun = Session::begin_after_boot(self, loader.as_ref(), orders.run, reboot, deadline);
        let mut session = begun.await?;
        let state = &session.engine.record().state;
        let expected = Expected::of(state).filter(|e| e.attempt.boot_id != session.seen.boot_id);
        let seen = session.seen.clone();
        let proven = if_proven(state, &seen.running);
        let running = Running {
            slot: seen.booted.slot,
            nonce: seen.booted.nonce.as_deref(),
            version: &seen.running,
        };
        let checks = until_well(&self.settings.health, expected.as_ref(), &running, deadline);
        let findings = checks.await;
        let problems = problems(&findings);
        match (expected, problems.is_empty()) {
            (None, true) => Ok(Outcome::Healthy(findings)),
            (Some(_), true) => {
                if orders.run == Run::Real {
                    session.happen(Event::Healthy)?;
                }
                Ok(proven)
            }
            (Some(_), false) if orders.run == Run::Real => {
                Err(self.give_up(&mut session, problems, reboot))
            }
            (_, false) => Err(AgentError::Unhealthy(problems)),
        }
    }

    /// Gives up what is not well, and tells how that went.
    fn give_up(&self, session: &mut Session<'_>, problems: String, reboot: Reboot) -> AgentError {
        let reason = format!("the health check failed: {problems}");
        let effects = match session.happen(Event::Unhealthy(reason)) {
            Ok(effects) => effects,
            // The verdict stands: it is carried out by the boot loader alone.
            Err(error) => {
                return AgentError::UnhealthyUnwritten { problems, source: Box::new(error) };
            }
        };
        if reboot == Reboot::Now
            && effects.contains(&Effect::Reboot)
            && let Err(error) = self.restart.carry_out()
        {
            return error.into();
        }
        AgentError::Unhealthy(problems)
    }
}

/// What is wrong, in one line.
fn problems(findings: &[Finding]) -> String {
    let problems: Vec<String> = findings
        .iter()
        .filter_map(|f| f.problem.as_ref().map(|problem| format!("{}: {problem}", f.check)))
        .collect();
    problems.join("; ")
}

/// How it ends for what has to prove itself, if it does.
fn if_proven(state: &State, running: &Version) -> Outcome {
    match state {
        State::Trial(trial) => Outcome::Committed(trial.release.version.clone()),
        _ => Outcome::Returned(running.clone()),
    }
}
