//! Who needs which image: what was written over one makes no sense without it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;

use anyhow::Result;
use banger_host::fs::list_dir;
use banger_image::Image;
use banger_model::lifecycle::State;
use banger_model::{ImageId, SandboxRecord, WantedImage};

use crate::driver::View;
use crate::machine::base::image_of;
use crate::registry::Registry;

/// Who needs which image, by name: sandboxes whose disks lie over it, those that are to be made of it, and
/// snapshots. A sandbox that is going never needs it again, and a machine that still runs has it open.
///
/// # Errors
/// When that cannot be told of one.
pub(crate) fn users(registry: &Registry) -> Result<BTreeMap<ImageId, Vec<String>>> {
    let shared = registry.shared();
    let mut users: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
    let mut wanted: BTreeMap<WantedImage, Option<ImageId>> = BTreeMap::new();
    let stays = |view: &&Arc<View>| !matches!(view.record.state, State::Deleting);
    for view in registry.list().iter().filter(stays) {
        let SandboxRecord { id, name, spec, from, .. } = &view.record;
        let image = match image_of(&shared.dir(id))? {
            None if from.is_none() => {
                let found = || Some(Image::find(&shared.home, &spec.image).ok()??.id().clone());
                wanted.entry(spec.image.clone()).or_insert_with(found).clone()
            }
            known => known,
        };
        if let Some(image) = image {
            users.entry(image).or_default().push(name.to_string());
        }
    }
    for snapshot in shared.snapshots.all() {
        let name = format!("snapshot {}", snapshot.shown());
        users.entry(snapshot.about.image.clone()).or_default().push(name);
    }
    Ok(users)
}

/// All images that something lies over: of sandboxes and snapshots that nobody can name, too.
///
/// # Errors
/// When that cannot be told: then none may go.
pub(crate) fn used(registry: &Registry) -> Result<BTreeSet<ImageId>> {
    let root = registry.shared().home.sandboxes();
    // Asked first: whoever is not among them is looked for below, and whoever is, is asked.
    let mut known: Vec<_> = registry.list().iter().map(|view| view.record.id.clone()).collect();
    // They end with the templates of an image that goes.
    known.extend(registry.shared().spares.ids());
    let mut used: BTreeSet<ImageId> = users(registry)?.into_keys().collect();
    used.extend(registry.shared().snapshots.hold()?.into_iter().map(|(_, holds)| holds.image));
    let is_known = |name: &OsString| known.iter().any(|id| name == id.as_str());
    for name in list_dir(&root)?.into_iter().filter(|name| !is_known(name)) {
        used.extend(image_of(&root.join(name))?);
    }
    Ok(used)
}
