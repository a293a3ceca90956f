//! The fixed shape of a sandbox's machine, which host and guest must agree on.
//!
//! Every sandbox has the same devices in the same order, whatever it uses of them: a memory
//! snapshot can only be restored into the machine it was taken from.

use std::fmt;

/// Number of block devices kept free for named volumes.
pub const VOLUME_SLOTS: u8 = 4;

/// Name of the serial port that carries the link; the guest finds the port by it.
pub const LINK_PORT_NAME: &str = "banger.link";

/// What a block device of a sandbox is for.
///
/// The guest recognises a device by the serial number it reports (at most 20 bytes, virtio 1.2
/// section 5.2.6.1), never by the order in which the kernel found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockRole {
    /// The image: read-only root file system, shared by every sandbox made from it.
    Base,
    /// The kernel's modules, read-only.
    Modules,
    /// The sandbox's own writable disk.
    Disk,
    /// A place for a named volume; without one it has no usable capacity.
    Volume(u8),
}

impl BlockRole {
    /// Every block device in the order in which the machine has them.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Base, Self::Modules, Self::Disk]
            .into_iter()
            .chain((0..VOLUME_SLOTS).map(Self::Volume))
    }

    /// The serial number that the device reports to the guest.
    pub fn serial(self) -> String {
        match self {
            Self::Base => "banger-base".to_owned(),
            Self::Modules => "banger-modules".to_owned(),
            Self::Disk => "banger-disk".to_owned(),
            Self::Volume(slot) => format!("banger-volume-{slot}"),
        }
    }

    /// The role that a device with this serial number has.
    pub fn from_serial(serial: &str) -> Option<Self> {
        Self::all().find(|role| role.serial() == serial)
    }
}

impl fmt::Display for BlockRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.serial())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_fit_virtio_and_name_their_role() {
        for role in BlockRole::all() {
            assert!(role.serial().len() <= 20, "{role}");
            assert_eq!(BlockRole::from_serial(&role.serial()), Some(role));
        }
        assert_eq!(BlockRole::from_serial("banger-volume-9"), None);
    }
}
