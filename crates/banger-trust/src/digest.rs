//! SHA-256 of what streams by.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::text;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest([u8; 32]);

/// A text that is no SHA-256 digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a sha256 digest is 64 hexadecimal digits, with or without `sha256:` before them")]
pub struct ParseSha256Error;

impl Sha256Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Its 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Sha256Digest> for banger_model::Digest {
    fn from(digest: Sha256Digest) -> Self {
        Self::sha256(digest.0)
    }
}

impl FromStr for Sha256Digest {
    type Err = ParseSha256Error;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let digits = written.strip_prefix("sha256:").unwrap_or(written);
        if digits.len() != 64 {
            return Err(ParseSha256Error);
        }
        let bytes = text::unhex(digits).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(ParseSha256Error)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::to_hex(&self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

/// A digest in the making.
#[derive(Clone, Debug, Default)]
pub struct Sha256Stream(Sha256);

impl Sha256Stream {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// More of it.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that came.
    pub fn finish(self) -> Sha256Digest {
        Sha256Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_the_whole_agree_with_the_standard() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut stream = Sha256Stream::new();
        stream.update(b"a");
        stream.update(b"bc");
        assert_eq!(stream.finish().to_string(), abc);
        assert_eq!(abc.to_uppercase().parse(), Ok(Sha256Digest::of(b"abc")));
        assert_eq!(format!("sha256:{abc}").parse(), Ok(Sha256Digest::of(b"abc")));
        for bad in ["", "sha256:", &abc[1..], &format!("{abc}0"), &abc.replace('b', "g")] {
            assert_eq!(bad.parse::<Sha256Digest>(), Err(ParseSha256Error), "{bad}");
        }
    }
}
