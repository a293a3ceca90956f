//! A sandbox's memory on the disk, while the sandbox is paused and after it was taken up.
//!
//! Memory and disk are one thing: memory that was saved fits the disk as it was then. So from the
//! moment at which a machine goes on with it, it must not be taken up a second time; a mark says
//! so, before the machine executes anything. The files stay: the machine's memory is still theirs,
//! as far as it has not written to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use banger_host::fs::{
    create_new, ensure_private_dir, exchange, file_size, is_there, link_file, read_bounded,
    remove_all, rename, sync_parent, write_atomic,
};
use banger_host::inplace::sync_file;
use banger_link::Request;
use banger_model::{Bytes, MemorySize, SandboxSpec};
use banger_vmm::{ControlError, RunState, Running, SavedMachine};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use super::Live;
use super::ask::ask;
use super::furnish::{noted_origin, origin_of};
use crate::assets::Assets;
use crate::origin::Origin;
use crate::saved::{self, files};
use crate::snapshots::Snapshot;
use crate::superseded::Superseded;

/// Where it is, in the sandbox's directory.
const SAVED: &str = "saved";
/// Where it is made.
const NEW: &str = "saved.new";
const ABOUT: &str = "saved.json";
/// There when a machine has gone on with it.
const USED: &str = "used";
/// Longest description that makes sense, in bytes.
const MAX_ABOUT_LEN: u64 = 4096;
/// How long a guest may take to let its processes stand still.
const FREEZE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the monitor's word that a machine stands still may come after its answer: it is on its
/// way already.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// What is known about saved memory. Of what an older banger has saved, that is only how long it is.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    memory: Bytes,
    devices: Bytes,
    #[serde(default)]
    devices_sha256: Option<String>,
    #[serde(default)]
    origin: Option<Origin>,
}

/// Saved memory that is whole.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Memory and devices.
    pub(crate) files: SavedMachine,
    /// What it belongs to.
    pub(crate) origin: Origin,
}

/// What there is of saved memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// None.
    Nothing,
    /// A machine can be made from it.
    Whole(SavedMachine),
    /// A machine has gone on with it.
    Used,
}

/// Where saved memory is in the directory of a sandbox.
pub(crate) fn place(dir: &Path) -> PathBuf {
    dir.join(SAVED)
}

/// What there is of saved memory in the directory of a sandbox.
pub(crate) fn look(dir: &Path) -> Saved {
    let saved = place(dir);
    match (is_there(&saved), is_there(&saved.join(USED))) {
        (false, _) => Saved::Nothing,
        (true, true) => Saved::Used,
        (true, false) => Saved::Whole(files(&saved)),
    }
}

/// Why memory was not saved.
#[derive(Debug)]
pub(crate) enum NotSaved {
    /// For this reason. The machine runs on, unless it is to end.
    RunsOn(anyhow::Error),
    /// What is in its place cannot be kept or given up for certain, for this reason. A machine that went on
    /// beside it might be taken up from it later: it stands still until it is saved again.
    StandsStill(anyhow::Error),
}

/// Saves the memory of a machine that runs. Afterwards the machine stands still, and what was
/// saved before is gone.
///
/// # Errors
/// When anything of that cannot be done.
pub(crate) async fn save(
    live: &Live,
    dir: &Path,
    superseded: &mut Superseded,
) -> Result<(), NotSaved> {
    if stands_still(&*live.machine)
        && let Saved::Whole(_) = look_for_certain(dir).map_err(NotSaved::StandsStill)?
    {
        // An attempt before this one, perhaps of another daemon, has come so far, and may have left what
        // was saved before.
        clear_new(dir).await;
        return Ok(());
    }
    match try_save(live, dir, superseded).await {
        Ok(()) => Ok(()),
        Err(error) => Err(give_up(live, dir, superseded, error).await),
    }
}

/// Has a machine go on whose memory could not be saved, for this reason.
async fn give_up(
    live: &Live,
    dir: &Path,
    superseded: &mut Superseded,
    error: anyhow::Error,
) -> NotSaved {
    // It may be in its place all the same, and fits a machine that goes on no more.
    if matches!(look(dir), Saved::Whole(_))
        && let Err(remains) = mark_used(dir).or_else(|_| forget(dir))
    {
        let why = format!("its memory can be neither kept nor given up ({remains:#})");
        return NotSaved::StandsStill(error.context(why));
    }
    // Whatever went wrong: it ran, and is to run.
    if let Err(error) = go_on(live, superseded).await {
        warn!(dir = %dir.display(), error = format!("{error:#}"), "a machine does not go on");
    }
    clear_new(dir).await;
    NotSaved::RunsOn(error)
}

