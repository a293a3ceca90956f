//! The only place where a [`Verified`] value can come from.
//!
//! Everything is verified by one [`Check`], fed with the exact bytes that are used afterwards. It
//! checks the bound on the length, the exact length and the digest where they are known, and the
//! signature. Whether there must be one is said by [`Trust`], which an operator chooses and no
//! server.

use ed25519_dalek::StreamVerifier;
use thiserror::Error;

use crate::digest::{Sha256Digest, Sha256Stream};
use crate::document::{OpenError, SignedDocument};
use crate::key::{KeyId, KeySet, PublicKey};
use crate::signature::Signature;

/// Something made of bytes whose length, digest and signature are as they have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    by: SignedBy,
}

impl<T> Verified<T> {
    /// What was verified.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// Whose signature it bears.
    pub fn signed_by(&self) -> &SignedBy {
        &self.by
    }
}

/// Whose signature was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedBy {
    /// This key's.
    Key(KeyId),
    /// Nobody's: the operator asked on the command line to do without.
    NobodyAsInsisted,
}

/// What an operator wants to be checked.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Signatures of one of these keys.
    Keys(KeySet),
    /// Digests and lengths alone. Only a word on the command line may choose this.
    InsistedWithoutKeys,
}

/// What is known of some bytes before they come.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Most bytes there may be.
    pub max_len: u64,
    /// Exactly so many bytes.
    pub len: Option<u64>,
    /// Their digest.
    pub digest: Option<Sha256Digest>,
}

impl Expected {
    /// More bytes than this are refused as soon as they come.
    pub fn limit(&self) -> u64 {
        self.len.unwrap_or(u64::MAX).min(self.max_len)
    }
}

/// Bytes that were verified, known by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Their digest.
    pub digest: Sha256Digest,
    /// Their number.
    pub len: u64,
}

/// Why bytes are not to be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unverified {
    /// More than was announced or makes sense.
    #[error("it has more than the {max} bytes that are allowed")]
    TooLong {
        /// The bound.
        max: u64,
    },
    /// Another length than the signed one.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// As signed.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Another content.
    #[error("its sha256 is {found} instead of {expected}")]
    Digest {
        /// As signed.
        expected: Sha256Digest,
        /// What came.
        found: Sha256Digest,
    },
    /// There is a key, and no signature.
    #[error("it is not signed, and a key is configured")]
    NotSigned,
    /// A signature by somebody else, or of something else.
    #[error("its signature is not of these bytes by a trusted key")]
    BadSignature,
    /// The key is not among the trusted ones any more.
    #[error("the key {0} is not trusted")]
    UnknownKey(KeyId),
}

/// Part of a verification, to be run once.
pub type Job<'a> = &'a mut (dyn FnMut() + Send);

/// Bytes being verified while they stream by.
pub struct Check {
    expected: Expected,
    len: u64,
    digest: Sha256Stream,
    signature: Option<StreamVerifier>,
    by: SignedBy,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("len", &self.len)
            .field("by", &self.by)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Verifies a document that is held in memory, over exactly these bytes, and only then reads
    /// it.
    ///
    /// # Errors
    /// When it is too long, not signed by a trusted key, or no document of this kind.
    pub fn open<D: SignedDocument>(
        &self,
        bytes: &[u8],
        signature: Option<&Signature>,
    ) -> Result<Verified<D>, OpenError> {
        let expected = Expected { max_len: D::MAX_LEN as u64, len: None, digest: None };
        let tries: Vec<Option<&PublicKey>> = match self {
            Self::Keys(keys) => keys.iter().map(Some).collect(),
            Self::InsistedWithoutKeys => vec![None],
        };
        let mut refused = Unverified::BadSignature;
        for key in tries {
            let checked = Check::begin(key, signature, expected).and_then(|mut check| {
                check.update(bytes)?;
                check.conclude(|_| D::parse(bytes))
            });
            match checked {
                Ok(Ok(document)) => return Ok(document),
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => refused = error,
            }
        }
        Err(refused.into())
    }

