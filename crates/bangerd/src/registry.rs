//! Every sandbox there is: making new ones, finding those that are there.

mod fork;
mod reservations;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use banger_api::types::CreateSandbox;
use banger_host::random;
use banger_model::lifecycle::State;
use banger_model::policy::{Action, Goal};
use banger_model::{
    FromSnapshot, OperationId, OperationRecord, OperationStatus, SandboxId, SandboxName,
    SandboxRecord, SandboxSpec, SnapshotName, generate_name,
};
use banger_store::{Refused, Write, WriteFailed};
use thiserror::Error;
use tracing::warn;

use crate::driver::{self, Beginning, Handle, View};
use crate::leases;
use crate::operations::now;
use crate::shared::Shared;
use crate::snapshots::Need;
use crate::spares::Spare;
use crate::store::NotStored;

pub(crate) use fork::ForkError;
pub(crate) use reservations::Reservations;

/// Names that are tried for a sandbox that was given none. Each is longer than the one before.
const NAME_ATTEMPTS: usize = 8;
/// Shortest prefix that stands for an id.
const MIN_PREFIX: usize = 2;

/// Every sandbox there is.
pub(crate) struct Registry {
    shared: Arc<Shared>,
    sandboxes: Mutex<BTreeMap<SandboxId, Handle>>,
    leases: leases::Turns,
    forks: tokio::sync::Mutex<()>,
}

/// What a new sandbox is, the operation that starts it, and what it needs until it has begun.
type Reserved = Result<(SandboxRecord, Option<OperationRecord>, Option<Need>), CreateError>;

/// Why a sandbox cannot be created.
#[derive(Debug, Error)]
pub(crate) enum CreateError {
    /// The request makes no sense on this host.
    #[error("{0:#}")]
    Impossible(anyhow::Error),
    /// There is nothing to make it from.
    #[error("there is no snapshot {0}")]
    NoSnapshot(SnapshotName),
    /// Nothing can be made from it.
    #[error("snapshot {0} is damaged: {1}")]
    DamagedSnapshot(SnapshotName, String),
    /// It cannot be remembered: most likely its name is taken.
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// The host refuses.
    #[error(transparent)]
    Host(#[from] banger_host::HostError),
}

/// What has an id whose beginning is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A sandbox.
    Sandbox,
    /// A template.
    Template,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sandbox => "sandbox",
            Self::Template => "template",
        })
    }
}

/// Why a text means none of those that are there.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ResolveError {
    /// None has this name, this id, or an id that begins so.
    #[error("there is no {kind} {text:?}")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// What was given.
        text: String,
    },
    /// More than one id begins so.
    #[error("{prefix:?} could be {candidates}")]
    Ambiguous {
        /// What was looked for.
        kind: Kind,
        /// What was given.
        prefix: String,
        /// Whose ids begin so.
        candidates: String,
    },
}