/// What there is of saved memory in the directory of a sandbox, and is there after a power cut.
fn look_for_certain(dir: &Path) -> Result<Saved> {
    let saved = look(dir);
    if saved == Saved::Used {
        sync_parent(&place(dir).join(USED))?;
    }
    sync_parent(&place(dir))?;
    Ok(saved)
}

/// Removes memory that is not the sandbox's saved one: half of it, or what was saved before. Both
/// are as large as its machine, and in nobody's way: what remains goes with the next.
async fn clear_new(dir: &Path) {
    let new = dir.join(NEW);
    let removed = spawn_blocking({
        let new = new.clone();
        move || remove_all(&new)
    });
    if let Ok(Err(error)) = removed.await {
        warn!(dir = %new.display(), %error, "memory that is of no use remains");
    }
}

/// Whether somebody has stopped a machine's processors.
fn stands_still(machine: &dyn Running) -> bool {
    *machine.watch().borrow() == RunState::Paused
}

async fn try_save(live: &Live, dir: &Path, superseded: &mut Superseded) -> Result<()> {
    superseded.or(freeze(live)).await?;
    superseded.or(stand_still(&*live.machine)).await?;
    let new = dir.join(NEW);
    spawn_blocking({
        let new = new.clone();
        move || remove_all(&new).and_then(|()| ensure_private_dir(&new))
    })
    .await??;
    live.machine.save(&files(&new)).await?;
    let dir = dir.to_owned();
    spawn_blocking(move || keep(&dir)).await?
}

/// Has the processes of a machine stand still.
///
/// # Errors
/// When the guest does not do that in time.
pub(crate) async fn freeze(live: &Live) -> Result<()> {
    if stands_still(&*live.machine) {
        // Left so by a daemon that died: it cannot be asked anything.
        live.machine.resume().await?;
    }
    timeout(FREEZE_PATIENCE, live.link.request(Request::Freeze))
        .await
        .context("the guest does not answer")?
        .context("its processes cannot be frozen")?;
    Ok(())
}

/// Has a machine's processors stand still until they are told to go on. The monitor's word of it may
/// come after its answer.
///
/// # Errors
/// When they do not, or already did for want of space: then they go on as soon as there is some.
pub(crate) async fn stand_still(machine: &dyn Running) -> Result<()> {
    machine.pause().await?;
    let mut states = machine.watch();
    let stopped = states.wait_for(|state| *state != RunState::Running);
    match &*timeout(STOP_PATIENCE, stopped).await.context("it does not stand still")?? {
        RunState::Paused => Ok(()),
        RunState::OutOfSpace => bail!("its machine waits for space on the host's disk"),
        _ => bail!("its machine cannot go on"),
    }
}

/// Lets a machine that stands still go on, and its processes with it, as long as that may take: what
/// is said to run must not stand still.
///
/// # Errors
/// When one of both does not, or the machine is to end.
pub(crate) async fn go_on(live: &Live, superseded: &mut Superseded) -> Result<()> {
    let link = live.link.clone();
    // It waits in the link until the guest hears it, whoever waits for the answer.
    let thawed = tokio::spawn(async move { link.request(Request::Thaw).await });
    set_going(&*live.machine, superseded).await?;
    let thawed = superseded.or(timeout(FREEZE_PATIENCE, thawed)).await;
    thawed.context("the guest does not answer")??.context("its processes do not go on")?;
    Ok(())
}

/// Has a machine's processors go on. A monitor that is busy does that later; until then it is waited
/// for.
async fn set_going(machine: &dyn Running, superseded: &mut Superseded) -> Result<()> {
    loop {
        match superseded.or(machine.resume()).await {
            Err(error) if error.downcast_ref().is_some_and(ControlError::is_late) => {
                warn!(error = format!("{error:#}"), "a machine does not go on yet");
            }
            gone_on => return gone_on,
        }
    }
}

/// Puts what was saved in the place of what was saved before, once all of it is on the disk.
fn keep(dir: &Path) -> Result<()> {
    let (new, saved) = (dir.join(NEW), place(dir));
    let made = files(&new);
    for file in [&made.memory, &made.devices, &dir.join(super::DISK)] {
        sync_file(file)?;
    }
    describe(&new, noted_origin(dir), saved::digest(&new)?)?;
    if !is_there(&saved) {
        return Ok(rename(&new, &saved)?);
    }
    exchange(&new, &saved)?;
    // It is done; what was before is in nobody's way, and goes with the next.
    if let Err(error) = remove_all(&new) {
        warn!(dir = %new.display(), %error, "memory that was saved before remains");
    }
    Ok(())
}

fn describe(new: &Path, origin: Option<Origin>, devices_sha256: String) -> Result<()> {
    let made = files(new);
    let size = |path: &Path| Ok::<_, anyhow::Error>(file_size(path)?.apparent);
    let (memory, devices) = (size(&made.memory)?, size(&made.devices)?);
    let about = About { memory, devices, devices_sha256: Some(devices_sha256), origin };
    Ok(write_atomic(&new.join(ABOUT), &serde_json::to_vec(&about)?)?)
}

