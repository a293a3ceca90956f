//! Images that are fetched: each once, however many wait for it, and called off when nobody does.

mod crowd;
mod kernels;
mod named;
pub(crate) mod promote;
pub(crate) mod removal;
pub(crate) mod uses;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::{Context as _, Result, anyhow};
use banger_host::fs::open_file;
use banger_host::heap;
use banger_host::home::Home;
use banger_image::image::ImageInfo;
use banger_image::image::{FromRootfs, Import, Naming, Rootfs, SandboxWishes, Whose};
use banger_image::oci::{self, Cache, Source};
use banger_image::{Image, Until};
use banger_model::{Bytes, ImageName, OperationId, Progress, WantedImage};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tracing::{info, warn};

use crate::config::Fetching;
use crate::operations::{Shown, now};
use crowd::Crowd;
use named::Led;

/// Most pulls that are under way at once.
const MAX_PULLS: usize = 16;

/// Stands before the path of a root file system.
pub(crate) const ROOTFS: &str = "rootfs:";
/// Stands before the path of an archive whose kind is to be found out.
const ARCHIVE: &str = "archive:";

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pull {
    /// Where from, as [`Source`] reads it.
    pub source: String,
    /// What it is to be called, if its user says so.
    pub name: Option<ImageName>,
    /// What its sandboxes are to have, as far as its user says.
    pub wishes: SandboxWishes,
    /// What a person would call the source, if its user says so.
    pub made_of: Option<String>,
    /// The operation that asks, where no two get the same image.
    pub asked_by: Option<OperationId>,
}

/// How a pull came out, for all who wait for it.
type Outcome = Option<Result<ImageName, Arc<str>>>;

/// Everything that is being fetched.
#[derive(Debug)]
pub(crate) struct Images {
    home: Home,
    fetching: Fetching,
    running: Mutex<BTreeMap<Pull, Weak<Work>>>,
    /// Who waits for an operation's end, to be called off.
    waiting: Mutex<BTreeMap<OperationId, AbortHandle>>,
}

/// One pull that is under way. When the last who waits for it goes, it ends.
#[derive(Debug)]
struct Work {
    crowd: Arc<Crowd>,
    outcome: watch::Receiver<Outcome>,
    _ends: CalledOff,
    task: AbortHandle,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What works in a thread ends soon after this is dropped.
#[derive(Debug, Default)]
struct CalledOff(Arc<AtomicBool>);

impl Drop for CalledOff {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Images {
    pub(crate) fn new(home: Home, fetching: Fetching) -> Self {
        Self { home, fetching, running: Mutex::default(), waiting: Mutex::default() }
    }

    /// The cache of what was fetched.
    ///
    /// # Errors
    /// When there is no place for it.
    pub(crate) fn cache(&self) -> Result<Cache> {
        cache_of(&self.home)
    }

    /// Has an image here that a sandbox is to be made of: fetches it if it is neither here nor to
    /// be made.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) async fn need(
        &self,
        wanted: &WantedImage,
        progress: Arc<dyn Progress>,
    ) -> Result<()> {
        let (home, sought) = (self.home.clone(), wanted.clone());
        let found = spawn_blocking(move || Image::find(&home, &sought)).await??;
        if found.is_some() || wanted.name().is_some_and(|name| Image::can_be_made(&name)) {
            return Ok(());
        }
        // A name may be in a catalog; a reference is the same to all who write it differently.
        let source = match (wanted.name(), wanted.reference()) {
            (Some(name), _) => name.to_string(),
            (None, Some(reference)) => reference.to_string(),
            (None, None) => return Ok(()),
        };
        let wishes = SandboxWishes::default();
        let pull = Pull { source, name: None, wishes, made_of: None, asked_by: None };
        let fetched = self.get(pull, progress).await;
        fetched.map(drop).with_context(|| {
            let by_name = wanted.name().and_then(|name| Image::open(&self.home, &name).err());
            match by_name {
                Some(missing) => format!("{missing}; nor can it be fetched"),
                None => format!("there is no image {wanted} here, and none comes"),
            }
        })
    }

