//! Kernels: imported, fetched, shown and removed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::types::{
    ImageAction, ImportKernel, Kernel as Shown, Operation, Problem, ProblemCode,
};
use banger_host::fs::file_size;
use banger_host::home::Home;
use banger_image::kernel::{KernelFiles, MakeKernelError};
use banger_image::{Image, Kernel, OpenError};
use banger_model::lifecycle::State as Lifecycle;
use banger_model::{KernelName, NameError, SandboxRecord, Silent};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::App;
use super::error::{Failure, Json, Query};
use super::sandboxes::{Asking, chosen};
use crate::assets::Base;
use crate::machine::base::base_of;
use crate::registry::Registry;
use crate::shared::Shared;

/// All kernels, by name
#[utoipa::path(get, path = "/v1/kernels", responses((status = 200, body = Vec<Shown>), (status = "default", body = Problem)))]
pub(super) async fn list(State(registry): App) -> Result<Answer<Vec<Shown>>, Failure> {
    let found = spawn_blocking(move || -> anyhow::Result<_> {
        let home = &registry.shared().home;
        if !banger_host::fs::is_there(&home.kernels()) {
            return Ok(Vec::new());
        }
        let mut names = Kernel::list(home)?;
        names.sort();
        // One that is damaged is shown by `banger doctor`.
        let kernels = names.iter().filter_map(|name| Kernel::open(home, name).ok());
        let users = users(&registry);
        Ok(kernels.map(|kernel| shown(&kernel, &users)).collect())
    });
    Ok(Answer(found.await.map_err(anyhow::Error::from)??))
}

/// Make a kernel of files on this host
#[utoipa::path(post, path = "/v1/kernels", request_body = ImportKernel, responses((status = 201, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn import(
    State(registry): App,
    Json(wanted): Json<ImportKernel>,
) -> Result<(StatusCode, Answer<Shown>), Failure> {
    let shared = registry.shared();
    let source = wanted.source();
    let vmlinux = match wanted.vmlinux.strip_prefix(ImportKernel::KERNEL) {
        None => wanted.vmlinux.into(),
        Some(kernel) => {
            let kernel = parsed(kernel)?;
            shared.images.kernel(kernel.clone(), Arc::new(Silent)).await?;
            let home = shared.home.clone();
            let opened = spawn_blocking(move || Kernel::open(&home, &kernel)).await;
            let opened = opened.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
            opened.vmlinux()
        }
    };
    let files = KernelFiles { vmlinux, modules: wanted.modules.map(PathBuf::from), source };
    let kernel = shared.images.import_kernel(wanted.name, files).await?.map_err(refused)?;
    Ok((StatusCode::CREATED, Answer(shown(&kernel, &Users::default()))))
}

/// Fetch a kernel from a catalog
///
/// Answers with the operation that does it. One that is here is not fetched again. Asked again with
/// the same operation, it is the same one.
#[utoipa::path(post, path = "/v1/kernels/{kernel}/pull", params(("kernel" = String, Path), ("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits")), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn pull(
    State(registry): App,
    Path(kernel): Path<String>,
    Query(Asking { operation: id }): Query<Asking>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    let name = parsed(&kernel)?;
    let shared = registry.shared();
    let id = chosen(id)?;
    let operation = match shared.operations.find(&id) {
        Some(known) => known,
        None => {
            let operation = shared.operations.of_image(id, ImageAction::Pull, name.as_str());
            let (images, progress) = (shared.images.clone(), Arc::new(operation.clone()));
            let work = async move { images.kernel(name, progress).await };
            shared.images.work(operation.clone(), work);
            operation
        }
    };
    Ok((StatusCode::ACCEPTED, Answer(operation.operation().as_ref().clone())))
}

fn parsed(name: &str) -> Result<KernelName, Failure> {
    let invalid = |error: NameError| Problem::new(ProblemCode::Invalid, error.to_string());
    Ok(name.parse().map_err(invalid)?)
}

