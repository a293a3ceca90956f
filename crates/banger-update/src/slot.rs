//! The two places that an operating system may lie in.

use std::fmt;
use std::ops::Not;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use banger_trust::ArtifactName;
use thiserror::Error;

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its letter, in lower case: also the name of its directory.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// The other one.
impl Not for Slot {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// A text that names no slot.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no slot of that name: the slots are A and B")]
pub struct ParseSlotError;

impl FromStr for Slot {
    type Err = ParseSlotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "a" | "A" => Ok(Self::A),
            "b" | "B" => Ok(Self::B),
            _ => Err(ParseSlotError),
        }
    }
}

/// Where things are on the file system that the boot loader reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    boot: PathBuf,
}

impl Layout {
    /// Under this directory, where that file system is mounted.
    pub fn under(boot: &Path) -> Self {
        Self { boot: boot.to_owned() }
    }

    /// The directory itself.
    pub fn boot(&self) -> &Path {
        &self.boot
    }

    /// The directory of a slot. It may be a mount point of its own.
    pub fn slot(&self, slot: Slot) -> PathBuf {
        self.boot.join("os").join(slot.letter())
    }

    /// A file in a slot.
    pub fn file(&self, slot: Slot, name: ArtifactName) -> PathBuf {
        self.slot(slot).join(name.file_name())
    }
}