    /// Fetches an image, or waits for who does that already. Returns what it is called.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) async fn get(&self, pull: Pull, progress: Arc<dyn Progress>) -> Result<ImageName> {
        let work = self.join(pull)?;
        let _seat = work.crowd.join(progress);
        let mut outcome = work.outcome.clone();
        let known = outcome.wait_for(Option::is_some).await.map(|known| (*known).clone());
        match known {
            Ok(Some(Ok(name))) => Ok(name),
            Ok(Some(Err(error))) => Err(anyhow!("{error}")),
            Ok(None) | Err(_) => Err(anyhow!("the pull ended without an outcome")),
        }
    }

    /// Carries out an operation that fetches an image.
    pub(crate) fn carry_out(self: &Arc<Self>, pull: Pull, shown: Shown) {
        let (images, progress) = (self.clone(), Arc::new(shown.clone()));
        self.work(shown, async move { images.get(pull, progress).await });
    }

    /// Carries out an operation that ends with an image or a kernel of this name. Called off, its
    /// work is dropped.
    pub(crate) fn work<Name: Display + Send + 'static>(
        self: &Arc<Self>,
        shown: Shown,
        work: impl Future<Output = Result<Name>> + Send + 'static,
    ) {
        use banger_model::OperationStatus as Status;
        let id = shown.id();
        let waits = tokio::spawn(work);
        lock(&self.waiting).insert(id.clone(), waits.abort_handle());
        let images = self.clone();
        tokio::spawn(async move {
            let ended = waits.await;
            lock(&images.waiting).remove(&id);
            shown.finish(match ended {
                Ok(Ok(name)) => {
                    shown.is_about(&name.to_string());
                    Status::Succeeded { at: now() }
                }
                Ok(Err(error)) => Status::Failed { at: now(), error: format!("{error:#}") },
                Err(_) => Status::Cancelled { at: now() },
            });
        });
    }

    /// Most bytes that what an image is made of may unpack to.
    pub(crate) fn max_unpacked(&self) -> Bytes {
        self.fetching.settings.limits.max_unpacked
    }

    /// Calls an operation off; others may still wait for the same image. Returns whether it was
    /// under way.
    pub(crate) fn cancel(&self, id: &OperationId) -> bool {
        let waits = lock(&self.waiting).remove(id);
        waits.inspect(AbortHandle::abort).is_some()
    }

    /// The pull that is under way, or else a new one.
    fn join(&self, pull: Pull) -> Result<Arc<Work>> {
        let mut running = lock(&self.running);
        running.retain(|_, work| work.strong_count() > 0);
        let known = running.get(&pull).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.outcome.borrow().is_none()) {
            return Ok(known);
        }
        if running.len() >= MAX_PULLS {
            return Err(anyhow!("{MAX_PULLS} images are being fetched already; try again later"));
        }
        let work = Arc::new(self.begin(pull.clone()));
        running.insert(pull, Arc::downgrade(&work));
        Ok(work)
    }

    fn begin(&self, pull: Pull) -> Work {
        let (tell, outcome) = watch::channel(None);
        let (crowd, ends) = (Arc::new(Crowd::default()), CalledOff::default());
        let fetch = self.fetch(&ends, crowd.clone());
        let task = Handle::current().spawn(async move {
            let fetched = fetch.run(pull).await;
            let known = fetched.map_err(|error| Arc::from(format!("{error:#}")));
            tell.send_replace(Some(known));
            // Names of a hundred thousand files, which the daemon would keep room for.
            spawn_blocking(heap::give_back);
        });
        Work { crowd, outcome, _ends: ends, task: task.abort_handle() }
    }

    fn fetch(&self, until: &CalledOff, progress: Arc<dyn Progress>) -> Fetch {
        Fetch {
            home: self.home.clone(),
            fetching: self.fetching.clone(),
            called_off: until.0.clone(),
            progress,
        }
    }
}

/// Where what was fetched is.
fn cache_of(home: &Home) -> Result<Cache> {
    Ok(Cache::open(&home.cache().join("oci"))?)
}

