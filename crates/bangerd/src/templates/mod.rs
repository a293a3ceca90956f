//! Templates: machines that have booted once and were saved, from which every sandbox of their
//! shape is made.
//!
//! A template is whole or not there. It is made once, however many wait for it; whoever asked
//! may go meanwhile. It is in use as long as anybody holds it: a running sandbox's memory is the
//! template's, as far as the sandbox has not written to it.

mod make;
mod rehearse;
mod shape;
mod slot;
mod template;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use banger_host::HostError;
use banger_host::fs::{ensure_private_dir, is_there, list_dir, remove_all};
use banger_host::staged::{self, Staged};
use banger_model::{Bytes, TemplateId};
use banger_vmm::reap;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use slot::{Kept, Left, Slot, Turn};

use crate::operations::now;

pub(crate) use make::{make, shape};
pub(crate) use rehearse::{Processes, rehearse, run_to_end};
pub use shape::Shape;
#[cfg(test)]
pub(crate) use shape::tests::shape as shape_for_tests;
pub(crate) use slot::{Known, Seen};
pub use template::{About, Template};

/// What all templates may take on the disk; those that were not used for the longest time go.
const BUDGET: Bytes = Bytes::gib(8);
/// So many machines in a row that did not come up from a template tell that it is damaged; fewer
/// may have been killed, or have had too slow a host.
const MAX_DOUBTS: u32 = 3;

/// Every template there is, or was asked for.
#[derive(Debug)]
pub struct Templates {
    root: PathBuf,
    slots: Mutex<BTreeMap<TemplateId, Arc<Slot>>>,
}

/// Why a template is not removed.
#[derive(Debug, Error)]
pub(crate) enum NotRemoved {
    /// It is in use.
    #[error("template {0} is in use: a sandbox that was made from it runs")]
    InUse(TemplateId),
    /// There is none.
    #[error("there is no template {0}")]
    Missing(TemplateId),
    /// Its files cannot be removed.
    #[error("{0:#}")]
    Host(#[from] anyhow::Error),
}

impl Templates {
    /// Those below this directory.
    pub(crate) fn below(root: PathBuf) -> Arc<Self> {
        Arc::new(Self { root, slots: Mutex::default() })
    }

    fn slot(&self, id: &TemplateId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(id.clone()).or_default().clone()
    }

    /// What is known about a template without waiting for anything.
    pub(crate) fn known(&self, id: &TemplateId) -> Known {
        self.slot(id).known()
    }

    /// The template of this name, which `make` makes in the directory that it is given if there is
    /// none. `None` when it is of no use at the moment.
    ///
    /// # Errors
    /// When it can neither be found nor made.
    pub(crate) async fn get<M, F>(
        self: &Arc<Self>,
        id: &TemplateId,
        make: M,
    ) -> Result<Option<Arc<Template>>>
    where
        M: FnOnce(PathBuf) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send,
    {
        match self.known(id) {
            Known::Ready(template) => return Ok(Some(template)),
            Known::Bad => return Ok(None),
            Known::Not => {}
        }
        let (templates, id) = (self.clone(), id.clone());
        // Whoever asked may go: others wait for it, or will.
        tokio::spawn(async move { templates.find_or_make(&id, make).await }).await?
    }

    async fn find_or_make<M, F>(&self, id: &TemplateId, make: M) -> Result<Option<Arc<Template>>>
    where
        M: FnOnce(PathBuf) -> F + Send,
        F: Future<Output = Result<()>> + Send,
    {
        let slot = self.slot(id);
        let _turn = slot.turn.lock().await;
        match slot.known() {
            Known::Ready(template) => return Ok(Some(template)),
            Known::Bad => return Ok(None),
            Known::Not => {}
        }
        match self.open_or_make(id, &slot, make).await {
            Ok(template) => {
                *slot.kept() = Kept::Ready(template.clone());
                self.keep_budget(id, BUDGET).await;
                Ok(Some(template))
            }
            Err(error) => {
                slot.is_bad(None);
                Err(error)
            }
        }
    }

    async fn open_or_make<M, F>(
        &self,
        id: &TemplateId,
        slot: &Slot,
        make: M,
    ) -> Result<Arc<Template>>
    where
        M: FnOnce(PathBuf) -> F + Send,
        F: Future<Output = Result<()>> + Send,
    {
        let dir = self.root.join(id.as_str());
        match slot.left() {
            // It cannot be made anew in the place of what is needed.
            Left::Held(template) => return Ok(template),
            Left::Files => remove_dir(dir.clone()).await?,
            Left::Nothing => {}
        }
        Ok(Arc::new(match open(&dir).await? {
            Some(template) => template,
            None => make_at(&dir, make).await?,
        }))
    }

