//! Finding block devices by what they are for.
//!
//! A device is known by the serial number it reports: the kernel's names (`vda`, `vdb`) depend
//! on the order in which it probes, which no one promises.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_model::BlockRole;

use super::BootError;
use crate::files::read_line;
use crate::uevent;

/// The kernel's directory of block devices.
const CLASS: &str = "/sys/class/block";

/// How long a disk may take to appear once its driver is loaded.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most block devices looked at. A sandbox has seven.
const MAX_DEVICES: usize = 256;

/// The device names of the disks without which there is no sandbox.
#[derive(Debug)]
pub(super) struct Disks {
    pub(super) base: String,
    pub(super) modules: String,
    pub(super) disk: String,
}

impl Disks {
    /// Finds them, waiting for those that are not there yet.
    ///
    /// # Errors
    /// [`BootError::Read`] when sysfs cannot be read, [`BootError::NoDisk`] for one that does
    /// not come.
    pub(super) fn find() -> Result<Self, BootError> {
        let class = Path::new(CLASS);
        let mut known = Known::default();
        uevent::wait_for(TIMEOUT, || known.look(class).map(|()| known.complete()))
            .map_err(|source| BootError::Read { path: class.to_owned(), source })?;
        Ok(Self {
            base: known.take(BlockRole::Base)?,
            modules: known.take(BlockRole::Modules)?,
            disk: known.take(BlockRole::Disk)?,
        })
    }
}

/// What is known about the devices so far. A serial number is asked for once for each device:
/// the answer is a round trip to the host.
#[derive(Debug, Default)]
struct Known {
    roles: BTreeMap<String, Option<BlockRole>>,
}

impl Known {
    const NEEDED: [BlockRole; 3] = [BlockRole::Base, BlockRole::Modules, BlockRole::Disk];

    /// Asks the devices not asked before, until all that are needed are known.
    fn look(&mut self, class: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(class)?.take(MAX_DEVICES) {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        for name in names {
            if self.complete().is_some() {
                break;
            }
            if self.roles.contains_key(&name) {
                continue;
            }
            match read_line(&class.join(&name).join("serial")) {
                Ok(serial) => drop(self.roles.insert(name, BlockRole::from_serial(&serial))),
                // Most kinds of block devices have no serial number.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.roles.insert(name, None);
                }
                // One that does not answer now may do so at the next look.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn complete(&self) -> Option<()> {
        Self::NEEDED.iter().all(|role| self.name(*role).is_some()).then_some(())
    }

    fn name(&self, role: BlockRole) -> Option<&String> {
        self.roles.iter().find(|(_, known)| **known == Some(role)).map(|(name, _)| name)
    }

    fn take(&self, role: BlockRole) -> Result<String, BootError> {
        self.name(role).cloned().ok_or(BootError::NoDisk(role))
    }
}

/// The node of a device in `/dev`.
pub(super) fn node(name: &str) -> PathBuf {
    Path::new("/dev").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(class: &Path, name: &str, serial: Option<&str>) {
        fs::create_dir(class.join(name)).unwrap();
        if let Some(serial) = serial {
            fs::File::create(class.join(name).join("serial"))
                .and_then(|mut file| io::Write::write_all(&mut file, serial.as_bytes()))
                .unwrap();
        }
    }

    #[test]
    fn disks_are_known_by_serial_number_and_not_by_name() {
        let class = tempfile::tempdir().unwrap();
        device(class.path(), "loop0", None);
        device(class.path(), "vda", Some("banger-disk"));
        device(class.path(), "vdb", Some("banger-base\n"));
        device(class.path(), "vdd", Some("someone-elses"));
        let mut known = Known::default();
        known.look(class.path()).unwrap();
        assert_eq!(known.complete(), None);
        assert!(matches!(
            known.take(BlockRole::Modules),
            Err(BootError::NoDisk(BlockRole::Modules))
        ));
        device(class.path(), "vdc", Some("banger-modules"));
        known.look(class.path()).unwrap();
        assert_eq!(known.complete(), Some(()));
        assert_eq!(known.take(BlockRole::Base).unwrap(), "vdb");
        assert_eq!(known.take(BlockRole::Disk).unwrap(), "vda");
        assert_eq!(known.take(BlockRole::Modules).unwrap(), "vdc");
    }
}