/// Makes the cache as small as its owner wants it. What goes on needs none of it any more.
fn keep_within(cache: &Cache, keep: Bytes) {
    if let Err(error) = cache.prune(keep) {
        warn!(%error, "the cache of images cannot be made smaller");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one pull needs.
struct Fetch {
    home: Home,
    fetching: Fetching,
    called_off: Arc<AtomicBool>,
    progress: Arc<dyn Progress>,
}

impl Fetch {
    async fn run(self, pull: Pull) -> Result<ImageName> {
        if let Some(kernel) = &pull.wishes.kernel {
            self.install()?.need_kernel(kernel).await?;
        }
        if let Some(path) = pull.source.strip_prefix(ROOTFS) {
            let name = pull.name.context("an image of a root file system needs a name")?;
            return spawn_blocking({
                let path = path.to_owned();
                move || self.register(&path, &name, (pull.wishes, pull.asked_by.as_ref()))
            })
            .await?;
        }
        let pull = match self.follow(pull).await? {
            Led::Here(name) => return Ok(name),
            Led::On(pull) => pull,
        };
        let cache = cache_of(&self.home)?;
        let source = source(&pull.source)?;
        let fallback = named_after(&source);
        let pulled = oci::pull(source, &cache, &self.fetching.settings, &*self.progress).await?;
        let own = pulled.reference.as_ref().map(|reference| reference.default_name());
        let naming = match (pull.name, own.or(fallback)) {
            (Some(name), _) => Naming::Exactly(name),
            (None, Some(name)) => Naming::Like(name),
            (None, None) => {
                return Err(anyhow!("it has no name of its own; give it one with --name"));
            }
        };
        let told = match &pulled.reference {
            Some(reference) => reference.familiar(),
            None => pull.made_of.unwrap_or(pull.source),
        };
        let keep = self.fetching.cache;
        let image = spawn_blocking(move || {
            let import = Import {
                home: &self.home,
                pulled: &pulled,
                source: &told,
                wishes: &pull.wishes,
                now: now(),
                called_off: &self.called_off,
            };
            let made = import.run(&naming, &*self.progress);
            // Only what nobody uses goes.
            drop(pulled);
            keep_within(&cache, keep);
            made.with_context(|| format!("cannot make {told}"))
        })
        .await??;
        let ImageInfo { source, .. } = image.info();
        info!(image = %image.id(), %source, "an image is here");
        image.name().context("it has no name")
    }
}

impl Fetch {
    /// Makes an image of a root file system on this host.
    fn register(
        &self,
        path: &str,
        name: &ImageName,
        (wishes, made_by): (SandboxWishes, Option<&OperationId>),
    ) -> Result<ImageName> {
        let from = FromRootfs {
            home: &self.home,
            name,
            source: path,
            whose: Whose::Nobodys,
            wishes,
            max_unpacked: self.fetching.settings.limits.max_unpacked,
            now: now(),
            made_by,
            until: Until::set(&self.called_off),
        };
        let made = Rootfs::at(Path::new(path)).and_then(|it| from.make(it, &*self.progress));
        made.with_context(|| format!("cannot make an image of {path}"))?;
        Ok(name.clone())
    }
}

/// Where an image comes from.
fn source(text: &str) -> Result<Source> {
    let Some(path) = text.strip_prefix(ARCHIVE) else { return Ok(text.parse()?) };
    let file = open_file(Path::new(path))?;
    Ok(Source::Open { file, name: path.to_owned() })
}

/// What an image from a file is called that does not say.
fn named_after(source: &Source) -> Option<ImageName> {
    let path: &Path = match source {
        Source::Layout { dir, .. } => dir,
        Source::OciArchive { file, .. } | Source::DockerArchive { file, .. } => file,
        Source::Registry(_) | Source::Open { .. } => return None,
    };
    let stem = path.file_name()?.to_str()?.split('.').next()?;
    stem.to_ascii_lowercase().replace('_', "-").parse().ok()
}
