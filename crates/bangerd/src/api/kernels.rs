//! Kernels: imported, shown and removed.

use std::path::PathBuf;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::types::{ImportKernel, Kernel as Shown, Problem, ProblemCode};
use banger_host::fs::file_size;
use banger_image::Kernel;
use banger_image::kernel::{KernelFiles, MakeKernelError};
use banger_model::lifecycle::State as Lifecycle;
use banger_model::{KernelName, Silent};
use tokio::task::spawn_blocking;

use super::App;
use super::error::{Failure, Json};
use crate::registry::Registry;

/// All kernels, by name
#[utoipa::path(get, path = "/v1/kernels", responses((status = 200, body = Vec<Shown>), (status = "default", body = Problem)))]
pub(super) async fn list(State(registry): App) -> Result<Answer<Vec<Shown>>, Failure> {
    let home = registry.shared().home.clone();
    let found = spawn_blocking(move || {
        if !banger_host::fs::is_there(&home.kernels()) {
            return Ok(Vec::new());
        }
        let mut names = Kernel::list(&home)?;
        names.sort();
        // One that is damaged is shown by `banger doctor`.
        Ok::<_, banger_host::HostError>(
            names.iter().filter_map(|name| Kernel::open(&home, name).ok()).collect(),
        )
    });
    let kernels: Vec<Kernel> =
        found.await.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    Ok(Answer(kernels.iter().map(|kernel| shown(&registry, kernel)).collect()))
}

/// Make a kernel of files on this host
#[utoipa::path(post, path = "/v1/kernels", request_body = ImportKernel, responses((status = 201, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn import(
    State(registry): App,
    Json(ImportKernel { name, vmlinux, modules }): Json<ImportKernel>,
) -> Result<(StatusCode, Answer<Shown>), Failure> {
    let home = registry.shared().home.clone();
    let files = KernelFiles { vmlinux: vmlinux.into(), modules: modules.map(PathBuf::from) };
    let made = spawn_blocking(move || Kernel::import(&home, &name, &files, &Silent)).await;
    let kernel = made.map_err(anyhow::Error::from)?.map_err(refused)?;
    Ok((StatusCode::CREATED, Answer(shown(&registry, &kernel))))
}

fn refused(error: MakeKernelError) -> Failure {
    let code = match error {
        MakeKernelError::Taken(_) => ProblemCode::NameTaken,
        MakeKernelError::Read { .. }
        | MakeKernelError::NoKernel { .. }
        | MakeKernelError::NoRelease { .. }
        | MakeKernelError::NoModules { .. } => ProblemCode::Invalid,
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
    let kernel = find(&registry, &kernel).await?;
    Ok(Answer(shown(&registry, &kernel)))
}

/// Remove a kernel that no sandbox boots
///
/// Answers with it as it was. The default kernel is made again when it is needed.
#[utoipa::path(delete, path = "/v1/kernels/{kernel}", params(("kernel" = String, Path)), responses((status = 200, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn delete(
    State(registry): App,
    Path(kernel): Path<String>,
) -> Result<Answer<Shown>, Failure> {
    let kernel = find(&registry, &kernel).await?;
    let gone = shown(&registry, &kernel);
    if !gone.used_by.is_empty() {
        let who = gone.used_by.join(", ");
        let said = format!("the kernel {} is needed by {who}; delete those first", gone.name);
        return Err(Problem::new(ProblemCode::InUse, said).into());
    }
    let (home, name) = (registry.shared().home.clone(), gone.name.clone());
    let removed = spawn_blocking(move || Kernel::remove(&home, &name)).await;
    removed.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    Ok(Answer(gone))
}

async fn find(registry: &Registry, text: &str) -> Result<Kernel, Failure> {
    let missing = || {
        let detail = format!("there is no kernel {text}");
        let problem = Problem::new(ProblemCode::NotFound, detail);
        Failure::from(problem.hint("`banger kernel list` shows those that are there"))
    };
    let name: KernelName = text.parse().map_err(|_| missing())?;
    let home = registry.shared().home.clone();
    let opened = spawn_blocking(move || Kernel::open(&home, &name)).await;
    match opened.map_err(anyhow::Error::from)? {
        Ok(kernel) => Ok(kernel),
        Err(error) if error.is_missing() => Err(missing()),
        Err(error) => Err(anyhow::Error::from(error).into()),
    }
}

fn shown(registry: &Registry, kernel: &Kernel) -> Shown {
    let views = registry.list();
    let stays = views.iter().filter(|view| view.record.state != Lifecycle::Deleting);
    let boots = stays.filter(|view| view.record.spec.kernel == *kernel.name());
    let files = [kernel.vmlinux(), kernel.modules()];
    let sizes = files.iter().filter_map(|file| file_size(file).ok());
    let info = kernel.info();
    let source = format!("{} {}", info.package, info.version);
    Shown {
        name: kernel.name().clone(),
        release: info.release.clone(),
        source: source.trim().to_owned(),
        size: sizes.map(|size| size.real.get()).sum(),
        used_by: boots.map(|view| view.record.name.to_string()).collect(),
    }
}
