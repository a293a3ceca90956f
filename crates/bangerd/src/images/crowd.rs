//! Everybody who wants to know how one piece of work goes on. Who comes late learns the stage.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_model::Progress;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    listeners: Vec<(u64, Arc<dyn Progress>)>,
    next: u64,
    stage: Option<String>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crowd").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// A place in the crowd. Dropped, it is empty again.
pub(super) struct Seat<'a> {
    crowd: &'a Crowd,
    number: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.crowd.lock().listeners.retain(|(number, _)| *number != self.number);
    }
}

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more listens, as long as what is returned lives.
    pub(super) fn join(&self, progress: Arc<dyn Progress>) -> Seat<'_> {
        let mut inner = self.lock();
        if let Some(stage) = &inner.stage {
            progress.stage(stage);
        }
        let number = inner.next;
        inner.next += 1;
        inner.listeners.push((number, progress));
        Seat { crowd: self, number }
    }
}

impl Progress for Crowd {
    fn stage(&self, what: &str) {
        let mut inner = self.lock();
        inner.stage = Some(what.to_owned());
        inner.listeners.iter().for_each(|(_, listener)| listener.stage(what));
    }

    fn advance(&self, done: u64, whole: Option<u64>) {
        self.lock().listeners.iter().for_each(|(_, listener)| listener.advance(done, whole));
    }
}
