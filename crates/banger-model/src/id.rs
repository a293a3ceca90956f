//! The identity of a sandbox.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Twelve lowercase hex digits, chosen at random when the sandbox is made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

/// A text that is not a sandbox id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a sandbox id: {0:?} is not {len} lowercase hex digits", len = SandboxId::LEN)]
pub struct ParseIdError(String);

impl SandboxId {
    /// Digits of an id.
    pub const LEN: usize = 12;

    /// The id that these random bytes make.
    pub fn from_random(bytes: [u8; Self::LEN / 2]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The random bytes that the id was made from.
    pub fn bytes(&self) -> [u8; Self::LEN / 2] {
        std::array::from_fn(|i| u8::from_str_radix(&self.0[2 * i..2 * i + 2], 16).unwrap_or(0))
    }
}

impl FromStr for SandboxId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == Self::LEN && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseIdError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for SandboxId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_as_it_was() {
        let bytes = [0, 1, 0xab, 0xff, 0x10, 0x7f];
        let id = SandboxId::from_random(bytes);
        assert_eq!(id.as_str(), "0001abff107f");
        assert_eq!(id.bytes(), bytes);
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn nothing_but_twelve_hex_digits_is_an_id() {
        for bad in
            ["", "0001abff107", "0001abff107ff", "0001ABFF107F", "../../../etc", "0001abff107g"]
        {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }
}
