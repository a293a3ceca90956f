//! The dumb half: it lets something happen to the state, writes that down, and then tells the boot
//! loader what follows. What else follows is handed to the caller.

use std::path::{Path, PathBuf};

use banger_host::HostError;
use banger_model::Timestamp;
use thiserror::Error;

use crate::boot::{BootError, BootLoader, Tries};
use crate::files::Files;
use crate::history::{Entry, History, recall};
use crate::record::{ReadRecord, Record, RecordError, RecordFile};
use crate::recovery::{Observed, Written, forgotten, recover, restart_is_due};
use crate::state::State;
use crate::transition::{Denied, Effect, Event};

/// The files of the engine in its directory.
const RECORD: &str = "state.json";
const HISTORY: &str = "history.json";
/// Where a state file goes that does not count.
const UNUSABLE: &str = "state.unusable";

/// Why something could not happen.
#[derive(Debug, Error)]
pub enum EngineError {
    /// It makes no sense now.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It could not be written down, so it did not happen.
    #[error("cannot write down what is going on")]
    Record(#[from] RecordError),
    /// It was written down, and the boot loader could not be told.
    #[error("cannot tell the boot loader")]
    Boot(#[from] BootError),
    /// A file.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// The state of an update on its disk, and the boot loader that follows it.
///
/// Whoever has one holds the lock that keeps others away.
#[derive(Debug)]
pub struct Engine<'a, F> {
    files: &'a F,
    dir: PathBuf,
    loader: &'a dyn BootLoader,
    tries: Tries,
    record: Record,
    /// This boot.
    boot_id: String,
}

impl<'a, F: Files> Engine<'a, F> {
    /// Reads what was left in a directory, and settles what a crash or a boot left open. The
    /// effects are those that the caller has to see to.
    ///
    /// # Errors
    /// When something has to be settled and that fails.
    pub fn open(
        files: &'a F,
        dir: &Path,
        loader: &'a dyn BootLoader,
        tries: Tries,
        seen: &Observed,
        now: Timestamp,
    ) -> Result<(Self, Vec<Effect>), EngineError> {
        let record = read(files, dir)?;
        let boot_id = seen.boot_id.clone();
        let mut engine = Self { files, dir: dir.to_owned(), loader, tries, record, boot_id };
        if let (Some(slot), Some(lies)) = (forgotten(&engine.record, seen), seen.forgotten)
            && seen.booted.slot == Some(!slot)
        {
            engine.remember(|record| record.remember_failed(lies))?;
        }
        let Some((state, effects)) = recover(&engine.record.state, engine.written(), seen) else {
            return Ok((engine, vec![]));
        };
        // That the machine starts again is remembered, too: it must not do so for ever.
        let restarts = effects.contains(&Effect::Reboot) && engine.written() == Written::Earlier;
        if (restarts || state != engine.record.state)
            && let Err(error) = engine.become_state(state.clone(), now)
        {
            // A disk that is full must not keep anybody from making room, or from going back. It is
            // found out anew as long as it is not written down.
            (engine.record.state, engine.record.since) = (state, now);
            engine.record.boot_id = Some(engine.boot_id.clone());
            engine.record.last_error = Some(error.to_string());
        }
        let left = engine.carry_out(effects)?;
        Ok((engine, left))
    }

    /// What [`Self::open`] would find, with nothing written and nobody told.
    ///
    /// # Errors
    /// Never for a file that does not count; see [`Record::last_error`].
    pub fn peek(
        files: &'a F,
        dir: &Path,
        loader: &'a dyn BootLoader,
        tries: Tries,
        seen: &Observed,
    ) -> Self {
        let record = Self::look(files, dir);
        let boot_id = seen.boot_id.clone();
        let mut engine = Self { files, dir: dir.to_owned(), loader, tries, record, boot_id };
        if let Some((state, _)) = recover(&engine.record.state, engine.written(), seen) {
            engine.record.state = state;
        }
        engine
    }

    /// Whether the machine has to start again before anything else begins.
    pub fn restart_is_due(&self, seen: &Observed) -> bool {
        restart_is_due(&self.record.state, self.written(), seen)
    }

    fn written(&self) -> Written {
        let now = self.record.boot_id.as_ref() == Some(&self.boot_id);
        if now { Written::InThisBoot } else { Written::Earlier }
    }

    /// Reads what was left in a directory, and changes nothing.
    ///
    /// # Errors
    /// Never for a file that does not count; see [`Record::last_error`].
    pub fn look(files: &F, dir: &Path) -> Record {
        match RecordFile::new(files, &dir.join(RECORD)).read() {
            ReadRecord::Known(record) => *record,
            ReadRecord::Missing => recalled(files, dir, Record::default()),
            ReadRecord::Unusable(record, error) => {
                let record = Record { last_error: Some(error.to_string()), ..*record };
                recalled(files, dir, record)
            }
            ReadRecord::Unreadable(error) => {
                Record { last_error: Some(error.to_string()), ..Record::default() }
            }
        }
    }

    /// What is remembered.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What happened, the oldest first.
    pub fn history(files: &F, dir: &Path) -> Vec<Entry> {
        History::new(files, &dir.join(HISTORY)).entries()
    }

    /// Remembers something besides the state.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), EngineError> {
        let mut record = self.record.clone();
        change(&mut record);
        if record != self.record {
            self.write(record)?;
        }
        Ok(())
    }

    /// Something happens: it is written down, and the boot loader told. The effects are those that
    /// the caller has to see to.
    ///
    /// # Errors
    /// When it makes no sense now, or one of both fails.
    pub fn happen(&mut self, event: Event, now: Timestamp) -> Result<Vec<Effect>, EngineError> {
        let (state, effects) = self.record.state.clone().apply(event)?;
        if let (State::Committed(..) | State::RolledBack { .. }, [Effect::Commit(slot)]) =
            (&state, effects.as_slice())
        {
            // The one thing that is told before it is written down: were it forgotten after the last
            // trial, the other system would run, and this one be said to have proved itself.
            self.loader.commit(*slot)?;
        }
        self.become_state(state, now)?;
        self.carry_out(effects)
    }

    fn become_state(&mut self, state: State, now: Timestamp) -> Result<(), EngineError> {
        let mut record = self.record.clone();
        match &state {
            State::Committed(release, _) => {
                record.remember_committed(&release.version);
                record.last_error = None;
            }
            State::RolledBack { release, reason, .. } => {
                record.remember_failed(release.fingerprint);
                record.last_error = Some(reason.clone());
            }
            State::Failed(failure) => record.last_error = Some(failure.error.clone()),
            State::Blocked { .. } => record.last_error = Some(state.to_string()),
            _ => {}
        }
        let entry = Entry::of(&state, now);
        (record.state, record.since) = (state, now);
        record.boot_id = Some(self.boot_id.clone());
        self.write(record)?;
        // What is written is the record: that it cannot be written must not keep an update from its end.
        let _ = History::new(self.files, &self.dir.join(HISTORY)).add(entry);
        Ok(())
    }

    fn write(&mut self, record: Record) -> Result<(), EngineError> {
        RecordFile::new(self.files, &self.dir.join(RECORD)).write(&record)?;
        self.record = record;
        Ok(())
    }

    fn carry_out(&self, effects: Vec<Effect>) -> Result<Vec<Effect>, EngineError> {
        let mut left = Vec::new();
        for effect in effects {
            match effect {
                Effect::Close(slot) => self.loader.close(slot)?,
                Effect::Try { slot, nonce } => self.loader.try_next(slot, self.tries, &nonce)?,
                Effect::Commit(slot) => self.loader.commit(slot)?,
                Effect::Select(slot) => self.loader.select(slot)?,
                other => left.push(other),
            }
        }
        Ok(left)
    }
}

fn read<F: Files>(files: &F, dir: &Path) -> Result<Record, EngineError> {
    let path = dir.join(RECORD);
    match RecordFile::new(files, &path).read() {
        ReadRecord::Known(record) => Ok(*record),
        ReadRecord::Missing => Ok(recalled(files, dir, Record::default())),
        // It may well be read the next time, and what it says must not be lost.
        ReadRecord::Unreadable(error) => Err(error.into()),
        ReadRecord::Unusable(record, error) => {
            // Somebody may want to see it, or a later version may know it.
            files.rename(&path, &dir.join(UNUSABLE))?;
            files.sync_dir(dir)?;
            let record = Record { last_error: Some(error.to_string()), ..*record };
            Ok(recalled(files, dir, record))
        }
    }
}

/// With what the history still knows.
fn recalled<F: Files>(files: &F, dir: &Path, mut record: Record) -> Record {
    recall(&mut record, &History::new(files, &dir.join(HISTORY)).entries());
    record
}
