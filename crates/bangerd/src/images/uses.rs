//! Who needs which image: what was written over one makes no sense without it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use banger_host::fs::list_dir;
use banger_image::Image;
use banger_model::ImageId;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::machine::base::image_of;
use crate::registry::Registry;

/// Who needs which image, by name: sandboxes whose disks lie over it, and snapshots.
pub(crate) fn users(registry: &Registry) -> BTreeMap<ImageId, Vec<String>> {
    let shared = registry.shared();
    let mut users: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
    for view in registry.list() {
        if let Ok(image) = image_of(&shared.dir(&view.record.id)) {
            users.entry(image).or_default().push(view.record.name.to_string());
        }
    }
    for snapshot in shared.snapshots.list() {
        let name = format!("snapshot {}", snapshot.shown());
        users.entry(snapshot.about.image.clone()).or_default().push(name);
    }
    users
}

/// All images that something lies over: of sandboxes that nobody can name, too.
///
/// # Errors
/// When the directories of sandboxes cannot be looked at.
pub(crate) fn used(registry: &Registry) -> Result<BTreeSet<ImageId>> {
    let root = registry.shared().home.sandboxes();
    let mut used: BTreeSet<ImageId> = users(registry).into_keys().collect();
    used.extend(list_dir(&root)?.iter().filter_map(|name| image_of(&root.join(name)).ok()));
    Ok(used)
}

/// Removes images that no name leads to and nobody needs, and what killed makers have left.
pub(crate) async fn settle(registry: &Registry) {
    let home = registry.shared().home.clone();
    let forgotten = async {
        let used = used(registry)?;
        anyhow::Ok(spawn_blocking(move || Image::forget(&home, &used)).await??)
    };
    match forgotten.await {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => info!(count = gone.len(), "removed images that nobody needs"),
        Err(error) => warn!(error = format!("{error:#}"), "images that nobody needs remain"),
    }
}
