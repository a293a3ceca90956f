//! Names that users give: to sandboxes, images and kernels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::Limits;

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
name_type! {
    /// What a kernel is called on this host, such as `debian-cloud`.
    KernelName
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
    fn names_that_could_leave_a_directory_or_a_label_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", "a-", "a..b", "a b", "Web", "é", "a\0", "a.-b"] {
            assert!(bad.parse::<SandboxName>().is_err(), "{bad:?}");
        }
        assert_eq!("a".repeat(64).parse::<ImageName>(), Err(NameError::TooLong));
        assert!("a".repeat(63).parse::<ImageName>().is_ok());
    }
}
