//! A run that holds the lock of the state directory.

use banger_host::fs::create_private_dir;
use banger_host::lock::FileLock;
use banger_model::Timestamp;
use banger_trust::gates::Refusal;
use banger_update::{BootLoader, Effect, Engine, Event, HostFiles, Observed};

use super::{Agent, AgentError, Reboot};
use crate::health::chain;
use crate::machine;

/// A run that holds the lock, with the state as it was left and settled.
pub(super) struct Session<'a> {
    pub(super) engine: Engine<'a, HostFiles>,
    pub(super) seen: Observed,
    _lock: FileLock,
}

impl<'a> Session<'a> {
    pub(super) fn begin(agent: &Agent, loader: &'a dyn BootLoader) -> Result<Self, AgentError> {
        Self::begin_after_boot(agent, loader, Reboot::Later)
    }

    pub(super) fn begin_after_boot(
        agent: &Agent,
        loader: &'a dyn BootLoader,
        reboot: Reboot,
    ) -> Result<Self, AgentError> {
        let settings = agent.settings();
        create_private_dir(&settings.state_dir)?;
        let lock = FileLock::try_acquire(&settings.state_dir.join("lock"))?;
        let lock = lock.ok_or(AgentError::Busy)?;
        let seen = machine::observe(settings, loader)?;
        let (dir, tries) = (&settings.state_dir, settings.tries);
        let now = machine::system_time();
        let (engine, effects) = Engine::open(&HostFiles, dir, loader, tries, &seen, now)?;
        if effects.contains(&Effect::Reboot) && reboot == Reboot::Now {
            machine::reboot()?;
        }
        Ok(Self { engine, seen, _lock: lock })
    }

    /// The time to assume.
    pub(super) fn now(&self) -> Timestamp {
        machine::clock(self.engine.record().last_good).now(machine::system_time())
    }

    pub(super) fn happen(&mut self, event: Event) -> Result<Vec<Effect>, AgentError> {
        let now = self.now();
        Ok(self.engine.happen(event, now)?)
    }

    /// Remembers why something was refused. Nothing else changes.
    pub(super) fn refused(&mut self, refusal: &Refusal) -> Result<(), AgentError> {
        let text = chain(refusal);
        Ok(self.engine.remember(|record| record.last_error = Some(text))?)
    }

    pub(super) fn refusable(
        &mut self,
        gate: impl FnOnce(&Self) -> Result<(), Refusal>,
    ) -> Result<(), AgentError> {
        let Err(refusal) = gate(self) else { return Ok(()) };
        self.refused(&refusal)?;
        Err(refusal.into())
    }

    /// Writes down what failed, if something did.
    pub(super) fn or_failed<T>(&mut self, outcome: Result<T, AgentError>) -> Result<T, AgentError> {
        if let Err(error) = &outcome {
            let event = Event::Error { error: chain(error), retryable: error.is_retryable() };
            self.happen(event)?;
        }
        outcome
    }
}
