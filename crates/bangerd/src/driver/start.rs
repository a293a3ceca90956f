//! Bringing a sandbox up: from the template of its shape, which is made if it is missing, or by
//! booting where there is nothing to restore.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use banger_host::fs::remove_all;
use banger_model::lifecycle::EndCause;
use banger_model::{BootMode, InitMode, Progress as _, SandboxRecord, SandboxSpec};
use banger_vmm::PrepareError;
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use super::work::{Done, Superseded, clear_up};
use crate::assets::{Assets, Base};
use crate::machine::base::base_of;
use crate::machine::{self, Blueprint, DISK, Live, Source, VolumeNotMounted, memory};
use crate::operations::Audience;
use crate::shared::Shared;
use crate::spares::Spare;
use crate::templates::{self, Known, Template, Templates};

/// Brings a sandbox up. Work that makes something is never cut off in its midst: what comes next
/// could not see all of it.
pub(super) async fn start(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    spare: Option<Spare>,
    superseded: Superseded,
    audience: Audience,
) -> Done {
    let begin = Instant::now();
    let started = try_start(shared, record, spare, superseded, &audience).await;
    shared.spares.look_again();
    match started {
        Ok(Some(live)) => {
            shared.checkpoints.reach("start.answered").await;
            Done::Booted(live, begin.elapsed())
        }
        Ok(None) => Done::Superseded,
        Err(error) => {
            clear_up(shared, record).await;
            Done::Ended(EndCause::Failed(format!("{error:#}")))
        }
    }
}

/// `None` when something else was asked for meanwhile.
async fn try_start(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    spare: Option<Spare>,
    mut superseded: Superseded,
    audience: &Audience,
) -> Result<Option<Live>> {
    tokio::select! {
        () = superseded.wait() => return Ok(None),
        held = hold_volumes(shared, record) => held?,
    }
    let dir = shared.dir(&record.id);
    let base = base_of(&dir, &record.spec)?;
    let Some(assets) = assets(shared, (record, base), &mut superseded, audience).await? else {
        return Ok(None);
    };
    if let Some(spare) = spare {
        let became = tokio::select! {
            () = superseded.wait() => return Ok(None),
            became = become_sandbox(shared, record, (&assets, spare)) => became,
        };
        if became.is_some() {
            return Ok(became);
        }
    }
    machine::clear(&dir).await?;
    // It begins with its disk: what was in its memory does not fit that any more.
    memory::forget(&dir)?;
    if record.boots <= 1 && record.from.is_none() {
        // Nobody has ever used what a first start has left that came to nothing.
        remove_all(&dir.join(DISK))?;
    }
    shared.checkpoints.reach("start.assets").await;
    machine::check_space(&shared.home.sandboxes())?;
    let template = tokio::select! {
        () = superseded.wait() => return Ok(None),
        template = template(shared, record, &assets, audience) => template,
    };
    let _turn = tokio::select! {
        () = superseded.wait() => return Ok(None),
        turn = shared.boots.acquire() => turn?,
    };
    let dir = machine::make_dir(&dir)?;
    shared.checkpoints.reach("start.directory").await;
    let source = template.map_or(Source::Kernel, Source::Template);
    let blueprint = blueprint(shared, record, (&dir, &assets), source);
    restore_or_boot(shared, blueprint, superseded, audience).await
}

/// Nobody else's machine gets its volumes from now on; missing ones are made.
async fn hold_volumes(shared: &Arc<Shared>, record: &SandboxRecord) -> Result<()> {
    if record.spec.volumes.is_empty() {
        return Ok(());
    }
    let (maker, spec) = (shared.clone(), record.spec.clone());
    let make = move || spec.volumes.iter().try_for_each(|it| maker.volumes.ensure(it.volume()));
    spawn_blocking(make).await??;
    Ok(shared.volumes.hold(record).await?)
}