impl Registry {
    /// One with no sandbox in it.
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let (sandboxes, leases, forks) = Default::default();
        Arc::new(Self { shared, sandboxes, leases, forks })
    }

    /// What all share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Handle>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a sandbox; returns when it is remembered, with the operation that starts it. Who
    /// asks again with the same lease gets the same sandbox.
    ///
    /// # Errors
    /// [`CreateError`]; then there is none.
    pub(crate) async fn create(
        self: &Arc<Self>,
        wanted: CreateSandbox,
    ) -> Result<(Arc<View>, Option<OperationId>), CreateError> {
        let registry = self.clone();
        // Whoever asked may go: what is remembered has to be driven.
        let made = tokio::spawn(async move { registry.make_once(wanted).await });
        made.await.map_err(|error| CreateError::Impossible(error.into()))?
    }

    /// Makes it, unless that was done for the same lease before.
    async fn make_once(
        self: &Arc<Self>,
        wanted: CreateSandbox,
    ) -> Result<(Arc<View>, Option<OperationId>), CreateError> {
        let Some(lease) = wanted.lifetime.lease.clone() else { return self.make(wanted).await };
        let _turn = self.leases.take(&lease).await;
        if let Some(known) = self.find(|view| view.record.lifetime.lease.as_ref() == Some(&lease)) {
            let view = known.view();
            let starts = self.shared.operations.last_of(&view.record.id);
            return Ok((view, starts));
        }
        leases::check(&self.shared.home, &lease).map_err(CreateError::Impossible)?;
        self.make(wanted).await
    }

    async fn make(
        self: &Arc<Self>,
        wanted: CreateSandbox,
    ) -> Result<(Arc<View>, Option<OperationId>), CreateError> {
        let _under_way = self.shared.reservations.begin();
        let spare = match (&wanted.spec, wanted.start) {
            (Some(spec), true) => self.shared.spares.take(&self.shared, spec),
            _ => None,
        };
        let id = match &spare {
            Some(spare) => spare.id.clone(),
            None => SandboxId::from_random(random::bytes()?),
        };
        let reserved = self.reserve_made_of(wanted, id).await;
        let (record, operation, need) = match reserved {
            Ok(reserved) => reserved,
            Err(error) => {
                spare.into_iter().for_each(Spare::discard);
                return Err(error);
            }
        };
        self.shared.checkpoints.reach("create.reserved").await;
        let id = operation.as_ref().map(|operation| operation.id.clone());
        let handle = self.drive(record, operation.into_iter().collect(), Beginning::New(spare));
        if let Some(need) = need {
            need.keep();
        }
        Ok((handle.view(), id))
    }

    async fn reserve_made_of(&self, wanted: CreateSandbox, id: SandboxId) -> Reserved {
        let (made_of, need) = self.made_of(&wanted, &id)?;
        let (record, operation) = self.reserve(wanted, id, made_of).await?;
        Ok((record, operation, need))
    }

    /// What a new sandbox is made of. A snapshot that it is made from stays for as long as it needs
    /// that.
    fn made_of(
        &self,
        wanted: &CreateSandbox,
        id: &SandboxId,
    ) -> Result<(MadeOf, Option<Need>), CreateError> {
        let from = match (&wanted.spec, &wanted.from) {
            (Some(spec), None) => {
                self.shared.host.check(spec).map_err(CreateError::Impossible)?;
                return Ok((MadeOf { spec: spec.clone(), from: None }, None));
            }
            (None, Some(from)) => from,
            (Some(_), Some(_)) => {
                let why = anyhow!("what is made from a snapshot is as that is: give no spec");
                return Err(CreateError::Impossible(why));
            }
            (None, None) => {
                let why = anyhow!("give a spec, or a snapshot to make the sandbox from");
                return Err(CreateError::Impossible(why));
            }
        };
        let found = self.shared.snapshots.need_named(&from.snapshot, id);
        let (snapshot, need) = found.ok_or_else(|| self.no_snapshot(&from.snapshot))?;
        let mut spec = snapshot.about.spec.clone();
        self.shared.host.check(&spec).map_err(CreateError::Impossible)?;
        spec.network = from.network.unwrap_or(spec.network);
        let from = FromSnapshot { snapshot: snapshot.id.clone(), part: from.part, up: None };
        Ok((MadeOf { spec, from: Some(from) }, Some(need)))
    }

    fn no_snapshot(&self, name: &SnapshotName) -> CreateError {
        let damaged = self.shared.snapshots.damaged();
        match damaged.iter().find(|damaged| damaged.name() == *name) {
            Some(damaged) => CreateError::DamagedSnapshot(name.clone(), damaged.why.clone()),
            None => CreateError::NoSnapshot(name.clone()),
        }
    }

    /// Claims a name and a place for a new sandbox: one transaction, and nothing else.
    async fn reserve(
        &self,
        wanted: CreateSandbox,
        id: SandboxId,
        made_of: MadeOf,
    ) -> Result<(SandboxRecord, Option<OperationRecord>), CreateError> {
        let random = random::bytes()?;
        let attempts = if wanted.name.is_some() { 1 } else { NAME_ATTEMPTS };
        let mut attempt = 0;
        loop {
            let name = wanted.name.clone().unwrap_or_else(|| generate_name(random, attempt));
            let record = record(&wanted, id.clone(), name, made_of.clone());
            let operation = match wanted.start {
                true => Some(starting(&record, random::bytes()?)),
                false => None,
            };
            let mut writes = vec![Write::Insert(record.clone())];
            writes.extend(operation.clone().map(Write::PutOperation));
            attempt += 1;
            match self.shared.store.write(writes).await {
                Ok(()) => return Ok((record, operation)),
                Err(NotStored(WriteFailed::Refused(Refused::NameTaken { .. })))
                    if attempt < attempts => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes in a sandbox that the store remembers.
    pub(crate) fn drive(
        self: &Arc<Self>,
        record: SandboxRecord,
        operations: Vec<OperationRecord>,
        beginning: Beginning,
    ) -> Handle {
        let id = record.id.clone();
        let lease = record.lifetime.lease.clone();
        // Locked until it is in: its driver may end before.
        let mut sandboxes = self.lock();
        let gone = {
            let (registry, id) = (Arc::downgrade(self), id.clone());
            move || {
                if let Some(registry) = registry.upgrade() {
                    registry.lock().remove(&id);
                }
            }
        };
        let handle = driver::spawn(self.shared.clone(), record, operations, beginning, gone);
        sandboxes.insert(id.clone(), handle.clone());
        drop(sandboxes);
        if let Some(lease) = lease {
            let fallen = handle.clone();
            let watched = leases::watch(&self.shared.home, &lease, move || fallen.lease_fell());
            if let Err(error) = watched {
                warn!(sandbox = %id, %error, "its lease cannot be watched: it goes at once");
                handle.lease_fell();
            }
        }
        handle
    }

    fn find(&self, meant: impl Fn(&View) -> bool) -> Option<Handle> {
        self.lock().values().find(|handle| meant(&handle.view())).cloned()
    }

    /// The sandbox that an id, a name or the beginning of an id means, in this order.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub(crate) fn resolve(&self, text: &str) -> Result<Handle, ResolveError> {
        // An id is what scripts keep: no name that somebody chose takes its place.
        if let Some(handle) = text.parse().ok().and_then(|id| self.get(&id)) {
            return Ok(handle);
        }
        if let Some(named) = self.find(|view| view.record.name.as_str() == text) {
            return Ok(named);
        }
        let sandboxes = self.lock();
        let ids = sandboxes.iter().map(|(id, handle)| (id.as_str(), handle));
        by_beginning(Kind::Sandbox, ids, text).cloned()
    }

    /// The sandbox of this id.
    pub(crate) fn get(&self, id: &SandboxId) -> Option<Handle> {
        self.lock().get(id).cloned()
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<View>> {
        let mut views: Vec<_> = self.lock().values().map(Handle::view).collect();
        views.sort_by(|a, b| {
            (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id))
        });
        views
    }
}

/// The one of `all`, each with its id, whose id a text is or begins.
///
/// # Errors
/// [`ResolveError`].
pub(crate) fn by_beginning<'a, T>(
    kind: Kind,
    all: impl Iterator<Item = (&'a str, T)>,
    text: &str,
) -> Result<T, ResolveError> {
    let begins = |(id, _): &(&str, T)| text.len() >= MIN_PREFIX && id.starts_with(text);
    let mut found = all.filter(begins).peekable();
    let Some((first, meant)) = found.next() else {
        return Err(ResolveError::NotFound { kind, text: text.to_owned() });
    };
    if found.peek().is_none() {
        return Ok(meant);
    }
    let candidates: Vec<_> = std::iter::once(first).chain(found.map(|(id, _)| id)).collect();
    Err(ResolveError::Ambiguous {
        kind,
        prefix: text.to_owned(),
        candidates: candidates.join(", "),
    })
}

/// What a new sandbox is made of.
#[derive(Clone, Debug)]
struct MadeOf {
    spec: SandboxSpec,
    from: Option<FromSnapshot>,
}

fn record(
    wanted: &CreateSandbox,
    id: SandboxId,
    name: SandboxName,
    made_of: MadeOf,
) -> SandboxRecord {
    let MadeOf { spec, from } = made_of;
    SandboxRecord {
        id,
        name,
        spec,
        labels: wanted.labels.clone(),
        lifetime: wanted.lifetime.clone(),
        created: now(),
        state: State::Created,
        boots: 0,
        restarts: 0,
        restart_at: None,
        from,
    }
}

fn starting(record: &SandboxRecord, id: [u8; 8]) -> OperationRecord {
    OperationRecord {
        id: OperationId::from_random(id),
        sandbox: record.id.clone(),
        action: Action::Start,
        goal: Goal::of(Action::Start, &record.state, record.boots),
        started: now(),
        status: OperationStatus::Running,
        tag: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str) -> Result<u32, ResolveError> {
        let all = [("0123ab", 1), ("0123cd", 2), ("4567ef", 3)];
        by_beginning(Kind::Template, all.into_iter(), text)
    }

    #[test]
    fn an_id_is_meant_by_enough_of_its_beginning() {
        assert_eq!([meant("0123ab"), meant("0123c"), meant("45")], [Ok(1), Ok(2), Ok(3)]);
        for nobody in ["", "4", "5", "4567eff", "567"] {
            let error = meant(nobody).unwrap_err();
            assert_eq!(error.to_string(), format!("there is no template {nobody:?}"));
        }
        assert_eq!(meant("01").unwrap_err().to_string(), "\"01\" could be 0123ab, 0123cd");
    }
}