/// Gives the sandbox in `dir` the memory of a snapshot, in place of its own. It is the same file as
/// there: all who go on with it share it, and none writes to it.
///
/// # Errors
/// When that cannot be done; then there is none.
pub(crate) fn link(snapshot: &Snapshot, dir: &Path) -> Result<()> {
    forget(dir)?;
    let new = dir.join(NEW);
    ensure_private_dir(&new)?;
    let (there, here) = (snapshot.saved(), files(&new));
    link_file(&there.memory, &here.memory)?;
    link_file(&there.devices, &here.devices)?;
    let about = &snapshot.about;
    describe(&new, Some(about.origin()), about.devices_sha256.clone())?;
    Ok(rename(&new, &place(dir))?)
}

/// Saved memory of the sandbox in `dir`, checked.
///
/// # Errors
/// When it is not whole, or not that of a machine of this size.
pub(crate) async fn whole(
    files: SavedMachine,
    dir: &Path,
    (assets, spec): (&Assets, &SandboxSpec),
) -> Result<Remembered> {
    let (saved, size) = (place(dir), spec.memory);
    let about = spawn_blocking(move || check(&saved, size)).await??;
    let origin = about.origin.unwrap_or_else(|| origin_of(dir, (assets, spec)));
    Ok(Remembered { files, origin })
}

fn check(dir: &Path, size: MemorySize) -> Result<About> {
    let files = files(dir);
    let about: About = serde_json::from_slice(&read_bounded(&dir.join(ABOUT), MAX_ABOUT_LEN)?)
        .context("the description of the saved memory makes no sense")?;
    let real = (file_size(&files.memory)?.apparent, file_size(&files.devices)?.apparent);
    let mut as_written = real == (about.memory, about.devices) && about.memory == size.bytes();
    if let Some(written) = &about.devices_sha256 {
        as_written = as_written && saved::digest(dir)? == *written;
    }
    if !as_written {
        bail!("the saved memory in {} is not as it was written", dir.display());
    }
    Ok(about)
}

/// From now on a machine goes on with the saved memory.
///
/// # Errors
/// When that cannot be written down.
pub(crate) fn mark_used(dir: &Path) -> Result<()> {
    let mark = place(dir).join(USED);
    create_new(&mark)?;
    Ok(sync_parent(&mark)?)
}

/// Removes what was saved, which is whole until it is gone: without its mark, half of what was used
/// would look as if nothing had.
///
/// # Errors
/// When something of it remains.
pub(crate) fn forget(dir: &Path) -> Result<()> {
    forget_new(dir)?;
    if is_there(&place(dir)) {
        rename(&place(dir), &dir.join(NEW))?;
        forget_new(dir)?;
    }
    Ok(())
}

/// Removes what is not the saved memory: what was being saved, or was before. Whoever saves begins
/// anew.
///
/// # Errors
/// When something of it remains.
pub(crate) fn forget_new(dir: &Path) -> Result<()> {
    Ok(remove_all(&dir.join(NEW))?)
}