    /// The template of this name if it is there, for a machine that was made from it.
    pub(crate) async fn held_by_machine(&self, id: &TemplateId) -> Option<Arc<Template>> {
        let slot = self.slot(id);
        let _turn = self.look(id, &slot).await;
        match (slot.known(), slot.left()) {
            (Known::Ready(template), _) | (_, Left::Held(template)) => Some(template),
            (Known::Bad | Known::Not, _) => None,
        }
    }

    /// Looks whether a template is there, unless that is known; it stays so while the turn is held.
    async fn look<'a>(&self, id: &TemplateId, slot: &'a Slot) -> Turn<'a> {
        let turn = slot.turn.lock().await;
        self.look_in_turn(id, slot, &turn).await;
        turn
    }

    async fn look_in_turn(&self, id: &TemplateId, slot: &Slot, _turn: &Turn<'_>) {
        let dir = self.root.join(id.as_str());
        match slot.left() {
            Left::Held(_) => return,
            Left::Files => self.remove_bad(id).await,
            Left::Nothing => {}
        }
        if slot.seen().is_none()
            && let Ok(Some(template)) = open(&dir).await
        {
            *slot.kept() = Kept::Ready(Arc::new(template));
        }
    }

    async fn remove_bad(&self, id: &TemplateId) {
        if let Err(error) = remove_dir(self.root.join(id.as_str())).await {
            warn!(template = %id, error = format!("{error:#}"), "a bad template remains");
        }
    }

    /// A sandbox is made from it. Nobody waits until that is written down.
    pub(crate) fn used(template: &Template) {
        template.used(now());
        let uses = template.uses();
        spawn_blocking(move || {
            if let Err(error) = uses.remember() {
                warn!(error = format!("{error:#}"), "a template's use is forgotten");
            }
        });
    }

    /// A template turns out to be of no use: it is done without for a while, and then made anew.
    pub(crate) async fn spoilt(&self, template: Arc<Template>) {
        let (slot, id) = (self.slot(&template.id), template.id.clone());
        let _turn = slot.turn.lock().await;
        if let Kept::Ready(kept) = &*slot.kept()
            && !Arc::ptr_eq(kept, &template)
        {
            // Another is in its place already.
            return;
        }
        slot.is_bad(Some(Arc::downgrade(&template)));
        match Arc::into_inner(template) {
            Some(_) => self.remove_bad(&id).await,
            None => info!(template = %id, "a bad template is in use, and kept as long"),
        }
    }

    /// A machine has not come up from a template, which may or may not be to blame for it.
    pub(crate) async fn doubted(&self, template: Arc<Template>) {
        if template.doubt() >= MAX_DOUBTS {
            self.spoilt(template).await;
        }
    }

    /// Every template as it is now, by name.
    ///
    /// # Errors
    /// When they cannot be looked for.
    pub(crate) async fn list(&self) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        for name in list_dir(&self.root)? {
            let id = name.to_str().and_then(|name| name.parse::<TemplateId>().ok());
            let Some(id) = id else { continue };
            let slot = self.slot(&id);
            let _turn = self.look(&id, &slot).await;
            all.extend(slot.seen());
        }
        Ok(all)
    }

    /// Every template with the identity of the image that it is made of, as far as that can be read. None
    /// is opened for it: most will not be used.
    ///
    /// # Errors
    /// When they cannot be looked for.
    pub(crate) async fn images(&self) -> Result<Vec<(TemplateId, String)>> {
        let root = self.root.clone();
        spawn_blocking(move || {
            let ids = list_dir(&root)?.into_iter();
            let ids = ids.filter_map(|name| name.to_str()?.parse::<TemplateId>().ok());
            let of = |id: TemplateId| {
                let about = template::about(&root.join(id.as_str())).ok()?;
                Some((id, about.shape.image().to_owned()))
            };
            Ok(ids.filter_map(of).collect())
        })
        .await?
    }

    /// Removes a template; returns how it was.
    ///
    /// # Errors
    /// [`NotRemoved`].
    pub(crate) async fn remove(self: &Arc<Self>, id: &TemplateId) -> Result<Seen, NotRemoved> {
        let (templates, id) = (self.clone(), id.clone());
        // Whoever asked may go: nobody is to make it anew where half of it is left.
        let removed = tokio::spawn(async move {
            let slot = templates.slot(&id);
            let turn = templates.look(&id, &slot).await;
            templates.remove_in_turn(&id, &slot, &turn).await
        });
        removed.await.map_err(anyhow::Error::from)?
    }

    async fn remove_in_turn(
        &self,
        id: &TemplateId,
        slot: &Slot,
        _turn: &Turn<'_>,
    ) -> Result<Seen, NotRemoved> {
        let seen = {
            let mut kept = slot.kept();
            let Kept::Ready(template) = &*kept else {
                return Err(NotRemoved::Missing(id.clone()));
            };
            let seen = Seen::of(template);
            if seen.in_use {
                return Err(NotRemoved::InUse(id.clone()));
            }
            *kept = Kept::Unknown;
            seen
        };
        remove_dir(self.root.join(id.as_str())).await?;
        info!(template = %id, "removed a template");
        Ok(seen)
    }

    /// Looks at those that nobody has asked this daemon for: they take space, too.
    async fn look_at_others(&self, newest: &TemplateId) {
        for name in list_dir(&self.root).unwrap_or_default() {
            let id = name.to_str().and_then(|name| name.parse::<TemplateId>().ok());
            let Some(id) = id.filter(|id| id != newest) else { continue };
            let slot = self.slot(&id);
            // One that somebody makes or looks at will be counted next time.
            if let Ok(turn) = slot.turn.try_lock() {
                self.look_in_turn(&id, &slot, &turn).await;
            }
        }
    }

    /// Removes what is over the budget and not in use; never `newest`.
    async fn keep_budget(&self, newest: &TemplateId, budget: Bytes) {
        self.look_at_others(newest).await;
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<_> =
            slots.values().filter_map(|slot| Some((slot.seen()?, slot))).collect();
        all.sort_by_key(|(seen, _)| seen.last_used);
        let mut total: u64 = all.iter().map(|(seen, _)| seen.size.get()).sum();
        for (Seen { id, size, .. }, slot) in all {
            if total <= budget.get() {
                return;
            }
            // Its own turn is ours at the moment. Another's is not waited for: who has it may be
            // here, too, and wait for ours.
            let turn = slot.turn.try_lock();
            let Some(turn) = turn.ok().filter(|_| id != *newest) else { continue };
            match self.remove_in_turn(&id, slot, &turn).await {
                Ok(_) => total = total.saturating_sub(size.get()),
                Err(error) => info!(template = %id, %error, "over the budget, but kept"),
            }
        }
    }

    /// Writes down how often templates were used.
    pub(crate) fn remember_uses(&self) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, slot) in slots {
            // Not held meanwhile: nobody is to take this for a use.
            let uses = match &*slot.kept() {
                Kept::Ready(template) => template.uses(),
                Kept::Bad(_) | Kept::Unknown => continue,
            };
            if let Err(error) = uses.remember() {
                warn!(template = %id, error = format!("{error:#}"), "its uses are forgotten");
            }
        }
    }
}

