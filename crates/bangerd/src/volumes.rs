//! Volumes: disks that outlive sandboxes. Each is one file, and at most one machine has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use banger_host::HostError;
use banger_host::fs::{ensure_private_dir, file_size, is_there, list_dir, remove_all, rename};
use banger_image::ext4::{CreateDiskError, create_volume, grow_volume};
use banger_model::lifecycle::{Origin, State};
use banger_model::{
    Bytes, DiskSize, SandboxId, SandboxName, SandboxRecord, SandboxSpec, VolumeName,
};
use banger_vmm::VolumeFiles;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Duration, timeout};

/// What the file of a volume ends in. A name never begins with a dot, so what does is in the making.
const SUFFIX: &str = ".ext4";
/// Most volumes that are listed.
const MAX_LISTED: usize = 10_000;

/// How long a machine that is about to end is waited for: what a guest may take to power off.
const PATIENCE: Duration = crate::machine::POWER_OFF_TIMEOUT;

/// Why something cannot be done with a volume.
#[derive(Debug, Error)]
pub(crate) enum VolumeError {
    /// There is none of this name.
    #[error("there is no volume {0}")]
    Missing(VolumeName),
    /// There is one already.
    #[error("there is a volume {0} already")]
    Taken(VolumeName),
    /// A machine has it.
    #[error("the volume {0} is in use by {1}")]
    InUse(VolumeName, SandboxName),
    /// It is being enlarged or removed.
    #[error("the volume {0} is being changed")]
    BeingChanged(VolumeName),
    /// It would lose what is at its end.
    #[error("the volume {0} has {1}: it can only become larger")]
    Shrinks(VolumeName, Bytes),
    /// It cannot be made.
    #[error("cannot make the volume")]
    Create(#[from] CreateDiskError),
    /// It cannot become larger.
    #[error("cannot enlarge the volume; it is as it was")]
    Grow(#[source] CreateDiskError),
    /// The host fails.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A volume as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) name: VolumeName,
    /// What fits in.
    pub(crate) size: Bytes,
    /// What it takes of the host's disk.
    pub(crate) real: Bytes,
    /// Which sandbox's machine has it.
    pub(crate) holder: Option<SandboxName>,
}

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    dir: PathBuf,
    holders: Mutex<BTreeMap<VolumeName, Holder>>,
    /// Held by whoever makes or changes one, which waits for the disk: never on a thread that others
    /// wait for.
    changing: Mutex<()>,
    /// Somebody has let some go.
    released: Notify,
}

/// Who has a volume.
#[derive(Debug)]
enum Holder {
    Sandbox {
        id: SandboxId,
        name: SandboxName,
        stays: Stays,
    },
    /// Somebody who enlarges or removes it.
    Change,
}

/// Whether who has a volume is about to let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    On,
    Leaving,
}

