//! The place of one template: what is known of it, and whose turn it is to make, open or remove it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use banger_model::{Bytes, TemplateId, Timestamp};
use tokio::time::Instant;

use super::template::{About, Template};

/// A template that could not be made or loaded is tried again after this.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(600);

/// The place of one template.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Held by whoever makes it, opens it or removes it.
    pub(super) turn: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
}

/// What is known of a template.
#[derive(Debug, Default)]
pub(super) enum Kept {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    Ready(Arc<Template>),
    Bad(Bad),
}

/// It is of no use.
#[derive(Debug)]
pub(super) struct Bad {
    since: Instant,
    /// The template that is there all the same, if one is: machines that were made from it are
    /// saved over its files. They go when nobody holds it any more.
    left: Option<Weak<Template>>,
}

/// What is left of a bad template.
#[derive(Debug)]
pub(super) enum Left {
    Nothing,
    /// Files that nobody needs.
    Files,
    /// What machines were made from that run.
    Held(Arc<Template>),
}

/// The right to make a template, to open it or to remove it.
pub(super) type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

/// A template as it is at one moment. Whoever has this does not hold the template.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its name.
    pub id: TemplateId,
    /// What is known about it.
    pub about: About,
    /// What its files take on the disk.
    pub size: Bytes,
    /// How many sandboxes were made from it.
    pub hits: u64,
    /// When it was last used, or else made.
    pub last_used: Timestamp,
    /// Whether a sandbox runs, or is about to, that was made from it.
    pub in_use: bool,
}

impl Seen {
    /// As it is in its slot.
    pub(super) fn of(template: &Arc<Template>) -> Self {
        Self {
            id: template.id.clone(),
            about: template.about.clone(),
            size: template.size(),
            hits: template.hits(),
            last_used: template.last_used(),
            // The slot has one.
            in_use: Arc::strong_count(template) > 1,
        }
    }
}

/// What is known about a template at once.
#[derive(Debug)]
pub(crate) enum Known {
    /// It can be used.
    Ready(Arc<Template>),
    /// It is to be done without.
    Bad,
    /// It has to be looked for or made.
    Not,
}

impl Slot {
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known(&self) -> Known {
        match &*self.kept() {
            Kept::Ready(template) => Known::Ready(template.clone()),
            Kept::Bad(bad) if bad.since.elapsed() < TRY_AGAIN => Known::Bad,
            Kept::Bad(_) | Kept::Unknown => Known::Not,
        }
    }

    pub(super) fn left(&self) -> Left {
        match &*self.kept() {
            Kept::Bad(Bad { left: Some(template), .. }) => {
                template.upgrade().map_or(Left::Files, Left::Held)
            }
            Kept::Bad(_) | Kept::Unknown | Kept::Ready(_) => Left::Nothing,
        }
    }

    /// It is of no use from now on; these files of it may be left.
    pub(super) fn is_bad(&self, left: Option<Weak<Template>>) {
        *self.kept() = Kept::Bad(Bad { since: Instant::now(), left });
    }

    /// How its template is, if it can be used.
    pub(super) fn seen(&self) -> Option<Seen> {
        match &*self.kept() {
            Kept::Ready(template) => Some(Seen::of(template)),
            Kept::Bad(_) | Kept::Unknown => None,
        }
    }
}
