//! Images: fetched, shown and removed.

use std::collections::BTreeMap;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::types::{
    CachedBlob, Image as Shown, ImageAction, ImageWishes, Operation, Problem, ProblemCode,
    PruneCacheRequest, PrunedCache, PullImage,
};
use banger_host::fs::file_size;
use banger_host::home::Home;
use banger_image::image::SandboxWishes;
use banger_image::oci::Extent;
use banger_image::{Image, ImageConfig};
use banger_model::{
    Bytes, ImageId, ImageName, OperationId, OperationStatus, Timestamp, WantedImage,
};
use tokio::task::spawn_blocking;

use super::App;
use super::error::{Failure, Json, Query};
use super::sandboxes::{Asking, chosen};
use crate::images::promote::{SANDBOX, promote};
use crate::images::removal::remove;
use crate::images::uses::users;
use crate::images::{Pull, ROOTFS};
use crate::operations::now;
use crate::registry::Registry;

/// All images, by name
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = Vec<Shown>), (status = "default", body = Problem)))]
pub(super) async fn list(State(registry): App) -> Result<Answer<Vec<Shown>>, Failure> {
    let (home, users) = (registry.shared().home.clone(), users(&registry)?);
    let found = spawn_blocking(move || -> anyhow::Result<_> {
        let names = Image::list(&home)?;
        // One that is damaged is shown by `banger doctor`.
        let whole =
            names.into_iter().filter_map(|name| Some((Image::open(&home, &name).ok()?, name)));
        Ok(whole.map(|(image, name)| shown(&image, name, &users)).collect())
    });
    Ok(Answer(found.await.map_err(anyhow::Error::from)??))
}

/// Fetch an image
///
/// Answers with the operation that does it. Where somebody fetches the same image already, it
/// waits for that. Asked again with the same operation, it is the same one.
#[utoipa::path(post, path = "/v1/images", params(("operation" = Option<String>, Query, description = "An id that the client has chosen for the operation: 16 lowercase hex digits")), request_body = PullImage, responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn pull(
    State(registry): App,
    Query(Asking { operation: id }): Query<Asking>,
    Json(PullImage { source, name, kernel, disk, made_of }): Json<PullImage>,
) -> Result<(StatusCode, Answer<Operation>), Failure> {
    let (shared, wishes) = (registry.shared(), SandboxWishes { kernel, disk });
    let id = chosen(id)?;
    let was_made = was_made(&shared.home, name.as_ref(), &id).await?;
    // From here to where it is remembered nothing is waited for: it might be asked for twice at once.
    if let Some(known) = shared.operations.find(&id) {
        return Ok((StatusCode::ACCEPTED, Answer(known.operation().as_ref().clone())));
    }
    if made_of.as_ref().is_some_and(|text| text.len() > PullImage::MAX_MADE_OF) {
        let said = format!("`made_of` is longer than {} bytes", PullImage::MAX_MADE_OF);
        return Err(Problem::new(ProblemCode::Invalid, said).into());
    }
    let called = name.as_ref().map_or(source.as_str(), ImageName::as_str).to_owned();
    let sandbox = source.strip_prefix(SANDBOX).map(str::to_owned);
    let action = if sandbox.is_some() { ImageAction::Promote } else { ImageAction::Pull };
    if let (Some(_), None) = (&sandbox, &name) {
        let said = "an image that is made of a sandbox needs a name";
        return Err(Problem::new(ProblemCode::Invalid, said).into());
    }
    // A root file system becomes an image once: a second one of that name is refused.
    let asked_by = source.starts_with(ROOTFS).then(|| id.clone());
    let operation = shared.operations.of_image(id, action, &called);
    match (sandbox, name) {
        _ if was_made => operation.finish(OperationStatus::Succeeded { at: now() }),
        (Some(sandbox), Some(name)) => {
            let (registry, told) = (registry.clone(), operation.clone());
            let work = async move { promote(registry, &sandbox, (name, wishes), told).await };
            shared.images.work(operation.clone(), work);
        }
        (_, name) => {
            shared
                .images
                .carry_out(Pull { source, name, wishes, made_of, asked_by }, operation.clone());
        }
    }
    Ok((StatusCode::ACCEPTED, Answer(operation.operation().as_ref().clone())))
}

