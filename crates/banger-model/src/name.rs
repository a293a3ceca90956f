//! Names that users give: to sandboxes, images and kernels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::SnapshotId;
use crate::limits::Limits;
use crate::reference::{ImageReference, ParseReferenceError};

/// Why a text cannot be a name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing there.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than [`Limits::MAX_NAME_LEN`].
    #[error("a name has at most {max} characters", max = Limits::MAX_NAME_LEN)]
    TooLong,
    /// A character outside the alphabet, or one that may not stand first or last.
    #[error(
        "{0:?} is not a name: use lowercase letters, digits and single '-' or '.', beginning and ending with a letter or digit"
    )]
    BadCharacter(String),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > Limits::MAX_NAME_LEN {
        return Err(NameError::TooLong);
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut after_plain = false;
    for byte in text.bytes() {
        match byte {
            b if plain(b) => after_plain = true,
            b'-' | b'.' if after_plain => after_plain = false,
            _ => return Err(NameError::BadCharacter(text.to_owned())),
        }
    }
    if after_plain { Ok(()) } else { Err(NameError::BadCharacter(text.to_owned())) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name's text. It is one path component and one DNS label or several.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// What a user calls a sandbox; also its hostname.
    SandboxName
}

impl SandboxName {
    /// A name made of words that are names.
    pub(crate) fn generated(text: String) -> Self {
        Self(text)
    }
}
name_type! {
    /// What an image is called on this host, such as `debian-bookworm`.
    ImageName
}
impl ImageName {
    /// A name made of parts that make one.
    pub(crate) fn of_checked(text: String) -> Self {
        debug_assert_eq!(check(&text), Ok(()));
        Self(text)
    }
}
name_type! {
    /// What a kernel is called on this host, such as `debian-cloud`.
    KernelName
}

impl Default for KernelName {
    /// The kernel of images that want no certain one.
    fn default() -> Self {
        Self("debian-cloud".to_owned())
    }
}

name_type! {
    /// What a volume is called on this host.
    VolumeName
}

name_type! {
    /// What tells the snapshots of one sandbox apart.
    SnapshotTag
}

impl SnapshotTag {
    /// The tag that is a number.
    pub fn numbered(n: u64) -> Self {
        Self(n.to_string())
    }
}

impl SandboxName {
    /// This name with a number behind it; `None` when it would be too long.
    pub fn numbered(&self, n: u64) -> Option<Self> {
        format!("{self}-{n}").parse().ok()
    }
}

/// What a user calls a snapshot: `NAME@TAG`, the name being that of its sandbox when it was taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName {
    /// The sandbox.
    pub sandbox: SandboxName,
    /// Which of its snapshots.
    pub tag: SnapshotTag,
}

impl SnapshotName {
    /// What stands for the name of a snapshot of which that is not known, or not all of it.
    pub fn standing_for(id: &SnapshotId, sandbox: Option<SandboxName>) -> Self {
        let sandbox = sandbox.unwrap_or_else(|| SandboxName("damaged".to_owned()));
        Self { sandbox, tag: SnapshotTag(id.as_str().to_owned()) }
    }
}

/// Why a text is no snapshot's name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SnapshotNameError {
    /// Nothing tells the two parts apart.
    #[error("{0:?} names no snapshot: write NAME@TAG, as `banger snapshot list` does")]
    NoTag(String),
    /// One of them cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for SnapshotName {
    type Err = SnapshotNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('@');
        let (sandbox, tag) = parts.ok_or_else(|| SnapshotNameError::NoTag(text.to_owned()))?;
        Ok(Self { sandbox: sandbox.parse()?, tag: tag.parse()? })
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = SnapshotNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.sandbox, self.tag)
    }
}

/// Which image a sandbox is to be made of, as its user says: an image's name on this host or in a
/// catalog, or else a reference to one in a registry. Text that may be both is a name first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WantedImage(String);

/// Why a text names no image.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is neither a name of an image nor a reference to one: {source}")]
pub struct WantedImageError {
    text: String,
    source: ParseReferenceError,
}

impl WantedImage {
    /// What stands for an image of which nothing is known.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }

    /// What was said.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, if it may be one.
    pub fn name(&self) -> Option<ImageName> {
        self.0.parse().ok()
    }

    /// The image in a registry that it means where there is none of that name.
    pub fn reference(&self) -> Option<ImageReference> {
        self.0.parse().ok()
    }
}

impl FromStr for WantedImage {
    type Err = WantedImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text.parse::<ImageName>().map(drop).is_ok();
        match text.parse::<ImageReference>() {
            Err(source) if !named => Err(WantedImageError { text: text.to_owned(), source }),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for WantedImage {
    type Error = WantedImageError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WantedImage> for String {
    fn from(wanted: WantedImage) -> Self {
        wanted.0
    }
}

impl From<ImageName> for WantedImage {
    fn from(name: ImageName) -> Self {
        Self(name.0)
    }
}

impl fmt::Display for WantedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WantedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for good in ["a", "web", "debian-bookworm", "python3.12-slim", "0"] {
            assert!(good.parse::<SandboxName>().is_ok(), "{good}");
        }
    }

    #[test]
    fn a_snapshot_has_the_name_of_its_sandbox_and_a_tag() {
        let name: SnapshotName = "web@before-upgrade".parse().unwrap();
        assert_eq!((name.sandbox.as_str(), name.tag.as_str()), ("web", "before-upgrade"));
        assert_eq!(name.to_string().parse(), Ok(name));
        let none = "web".parse::<SnapshotName>().unwrap_err();
        assert!(none.to_string().contains("write NAME@TAG"), "{none}");
        for bad in ["web@", "@1", "web@1@2", "web@../x", "Web@1"] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_behind_a_name_makes_a_name_unless_it_is_too_long() {
        let name: SandboxName = "web".parse().unwrap();
        assert_eq!(name.numbered(12).unwrap().as_str(), "web-12");
        let long: SandboxName = "a".repeat(62).parse().unwrap();
        assert_eq!(long.numbered(1), None);
    }

    #[test]
    fn names_that_could_leave_a_directory_or_a_label_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", "a-", "a..b", "a b", "Web", "é", "a\0", "a.-b"] {
            assert!(bad.parse::<SandboxName>().is_err(), "{bad:?}");
        }
        assert_eq!("a".repeat(64).parse::<ImageName>(), Err(NameError::TooLong));
        assert!("a".repeat(63).parse::<ImageName>().is_ok());
    }
}
