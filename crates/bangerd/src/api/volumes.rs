//! Volumes: made, shown, enlarged and removed.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::types::{CreateVolume, Problem, ProblemCode, ResizeVolume, Volume};
use banger_model::lifecycle::State as Lifecycle;
use banger_model::{DiskSize, NameError, VolumeName};
use tokio::task::spawn_blocking;

use super::App;
use super::error::{Failure, Json};
use crate::registry::Registry;
use crate::shared::Shared;
use crate::volumes::{Seen, VolumeError};

/// All volumes, by name
#[utoipa::path(get, path = "/v1/volumes", responses((status = 200, body = Vec<Volume>), (status = "default", body = Problem)))]
pub(super) async fn list(State(registry): App) -> Result<Answer<Vec<Volume>>, Failure> {
    let all = blocking(&registry, |shared| shared.volumes.list()).await?;
    Ok(Answer(all.into_iter().map(|seen| shown(&registry, seen)).collect()))
}

/// Make a volume
#[utoipa::path(post, path = "/v1/volumes", request_body = CreateVolume, responses((status = 201, body = Volume), (status = "default", body = Problem)))]
pub(super) async fn create(
    State(registry): App,
    Json(CreateVolume { name, size }): Json<CreateVolume>,
) -> Result<(StatusCode, Answer<Volume>), Failure> {
    let size = size.unwrap_or(DiskSize::DEFAULT);
    let made = blocking(&registry, move |shared| shared.volumes.create(&name, size)).await?;
    Ok((StatusCode::CREATED, Answer(shown(&registry, made))))
}

/// One volume
#[utoipa::path(get, path = "/v1/volumes/{volume}", params(("volume" = String, Path)), responses((status = 200, body = Volume), (status = "default", body = Problem)))]
pub(super) async fn show(
    State(registry): App,
    Path(volume): Path<String>,
) -> Result<Answer<Volume>, Failure> {
    let name = named(&volume)?;
    let seen = blocking(&registry, move |shared| shared.volumes.look(&name)).await?;
    Ok(Answer(shown(&registry, seen)))
}

/// Make a volume larger that is not in use
#[utoipa::path(post, path = "/v1/volumes/{volume}/resize", params(("volume" = String, Path)), request_body = ResizeVolume, responses((status = 200, body = Volume), (status = "default", body = Problem)))]
pub(super) async fn resize(
    State(registry): App,
    Path(volume): Path<String>,
    Json(ResizeVolume { size }): Json<ResizeVolume>,
) -> Result<Answer<Volume>, Failure> {
    let name = named(&volume)?;
    registry.shared().volumes.left(&name).await;
    let resized = blocking(&registry, move |shared| shared.volumes.resize(&name, size)).await?;
    Ok(Answer(shown(&registry, resized)))
}

/// Remove a volume that no sandbox is made with, and what is in it
///
/// Answers with it as it was.
#[utoipa::path(delete, path = "/v1/volumes/{volume}", params(("volume" = String, Path)), responses((status = 200, body = Volume), (status = "default", body = Problem)))]
pub(super) async fn delete(
    State(registry): App,
    Path(volume): Path<String>,
) -> Result<Answer<Volume>, Failure> {
    let name = named(&volume)?;
    if let Some(user) = users(&registry, &name).first() {
        let detail = format!("the volume {name} is needed by {user}");
        let hint = format!("`banger vm delete {user}` deletes the sandbox and leaves the volume");
        return Err(Problem::new(ProblemCode::InUse, detail).hint(hint).into());
    }
    registry.shared().volumes.left(&name).await;
    let removed = blocking(&registry, move |shared| shared.volumes.remove(&name)).await?;
    Ok(Answer(shown(&registry, removed)))
}

fn named(text: &str) -> Result<VolumeName, Failure> {
    text.parse()
        .map_err(|error: NameError| Problem::new(ProblemCode::NotFound, error.to_string()).into())
}

/// Everything about volumes waits for the disk.
async fn blocking<T: Send + 'static>(
    registry: &Registry,
    work: impl FnOnce(&Shared) -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, Failure> {
    let shared: Arc<Shared> = registry.shared().clone();
    Ok(spawn_blocking(move || work(&shared)).await.map_err(anyhow::Error::from)??)
}

/// The sandboxes that are made with a volume, by name.
fn users(registry: &Registry, name: &VolumeName) -> Vec<String> {
    let views = registry.list();
    let stays = views.iter().filter(|view| view.record.state != Lifecycle::Deleting);
    let made_with = stays.filter(|view| view.record.spec.volumes.contains(name));
    made_with.map(|view| view.record.name.to_string()).collect()
}

fn shown(registry: &Registry, seen: Seen) -> Volume {
    Volume {
        used_by: users(registry, &seen.name),
        size: seen.size.get(),
        used: seen.real.get(),
        in_use_by: seen.holder.map(|holder| holder.to_string()),
        name: seen.name,
    }
}