/// Whether this operation of a daemon before this one has made an image of this name.
async fn was_made(
    home: &Home,
    name: Option<&ImageName>,
    operation: &OperationId,
) -> anyhow::Result<bool> {
    let Some(name) = name.cloned() else { return Ok(false) };
    let (home, operation) = (home.clone(), operation.clone());
    Ok(spawn_blocking(move || {
        let image = Image::open(&home, &name);
        image.is_ok_and(|image| image.info().made_by == Some(operation))
    })
    .await?)
}

/// One image
#[utoipa::path(get, path = "/v1/images/{image}", params(("image" = String, Path, description = "Its name, or where it is in a registry")), responses((status = 200, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn show(
    State(registry): App,
    Path(image): Path<String>,
) -> Result<Answer<Shown>, Failure> {
    let (image, name) = find(&registry, image).await?;
    Ok(Answer(shown(&image, name, &users(&registry)?)))
}

/// Remove an image that nobody needs
///
/// Answers with it as it was; of a damaged one only its name is known, and its id where the name leads
/// to one. If it has other names, only this one goes.
#[utoipa::path(delete, path = "/v1/images/{image}", params(("image" = String, Path, description = "Its name, or where it is in a registry")), responses((status = 200, body = Shown), (status = "default", body = Problem)))]
pub(super) async fn delete(
    State(registry): App,
    Path(image): Path<String>,
) -> Result<Answer<Shown>, Failure> {
    let (asked, users) = (registry.clone(), users(&registry)?);
    let looked = spawn_blocking(move || to_go(&asked.shared().home, &image, &users));
    let ToGo { gone, id, needed } = looked.await.map_err(anyhow::Error::from)??;
    if needed {
        let who = gone.used_by.join(", ");
        let said = format!("the image {} is needed by {who}; delete those first", gone.name);
        return Err(Problem::new(ProblemCode::Denied, said).into());
    }
    remove(&registry, (gone.name.clone(), id)).await?;
    Ok(Answer(gone))
}

/// An image that is to be removed.
struct ToGo {
    gone: Shown,
    /// What its name leads to, if it leads anywhere.
    id: Option<ImageId>,
    /// Whether it would be missed: that of its name alone is not if it has another.
    needed: bool,
}

/// What is meant by `text`, as far as that can be told of a damaged one.
fn to_go(home: &Home, text: &str, users: &Users) -> Result<ToGo, Failure> {
    let wanted = wanted(text)?;
    let (gone, is_whole) = match Image::find(home, &wanted) {
        Ok(None) => return Err(no_image(text)),
        Ok(Some(image)) => {
            let name = image.name().ok_or_else(|| no_image(text))?;
            (shown(&image, name, users), true)
        }
        Err(error) => match wanted.name() {
            Some(name) => (damaged(home, name, users), false),
            None => return Err(anyhow::Error::from(error).into()),
        },
    };
    // Of a damaged one the name serves nobody. Its files stay while disks lie over them.
    let serves = is_whole && !gone.used_by.is_empty();
    let needed = serves && !has_other_names(home, &gone.id, &gone.name)?;
    let id = Image::id_of(home, &gone.name);
    Ok(ToGo { gone, id, needed })
}

fn damaged(home: &Home, name: ImageName, users: &Users) -> Shown {
    let id = Image::id_of(home, &name).unwrap_or_else(|| ImageId::from_random([0; 16]));
    Shown {
        used_by: users.get(&id).cloned().unwrap_or_default(),
        name,
        id,
        source: String::new(),
        digest: None,
        size: 0,
        made: None,
        kernel: None,
        config: wishes(&ImageConfig::default()),
    }
}

