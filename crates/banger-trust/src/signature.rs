//! Ed25519 signatures (RFC 8032): 64 bytes, as they are or as text.

use std::fmt;

use thiserror::Error;

use crate::text;

/// Longest file that can be a signature, in bytes: base64 with broken lines is far shorter.
pub(crate) const MAX_LEN: usize = text::MAX_TEXT;

/// An Ed25519 signature of some bytes by somebody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// Bytes that are no Ed25519 signature.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "an Ed25519 signature is 64 bytes, or those as hex or base64: this is {0} bytes of something else"
)]
pub struct ParseSignatureError(usize);

impl Signature {
    /// Most bytes that a file with a signature may have.
    pub const MAX_LEN: usize = MAX_LEN;

    /// Reads what a signature file holds: raw, hex or base64.
    ///
    /// # Errors
    /// For everything else.
    pub fn parse(input: &[u8]) -> Result<Self, ParseSignatureError> {
        text::fixed(input).map(Self).ok_or(ParseSignatureError(input.len()))
    }

    /// Its 64 bytes.
    pub fn bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// As base64 in one line.
    pub fn to_base64(&self) -> String {
        text::to_base64(&self.0)
    }

    pub(crate) fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}...)", text::to_hex(&self.0[..4]))
    }
}