/// Has a spare machine become the sandbox. What goes wrong with it costs time: the sandbox is
/// made as any other.
async fn become_sandbox(
    shared: &Shared,
    record: &SandboxRecord,
    (assets, spare): (&Arc<Assets>, Spare),
) -> Option<Live> {
    let dir = shared.dir(&record.id);
    let blueprint = blueprint(shared, record, (&dir, assets), Source::Kernel);
    match spare.become_sandbox(&blueprint).await {
        Ok(live) => {
            up(shared, &blueprint, &live);
            Some(live)
        }
        Err(error) => {
            warn!(sandbox = %record.id, error = format!("{error:#}"), "its spare machine is of no use");
            None
        }
    }
}

/// The machine of a sandbox that begins with this.
pub(super) fn blueprint<'a>(
    shared: &'a Shared,
    record: &'a SandboxRecord,
    (dir, assets): (&'a Path, &'a Arc<Assets>),
    source: Source,
) -> Blueprint<'a> {
    let SandboxRecord { id, name, spec, .. } = record;
    let volumes = shared.volumes.files(spec);
    Blueprint { id, name, dir, spec, assets, relay: &shared.relay, volumes, source }
}

/// What the sandbox is made of; `None` when something else was asked for meanwhile.
pub(super) async fn assets(
    shared: &Shared,
    (record, base): (&SandboxRecord, Base),
    superseded: &mut Superseded,
    audience: &Audience,
) -> Result<Option<Arc<Assets>>> {
    let kernel = record.spec.kernel.as_ref();
    if let Some(assets) = shared.arsenal.at_hand(&base, kernel) {
        return Ok(Some(assets));
    }
    let find = async {
        if let Base::Wanted(wanted) = &base {
            shared.images.need(wanted, Arc::new(audience.clone())).await?;
        }
        shared.images.need_kernel(&base, kernel, Arc::new(audience.clone())).await?;
        shared.arsenal.assets(&base, kernel, Arc::new(audience.clone())).await
    };
    let assets = tokio::select! {
        () = superseded.wait() => return Ok(None),
        found = find => found?,
    };
    assets.news().inspect(|notice| audience.log(notice));
    Ok(Some(assets))
}

/// The template of the sandbox's shape, if it is to be made from one. What goes wrong with it
/// costs time: the sandbox boots.
async fn template(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    assets: &Arc<Assets>,
    audience: &Audience,
) -> Option<Arc<Template>> {
    let fresh = !banger_host::fs::is_there(&shared.dir(&record.id).join(DISK));
    if !fresh || !is_of_template(&record.spec, assets.init(&record.spec)) {
        return None;
    }
    let found = async {
        let shape = templates::shape(assets, &record.spec)?;
        let id = shape.template()?;
        if matches!(shared.templates.known(&id), Known::Not) {
            audience.stage("preparing template (once)");
        }
        let (maker, assets, spec) = (shared.clone(), assets.clone(), record.spec.clone());
        let make = |dir| async move {
            let _turn = maker.boots.acquire().await?;
            templates::make(dir, (shape, spec), &assets, &maker.checkpoints).await
        };
        shared.templates.get(&id, make).await
    };
    found.await.unwrap_or_else(|error| {
        warn!(sandbox = %record.id, error = format!("{error:#}"), "no template");
        audience.log(&format!("no template can be made, so it boots: {error:#}"));
        None
    })
}

/// Whether a sandbox may begin as a template. Systemd's services are up in one, and must not be
/// before the volumes are.
fn is_of_template(spec: &SandboxSpec, init: InitMode) -> bool {
    let volumes_first = init == InitMode::Systemd && !spec.volumes.is_empty();
    spec.boot == BootMode::Template && !volumes_first
}

