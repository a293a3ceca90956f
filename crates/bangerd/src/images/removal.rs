//! Images that go, with the templates that are made of them.
//!
//! A daemon may be killed between any two steps: the name goes first, and what has none goes when the
//! next daemon starts.

use std::sync::Arc;

use anyhow::Result;
use banger_image::Image;
use banger_image::image::Forgotten;
use banger_model::{ImageId, ImageName};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::uses::used;
use crate::registry::Registry;

/// Takes a name away from this image, and removes what nobody needs any more.
///
/// # Errors
/// When something remains.
pub(crate) async fn remove(
    registry: &Arc<Registry>,
    (name, id): (ImageName, Option<ImageId>),
) -> Result<()> {
    let registry = registry.clone();
    // Whoever asked may go: it is done as a whole.
    tokio::spawn(async move {
        let checkpoints = &registry.shared().checkpoints;
        let home = registry.shared().home.clone();
        spawn_blocking(move || Image::unname(&home, &name, id.as_ref())).await??;
        checkpoints.reach("image.unnamed").await;
        let forgotten = forget(&registry).await?;
        checkpoints.reach("image.aside").await;
        spawn_blocking(move || forgotten.remove()).await??;
        checkpoints.reach("image.removed").await;
        remove_templates(&registry).await?;
        checkpoints.reach("image.forgotten").await;
        Ok(())
    })
    .await?
}

/// Removes images that no name leads to and nobody needs, and what killed makers have left.
pub(crate) async fn settle(registry: &Arc<Registry>) {
    let settled = async {
        let forgotten = forget(registry).await?;
        anyhow::Ok(spawn_blocking(move || forgotten.remove()).await??)
    };
    match settled.await {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => info!(count = gone.len(), "removed images that nobody needs"),
        Err(error) => warn!(error = format!("{error:#}"), "images that nobody needs remain"),
    }
}

/// Removes templates of images that are gone.
pub(crate) async fn settle_templates(registry: &Registry) {
    if let Err(error) = remove_templates(registry).await {
        warn!(error = format!("{error:#}"), "templates of images that are gone remain");
    }
}

async fn forget(registry: &Arc<Registry>) -> Result<Forgotten> {
    let (home, asked) = (registry.shared().home.clone(), registry.clone());
    spawn_blocking(move || Image::forget(&home, || used(&asked))).await?
}

/// Templates of an image that is gone are of no use. One that is used goes later.
async fn remove_templates(registry: &Registry) -> Result<()> {
    let shared = registry.shared();
    // Those that are made meanwhile are of images that are here.
    let made = shared.templates.images().await?;
    let home = shared.home.clone();
    let here = spawn_blocking(move || Image::identities(&home)).await??;
    for (template, image) in made {
        if !here.contains(&image) {
            let _ = shared.templates.remove(&template).await;
            shared.spares.look_again();
        }
    }
    Ok(())
}
