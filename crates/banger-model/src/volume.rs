//! Volumes: disks with a name that outlive the sandboxes they are mounted in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::VOLUME_SLOTS;
use crate::name::{NameError, VolumeName};

/// Longest path that a volume is mounted at: what Linux takes, without the byte that ends it.
const MAX_PATH_LEN: usize = 4095;

/// Directories that are the kernel's, or whose content is of this boot.
const NOT_THERE: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Why a volume cannot be mounted so.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VolumeError {
    /// There is no path.
    #[error("{0:?} is no volume with a path: write NAME:/PATH")]
    Form(String),
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The path is none that something could be mounted at.
    #[error(
        "{0:?} is no place for a volume: use an absolute path without `..`, not `/` itself, and nothing in /dev, /proc, /sys or /run"
    )]
    Path(String),
    /// More than a machine has slots.
    #[error("a sandbox has at most {VOLUME_SLOTS} volumes")]
    TooMany,
    /// Two of the same name.
    #[error("the volume {0} is mounted once, not twice")]
    Twice(VolumeName),
    /// Two at the same path.
    #[error("two volumes are to be mounted at {0}")]
    SamePath(String),
}

/// A volume and where it is mounted. As text, `NAME:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeMount {
    volume: VolumeName,
    path: String,
}

impl VolumeMount {
    /// The volume.
    pub fn volume(&self) -> &VolumeName {
        &self.volume
    }

    /// Where it is mounted: an absolute path without empty parts, `.` and `..`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for VolumeMount {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || VolumeError::Form(text.to_owned());
        let (volume, path) = text.split_once(':').ok_or_else(form)?;
        Ok(Self { volume: volume.parse()?, path: plain_path(path)? })
    }
}

fn plain_path(text: &str) -> Result<String, VolumeError> {
    let bad = || VolumeError::Path(text.to_owned());
    let parts = text.strip_prefix('/').ok_or_else(bad)?.split('/');
    let parts: Vec<_> = parts.filter(|part| !matches!(*part, "" | ".")).collect();
    let leads_up = parts.contains(&"..");
    let of_kernel = parts.first().is_some_and(|first| NOT_THERE.contains(first));
    if parts.is_empty() || leads_up || of_kernel || text.contains('\0') || text.len() > MAX_PATH_LEN
    {
        return Err(bad());
    }
    Ok(format!("/{}", parts.join("/")))
}

impl fmt::Display for VolumeMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume, self.path)
    }
}

impl TryFrom<String> for VolumeMount {
    type Error = VolumeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VolumeMount> for String {
    fn from(mount: VolumeMount) -> Self {
        mount.to_string()
    }
}

/// The volumes of one sandbox, by slot: each once, each at a path of its own, and no more than a
/// machine has slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<VolumeMount>", into = "Vec<VolumeMount>")]
pub struct VolumeMounts(Vec<VolumeMount>);

impl VolumeMounts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each, in the order of the slots.
    pub fn iter(&self) -> std::slice::Iter<'_, VolumeMount> {
        self.0.iter()
    }

    /// Whether this volume is among them.
    pub fn contains(&self, volume: &VolumeName) -> bool {
        self.iter().any(|mount| mount.volume == *volume)
    }
}

impl TryFrom<Vec<VolumeMount>> for VolumeMounts {
    type Error = VolumeError;

    fn try_from(mounts: Vec<VolumeMount>) -> Result<Self, Self::Error> {
        if mounts.len() > usize::from(VOLUME_SLOTS) {
            return Err(VolumeError::TooMany);
        }
        for (at, mount) in mounts.iter().enumerate() {
            let others = || mounts[..at].iter();
            if others().any(|other| other.volume == mount.volume) {
                return Err(VolumeError::Twice(mount.volume.clone()));
            }
            if others().any(|other| other.path == mount.path) {
                return Err(VolumeError::SamePath(mount.path.clone()));
            }
        }
        Ok(Self(mounts))
    }
}

impl From<VolumeMounts> for Vec<VolumeMount> {
    fn from(mounts: VolumeMounts) -> Self {
        mounts.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_a_name_and_a_plain_path() {
        let mount: VolumeMount = "data://var/./lib//db/".parse().unwrap();
        assert_eq!((mount.volume().as_str(), mount.path()), ("data", "/var/lib/db"));
        assert_eq!(mount.to_string(), "data:/var/lib/db");
        for bad in [
            "data",
            ":/x",
            "data:",
            "data:x",
            "data:/",
            "data:/a/../b",
            "D:/x",
            "d:/a\0",
            "d:/dev/x",
            "d:/proc",
        ] {
            assert!(bad.parse::<VolumeMount>().is_err(), "{bad:?}");
        }
        assert!(format!("d:/{}", "x".repeat(MAX_PATH_LEN)).parse::<VolumeMount>().is_err());
    }

    #[test]
    fn each_volume_and_each_path_is_there_once() {
        let mounts = |all: &[&str]| {
            serde_json::from_value::<VolumeMounts>(serde_json::json!(all))
                .map_err(|e| e.to_string())
        };
        let some = mounts(&["a:/a", "b:/b", "c:/a/c", "d:/d"]).unwrap();
        assert!(some.contains(&"b".parse().unwrap()) && !some.contains(&"x".parse().unwrap()));
        for bad in
            [&["a:/a", "a:/b"][..], &["a:/a", "b://a"], &["a:/a", "b:/b", "c:/c", "d:/d", "e:/e"]]
        {
            assert!(mounts(bad).is_err(), "{bad:?}");
        }
    }
}
