//! A sandbox's memory to the disk, and a sandbox from its memory.

use std::time::Instant;

use anyhow::Result;
use banger_model::lifecycle::EndCause;
use banger_model::{Progress as _, SandboxRecord};
use banger_vmm::PrepareError;
use tracing::warn;

use super::start::{assets, blueprint};
use super::work::{Done, Superseded, clear_up, forget_memory};
use crate::machine::base::base_of;
use crate::machine::memory::{self, NotSaved, Saved};
use crate::machine::{self, Blueprint, Live, Source, Told};
use crate::operations::Audience;
use crate::shared::Shared;

/// Saves the memory of a sandbox that runs. Its machine stands still afterwards.
pub(super) async fn save(
    shared: &Shared,
    record: &SandboxRecord,
    live: Option<Live>,
    mut superseded: Superseded,
    audience: Audience,
) -> Done {
    audience.stage("saving memory");
    let Some(live) = live else { return Done::NotSaved("there is no machine".to_owned()) };
    match memory::save(&live, &shared.dir(&record.id), &mut superseded).await {
        Ok(()) => {
            shared.checkpoints.reach("pause.saved").await;
            Done::Saved
        }
        Err(NotSaved::RunsOn(error)) => {
            warn!(sandbox = %record.id, error = format!("{error:#}"), "not paused");
            Done::NotSaved(format!("{error:#}"))
        }
        Err(NotSaved::StandsStill(error)) => {
            audience.log(&format!("it stands still until that is done: {error:#}"));
            Done::Again(format!("{error:#}"))
        }
    }
}

/// Takes up a sandbox from its saved memory.
pub(super) async fn resume(
    shared: &Shared,
    record: &SandboxRecord,
    superseded: Superseded,
    audience: Audience,
) -> Done {
    let begin = Instant::now();
    match try_resume(shared, record, superseded, &audience).await {
        Ok(Some(live)) => {
            if let Told::Refused(reason) = &live.told {
                warn!(sandbox = %record.id, reason, "resumed as it was");
                audience.log(&format!("it goes on as it was before: {reason}"));
            }
            shared.checkpoints.reach("resume.answered").await;
            Done::Booted(live, begin.elapsed())
        }
        Ok(None) => Done::Superseded,
        Err(error) => {
            clear_up(shared, record).await;
            match memory::look(&shared.dir(&record.id)) {
                // Nothing has gone on with it: it is as good as before.
                Saved::Whole(_) => Done::NotResumed(format!("{error:#}")),
                Saved::Used | Saved::Nothing => {
                    forget_memory(shared, record);
                    Done::Ended(EndCause::Failed(format!("{error:#}")))
                }
            }
        }
    }
}

async fn try_resume(
    shared: &Shared,
    record: &SandboxRecord,
    mut superseded: Superseded,
    audience: &Audience,
) -> Result<Option<Live>> {
    audience.stage("resuming");
    let dir = machine::make_dir(&shared.dir(&record.id))?;
    let base = base_of(&dir, &record.spec)?;
    let found = assets(shared, (record, base), &mut superseded, audience).await?;
    let Some(assets) = found else { return Ok(None) };
    let blueprint = |source| blueprint(shared, record, (&dir, &assets), source);
    let saved = match memory::look(&dir) {
        Saved::Whole(saved) => saved,
        // An earlier daemon was about to set it going, and died before it could say so.
        Saved::Used => {
            let vmm = shared.arsenal.vmm().await?;
            let adopted = machine::adopt(&*vmm, &shared.templates, (&record.id, &dir)).await?;
            let live = adopted.ok_or_else(|| anyhow::anyhow!("it ended while it was resumed"))?;
            return go_on(&blueprint(Source::Kernel), live, &mut superseded).await;
        }
        Saved::Nothing => anyhow::bail!("its memory was not saved"),
    };
    machine::clear(&dir).await?;
    let remembered = memory::whole(saved, &dir, (&assets, &record.spec)).await?;
    let fits = remembered.origin.fits(&assets, &record.spec);
    fits.map_err(|misfit| lost(record, misfit))?;
    machine::check_space(&shared.home.sandboxes())?;
    let _turn = tokio::select! {
        () = superseded.wait() => return Ok(None),
        turn = shared.boots.acquire() => turn?,
    };
    let live = take_up(shared, &blueprint(Source::Memory(remembered)), &mut superseded).await;
    live.map_err(|error| match error.downcast_ref() {
        Some(PrepareError::Load { .. }) => lost(record, error),
        _ => error,
    })
}

/// Why a sandbox cannot be taken up here and now, and what is left to do.
fn lost(record: &SandboxRecord, why: impl Into<anyhow::Error>) -> anyhow::Error {
    why.into().context(format!(
        "the memory of {0} does not fit this host or its virtual machine monitor any more; after \
         `banger vm kill {0}`, which gives it up, `banger vm start {0}` boots it",
        record.name
    ))
}

/// Has the machine of an earlier daemon go on as its sandbox; `None` when something else was asked
/// for meanwhile.
async fn go_on(
    blueprint: &Blueprint<'_>,
    live: Live,
    superseded: &mut Superseded,
) -> Result<Option<Live>> {
    let goes_on = async {
        // It may not have executed anything yet.
        live.machine.resume().await?;
        let told = machine::identify_again(blueprint, &live).await?;
        memory::thaw(&live).await?;
        Ok(Live { told, ..live.clone() })
    };
    tokio::select! {
        () = superseded.wait() => Ok(None),
        gone_on = goes_on => gone_on.map(Some),
    }
}

/// Has a machine go on with the saved memory in its directory, as its sandbox; `None` when
/// something else was asked for meanwhile: whoever ends a machine gives up what is in its memory.
/// The memory is used from the moment at which the machine is about to go on.
pub(super) async fn take_up(
    shared: &Shared,
    blueprint: &Blueprint<'_>,
    superseded: &mut Superseded,
) -> Result<Option<Live>> {
    let prepared = machine::prepare(blueprint, &shared.checkpoints).await?;
    shared.checkpoints.reach("start.prepared").await;
    memory::mark_used(blueprint.dir)?;
    shared.checkpoints.reach("resume.used").await;
    let up = async {
        let live = machine::boot(blueprint, prepared).await?;
        memory::thaw(&live).await?;
        Ok(Some(live))
    };
    tokio::select! {
        () = superseded.wait() => Ok(None),
        live = up => live,
    }
}