fn refused(error: MakeKernelError) -> Failure {
    let code = match error {
        MakeKernelError::Taken(_) => ProblemCode::NameTaken,
        MakeKernelError::Read { .. }
        | MakeKernelError::NoKernel { .. }
        | MakeKernelError::NoRelease { .. }
        | MakeKernelError::NoModules { .. }
        | MakeKernelError::OtherRelease { .. } => ProblemCode::Invalid,
        _ => ProblemCode::Failed,
    };
    Problem::new(code, format!("{:#}", anyhow::Error::from(error))).into()
}

/// One kernel
#[utoipa::path(get, path = "/v1/kernels/{kernel}", params(("kernel" = String, Path)), responses((status = 200, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn show(
    State(registry): App,
    Path(kernel): Path<String>,
) -> Result<Answer<Shown>, Failure> {
    match find(&registry, kernel).await? {
        Found { kernel, damage: None, .. } => Ok(Answer(kernel)),
        Found { damage: Some(error), .. } => Err(anyhow::Error::from(error).into()),
    }
}

/// Remove a kernel that nobody needs
///
/// Answers with it as it was; of a damaged one only its name is known. The default kernel is made again
/// when it is needed.
#[utoipa::path(delete, path = "/v1/kernels/{kernel}", params(("kernel" = String, Path)), responses((status = 200, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn delete(
    State(registry): App,
    Path(kernel): Path<String>,
) -> Result<Answer<Shown>, Failure> {
    let Found { kernel: gone, damage, doubt } = find(&registry, kernel).await?;
    // A damaged one serves nobody; who needs it gets the one that is made in its place.
    if damage.is_none() && !gone.used_by.is_empty() {
        let who = gone.used_by.join(", ");
        let said = format!("the kernel {} is needed by {who}; delete those first", gone.name);
        return Err(Problem::new(ProblemCode::InUse, said).into());
    }
    if let (None, Some(doubt)) = (damage, doubt) {
        let what = format!("the kernel {} stays, for somebody may need it", gone.name);
        let said = format!("{:#}", doubt.context(what));
        let hint =
            "mend or remove what cannot be read; `banger snapshot list` shows damaged snapshots";
        return Err(Problem::new(ProblemCode::Failed, said).hint(hint).into());
    }
    let (home, name) = (registry.shared().home.clone(), gone.name.clone());
    let removed = spawn_blocking(move || Kernel::remove(&home, &name)).await;
    removed.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    Ok(Answer(gone))
}

/// A kernel that is meant.
struct Found {
    kernel: Shown,
    /// What is wrong with it, if it is not as it was made.
    damage: Option<OpenError>,
    /// Why others may need it than those who are known to.
    doubt: Option<anyhow::Error>,
}

async fn find(registry: &Arc<Registry>, text: String) -> Result<Found, Failure> {
    let missing = || {
        let detail = format!("there is no kernel {text}");
        let problem = Problem::new(ProblemCode::NotFound, detail);
        Failure::from(problem.hint("`banger kernel list` shows those that are there"))
    };
    let name: KernelName = text.parse().map_err(|_| missing())?;
    let asked = registry.clone();
    let found = spawn_blocking(move || {
        let opened = Kernel::open(&asked.shared().home, &name);
        if opened.as_ref().is_err_and(OpenError::is_missing) {
            return None;
        }
        let users = users(&asked);
        let (kernel, damage) = match opened {
            Ok(kernel) => (shown(&kernel, &users), None),
            Err(error) => {
                let (release, source, used_by) = (String::new(), String::new(), users.of(&name));
                (Shown { name, release, source, size: 0, used_by }, Some(error))
            }
        };
        Some(Found { kernel, damage, doubt: users.doubt })
    });
    found.await.map_err(anyhow::Error::from)?.ok_or_else(missing)
}