/// Whether a sandbox in this state has a machine, or memory of one, that knows its volumes.
fn holds(state: &State) -> Holds {
    match state {
        State::Created | State::Stopped { .. } | State::Failed { .. } => Holds::No,
        State::Running { .. }
        | State::Stopping { .. }
        | State::Pausing { .. }
        | State::Paused { .. }
        | State::Starting { from: Origin::Memory } => Holds::Yes,
        State::Starting { from: Origin::Disk } | State::Deleting => Holds::AsBefore,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    /// That is settled by the work that is done for it.
    AsBefore,
}

impl Volumes {
    /// Those in this directory, which may not be there yet.
    pub(crate) fn below(dir: PathBuf) -> Self {
        Self { dir, holders: Mutex::default(), changing: Mutex::default(), released: Notify::new() }
    }

    fn holders(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Holder>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a volume.
    pub(crate) fn file(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    /// The files behind the volumes of a machine of this spec.
    pub(crate) fn files(&self, spec: &SandboxSpec) -> VolumeFiles {
        let mut files = VolumeFiles::default();
        for (slot, mount) in files.iter_mut().zip(spec.volumes.iter()) {
            *slot = Some(self.file(mount.volume()));
        }
        files
    }

    fn aside(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(format!(".{name}{SUFFIX}"))
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<Seen>, VolumeError> {
        if !is_there(&self.dir) {
            return Ok(Vec::new());
        }
        let names = list_dir(&self.dir)?
            .into_iter()
            .filter_map(|name| name.to_str()?.strip_suffix(SUFFIX)?.parse::<VolumeName>().ok());
        let mut names: Vec<_> = names.take(MAX_LISTED).collect();
        names.sort();
        // One that went meanwhile is not there any more.
        Ok(names.iter().filter_map(|name| self.look(name).ok()).collect())
    }

    /// One volume.
    ///
    /// # Errors
    /// When it is not there, or cannot be looked at.
    pub(crate) fn look(&self, name: &VolumeName) -> Result<Seen, VolumeError> {
        let file = self.file(name);
        if !is_there(&file) {
            return Err(VolumeError::Missing(name.clone()));
        }
        let size = file_size(&file)?;
        let holder = match self.holders().get(name) {
            Some(Holder::Sandbox { name, .. }) => Some(name.clone()),
            Some(Holder::Change) | None => None,
        };
        Ok(Seen { name: name.clone(), size: size.apparent, real: size.real, holder })
    }

    /// Makes a new volume.
    ///
    /// # Errors
    /// When there is one of this name, or it cannot be made.
    pub(crate) fn create(&self, name: &VolumeName, size: DiskSize) -> Result<Seen, VolumeError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if is_there(&self.file(name)) {
            return Err(VolumeError::Taken(name.clone()));
        }
        ensure_private_dir(&self.dir)?;
        let aside = self.aside(name);
        remove_all(&aside)?;
        create_volume(&aside, size.bytes())?;
        rename(&aside, &self.file(name))?;
        self.look(name)
    }

    /// Makes a volume of the usual size unless it is there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn ensure(&self, name: &VolumeName) -> Result<(), VolumeError> {
        match self.create(name, DiskSize::DEFAULT) {
            Ok(_) | Err(VolumeError::Taken(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a volume that no machine has. Answers with it as it was.
    ///
    /// # Errors
    /// When it is not there, or in use.
    pub(crate) fn remove(&self, name: &VolumeName) -> Result<Seen, VolumeError> {
        let seen = self.look(name)?;
        self.change(name, || Ok(remove_all(&self.file(name))?))?;
        Ok(seen)
    }

    /// Makes a volume larger that no machine has.
    ///
    /// # Errors
    /// When that cannot be; then it is as it was.
    pub(crate) fn resize(&self, name: &VolumeName, size: DiskSize) -> Result<Seen, VolumeError> {
        let seen = self.look(name)?;
        if size.bytes() < seen.size {
            return Err(VolumeError::Shrinks(name.clone(), seen.size));
        }
        let grow = || grow_volume(&self.file(name), size.bytes()).map_err(VolumeError::Grow);
        self.change(name, grow)?;
        self.look(name)
    }

    /// Does something with a volume that nobody may have meanwhile.
    fn change(
        &self,
        name: &VolumeName,
        work: impl FnOnce() -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut holders = self.holders();
            free(&holders, name, None)?;
            holders.insert(name.clone(), Holder::Change);
        }
        let done = work();
        self.holders().remove(name);
        self.released.notify_waiters();
        done
    }

    /// The machine that a sandbox is about to get is to have its volumes. It has them until the
    /// sandbox is known to have no machine. One whose machine is about to end is waited for.
    ///
    /// # Errors
    /// When another has one of them; then it has none.
    pub(crate) async fn hold(&self, record: &SandboxRecord) -> Result<(), VolumeError> {
        for mount in record.spec.volumes.iter() {
            self.left(mount.volume()).await;
        }
        self.try_hold(record)
    }

    /// Waits as long as whoever has a volume is about to let it go.
    pub(crate) async fn left(&self, name: &VolumeName) {
        let leaving = || self.holders().get(name).is_some_and(Holder::is_leaving);
        let gone = async {
            loop {
                let released = self.released.notified();
                tokio::pin!(released);
                // From now on nothing is missed.
                released.as_mut().enable();
                if !leaving() {
                    break;
                }
                released.await;
            }
        };
        // Who comes next is told that it is still in use.
        let _late = timeout(PATIENCE, gone).await;
    }

    fn try_hold(&self, record: &SandboxRecord) -> Result<(), VolumeError> {
        let volumes = || record.spec.volumes.iter().map(|mount| mount.volume());
        let mut holders = self.holders();
        for name in volumes() {
            free(&holders, name, Some(&record.id))?;
        }
        for name in volumes() {
            holders.insert(name.clone(), Holder::of(record));
        }
        Ok(())
    }

    /// A sandbox has come to be as it is, and that is remembered: what that means for its volumes.
    pub(crate) fn follow(&self, record: &SandboxRecord) {
        match holds(&record.state) {
            Holds::No => self.release(&record.id),
            Holds::Yes => self.keep(record),
            Holds::AsBefore => {
                let mut holders = self.holders();
                let its = holders.values_mut().filter(|holder| holder.is(&record.id));
                its.for_each(|holder| *holder = Holder::of(record));
            }
        }
    }

    /// There may be a machine of this sandbox: it has its volumes until that is known.
    pub(crate) fn recall(&self, record: &SandboxRecord) {
        if holds(&record.state) != Holds::No {
            self.keep(record);
        }
    }

    /// What nobody else has is the sandbox's.
    fn keep(&self, record: &SandboxRecord) {
        let mut holders = self.holders();
        for mount in record.spec.volumes.iter() {
            if free(&holders, mount.volume(), Some(&record.id)).is_ok() {
                holders.insert(mount.volume().clone(), Holder::of(record));
            }
        }
    }

    /// A sandbox is no more, or has no machine.
    pub(crate) fn release(&self, id: &SandboxId) {
        self.holders().retain(|_, holder| !holder.is(id));
        self.released.notify_waiters();
    }
}

impl Holder {
    fn of(record: &SandboxRecord) -> Self {
        let stays = match record.state {
            State::Stopping { .. } | State::Deleting => Stays::Leaving,
            _ => Stays::On,
        };
        Self::Sandbox { id: record.id.clone(), name: record.name.clone(), stays }
    }

    fn is(&self, sandbox: &SandboxId) -> bool {
        matches!(self, Self::Sandbox { id, .. } if id == sandbox)
    }

    fn is_leaving(&self) -> bool {
        matches!(self, Self::Change | Self::Sandbox { stays: Stays::Leaving, .. })
    }
}

/// Whether nobody else has it.
fn free(
    holders: &BTreeMap<VolumeName, Holder>,
    name: &VolumeName,
    for_whom: Option<&SandboxId>,
) -> Result<(), VolumeError> {
    match holders.get(name) {
        Some(Holder::Change) => Err(VolumeError::BeingChanged(name.clone())),
        Some(Holder::Sandbox { id, name: holder, .. }) if Some(id) != for_whom => {
            Err(VolumeError::InUse(name.clone(), holder.clone()))
        }
        _ => Ok(()),
    }
}

/// Removes what a daemon that was killed has left half-made.
///
/// # Errors
/// When the directory cannot be read or something remains.
pub(crate) fn settle(dir: &Path) -> Result<(), HostError> {
    if !is_there(dir) {
        return Ok(());
    }
    let half = |name: &std::ffi::OsString| name.as_encoded_bytes().first() == Some(&b'.');
    list_dir(dir)?.iter().filter(|name| half(name)).try_for_each(|name| remove_all(&dir.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::fs::write_atomic;
    use banger_model::Timestamp;
    use banger_model::lifecycle::StopKind;

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::below(dir.path().join("volumes"));
        (dir, volumes)
    }

    fn record(id: u8, state: State) -> SandboxRecord {
        let volumes = vec!["data:/data".parse().unwrap()].try_into().unwrap();
        SandboxRecord {
            id: SandboxId::from_random([id; 6]),
            name: format!("s{id}").parse().unwrap(),
            spec: SandboxSpec { volumes, ..SandboxSpec::of("an-image".parse().unwrap()) },
            labels: Default::default(),
            lifetime: Default::default(),
            created: Timestamp(0),
            state,
            boots: 0,
            restarts: 0,
            restart_at: None,
            from: None,
        }
    }

    #[test]
    fn volumes_are_made_listed_enlarged_and_removed() {
        let (_dir, volumes) = volumes();
        assert_eq!(volumes.list().unwrap(), []);
        let name: VolumeName = "data".parse().unwrap();
        assert!(matches!(volumes.look(&name), Err(VolumeError::Missing(_))));
        let made = volumes.create(&name, "96M".parse().unwrap()).unwrap();
        assert_eq!(made.size, Bytes::mib(96));
        assert!(matches!(volumes.create(&name, DiskSize::DEFAULT), Err(VolumeError::Taken(_))));
        assert!(matches!(
            volumes.resize(&name, "64M".parse().unwrap()),
            Err(VolumeError::Shrinks(..))
        ));
        assert_eq!(volumes.resize(&name, "20G".parse().unwrap()).unwrap().size, Bytes::gib(20));
        write_atomic(&volumes.dir.join(".half.ext4"), b"").unwrap();
        write_atomic(&volumes.dir.join("Not a volume.ext4"), b"").unwrap();
        assert_eq!(volumes.list().unwrap().len(), 1);
        settle(&volumes.dir).unwrap();
        assert!(!is_there(&volumes.dir.join(".half.ext4")));
        volumes.remove(&name).unwrap();
        assert_eq!(volumes.list().unwrap(), []);
    }

    #[tokio::test]
    async fn one_machine_has_a_volume_until_it_is_known_to_be_no_more() {
        let (_dir, volumes) = volumes();
        let name: VolumeName = "data".parse().unwrap();
        let one = record(1, State::Created);
        volumes.ensure(&name).unwrap();
        volumes.hold(&one).await.unwrap();
        volumes.hold(&one).await.unwrap();
        let in_use = |result: Result<(), VolumeError>| {
            assert!(matches!(result, Err(VolumeError::InUse(_, by)) if by.as_str() == "s1"));
        };
        let two = record(2, State::Created);
        in_use(volumes.hold(&two).await);
        in_use(volumes.remove(&name).map(drop));
        in_use(volumes.resize(&name, "9G".parse().unwrap()).map(drop));
        assert_eq!(volumes.look(&name).unwrap().holder, Some(one.name.clone()));
        // One that is about to go is waited for.
        volumes.follow(&record(1, State::Deleting));
        let (held, ()) = tokio::join!(volumes.hold(&two), async {
            tokio::task::yield_now().await;
            volumes.follow(&one);
        });
        held.unwrap();
        // Whoever never got it takes it from nobody.
        volumes.follow(&record(1, State::Stopping { how: StopKind::Kill }));
        assert_eq!(volumes.look(&name).unwrap().holder, Some(two.name.clone()));
        volumes.release(&SandboxId::from_random([2; 6]));
        volumes.remove(&name).unwrap();
    }
}
