//! Digests of content as registries write them: `sha256:` and hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many characters of a digest an error message repeats.
const SHOWN: usize = 80;

/// What a digest is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DigestAlgorithm {
    /// SHA-256, which nearly everything is named by.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl DigestAlgorithm {
    /// Its name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Digits of a digest.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The name of some content by what it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: DigestAlgorithm,
    hex: String,
}

/// Why a text is no digest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseDigestError {
    /// It is not made of a name, a colon and digits, or they are not of the right number.
    #[error("{0:?} is not a digest: it looks like sha256: and 64 lowercase hex digits")]
    Malformed(String),
    /// Another algorithm.
    #[error("digests of the kind {0:?} are not supported: sha256 and sha512 are")]
    Unsupported(String),
}

impl Digest {
    /// The SHA-256 digest with these bytes.
    pub fn sha256(bytes: [u8; 32]) -> Self {
        Self { algorithm: DigestAlgorithm::Sha256, hex: hex(&bytes) }
    }

    /// The SHA-512 digest with these bytes.
    pub fn sha512(bytes: [u8; 64]) -> Self {
        Self { algorithm: DigestAlgorithm::Sha512, hex: hex(&bytes) }
    }

    /// What it is computed with.
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// Its lowercase digits: a safe name of a file.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = |text: &str| text.chars().take(SHOWN).collect::<String>();
        let malformed = || ParseDigestError::Malformed(shown(text));
        let (name, hex) = text.split_once(':').ok_or_else(malformed)?;
        let algorithm = match name {
            "sha256" => DigestAlgorithm::Sha256,
            "sha512" => DigestAlgorithm::Sha512,
            "" => return Err(malformed()),
            other => return Err(ParseDigestError::Unsupported(shown(other))),
        };
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(digit) {
            return Err(malformed());
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_they_are_shown() {
        for text in [format!("sha256:{}", "0f".repeat(32)), format!("sha512:{}", "a1".repeat(64))] {
            assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        }
        let from_bytes = Digest::sha256([0xab; 32]);
        assert_eq!(from_bytes.hex(), "ab".repeat(32));
        assert_eq!(from_bytes.short(), "abababababab");
        let long = Digest::sha512([7; 64]);
        assert_eq!(long.to_string().parse(), Ok(long));
    }

    #[test]
    fn what_is_no_digest_or_of_another_kind_is_told_apart() {
        let hex = "a".repeat(64);
        for bad in ["", "sha256", ":", "sha256:", "sha256:abc", &format!("sha256:{}A", &hex[1..])] {
            let error = bad.parse::<Digest>().unwrap_err();
            assert!(matches!(error, ParseDigestError::Malformed(_)), "{bad}");
        }
        assert!(format!("sha256:{}/", &hex[1..]).parse::<Digest>().is_err());
        let error = format!("md5:{hex}").parse::<Digest>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "digests of the kind \"md5\" are not supported: sha256 and sha512 are"
        );
    }
}