/// What was fetched, the least recently used first
#[utoipa::path(get, path = "/v1/image-cache", responses((status = 200, body = Vec<CachedBlob>), (status = "default", body = Problem)))]
pub(super) async fn cache(State(registry): App) -> Result<Answer<Vec<CachedBlob>>, Failure> {
    let cache = registry.shared().images.cache()?;
    let entries = spawn_blocking(move || cache.list()).await.map_err(anyhow::Error::from)??;
    let blob = |entry: banger_image::oci::CacheEntry| CachedBlob {
        digest: entry.digest.to_string(),
        size: entry.size.get(),
        last_used: Timestamp(u64::try_from(entry.last_use.as_millis()).unwrap_or(u64::MAX)),
        whole: entry.extent == Extent::Whole,
    };
    Ok(Answer(entries.into_iter().map(blob).collect()))
}

/// Remove what was fetched and is not being used, the least recently used first
///
/// Images stay: they are made of it, and do not need it any more.
#[utoipa::path(post, path = "/v1/image-cache/prune", request_body = PruneCacheRequest, responses((status = 200, body = PrunedCache), (status = "default", body = Problem)))]
pub(super) async fn prune_cache(
    State(registry): App,
    Json(PruneCacheRequest { keep }): Json<PruneCacheRequest>,
) -> Result<Answer<PrunedCache>, Failure> {
    let cache = registry.shared().images.cache()?;
    let pruned = spawn_blocking(move || cache.prune(Bytes::new(keep))).await;
    let pruned = pruned.map_err(anyhow::Error::from)??;
    let removed = pruned.removed.iter().map(ToString::to_string).collect();
    Ok(Answer(PrunedCache { removed, space: pruned.freed.get() }))
}

/// The image that is meant, and the name by which it is.
async fn find(registry: &Registry, text: String) -> Result<(Image, ImageName), Failure> {
    let (home, sought) = (registry.shared().home.clone(), wanted(&text)?);
    let found = spawn_blocking(move || Image::find(&home, &sought));
    let found = found.await.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    let named = found.and_then(|image| image.name().map(|name| (image, name)));
    named.ok_or_else(|| no_image(&text))
}

fn wanted(text: &str) -> Result<WantedImage, Failure> {
    let parsed = text.parse::<WantedImage>();
    Ok(parsed.map_err(|error| Problem::new(ProblemCode::Invalid, error.to_string()))?)
}

fn no_image(text: &str) -> Failure {
    Problem::new(ProblemCode::NotFound, format!("there is no image {text}")).into()
}

fn has_other_names(home: &Home, id: &ImageId, name: &ImageName) -> anyhow::Result<bool> {
    let names = Image::list(home)?;
    let mut others = names.iter().filter(|other| *other != name);
    Ok(others.any(|other| Image::id_of(home, other).as_ref() == Some(id)))
}

/// Who needs which image.
type Users = BTreeMap<ImageId, Vec<String>>;

fn shown(image: &Image, name: ImageName, users: &Users) -> Shown {
    let info = image.info();
    Shown {
        name,
        id: image.id().clone(),
        source: info.source.clone(),
        digest: info.origin.as_ref().map(|origin| origin.manifest.clone()),
        size: file_size(&image.root()).map_or(0, |size| size.real.get()),
        made: info.made,
        kernel: info.kernel.clone(),
        used_by: users.get(image.id()).cloned().unwrap_or_default(),
        config: wishes(&info.config),
    }
}

fn wishes(config: &ImageConfig) -> ImageWishes {
    let config = config.clone();
    ImageWishes {
        env: config.env,
        user: config.user,
        workdir: config.workdir,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        shell: config.shell,
        init: config.init,
        stop_signal: config.stop_signal,
        ports: config.ports,
        volumes: config.volumes,
        disk: config.disk,
        labels: config.labels,
    }
}