/// The template in a directory. One that is not whole is removed.
async fn open(dir: &Path) -> Result<Option<Template>> {
    let dir = dir.to_owned();
    spawn_blocking(move || {
        if !is_there(&dir) {
            return Ok(None);
        }
        match Template::open(&dir) {
            Ok(template) => Ok(Some(template)),
            Err(error) if is_of_host(&error) => Err(error),
            Err(error) => {
                warn!(dir = %dir.display(), error = format!("{error:#}"), "removed a template that is not whole");
                remove_all(&dir)?;
                Ok(None)
            }
        }
    })
    .await?
}

/// Whether the host cannot read at the moment, which says nothing of a template: it may have too
/// many files open, or too little memory.
fn is_of_host(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    let of_files = [InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof];
    let kind = error.downcast_ref::<HostError>().and_then(HostError::io_kind);
    kind.is_some_and(|kind| !of_files.contains(&kind))
}

async fn make_at<M, F>(dir: &Path, make: M) -> Result<Template>
where
    M: FnOnce(PathBuf) -> F,
    F: Future<Output = Result<()>>,
{
    let target = dir.to_owned();
    let staged = spawn_blocking({
        let target = target.clone();
        move || Staged::begin(&target)
    })
    .await??;
    // Another daemon may have made it while this one waited.
    if let Some(template) = open(dir).await? {
        return Ok(template);
    }
    make(staged.path().to_owned()).await?;
    spawn_blocking(move || {
        staged.commit()?;
        Template::open(&target)
    })
    .await?
}

