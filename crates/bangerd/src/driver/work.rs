//! What takes long, one piece at a time. A new piece begins when the one before has let go.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use banger_host::fs::remove_all;
use banger_model::lifecycle::{Effect, EndCause, Origin, StopKind};
use banger_model::{Progress as _, SandboxRecord};
use banger_vmm::EndReason;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use super::start::start;
use super::{pause, restore, snapshot};
use crate::machine::{self, Live, memory};
use crate::operations::Audience;
use crate::shared::Shared;
use crate::spares::Spare;
pub(super) use crate::superseded::Superseded;

/// How a piece of work came out.
pub(super) enum Done {
    /// What an earlier daemon has left: a machine that runs, or none.
    Seen(Option<Live>),
    /// There is a machine that does not answer.
    Silent(String),
    /// The sandbox runs, after this time.
    Booted(Live, Duration),
    /// It has no machine any more, or got none.
    Ended(EndCause),
    /// Its memory is saved, and its machine stands still.
    Saved,
    /// Its memory could not be saved, for this reason; it runs on.
    NotSaved(String),
    /// A snapshot of it is taken, for which it stood still so long.
    Taken(Duration),
    /// The snapshot that it was to begin with was never taken, for this reason.
    NeverBegun(String),
    /// Its memory could not be taken up, for this reason, and is as it was.
    NotResumed(String),
    /// Nothing of it is left on the host.
    Removed,
    /// It could not be done; perhaps later.
    Again(String),
    /// Nothing of it runs, as it should be.
    Cleared,
    /// Something else was asked for meanwhile.
    Superseded,
}

/// Work under way.
pub(super) struct Work {
    task: JoinHandle<Done>,
    supersede: watch::Sender<bool>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It looks, or clears up behind what has happened, and what follows depends on that.
    Observes,
    /// It does what the sandbox's state says.
    Changes,
    /// It ends what the sandbox's state says that it has no more.
    Clears,
}

/// Work to be begun.
pub(super) struct Begin {
    future: Pin<Box<dyn Future<Output = Done> + Send>>,
    supersede: watch::Sender<bool>,
    kind: Kind,
}

impl Begin {
    fn new<F>(kind: Kind, work: impl FnOnce(Superseded) -> F) -> Self
    where
        F: Future<Output = Done> + Send + 'static,
    {
        let (supersede, superseded) = watch::channel(false);
        Self { future: Box::pin(work(Superseded::by(superseded))), supersede, kind }
    }
}

impl Work {
    /// Begins work, in place of `before`: when that has let go of the sandbox.
    pub(super) fn begin(work: Begin, before: Option<Self>) -> Self {
        let Begin { future, supersede, kind } = work;
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.supersede.send_replace(true);
                // How it came out does not count any more.
                drop(before.task.await);
            }
            future.await
        });
        Self { task, supersede, kind }
    }

    /// Whether how the sandbox is hangs on it: nothing is asked of the sandbox meanwhile.
    pub(super) fn observes(&self) -> bool {
        self.kind == Kind::Observes
    }

    /// Whether it makes true what the sandbox's state says already.
    pub(super) fn clears(&self) -> bool {
        self.kind == Kind::Clears
    }
}

/// Waits for the work under way.
pub(super) async fn finished(work: &mut Option<Work>) -> Done {
    let Some(under_way) = work else { return std::future::pending().await };
    let done = (&mut under_way.task).await;
    *work = None;
    done.unwrap_or_else(|fault| {
        Done::Ended(EndCause::Failed(format!("a fault of bangerd: {fault}")))
    })
}

/// The checkpoint behind the decision for an effect.
pub(super) fn decided(effect: Effect) -> &'static str {
    match effect {
        Effect::Boot(_) => "start.decided",
        Effect::Save => "pause.decided",
        Effect::Snapshot => "snapshot.decided",
        Effect::End(_) | Effect::DropMemory => "stop.decided",
        Effect::Remove => "delete.decided",
    }
}

/// What work is done with.
pub(super) struct Given {
    /// The machine that runs.
    pub(super) live: Option<Live>,
    /// A machine that waits to become the sandbox.
    pub(super) spare: Option<Spare>,
    /// Who is told about it.
    pub(super) audience: Audience,
}

/// The work that an effect is.
pub(super) fn effect(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    effect: Effect,
    given: Given,
) -> Begin {
    let (shared, record) = (shared.clone(), record.clone());
    let Given { live, spare, audience } = given;
    Begin::new(Kind::Changes, |superseded| async move {
        match effect {
            Effect::Boot(Origin::Disk) => {
                shared.reservations.go_first().await;
                match record.begins_with() {
                    Some(from) => {
                        restore::begin(&shared, &record, from, superseded, audience).await
                    }
                    None => start(&shared, &record, spare, superseded, audience).await,
                }
            }
            Effect::End(StopKind::PowerOff) => {
                power_off(&shared, &record, live, superseded, audience).await
            }
            Effect::End(StopKind::Kill) => end(&shared, &record).await,
            Effect::Remove => remove(&shared, &record).await,
            Effect::Boot(Origin::Memory) => {
                pause::resume(&shared, &record, superseded, audience).await
            }
            Effect::Save => pause::save(&shared, &record, live, superseded, audience).await,
            Effect::Snapshot => snapshot::take(&shared, &record, live, superseded, audience).await,
            Effect::DropMemory => drop_memory(&shared, &record).await,
        }
    })
}