/// Restores from the template; a template that is of no use is given up, and the sandbox boots.
async fn restore_or_boot(
    shared: &Shared,
    mut blueprint: Blueprint<'_>,
    mut superseded: Superseded,
    audience: &Audience,
) -> Result<Option<Live>> {
    loop {
        if matches!(blueprint.source, Source::Kernel) {
            audience.stage("booting");
        }
        let attempt = attempt(shared, &blueprint, &mut superseded).await;
        match (attempt, std::mem::replace(&mut blueprint.source, Source::Kernel)) {
            (Err(Failed::Template(error)), Source::Template(template)) => {
                warn!(template = %template.id, error = format!("{error:#}"), "a template is of no use");
                audience.log(&format!("the template cannot be used, so it boots: {error:#}"));
                shared.templates.spoilt(template).await;
                start_over(blueprint.dir).await?;
            }
            (Err(Failed::Restored(error)), Source::Template(template)) => {
                warn!(template = %template.id, error = format!("{error:#}"), "a machine did not come up from a template");
                audience
                    .log(&format!("it did not come up from its template, so it boots: {error:#}"));
                shared.templates.doubted(template).await;
                start_over(blueprint.dir).await?;
            }
            (
                Err(Failed::Template(error) | Failed::Restored(error) | Failed::Otherwise(error)),
                _,
            ) => return Err(error),
            (Ok(None), _) => return Ok(None),
            (Ok(Some(live)), _) => {
                up(shared, &blueprint, &live);
                return Ok(Some(live));
            }
        }
    }
}

fn up(shared: &Shared, blueprint: &Blueprint<'_>, live: &Live) {
    debug!(phases = ?live.phases, "up");
    if let Some(template) = &live.template {
        Templates::used(template);
        if blueprint.spec.volumes.is_empty() {
            shared.spares.started(&template.id, blueprint.assets, blueprint.spec);
        }
    }
}

/// Nothing is left of a machine that did not come up from its template, its disk included.
async fn start_over(dir: &Path) -> Result<()> {
    machine::clear(dir).await?;
    Ok(remove_all(&dir.join(DISK))?)
}

/// Why a machine did not come up.
enum Failed {
    /// Its template is to blame.
    Template(anyhow::Error),
    /// If it was made from a template, that may be to blame: its monitor may as well have been killed,
    /// or its host have been too slow.
    Restored(anyhow::Error),
    /// Anything else.
    Otherwise(anyhow::Error),
}

impl Failed {
    fn to_be_prepared(error: anyhow::Error) -> Self {
        match error.downcast_ref() {
            Some(PrepareError::Load { .. }) => Self::Template(error),
            Some(PrepareError::GaveUp { .. } | PrepareError::Control(_)) => Self::Restored(error),
            _ => Self::Otherwise(error),
        }
    }

    /// After it was restored.
    fn to_come_up(error: anyhow::Error) -> Self {
        // That is nobody's fault but the volume's.
        match error.downcast_ref::<VolumeNotMounted>() {
            Some(_) => Self::Otherwise(error),
            None => Self::Restored(error),
        }
    }
}

async fn attempt(
    shared: &Shared,
    blueprint: &Blueprint<'_>,
    superseded: &mut Superseded,
) -> Result<Option<Live>, Failed> {
    let prepared = machine::prepare(blueprint, &shared.checkpoints).await;
    let prepared = prepared.map_err(Failed::to_be_prepared)?;
    let restored = prepared.is_of_template();
    let booted = async {
        shared.checkpoints.reach("start.prepared").await;
        machine::boot(blueprint, prepared).await
    };
    tokio::select! {
        () = superseded.wait() => Ok(None),
        live = booted => live.map(Some).map_err(|error| match restored {
            true => Failed::to_come_up(error),
            false => Failed::Otherwise(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_template_is_to_blame_where_it_is_refused_only() {
        let refused = PrepareError::Load { said: "no".to_owned() };
        assert!(matches!(Failed::to_be_prepared(refused.into()), Failed::Template(_)));
        let gave_up = PrepareError::GaveUp { said: "no".to_owned() };
        assert!(matches!(Failed::to_be_prepared(gave_up.into()), Failed::Restored(_)));
        let killed = anyhow!("the guest ended while it started");
        assert!(matches!(Failed::to_come_up(killed), Failed::Restored(_)));
    }
}
