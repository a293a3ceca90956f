//! Taking a snapshot of a sandbox that runs, and runs on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use banger_host::fs::ensure_private_dir;
use banger_host::staged::Staged;
use banger_model::lifecycle::{Afterwards, State};
use banger_model::{Progress as _, SandboxRecord, SnapshotId};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::start::assets;
use super::work::{Done, Superseded};
use crate::machine::base::base_of;
use crate::machine::{Live, origin_of, still};
use crate::operations::{Audience, now};
use crate::shared::Shared;
use crate::snapshots::{About, Added, Snapshot};
use crate::{saved, templates};

/// Takes the snapshot that the sandbox's state tells of. Its machine goes on, whatever comes of it.
pub(super) async fn take(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    live: Option<Live>,
    superseded: Superseded,
    audience: Audience,
) -> Done {
    let State::Pausing { then: Afterwards::GoOn { snapshot, .. } } = &record.state else {
        return Done::Superseded;
    };
    let Some(live) = live else { return Done::NotSaved("there is no machine".to_owned()) };
    match try_take(shared, record, (snapshot, &live), superseded, &audience).await {
        Ok(stood_still) => {
            shared.checkpoints.reach("snapshot.kept").await;
            info!(sandbox = %record.id, %snapshot, ms = stood_still.as_millis(), "a snapshot is taken");
            Done::Taken(stood_still)
        }
        Err(error) => {
            warn!(sandbox = %record.id, error = format!("{error:#}"), "no snapshot");
            Done::NotSaved(format!("{error:#}"))
        }
    }
}

/// Returns how long the sandbox stood still.
async fn try_take(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    (id, live): (&SnapshotId, &Live),
    mut superseded: Superseded,
    audience: &Audience,
) -> Result<Duration> {
    audience.stage("taking a snapshot");
    if shared.snapshots.get(id).is_some() {
        // A daemon before this one has come so far. Its machine went on before that.
        return Ok(Duration::ZERO);
    }
    let about = about(shared, record, id, &mut superseded, audience);
    let Some(about) = about.await? else { bail!("something else was asked for meanwhile") };
    let (dir, target) = (shared.dir(&record.id), shared.snapshots.dir(id));
    let root = shared.home.snapshots();
    ensure_private_dir(&root)?;
    still::check_room(live, &dir, &root, record.spec.memory.bytes())?;
    let staged = spawn_blocking({
        let target = target.clone();
        move || Staged::begin(&target)
    })
    .await??;
    let (from_to, checkpoints) = ((&*dir, staged.path()), &shared.checkpoints);
    let stood_still = still::copy(live, from_to, checkpoints, &mut superseded).await?;
    if superseded.is_so() {
        bail!("something else was asked for meanwhile");
    }
    audience.stage("writing the snapshot");
    let snapshot = spawn_blocking(move || {
        let devices_sha256 = saved::digest(staged.path())?;
        About { devices_sha256, ..about }.write(staged.path())?;
        staged.commit()?;
        Snapshot::open(&target)
    })
    .await??;
    match shared.snapshots.add(snapshot) {
        Added::Yes => Ok(stood_still),
        Added::GivenUp => bail!("something else was asked for meanwhile"),
    }
}

/// What is known about the snapshot before it is taken; `None` when something else was asked for
/// meanwhile.
async fn about(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    id: &SnapshotId,
    superseded: &mut Superseded,
    audience: &Audience,
) -> Result<Option<About>> {
    let dir = shared.dir(&record.id);
    let base = base_of(&dir, &record.spec)?;
    let Some(assets) = assets(shared, (record, base), superseded, audience).await? else {
        return Ok(None);
    };
    // What it is was decided when it began, not by what is here by now.
    let origin = origin_of(&dir, (&assets, &record.spec));
    let asked = shared.operations.find(&id.operation());
    let asked = asked.context("nobody knows who asked for it")?;
    Ok(Some(About {
        sandbox: record.name.clone(),
        tag: asked.operation().tag.clone(),
        spec: record.spec.clone(),
        image: assets.image.id().clone(),
        shape: templates::shape(&assets, &record.spec)?.of_origin(origin.clone()),
        accelerator: origin.accelerator,
        origin: Some(origin),
        created: now(),
        devices_sha256: String::new(),
    }))
}
