//! Volumes: disks with a name that outlive the sandboxes they are mounted in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::VOLUME_SLOTS;
use crate::name::{NameError, VolumeName};

/// Longest path that a volume is mounted at: what Linux takes, without the byte that ends it.
const MAX_PATH_LEN: usize = 4095;

/// What begins a word of the kernel command line that tells of a volume.
const ARGUMENT: &str = "banger.volume=";
/// Longest words of all volumes together, in bytes: a kernel takes a command line of 2,048 (Linux,
/// `COMMAND_LINE_SIZE` of x86), of which a machine's own part takes a quarter.
const MAX_ARGUMENTS_LEN: usize = 1024;

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
    /// The kernel command line has no room for so long paths.
    #[error("the paths of the volumes are too long for a machine whose first process is systemd")]
    TooLong,
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

    /// Each with its slot, in the order in which they are to be mounted: what a path leads through
    /// goes before it.
    pub fn in_order(&self) -> Vec<(u8, &VolumeMount)> {
        let mut slots: Vec<_> = (0..).zip(self.iter()).collect();
        slots.sort_by_key(|(_, mount)| mount.path());
        slots
    }

    /// What tells the first process of a kernel that boots, a word for each, in that order:
    /// `banger.volume=SLOT:/PATH`, bytes that a command line may not have written as `%` and two hex
    /// digits. [`volumes_told`] reads it.
    ///
    /// # Errors
    /// [`VolumeError::TooLong`].
    pub fn kernel_arguments(&self) -> Result<Vec<String>, VolumeError> {
        let word = |(slot, mount): (u8, &VolumeMount)| {
            format!("{ARGUMENT}{slot}:{}", escaped(mount.path()))
        };
        let words: Vec<_> = self.in_order().into_iter().map(word).collect();
        let len: usize = words.iter().map(|word| word.len() + 1).sum();
        if len > MAX_ARGUMENTS_LEN { Err(VolumeError::TooLong) } else { Ok(words) }
    }

    /// Whether this volume is among them.
    pub fn contains(&self, volume: &VolumeName) -> bool {
        self.iter().any(|mount| mount.volume == *volume)
    }
}

fn escaped(path: &str) -> String {
    let escape = |byte: u8| match byte {
        b'/' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        plain if plain.is_ascii_alphanumeric() => char::from(plain).to_string(),
        other => format!("%{other:02x}"),
    };
    path.bytes().map(escape).collect()
}

/// The slots and paths of volumes that a kernel command line tells of, in its order. Other words, and
/// those that make no sense, are not looked at.
pub fn volumes_told(cmdline: &str) -> Vec<(u8, Vec<u8>)> {
    let words = cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix(ARGUMENT));
    words.filter_map(volume_told).take(usize::from(VOLUME_SLOTS)).collect()
}

fn volume_told(text: &str) -> Option<(u8, Vec<u8>)> {
    let (slot, path) = text.split_once(':')?;
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(byte, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    Some((slot.parse().ok().filter(|slot| *slot < VOLUME_SLOTS)?, bytes))
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

    fn mounts(all: &[String]) -> VolumeMounts {
        serde_json::from_value(serde_json::json!(all)).unwrap()
    }

    #[test]
    fn a_kernel_is_told_of_volumes_in_the_order_of_mounting() {
        let some = mounts(&["a:/var/lib/x y".to_owned(), "b:/var".to_owned()]);
        let words = some.kernel_arguments().unwrap();
        assert_eq!(words, ["banger.volume=1:/var", "banger.volume=0:/var/lib/x%20y"]);
        let told =
            volumes_told("quiet banger.volume=9:/x banger.volume=0:/a%2 banger.volume=1:/%zz");
        assert_eq!(told, []);
        let long = mounts(&[format!("a:/{}", "é".repeat(200))]);
        assert_eq!(long.kernel_arguments(), Err(VolumeError::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn what_a_kernel_is_told_is_what_was_meant(paths in proptest::collection::btree_set("/[^/\0]{3,40}", 0..4)) {
            let texts: Vec<_> = paths.iter().enumerate().map(|(n, path)| format!("v{n}:{path}")).collect();
            let mounts = mounts(&texts);
            let meant: Vec<_> = mounts
                .in_order()
                .into_iter()
                .map(|(slot, mount)| (slot, mount.path().as_bytes().to_vec()))
                .collect();
            let line = format!("console=ttyS0 {} quiet", mounts.kernel_arguments().unwrap().join(" "));
            proptest::prop_assert_eq!(volumes_told(&line), meant);
        }
    }
}
