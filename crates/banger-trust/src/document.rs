//! Documents that somebody signs: what they have in common, so that all are opened in one way.

use thiserror::Error;

use crate::freshness::Freshness;
use crate::verified::Unverified;

/// A document that is believed only when it is signed. Its signature is detached, Ed25519, over
/// its exact bytes.
pub trait SignedDocument: Sized {
    /// What it is called in messages: "the release manifest".
    const NAME: &'static str;
    /// Most bytes that one may have.
    const MAX_LEN: usize;

    /// Reads it. Called with bytes whose signature was verified, and pure.
    ///
    /// A key may sign documents of several kinds, so each kind refuses what is another kind.
    ///
    /// # Errors
    /// When it is no such document.
    fn parse(bytes: &[u8]) -> Result<Self, DocumentError>;

    /// What it says about its own age.
    fn freshness(&self) -> Freshness;
}

/// Why bytes are no document of the kind that was wanted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DocumentError {
    /// More bytes than make sense.
    #[error("it has {len} bytes, more than the {max} that make sense")]
    TooLong {
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// No JSON, or JSON that readers could understand in different ways.
    #[error("it is not acceptable JSON: {0}")]
    Json(String),
    /// A field whose value makes no sense.
    #[error("its field {field} is {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A document of another kind, signed by the same key.
    #[error(
        "it is a {found:?}, not a {expected:?}: if that is a newer form of it, update the updater"
    )]
    Schema {
        /// What it says it is.
        found: String,
        /// What was wanted.
        expected: &'static str,
    },
}

/// Why a document is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// Its bytes are not those that a trusted key signed.
    #[error(transparent)]
    Unverified(#[from] Unverified),
    /// They are, but make no sense.
    #[error(transparent)]
    Document(#[from] DocumentError),
}
