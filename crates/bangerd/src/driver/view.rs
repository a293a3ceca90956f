//! How a sandbox is, for everyone but its driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use banger_api::types::{Condition, Health, Sandbox};
use banger_model::lifecycle::{EndCause, State};
use banger_model::{SandboxRecord, Timestamp};

use crate::machine::Live;
use crate::operations::now;

/// How a sandbox is.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// What is remembered of it.
    pub record: SandboxRecord,
    /// What is not as it should be.
    pub conditions: Vec<Condition>,
    /// What its image's own check says, if it has one.
    pub health: Option<Health>,
    /// Its machine, while it can be talked to.
    pub live: Option<Live>,
    /// Why its last machine of this daemon ended; it is still told while the sandbox goes.
    pub ended: Option<EndCause>,
    /// When it was last of use.
    pub activity: Arc<Activity>,
}

impl View {
    /// The sandbox as it is shown, without what is costly to find out.
    pub(crate) fn sandbox(&self) -> Sandbox {
        let SandboxRecord {
            id,
            name,
            spec,
            labels,
            lifetime,
            created,
            state,
            boots,
            restarts,
            restart_at,
            from,
        } = self.record.clone();
        let (since, reason) = match &state {
            State::Paused { since } => (Some(*since), None),
            State::Stopped { since, cause } => (Some(*since), Some(cause.to_string())),
            State::Failed { since, reason } => (Some(*since), Some(reason.clone())),
            State::Created => (Some(created), None),
            State::Deleting => (None, self.ended.as_ref().map(ToString::to_string)),
            state if state.runs_since().is_some() => (state.runs_since(), None),
            _ => (None, None),
        };
        let expires = lifetime.ttl.map(|ttl| created.after(ttl));
        Sandbox {
            id,
            name,
            state: state.name().to_owned(),
            since,
            reason,
            spec,
            labels,
            lifetime,
            created,
            expires,
            boots,
            restarts,
            restart_at,
            from,
            conditions: self.conditions.clone(),
            health: self.health.clone(),
            detail: None,
        }
    }
}

/// When a sandbox was last of use to somebody outside.
#[derive(Debug)]
pub(crate) struct Activity {
    attached: AtomicUsize,
    last: AtomicU64,
}

impl Activity {
    /// Of use just now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { attached: AtomicUsize::new(0), last: AtomicU64::new(now.0) }
    }

    /// It is of use now.
    pub(crate) fn touch(&self) {
        self.last.fetch_max(now().0, Ordering::Relaxed);
    }

    /// It is of use for as long as the value lives.
    pub(crate) fn attach(self: &Arc<Self>) -> Attached {
        self.attached.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Attached(self.clone())
    }

    /// Whether it is of use at this moment.
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed) > 0
    }

    /// When it was last of use.
    pub(crate) fn last(&self) -> Timestamp {
        Timestamp(self.last.load(Ordering::Relaxed))
    }
}

/// Somebody who uses a sandbox.
#[derive(Debug)]
pub(crate) struct Attached(Arc<Activity>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.attached.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}
