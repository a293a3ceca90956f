//! Templates: machines that have booted once and were saved, from which every sandbox of their
//! shape is made.
//!
//! A template is whole or not there. It is made once, however many wait for it; whoever asked
//! may go meanwhile. It is in use as long as anybody holds it: a running sandbox's memory is the
//! template's, as far as the sandbox has not written to it.

mod make;
mod shape;
mod template;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use banger_host::HostError;
use banger_host::fs::{ensure_private_dir, is_there, list_dir, remove_all};
use banger_host::staged::{self, Staged};
use banger_model::{Bytes, TemplateId};
use banger_vmm::reap;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::operations::now;

pub(crate) use make::{make, shape};
pub use template::Template;

/// What all templates may take on the disk; those that were not used for the longest time go.
const BUDGET: Bytes = Bytes::gib(8);
/// A template that could not be made or loaded is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(600);

/// Every template there is, or was asked for.
#[derive(Debug)]
pub struct Templates {
    root: PathBuf,
    slots: Mutex<BTreeMap<TemplateId, Arc<Slot>>>,
}

/// The place of one template.
#[derive(Debug, Default)]
struct Slot {
    /// Held by whoever makes it, opens it or removes it.
    turn: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
enum Kept {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    Ready(Arc<Template>),
    /// It is of no use, since then.
    Bad(Instant),
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
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> Known {
        match &*self.kept() {
            Kept::Ready(template) => Known::Ready(template.clone()),
            Kept::Bad(since) if since.elapsed() < TRY_AGAIN => Known::Bad,
            Kept::Bad(_) | Kept::Unknown => Known::Not,
        }
    }
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
        let dir = self.root.join(id.as_str());
        let found = match open(&dir).await? {
            Some(template) => Ok(template),
            None => make_at(&dir, make).await,
        };
        match found {
            Ok(template) => {
                let template = Arc::new(template);
                *slot.kept() = Kept::Ready(template.clone());
                self.keep_budget(id).await;
                Ok(Some(template))
            }
            Err(error) => {
                *slot.kept() = Kept::Bad(Instant::now());
                Err(error)
            }
        }
    }

    /// The template of this name if it is there, for a machine that was made from it.
    pub(crate) async fn held_by_machine(&self, id: &TemplateId) -> Option<Arc<Template>> {
        let slot = self.slot(id);
        let _turn = slot.turn.lock().await;
        if let Known::Ready(template) = slot.known() {
            return Some(template);
        }
        let template = Arc::new(open(&self.root.join(id.as_str())).await.ok()??);
        *slot.kept() = Kept::Ready(template.clone());
        Some(template)
    }

    /// A sandbox is made from it.
    pub(crate) fn used(template: &Template) {
        template.used(now());
    }

    /// A template turns out to be of no use: it is done without for a while, and then made anew.
    pub(crate) async fn spoilt(&self, template: Arc<Template>) {
        let slot = self.slot(&template.id);
        let _turn = slot.turn.lock().await;
        *slot.kept() = Kept::Bad(Instant::now());
        let dir = self.root.join(template.id.as_str());
        // Machines that were made from it keep the files open that they need.
        if let Err(error) = remove_dir(dir).await {
            warn!(template = %template.id, error = format!("{error:#}"), "a bad template remains");
        }
    }

    /// Every template, by name.
    ///
    /// # Errors
    /// When they cannot be looked for.
    pub(crate) async fn list(&self) -> Result<Vec<Arc<Template>>> {
        if !is_there(&self.root) {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        for name in list_dir(&self.root)? {
            let id = name.to_str().and_then(|name| name.parse::<TemplateId>().ok());
            if let Some(id) = id
                && let Some(template) = self.held_by_machine(&id).await
            {
                all.push(template);
            }
        }
        Ok(all)
    }

    /// Whether anything is made from it at the moment; the caller holds it, too.
    pub(crate) fn in_use(template: &Arc<Template>) -> bool {
        // The slot's and the caller's.
        Arc::strong_count(template) > 2
    }

    /// Removes a template.
    ///
    /// # Errors
    /// When it is in use, or its files cannot be removed.
    pub(crate) async fn remove(&self, template: Arc<Template>) -> Result<Bytes> {
        let slot = self.slot(&template.id);
        let _turn = slot.turn.lock().await;
        let size = template.size();
        {
            let mut kept = slot.kept();
            if Self::in_use(&template) {
                bail!("sandboxes that run were made from the template {}", template.id);
            }
            *kept = Kept::Unknown;
        }
        remove_dir(self.root.join(template.id.as_str())).await?;
        info!(template = %template.id, "removed a template");
        Ok(size)
    }

    /// Removes what is over the budget and not in use; never `newest`.
    async fn keep_budget(&self, newest: &TemplateId) {
        let ready = || {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let ready = slots.values().filter_map(|slot| match slot.known() {
                Known::Ready(template) => Some(template),
                _ => None,
            });
            ready.collect::<Vec<_>>()
        };
        let mut all = ready();
        all.sort_by_key(|template| template.last_used());
        let mut total: u64 = all.iter().map(|template| template.size().get()).sum();
        for template in all {
            if total <= BUDGET.get() {
                return;
            }
            // Its own turn is ours at the moment.
            if template.id == *newest {
                continue;
            }
            let (id, size) = (template.id.clone(), template.size().get());
            match self.remove(template).await {
                Ok(_) => total = total.saturating_sub(size),
                Err(error) => info!(template = %id, %error, "over the budget, but kept"),
            }
        }
    }

    /// Writes down how often templates were used.
    pub(crate) fn remember_uses(&self) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for slot in slots.values() {
            if let Known::Ready(template) = slot.known()
                && let Err(error) = template.remember_uses()
            {
                warn!(template = %template.id, error = format!("{error:#}"), "its uses are forgotten");
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
            Err(error) => {
                warn!(dir = %dir.display(), error = format!("{error:#}"), "removed a template that is not whole");
                remove_all(&dir)?;
                Ok(None)
            }
        }
    })
    .await?
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

    use super::shape::tests::shape;
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
        assert!(templates.remove(held.clone()).await.is_err());
        assert!(templates.remove(held).await.is_ok());
        assert!(templates.list().await.unwrap().is_empty());
        let again = templates.get(&id, filled(made.clone())).await.unwrap().unwrap();
        templates.spoilt(again).await;
        assert!(templates.get(&id, filled(made.clone())).await.unwrap().is_none());
        assert!(templates.list().await.unwrap().is_empty());
        assert_eq!(made.load(Ordering::Relaxed), 2);
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
