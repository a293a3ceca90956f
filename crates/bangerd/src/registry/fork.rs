//! Copies of a sandbox that runs: all of them are remembered in the same breath as the snapshot
//! that they are made from is decided, so a fork is made as a whole or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use banger_api::types::ForkSandbox;
use banger_host::random;
use banger_model::lifecycle::State;
use banger_model::policy::Action;
use banger_model::{
    FromSnapshot, Lifetime, Limits, OperationId, OperationRecord, SandboxId, SandboxName,
    SandboxRecord, SnapshotId, SnapshotPart, generate_name,
};
use banger_store::{Refused, Write, WriteFailed};
use thiserror::Error;

use super::{NAME_ATTEMPTS, Registry, starting};
use crate::driver::{AskError, Beginning, Handle, View, Wanted, WasAsked};
use crate::operations::now;
use crate::store::NotStored;

/// Why a sandbox is not forked.
#[derive(Debug, Error)]
pub(crate) enum ForkError {
    /// None, or too many.
    #[error("{0} copies cannot be made at once: ask for 1 to {max}", max = Limits::MAX_FORKS)]
    Count(u16),
    /// The sandbox does not do it.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// This fork was made, and nothing is left of it.
    #[error("the copies that this made are deleted")]
    Gone,
    /// The host refuses.
    #[error("{0:#}")]
    Host(#[from] anyhow::Error),
}

/// A copy that is to be made.
type Copy = (SandboxRecord, OperationRecord);

impl Registry {
    /// Makes copies of a sandbox that runs; returns when they are remembered. Asked again with the
    /// same operation, they are the same ones.
    ///
    /// # Errors
    /// [`ForkError`]; then there are none.
    pub(crate) async fn fork(
        self: &Arc<Self>,
        source: Handle,
        operation: OperationId,
        wanted: ForkSandbox,
    ) -> Result<Vec<Arc<View>>, ForkError> {
        if wanted.count == 0 || wanted.count > Limits::MAX_FORKS {
            return Err(ForkError::Count(wanted.count));
        }
        let registry = self.clone();
        // Whoever asked may go: what is remembered has to be driven.
        let made = tokio::spawn(async move {
            let _turn = registry.forks.lock().await;
            registry.fork_in_turn(&source, &operation, &wanted).await
        });
        made.await.map_err(anyhow::Error::from)?
    }

    async fn fork_in_turn(
        self: &Arc<Self>,
        source: &Handle,
        operation: &OperationId,
        wanted: &ForkSandbox,
    ) -> Result<Vec<Arc<View>>, ForkError> {
        let snapshot = SnapshotId::of(operation);
        let mut attempt = 0;
        loop {
            let copies = self.copies(&source.view().record, &snapshot, wanted, attempt)?;
            let needs: Vec<_> = copies
                .iter()
                .map(|(record, _)| self.shared.snapshots.need(&snapshot, &record.id))
                .collect();
            let with = copies.iter().flat_map(|(record, starts)| {
                [Write::Insert(record.clone()), Write::PutOperation(starts.clone())]
            });
            let (action, id, with) = (Action::Fork, operation.clone(), with.collect());
            attempt += 1;
            match source.ask_for(Wanted { action, id, tag: None, with }).await {
                Ok(WasAsked::Before) => return self.forked(&snapshot),
                Ok(WasAsked::Anew) => {
                    let drive =
                        |(record, starts)| self.drive(record, vec![starts], Beginning::New(None));
                    let views = copies.into_iter().map(|copy| drive(copy).view()).collect();
                    needs.into_iter().for_each(crate::snapshots::Need::keep);
                    return Ok(views);
                }
                // Somebody else was faster.
                Err(AskError::NotStored(NotStored(WriteFailed::Refused(Refused::NameTaken {
                    ..
                }))))
                    if attempt < NAME_ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What this fork has made, as far as it is still there.
    pub(crate) fn forked(&self, snapshot: &SnapshotId) -> Result<Vec<Arc<View>>, ForkError> {
        let mut views = self.list();
        views.retain(|view| {
            view.record.from.as_ref().is_some_and(|from| from.snapshot == *snapshot)
        });
        if views.is_empty() { Err(ForkError::Gone) } else { Ok(views) }
    }

    /// The copies as they are to be remembered: as their source, each under a name of its own.
    fn copies(
        &self,
        source: &SandboxRecord,
        snapshot: &SnapshotId,
        wanted: &ForkSandbox,
        attempt: usize,
    ) -> Result<Vec<Copy>, ForkError> {
        let views = self.list();
        let taken = views.iter().map(|view| &view.record.name).collect();
        let prefix = wanted.name.as_ref().unwrap_or(&source.name);
        let names = names(prefix, wanted.count, &taken, attempt)?;
        let ids = names.iter().map(|_| Ok(SandboxId::from_random(random::bytes()?)));
        let ids: Result<BTreeSet<_>> = ids.collect();
        // Made at the same time, they are listed in the order of their ids.
        let (created, ids) = (now(), ids?);
        let mut copies = Vec::new();
        for (id, name) in ids.into_iter().zip(names) {
            let record = SandboxRecord {
                id,
                name,
                spec: source.spec.clone(),
                labels: source.labels.clone(),
                lifetime: Lifetime::default(),
                created,
                state: State::Created,
                boots: 0,
                restarts: 0,
                restart_at: None,
                from: Some(FromSnapshot {
                    snapshot: snapshot.clone(),
                    part: SnapshotPart::Machine,
                    up: None,
                }),
            };
            let starts = starting(&record, random::bytes().map_err(anyhow::Error::from)?);
            copies.push((record, starts));
        }
        Ok(copies)
    }
}

/// So many names that are not taken: the prefix with the next numbers, or, where that is too long
/// or somebody else was faster all the time, names that are made up.
fn names(
    prefix: &SandboxName,
    count: u16,
    taken: &BTreeSet<&SandboxName>,
    attempt: usize,
) -> Result<Vec<SandboxName>, ForkError> {
    let numbered = (1..).map_while(|n| prefix.numbered(n));
    let free = numbered.filter(|name| !taken.contains(name));
    let mut names: Vec<_> = free.take(usize::from(count)).collect();
    if attempt + 1 == NAME_ATTEMPTS {
        names.clear();
    }
    while names.len() < usize::from(count) {
        let random = random::bytes().map_err(anyhow::Error::from)?;
        let name = (0..).map(|attempt| generate_name(random, attempt));
        let name = name.take(NAME_ATTEMPTS).find(|n| !taken.contains(n) && !names.contains(n));
        names.extend(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_get_the_next_numbers_and_made_up_names_where_there_are_none() {
        let name = |text: &str| text.parse::<SandboxName>().unwrap();
        let (web, taken) = (name("web"), [name("web-1"), name("web-3")]);
        let taken = taken.iter().collect();
        let next = names(&web, 3, &taken, 0).unwrap();
        assert_eq!(next, [name("web-2"), name("web-4"), name("web-5")]);
        let long = name(&"a".repeat(Limits::MAX_NAME_LEN));
        let made_up = names(&long, 3, &taken, 0).unwrap();
        assert_eq!(made_up.iter().collect::<BTreeSet<_>>().len(), 3);
        let last = names(&web, 1, &taken, NAME_ATTEMPTS - 1).unwrap();
        assert!(!last[0].as_str().starts_with("web-"), "{last:?}");
    }
}