/// Looks what there is of a machine.
pub(super) fn observe(shared: &Arc<Shared>, record: &SandboxRecord) -> Begin {
    observe_later(shared, record, Duration::ZERO)
}

/// Looks so much later what there is of a machine.
pub(super) fn observe_later(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    delay: Duration,
) -> Begin {
    let (shared, record) = (shared.clone(), record.clone());
    Begin::new(Kind::Observes, move |_| async move {
        tokio::time::sleep(delay).await;
        let dir = shared.dir(&record.id);
        let adopted = async {
            let vmm = shared.arsenal.vmm().await?;
            machine::adopt(&*vmm, &shared.templates, (&record.id, &dir)).await
        };
        match adopted.await {
            Ok(live) => Done::Seen(live),
            Err(error) => Done::Silent(format!("{error:#}")),
        }
    })
}

/// Ends whatever runs of a sandbox that should not.
pub(super) fn clear(shared: &Arc<Shared>, record: &SandboxRecord) -> Begin {
    let dir = shared.dir(&record.id);
    Begin::new(Kind::Clears, |_| async move {
        match machine::clear(&dir).await {
            Ok(()) => Done::Cleared,
            Err(error) => Done::Again(format!("{error:#}")),
        }
    })
}

/// Ends whatever runs of a sandbox whose machine is gone, and throws away what was in its memory.
pub(super) fn clear_with_memory(shared: &Arc<Shared>, record: &SandboxRecord) -> Begin {
    let (shared, record) = (shared.clone(), record.clone());
    Begin::new(Kind::Clears, |_| async move { drop_memory(&shared, &record).await })
}

/// Clears up behind a machine that has ended by itself.
pub(super) fn ended_by_itself(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
    reason: EndReason,
) -> Begin {
    let (shared, record) = (shared.clone(), record.clone());
    // Whoever asks meanwhile for what only a machine that runs can do would be told that it does.
    Begin::new(Kind::Observes, |_| async move {
        shared.checkpoints.reach("end.seen").await;
        clear_up(&shared, &record).await;
        forget_memory(&shared, &record);
        Done::Ended(match reason {
            EndReason::PoweredOff => EndCause::PoweredOff,
            other => EndCause::Failed(other.to_string()),
        })
    })
}

async fn power_off(
    shared: &Shared,
    record: &SandboxRecord,
    live: Option<Live>,
    mut superseded: Superseded,
    audience: Audience,
) -> Done {
    audience.stage("powering off");
    if let Some(live) = live {
        let off = tokio::select! {
            () = superseded.wait() => return Done::Superseded,
            off = machine::power_off(&live) => off,
        };
        if let Err(error) = off {
            warn!(sandbox = %record.id, error = format!("{error:#}"), "not powered off");
            audience.log(&format!("{error:#}"));
        }
    }
    shared.checkpoints.reach("stop.off").await;
    end(shared, record).await
}

async fn end(shared: &Shared, record: &SandboxRecord) -> Done {
    let dir = shared.dir(&record.id);
    let ended = async {
        machine::clear(&dir).await?;
        memory::forget(&dir)
    };
    match ended.await {
        Ok(()) => {
            shared.checkpoints.reach("stop.cleared").await;
            Done::Ended(EndCause::Asked)
        }
        Err(error) => Done::Again(format!("{error:#}")),
    }
}

async fn drop_memory(shared: &Shared, record: &SandboxRecord) -> Done {
    let dir = shared.dir(&record.id);
    let dropped = async {
        machine::clear(&dir).await?;
        memory::forget(&dir)
    };
    match dropped.await {
        Ok(()) => Done::Cleared,
        Err(error) => Done::Again(format!("{error:#}")),
    }
}

async fn remove(shared: &Shared, record: &SandboxRecord) -> Done {
    let dir = shared.dir(&record.id);
    let removed = async {
        machine::clear(&dir).await?;
        shared.checkpoints.reach("delete.cleared").await;
        remove_dir(dir).await?;
        if let Some(lease) = &record.lifetime.lease {
            remove_all(&shared.home.lease(lease))?;
        }
        Ok::<_, anyhow::Error>(())
    };
    match removed.await {
        Ok(()) => {
            shared.checkpoints.reach("delete.removed").await;
            Done::Removed
        }
        Err(error) => Done::Again(format!("{error:#}")),
    }
}

async fn remove_dir(dir: PathBuf) -> Result<()> {
    Ok(spawn_blocking(move || remove_all(&dir)).await??)
}

/// Ends what is left of a machine that is no more. What cannot be ended now is ended before the
/// next start.
pub(super) async fn clear_up(shared: &Shared, record: &SandboxRecord) {
    if let Err(error) = machine::clear(&shared.dir(&record.id)).await {
        warn!(sandbox = %record.id, error = format!("{error:#}"), "something of it still runs");
    }
}

/// Throws away memory that fits nothing any more: it is as large as the machine was. What remains
/// is thrown away before the next start.
pub(super) fn forget_memory(shared: &Shared, record: &SandboxRecord) {
    if let Err(error) = memory::forget(&shared.dir(&record.id)) {
        warn!(sandbox = %record.id, error = format!("{error:#}"), "saved memory remains");
    }
}