async fn remove_dir(dir: PathBuf) -> Result<()> {
    Ok(spawn_blocking(move || remove_all(&dir)).await??)
}

/// Ends machines that were to become templates when their daemon died, and removes what they
/// left.
///
/// # Errors
/// When the directory of templates cannot be looked at.
pub(crate) fn settle(root: &Path) -> Result<()> {
    ensure_private_dir(root)?;
    let root = root.canonicalize()?;
    let swept = staged::sweep(&root, |half| {
        reap(&half.join(make::MACHINE))
            .map(drop)
            .map_err(|error| HostError::system("end a machine", io::Error::other(error)))
    })?;
    if swept > 0 {
        info!(swept, "removed templates that were not finished");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;

    use super::shape::tests::shape;
    use super::slot::TRY_AGAIN;
    use super::*;

    fn filled(count: Arc<AtomicUsize>) -> impl FnOnce(PathBuf) -> std::future::Ready<Result<()>> {
        move |dir| {
            count.fetch_add(1, Ordering::Relaxed);
            template::tests::fill(&dir, shape());
            std::future::ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn ten_who_wait_have_it_made_once() {
        let root = tempfile::tempdir().unwrap();
        let templates = Templates::below(root.path().join("templates"));
        let id = shape().template().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let mut waiting = Vec::new();
        for _ in 0..10 {
            let (templates, id, made) = (templates.clone(), id.clone(), made.clone());
            waiting.push(tokio::spawn(async move { templates.get(&id, filled(made)).await }));
        }
        for waiting in waiting {
            assert!(waiting.await.unwrap().unwrap().is_some());
        }
        assert_eq!(made.load(Ordering::Relaxed), 1);
        // Another daemon finds it.
        let later = Templates::below(root.path().join("templates"));
        assert_eq!(later.list().await.unwrap().len(), 1);
        assert!(later.get(&id, filled(made.clone())).await.unwrap().is_some());
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_asked_may_go() {
        let root = tempfile::tempdir().unwrap();
        let templates = Templates::below(root.path().join("templates"));
        let id = shape().template().unwrap();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel::<()>();
        let make = move |dir: PathBuf| async move {
            begun.send(()).unwrap();
            gone.await?;
            template::tests::fill(&dir, shape());
            Ok(())
        };
        let asked = tokio::spawn({
            let (templates, id) = (templates.clone(), id.clone());
            async move { templates.get(&id, make).await }
        });
        has_begun.await.unwrap();
        asked.abort();
        go.send(()).unwrap();
        let never = |_| async { bail!("it is being made") };
        assert!(templates.get(&id, never).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_cannot_be_made_is_not_tried_at_once_again() {
        let root = tempfile::tempdir().unwrap();
        let templates = Templates::below(root.path().join("templates"));
        let id = shape().template().unwrap();
        assert!(templates.get(&id, |_| async { bail!("no") }).await.is_err());
        let made = Arc::new(AtomicUsize::new(0));
        assert!(templates.get(&id, filled(made.clone())).await.unwrap().is_none());
        assert_eq!(made.load(Ordering::Relaxed), 0);
        assert_eq!(list_dir(&root.path().join("templates")).unwrap().len(), 1, "but for the lock");
    }

    #[tokio::test]
    async fn one_in_use_is_not_removed_and_one_spoilt_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let templates = Templates::below(root.path().join("templates"));
        let id = shape().template().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let held = templates.get(&id, filled(made.clone())).await.unwrap().unwrap();
        let seen = templates.list().await.unwrap();
        assert_eq!(
            seen.iter().map(|seen| (&seen.id, seen.in_use)).collect::<Vec<_>>(),
            [(&id, true)]
        );
        assert!(matches!(templates.remove(&id).await, Err(NotRemoved::InUse(_))));
        assert!(Template::open(&root.path().join("templates").join(id.as_str())).is_ok());
        drop(held);
        assert!(!templates.list().await.unwrap()[0].in_use);
        assert_eq!(templates.remove(&id).await.unwrap().id, id);
        assert!(matches!(templates.remove(&id).await, Err(NotRemoved::Missing(_))));
        assert!(templates.list().await.unwrap().is_empty());
        let again = templates.get(&id, filled(made.clone())).await.unwrap().unwrap();
        templates.spoilt(again).await;
        assert!(templates.get(&id, filled(made.clone())).await.unwrap().is_none());
        assert!(templates.list().await.unwrap().is_empty());
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_spoilt_is_kept_for_those_who_run_and_made_anew_behind_them() {
        let root = tempfile::tempdir().unwrap();
        let templates = Templates::below(root.path().to_owned());
        let id = shape().template().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let running = templates.get(&id, filled(made.clone())).await.unwrap().unwrap();
        templates.spoilt(running.clone()).await;
        assert!(templates.get(&id, filled(made.clone())).await.unwrap().is_none());
        assert!(templates.list().await.unwrap().is_empty(), "and nobody takes it for a good one");
        assert!(matches!(templates.remove(&id).await, Err(NotRemoved::Missing(_))));
        assert!(running.disk().exists());
        let again = templates.held_by_machine(&id).await.unwrap();
        assert!(Arc::ptr_eq(&again, &running));
        drop(again);
        tokio::time::advance(TRY_AGAIN).await;
        // In its place none can be made: perhaps it is of use after all.
        let again = templates.get(&id, filled(made.clone())).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&again, &running));
        templates.spoilt(again).await;
        let disk = running.disk();
        drop(running);
        assert!(templates.list().await.unwrap().is_empty());
        assert!(!disk.exists(), "nobody needs it any more");
        tokio::time::advance(TRY_AGAIN).await;
        assert!(templates.get(&id, filled(made.clone())).await.unwrap().is_some());
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn one_is_given_up_when_nothing_comes_up_from_it_again_and_again() {
        let root = tempfile::tempdir().unwrap();
        let templates = Templates::below(root.path().to_owned());
        let id = shape().template().unwrap();
        let template = templates.get(&id, filled(Arc::default())).await.unwrap().unwrap();
        for _ in 0..2 {
            for _ in 1..MAX_DOUBTS {
                templates.doubted(template.clone()).await;
            }
            assert!(matches!(templates.known(&id), Known::Ready(_)));
            Templates::used(&template);
        }
        for _ in 0..MAX_DOUBTS {
            assert!(matches!(templates.known(&id), Known::Ready(_)));
            templates.doubted(template.clone()).await;
        }
        assert!(matches!(templates.known(&id), Known::Bad));
    }

    #[tokio::test]
    async fn what_is_over_the_budget_goes_unless_somebody_is_busy_with_it() {
        let root = tempfile::tempdir().unwrap();
        let shapes = ["1G", "2G", "3G", "4G"].map(|memory| {
            let mut shape = shape();
            shape.memory = memory.parse().unwrap();
            shape
        });
        let [newest, held, busy, idle] = shapes.map(|shape| {
            template::tests::make(root.path(), shape.clone());
            shape.template().unwrap()
        });
        let templates = Templates::below(root.path().to_owned());
        // The others are known to nobody: an earlier daemon made them.
        let _held = templates.held_by_machine(&held).await.unwrap();
        let busy_slot = templates.slot(&busy);
        let turn = busy_slot.turn.lock().await;
        templates.keep_budget(&newest, Bytes::new(0)).await;
        drop(turn);
        let mut kept = [newest, held, busy];
        kept.sort();
        let left = templates.list().await.unwrap();
        assert_eq!(left.iter().map(|seen| &seen.id).collect::<Vec<_>>(), Vec::from_iter(&kept));
        assert!(!root.path().join(idle.as_str()).exists());
    }

    #[tokio::test]
    async fn one_that_the_host_cannot_read_stays() {
        let root = tempfile::tempdir().unwrap();
        template::tests::make(root.path(), shape());
        let id = shape().template().unwrap();
        let about = root.path().join(id.as_str()).join("template.json");
        let aside = about.with_extension("aside");
        std::fs::rename(&about, &aside).unwrap();
        std::os::unix::fs::symlink(&about, &about).unwrap();
        let templates = Templates::below(root.path().to_owned());
        assert!(templates.list().await.unwrap().is_empty());
        std::fs::remove_file(&about).unwrap();
        std::fs::rename(&aside, &about).unwrap();
        assert_eq!(templates.list().await.unwrap().len(), 1);
    }

    #[test]
    fn what_was_not_finished_goes_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        template::tests::make(root.path(), shape());
        let half = root.path().join(".0123456789abcdef.new/machine");
        ensure_private_dir(&half).unwrap();
        settle(root.path()).unwrap();
        let left = list_dir(root.path()).unwrap();
        let dirs: Vec<_> = left.iter().filter(|name| root.path().join(name).is_dir()).collect();
        assert_eq!(dirs, [shape().template().unwrap().as_str()]);
    }
}
