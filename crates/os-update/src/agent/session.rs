//! A run that holds the lock of the state directory.

use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::fs::{create_private_dir, read_text};
use banger_host::lock::FileLock;
use banger_model::Timestamp;
use banger_trust::gates::Refusal;
use banger_update::{
    BootLoader, CommandLine, Effect, Engine, Event, HostFiles, Observed, Passive, State, forgotten,
};

use super::{Agent, AgentError, Reboot, Run};
use crate::health::chain;
use crate::machine;

/// Between two looks at a lock that another run holds.
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// A run that holds the lock, with the state as it was left and settled. A dry run holds nothing and
/// changes nothing.
pub(super) struct Session<'a> {
    pub(super) engine: Engine<'a, HostFiles>,
    pub(super) seen: Observed,
    run: Run,
    /// What was left open takes another boot.
    needs_reboot: bool,
    _lock: Option<FileLock>,
}

impl<'a> Session<'a> {
    pub(super) fn begin(
        agent: &Agent,
        loader: &'a dyn BootLoader,
        run: Run,
    ) -> Result<Self, AgentError> {
        match run {
            Run::Dry => Self::look(agent, loader),
            Run::Real => Self::with(agent, loader, lock(agent)?.ok_or(AgentError::Busy)?),
        }
    }

    /// After a boot: whoever holds the lock is waited for, and what was left open may need another
    /// boot.
    pub(super) async fn begin_after_boot(
        agent: &Agent,
        loader: &'a dyn BootLoader,
        run: Run,
        reboot: Reboot,
        deadline: Deadline,
    ) -> Result<Self, AgentError> {
        if run == Run::Dry {
            return Self::look(agent, loader);
        }
        let held = loop {
            match lock(agent)? {
                Some(held) => break held,
                None if deadline.passed() => return Err(AgentError::Busy),
                None => tokio::time::sleep(LOCK_PAUSE.min(deadline.left())).await,
            }
        };
        let session = Self::with(agent, loader, held)?;
        if session.needs_reboot && reboot == Reboot::Now {
            agent.restart.carry_out()?;
        }
        Ok(session)
    }

    fn with(agent: &Agent, loader: &'a dyn BootLoader, lock: FileLock) -> Result<Self, AgentError> {
        let settings = agent.settings();
        let line = read_text(&settings.cmdline_file, machine::MAX_FACT)?;
        // Where that fails, it is found again the next time.
        let _ = loader.mend(&CommandLine::parse(&line));
        let seen = observe(agent, loader)?;
        let (dir, tries) = (&settings.state_dir, settings.tries);
        let now = machine::system_time();
        let (engine, effects) = Engine::open(&HostFiles, dir, loader, tries, &seen, now)?;
        let needs_reboot = effects.contains(&Effect::Reboot);
        Ok(Self { engine, seen, run: Run::Real, needs_reboot, _lock: Some(lock) })
    }

    fn look(agent: &Agent, loader: &'a dyn BootLoader) -> Result<Self, AgentError> {
        let settings = agent.settings();
        let seen = observe(agent, loader)?;
        let (dir, tries) = (&settings.state_dir, settings.tries);
        let engine = Engine::peek(&HostFiles, dir, loader, tries, &seen);
        Ok(Self { engine, seen, run: Run::Dry, needs_reboot: false, _lock: None })
    }

    /// The time to assume.
    pub(super) fn now(&self) -> Timestamp {
        machine::clock(self.engine.record().last_good).now(machine::system_time())
    }

    pub(super) fn happen(&mut self, event: Event) -> Result<Vec<Effect>, AgentError> {
        let now = self.now();
        Ok(self.engine.happen(event, now)?)
    }

    /// Whether something new may begin: a slot that is still needed must not be written, nor a verdict
    /// forgotten.
    pub(super) fn free(&self) -> Result<(), AgentError> {
        let state = &self.engine.record().state;
        if self.engine.restart_is_due(&self.seen) {
            return Err(AgentError::RestartFirst(state.to_string()));
        }
        match state.attempt() {
            Some(_) => Err(AgentError::Undecided(state.to_string())),
            None => Ok(()),
        }
    }

    /// Remembers why something did not come about. Nothing else changes.
    pub(super) fn remember_why(&mut self, error: &dyn std::error::Error) -> Result<(), AgentError> {
        if self.run == Run::Real {
            let text = chain(error);
            self.engine.remember(|record| record.last_error = Some(text))?;
        }
        Ok(())
    }

    pub(super) fn refusable(
        &mut self,
        gate: impl FnOnce(&Self) -> Result<(), Refusal>,
    ) -> Result<(), AgentError> {
        let Err(refusal) = gate(self) else { return Ok(()) };
        self.remember_why(&refusal)?;
        Err(refusal.into())
    }

    /// Writes down what failed, if something did.
    pub(super) fn or_failed<T>(&mut self, outcome: Result<T, AgentError>) -> Result<T, AgentError> {
        if let Err(error) = &outcome
            && self.run == Run::Real
        {
            let event = Event::Error { error: chain(error), retryable: error.is_retryable() };
            self.happen(event)?;
        }
        outcome
    }

    /// The same where a server was asked: what was settled before that stays so.
    pub(super) fn or_as_before<T>(
        &mut self,
        outcome: Result<T, AgentError>,
        before: &State,
    ) -> Result<T, AgentError> {
        let settled =
            matches!(before, State::Staged(..) | State::Committed(..) | State::RolledBack { .. });
        if let Err(error) = &outcome
            && settled
        {
            self.happen(Event::Kept(Box::new(before.clone())))?;
            self.remember_why(error)?;
            return outcome;
        }
        self.or_failed(outcome)
    }
}

/// What can be seen, and what lies in a slot that only the boot loader remembers.
fn observe(agent: &Agent, loader: &dyn BootLoader) -> Result<Observed, AgentError> {
    let mut seen = machine::observe(agent.settings(), loader)?;
    let record = Engine::look(&HostFiles, &agent.settings().state_dir);
    if let Some(slot) = forgotten(&record, &seen) {
        // One that cannot be read is judged all the same.
        let there = Passive::beside(&HostFiles, agent.layout(), !slot);
        seen.forgotten = there.and_then(|slot| slot.fingerprint()).unwrap_or_default();
    }
    Ok(seen)
}

/// The lock, if nobody else holds it.
fn lock(agent: &Agent) -> Result<Option<FileLock>, AgentError> {
    let dir = &agent.settings().state_dir;
    create_private_dir(dir)?;
    Ok(FileLock::try_acquire(&dir.join("lock"))?)
}
