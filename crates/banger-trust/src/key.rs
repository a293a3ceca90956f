//! Ed25519 keys (RFC 8032) in the forms in which people keep them: PEM, raw, hex, base64.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, StreamVerifier, VerifyingKey};
use thiserror::Error;

use crate::digest::Sha256Digest;
use crate::signature::Signature;
use crate::text;

/// Most keys that are trusted at once: one, the next one, and room for a mistake.
const MAX_KEYS: usize = 8;
/// What stands before the 32 bytes of a public key in DER: RFC 8410, section 4.
const PUBLIC_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 32 bytes of a private key in DER: RFC 8410, section 7.
const PRIVATE_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why something is no key to use.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Neither PEM nor 32 bytes in any form.
    #[error("this is no Ed25519 {0} key: it should be PEM, 32 bytes, or those as hex or base64")]
    Malformed(&'static str),
    /// 32 bytes that no key has.
    #[error("these 32 bytes are no point of the curve, so no Ed25519 public key")]
    NotAPoint,
    /// A key for which anybody can make signatures.
    #[error("this Ed25519 key is of small order: anybody could sign for it")]
    Weak,
    /// A list that is too long.
    #[error("{0} keys are more than the {MAX_KEYS} that can be trusted at once")]
    TooMany(usize),
    /// A list without any.
    #[error("there is no key in this")]
    None,
}

/// A short name of a public key: the first 16 hex digits of its SHA-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Reads back what was shown; `None` for what is no name of a key.
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then(|| Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key whose signatures are believed.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a key in any of its forms.
    ///
    /// # Errors
    /// When it is none, or one that must not be used.
    pub fn parse(input: &[u8]) -> Result<Self, KeyError> {
        let malformed = KeyError::Malformed("public");
        let bytes = match pem(input, "PUBLIC KEY") {
            Some(der) => der.strip_prefix(&PUBLIC_PREFIX).and_then(|key| key.try_into().ok()),
            None => text::fixed(input),
        };
        let key = VerifyingKey::from_bytes(&bytes.ok_or(malformed)?);
        let key = key.map_err(|_| KeyError::NotAPoint)?;
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(Self(key)) }
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        KeyId(text::to_hex(&Sha256Digest::of(self.0.as_bytes()).bytes()[..8]))
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        to_pem("PUBLIC KEY", &[&PUBLIC_PREFIX[..], self.0.as_bytes()].concat())
    }

    /// As base64 in one line.
    pub fn to_base64(&self) -> String {
        text::to_base64(self.0.as_bytes())
    }

    /// Begins to verify a signature over what will stream by, as strictly as the library's own
    /// `verify_strict`: S is canonical, and neither the key nor R is of small order.
    pub(crate) fn stream(&self, signature: &Signature) -> Option<StreamVerifier> {
        let (r, _) = signature.bytes().split_first_chunk::<32>()?;
        let r = VerifyingKey::from_bytes(r).ok()?;
        if r.is_weak() || self.0.is_weak() {
            return None;
        }
        self.0.verify_stream(&ed25519_dalek::Signature::from_bytes(signature.bytes())).ok()
    }

    #[cfg(test)]
    pub(crate) fn verify_whole(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature.bytes());
        self.0.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

/// The keys that are trusted: at least one, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet(Vec<PublicKey>);

impl KeySet {
    /// Of these keys. The same key twice counts once: it is told by its bytes, not by a name.
    ///
    /// # Errors
    /// When there are none or too many.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, KeyError> {
        let mut set: Vec<PublicKey> = Vec::new();
        for key in keys {
            if !set.contains(&key) {
                set.push(key);
            }
        }
        match set.len() {
            0 => Err(KeyError::None),
            n if n > MAX_KEYS => Err(KeyError::TooMany(n)),
            _ => Ok(Self(set)),
        }
    }

    /// Reads one key, or several PEM blocks one after the other.
    ///
    /// # Errors
    /// When anything in it is no key.
    pub fn parse(input: &[u8]) -> Result<Self, KeyError> {
        const END: &str = "-----END PUBLIC KEY-----";
        let Some(text) = std::str::from_utf8(input).ok().filter(|text| text.contains(END)) else {
            return Self::new([PublicKey::parse(input)?]);
        };
        let blocks = text.split_inclusive(END).filter(|block| !block.trim_ascii().is_empty());
        let keys: Result<Vec<_>, _> =
            blocks.take(MAX_KEYS + 1).map(|block| PublicKey::parse(block.as_bytes())).collect();
        Self::new(keys?)
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }

    /// The key of this name.
    pub fn get(&self, id: &KeyId) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.id() == *id)
    }
}