    /// Begins to verify bytes that belong to a verified document: whoever signed that has to have
    /// signed these.
    ///
    /// # Errors
    /// When there is no signature where there must be one, or its form alone makes it none.
    pub fn check(
        &self,
        signed_by: &SignedBy,
        signature: Option<&Signature>,
        expected: Expected,
    ) -> Result<Check, Unverified> {
        let key = match (self, signed_by) {
            (Self::InsistedWithoutKeys, SignedBy::NobodyAsInsisted) => None,
            (Self::Keys(keys), SignedBy::Key(id)) => {
                Some(keys.get(id).ok_or_else(|| Unverified::UnknownKey(id.clone()))?)
            }
            (Self::Keys(_), SignedBy::NobodyAsInsisted) => return Err(Unverified::NotSigned),
            (Self::InsistedWithoutKeys, SignedBy::Key(id)) => {
                return Err(Unverified::UnknownKey(id.clone()));
            }
        };
        Check::begin(key, signature, expected)
    }
}

impl Check {
    fn begin(
        key: Option<&PublicKey>,
        signature: Option<&Signature>,
        expected: Expected,
    ) -> Result<Self, Unverified> {
        let (by, verifier) = match key {
            None => (SignedBy::NobodyAsInsisted, None),
            Some(key) => {
                let signature = signature.ok_or(Unverified::NotSigned)?;
                let verifier = key.stream(signature).ok_or(Unverified::BadSignature)?;
                (SignedBy::Key(key.id()), Some(verifier))
            }
        };
        Ok(Self { expected, len: 0, digest: Sha256Stream::new(), signature: verifier, by })
    }

    /// More of the bytes, in order.
    ///
    /// # Errors
    /// As soon as there are too many.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Unverified> {
        self.update_by(bytes, |one, other| {
            one();
            other();
        })
    }

    /// The same, where `both` has two jobs done, perhaps at the same time: the digest and the signature
    /// take the same bytes, and neither needs the other. What is left out is missing in the verdict.
    ///
    /// # Errors
    /// As soon as there are too many bytes.
    pub fn update_by(
        &mut self,
        bytes: &[u8],
        both: impl FnOnce(Job<'_>, Job<'_>),
    ) -> Result<(), Unverified> {
        let max = self.expected.limit();
        self.len = self.len.saturating_add(bytes.len() as u64);
        if self.len > max {
            return Err(Unverified::TooLong { max });
        }
        let digest = &mut self.digest;
        match &mut self.signature {
            Some(signature) => both(&mut || digest.update(bytes), &mut || signature.update(bytes)),
            None => digest.update(bytes),
        }
        Ok(())
    }

    /// The bytes have ended.
    ///
    /// # Errors
    /// When they are not what they have to be.
    pub fn finish(self) -> Result<Verified<Content>, Unverified> {
        self.conclude(Ok).and_then(|content: Result<_, Unverified>| content)
    }

    /// The one place where something becomes [`Verified`]: after length, digest and signature.
    fn conclude<T, E>(
        self,
        make: impl FnOnce(Content) -> Result<T, E>,
    ) -> Result<Result<Verified<T>, E>, Unverified> {
        if let Some(expected) = self.expected.len.filter(|len| *len != self.len) {
            return Err(Unverified::Length { expected, found: self.len });
        }
        let found = self.digest.finish();
        if let Some(expected) = self.expected.digest.filter(|digest| *digest != found) {
            return Err(Unverified::Digest { expected, found });
        }
        if let Some(signature) = self.signature {
            signature.finalize_and_verify().map_err(|_| Unverified::BadSignature)?;
        }
        let content = Content { digest: found, len: self.len };
        Ok(make(content).map(|value| Verified { value, by: self.by }))
    }
}

#[cfg(test)]
#[path = "verified_tests.rs"]
mod tests;