/// Who needs which kernel, as far as that can be told.
#[derive(Default)]
struct Users {
    known: BTreeMap<KernelName, Vec<String>>,
    /// Why there may be others.
    doubt: Option<anyhow::Error>,
}

impl Users {
    fn add(&mut self, kernel: KernelName, who: String) {
        self.known.entry(kernel).or_default().push(who);
    }

    fn of(&self, kernel: &KernelName) -> Vec<String> {
        self.known.get(kernel).cloned().unwrap_or_default()
    }

    /// What there is to know, unless it cannot be told.
    fn told<T>(&mut self, told: anyhow::Result<T>) -> Option<T> {
        match told {
            Ok(told) => Some(told),
            Err(error) => {
                self.doubt.get_or_insert(error);
                None
            }
        }
    }

    /// The kernel of an image: one that is not here or damaged needs none that is.
    fn kernel_of(&mut self, base: &Base, home: &Home) -> Option<KernelName> {
        self.told(match base.kernel(home) {
            Err(error) if !matches!(error.downcast_ref(), Some(OpenError::Read { .. })) => Ok(None),
            kernel => kernel.map(Some),
        })?
    }

    /// Sandboxes that boot it, by name.
    fn add_sandboxes(&mut self, registry: &Registry) {
        let shared = registry.shared();
        let mut of_images: BTreeMap<Base, Option<KernelName>> = BTreeMap::new();
        let views = registry.list();
        for view in views.iter().filter(|view| view.record.state != Lifecycle::Deleting) {
            let SandboxRecord { id, name, spec, .. } = &view.record;
            let kernel = spec.kernel.clone().or_else(|| {
                let base = self.told(base_of(&shared.dir(id), spec))?;
                let of_it = of_images.entry(base.clone());
                of_it.or_insert_with(|| self.kernel_of(&base, &shared.home)).clone()
            });
            if let Some(kernel) = kernel {
                self.add(kernel, name.to_string());
            }
        }
    }

    /// Snapshots in whose memory it is.
    fn add_snapshots(&mut self, shared: &Shared) {
        let hold = shared.snapshots.hold().context("cannot tell what all snapshots hold");
        for (snapshot, holds) in self.told(hold).unwrap_or_default() {
            let of_image = || self.kernel_of(&Base::Stored(holds.image.clone()), &shared.home);
            if let Some(kernel) = holds.kernel().cloned().or_else(of_image) {
                self.add(kernel, format!("snapshot {}", shared.snapshots.shown(&snapshot)));
            }
        }
    }

    /// Images that want a certain one.
    fn add_images(&mut self, home: &Home) {
        let names = Image::list(home).context("cannot tell which images there are");
        for name in self.told(names).unwrap_or_default() {
            let wants = match Image::open(home, &name) {
                Err(error @ OpenError::Read { .. }) => Err(error.into()),
                image => Ok(image.ok().and_then(|image| image.info().kernel.clone())),
            };
            if let Some(kernel) = self.told(wants).flatten() {
                self.add(kernel, format!("image {name}"));
            }
        }
    }
}

fn users(registry: &Registry) -> Users {
    let shared = registry.shared();
    let mut users = Users::default();
    users.add_sandboxes(registry);
    users.add_snapshots(shared);
    users.add_images(&shared.home);
    if let Some(doubt) = &users.doubt {
        warn!(error = format!("{doubt:#}"), "not everybody who needs a kernel is known");
    }
    users
}

fn shown(kernel: &Kernel, users: &Users) -> Shown {
    let files = [kernel.vmlinux(), kernel.modules()];
    let sizes = files.iter().filter_map(|file| file_size(file).ok());
    let info = kernel.info();
    let source = format!("{} {}", info.package, info.version);
    Shown {
        name: kernel.name().clone(),
        release: info.release.clone(),
        source: source.trim().to_owned(),
        size: sizes.map(|size| size.real.get()).sum(),
        used_by: users.of(kernel.name()),
    }
}