/// A key that signs. Its bytes are wiped when it goes.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key made from 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads a key in any of its forms; PEM is PKCS #8, as `openssl genpkey` writes it.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(input: &[u8]) -> Result<Self, KeyError> {
        let bytes = match pem(input, "PRIVATE KEY") {
            Some(der) => der.strip_prefix(&PRIVATE_PREFIX).and_then(|key| key.try_into().ok()),
            None => text::fixed(input),
        };
        bytes.map(Self::from_seed).ok_or(KeyError::Malformed("private"))
    }

    /// What verifies its signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs these bytes.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_bytes(self.0.sign(message).to_bytes())
    }

    /// As PEM (PKCS #8).
    pub fn to_pem(&self) -> String {
        to_pem("PRIVATE KEY", &[&PRIVATE_PREFIX[..], self.0.as_bytes()].concat())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public().id())
    }
}

/// The DER in the one PEM block of this kind that a text is.
fn pem(input: &[u8], label: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(input).ok()?.trim_ascii();
    if text.len() > text::MAX_TEXT {
        return None;
    }
    let text = text.strip_prefix(&format!("-----BEGIN {label}-----"))?;
    text::base64_lines(text.strip_suffix(&format!("-----END {label}-----"))?)
}

fn to_pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", text::to_base64(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    #[test]
    fn keys_are_read_in_every_form() {
        let public = key(1).public();
        let raw = public.0.to_bytes();
        let forms = [
            raw.to_vec(),
            text::to_hex(&raw).into_bytes(),
            public.to_base64().into_bytes(),
            public.to_pem().into_bytes(),
            public.to_pem().replace('\n', "\r\n").into_bytes(),
        ];
        for form in forms {
            assert_eq!(PublicKey::parse(&form).unwrap(), public);
        }
        let secret = SecretKey::parse(key(1).to_pem().as_bytes()).unwrap();
        assert_eq!(secret.public(), public);
        assert!(!format!("{secret:?}").contains("0101"));
    }

    #[test]
    fn what_is_no_key_or_a_weak_one_is_refused() {
        let pem = key(1).public().to_pem();
        let bad = [
            String::new(),
            pem.replace("PUBLIC", "EC"),
            pem.replace("MCow", "MCoy"),
            pem.replace("-----END PUBLIC KEY-----", ""),
            key(1).to_pem(),
            "a".repeat(4096),
        ];
        for text in bad {
            let error = PublicKey::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error, KeyError::Malformed("public"), "{text}");
        }
        // The neutral element, y = 1: every signature with S B = R verifies under it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(PublicKey::parse(&neutral).unwrap_err(), KeyError::Weak);
        let mut off = [0; 32];
        off[0] = 2;
        assert_eq!(PublicKey::parse(&off).unwrap_err(), KeyError::NotAPoint);
    }

    #[test]
    fn a_set_has_each_key_once() {
        let (one, two) = (key(1).public(), key(2).public());
        let text = format!("{}\n{}{}", one.to_pem(), two.to_pem(), one.to_pem());
        let set = KeySet::parse(text.as_bytes()).unwrap();
        assert_eq!(set.iter().cloned().collect::<Vec<_>>(), [one.clone(), two]);
        assert_eq!(set.get(&one.id()), Some(&one));
        assert_eq!(KeySet::new([]), Err(KeyError::None));
        let many = (0..9).map(|seed| key(seed).public());
        assert_eq!(KeySet::new(many), Err(KeyError::TooMany(9)));
        let junk = format!("{}junk", one.to_pem());
        assert!(KeySet::parse(junk.as_bytes()).is_err());
    }
}