/// Lets the processes of a machine that was taken up go on.
///
/// # Errors
/// When the guest does not do that.
pub(crate) async fn thaw(live: &Live) -> Result<()> {
    ask(&live.link, Request::Thaw).await.context("its processes do not go on")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use banger_host::process::ProcessIdentity;
    use banger_model::Accelerator;
    use banger_vmm::BoxFuture;
    use banger_vmm::qemu::QmpError;
    use tokio::net::UnixStream;
    use tokio::sync::watch;

    use super::*;
    use crate::link::{Link, tests::guest};
    use crate::machine::{Network, Phases, Told};

    /// Linux takes none that is longer, in bytes.
    const LONGEST_PATH: usize = 4095;

    type Done<'a> = BoxFuture<'a, Result<(), ControlError>>;

    /// A monitor that has much to do before it does as told.
    #[derive(Debug)]
    struct Busy {
        asked: AtomicU32,
        /// How often it is asked before it answers.
        answers: u32,
        states: watch::Sender<RunState>,
    }

    impl Running for Busy {
        fn identity(&self) -> &ProcessIdentity {
            unimplemented!()
        }
        fn connect_link(&self) -> BoxFuture<'_, Result<UnixStream, ControlError>> {
            unimplemented!()
        }
        fn pause(&self) -> Done<'_> {
            // What stands still for want of space is not told anything.
            self.states.send_if_modified(|state| {
                let runs = *state == RunState::Running;
                *state = if runs { RunState::Paused } else { state.clone() };
                runs
            });
            Box::pin(async { Ok(()) })
        }
        fn resume(&self) -> Done<'_> {
            Box::pin(async {
                tokio::task::yield_now().await;
                if self.asked.fetch_add(1, Ordering::Relaxed) + 1 >= self.answers {
                    return Ok(());
                }
                let source = QmpError::Late { command: "cont", seconds: 20 };
                Err(ControlError::Monitor { operation: "resume", source })
            })
        }
        fn save<'a>(&'a self, _to: &'a SavedMachine) -> Done<'a> {
            unimplemented!()
        }
        fn kill(&self) -> Done<'_> {
            unimplemented!()
        }
        fn watch(&self) -> watch::Receiver<RunState> {
            self.states.subscribe()
        }
    }

    fn busy(answers: u32, state: RunState) -> Busy {
        Busy { asked: AtomicU32::new(0), answers, states: watch::channel(state).0 }
    }

    fn live(answers: u32) -> (Arc<Busy>, Live) {
        let busy = Arc::new(busy(answers, RunState::Paused));
        let live = Live {
            machine: busy.clone(),
            link: Link::begin(guest()).unwrap(),
            network: Network::Absent,
            accelerator: Accelerator::Tcg,
            address: None,
            template: None,
            phases: Phases::default(),
            told: Told::Taken,
        };
        (busy, live)
    }

    #[test]
    fn what_is_forgotten_is_gone_with_what_was_being_saved() {
        let dir = tempfile::tempdir().unwrap();
        for path in [place(dir.path()), dir.path().join(NEW)] {
            ensure_private_dir(&path).unwrap();
            create_new(&path.join("memory")).unwrap();
        }
        mark_used(dir.path()).unwrap();
        assert_eq!(look(dir.path()), Saved::Used);
        for _ in 0..2 {
            forget(dir.path()).unwrap();
            assert_eq!(look(dir.path()), Saved::Nothing);
            assert!(banger_host::fs::list_dir(dir.path()).unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_machine_goes_on_beside_memory_that_cannot_be_taken_up_and_no_other() {
        let (_sender, other) = watch::channel(false);
        let mut superseded = Superseded::by(other);
        let no_save = || anyhow::anyhow!("the disk is full");
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("one");
        ensure_private_dir(&place(&dir)).unwrap();
        let (busy, live) = live(1);
        let given_up = give_up(&live, &dir, &mut superseded, no_save()).await;
        assert!(matches!(given_up, NotSaved::RunsOn(_)), "{given_up:?}");
        assert_eq!(look(&dir), Saved::Used);
        assert_eq!(busy.asked.load(Ordering::Relaxed), 1);

        // One in which no path may be longer than that of the saved memory: neither its mark's, nor that of
        // what is aside.
        let mut dir = root.path().to_owned();
        let len = LONGEST_PATH - "/saved".len();
        while dir.as_os_str().len() < len {
            let left = len - dir.as_os_str().len() - "/".len();
            dir.push("d".repeat(if left > 200 { 100 } else { left }));
        }
        ensure_private_dir(&place(&dir)).unwrap();
        let given_up = give_up(&live, &dir, &mut superseded, no_save()).await;
        let NotSaved::StandsStill(why) = given_up else { panic!("{given_up:?}") };
        assert!(format!("{why:#}").contains("too long"), "{why:#}");
        assert!(format!("{why:#}").ends_with(": the disk is full"), "{why:#}");
        assert!(matches!(look(&dir), Saved::Whole(_)));
        assert_eq!(busy.asked.load(Ordering::Relaxed), 1, "it does not go on");
        // Tried again, it is saved: nothing has gone on with it.
        save(&live, &dir, &mut superseded).await.unwrap();
        assert_eq!(busy.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_may_go_on_by_itself_does_not_stand_still() {
        let stands = async |state| stand_still(&busy(0, state)).await.map_err(|e| e.to_string());
        assert_eq!(stands(RunState::Running).await, Ok(()));
        let waits = "its machine waits for space on the host's disk".to_owned();
        assert_eq!(stands(RunState::OutOfSpace).await, Err(waits));
        assert!(stands(RunState::Broken).await.is_err());
    }

    #[tokio::test]
    async fn a_monitor_that_is_busy_is_waited_for() {
        let (_sender, other) = watch::channel(false);
        let (busy, live) = live(3);
        go_on(&live, &mut Superseded::by(other)).await.unwrap();
        assert_eq!(busy.asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_machine_that_is_to_end_is_not_waited_for() {
        let (sender, other) = watch::channel(false);
        let (_busy, live) = live(u32::MAX);
        let going = tokio::spawn(async move { go_on(&live, &mut Superseded::by(other)).await });
        tokio::task::yield_now().await;
        sender.send_replace(true);
        assert!(going.await.unwrap().is_err());
    }
}
