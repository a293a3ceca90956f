//! The one question behind every update and every download: may these bytes run?
//!
//! Bytes come in, a verdict comes out. A [`Verified`] value exists only if a configured key signed
//! exactly the bytes that it was made of ([`Trust::open`] for documents that are held in memory,
//! [`Check`] for files that stream by); what is not signed has no way around that. The rules that
//! follow (freshness, rollback floor, channel, architecture, stepping stones, rollout) are pure
//! functions in [`gates`].
//!
//! Documents are of any kind: a release manifest ([`Manifest`]) is one, and whatever implements
//! [`SignedDocument`] shares keys, bounds, serials and expiry with it.
//!
//! **Architecture invariant:** nothing here does any I/O or reads a clock; the time, the keys and
//! the bytes are arguments.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod digest;
mod document;
mod freshness;
pub mod gates;
mod json;
mod key;
mod manifest;
mod rollout;
mod signature;
mod text;
mod time;
mod verified;
mod version;
mod window;

pub use digest::{ParseSha256Error, Sha256Digest, Sha256Stream};
pub use document::{DocumentError, OpenError, SignedDocument};
pub use freshness::{Clock, Freshness, SerialFloor, Stale};
pub use json::{JsonBounds, strict_json};
pub use key::{KeyError, KeyId, KeySet, PublicKey, SecretKey};
pub use manifest::{Artifact, ArtifactName, Channel, Manifest, Via};
pub use rollout::{Rollout, RolloutSeed};
pub use signature::{ParseSignatureError, Signature};
pub use time::{ParseTimeError, parse_time, show_time};
pub use verified::{Check, Content, Expected, Job, SignedBy, Trust, Unverified, Verified};
pub use version::{ParseVersionError, Version};
pub use window::{ParseWindowError, ParseZoneError, Window, Zone};
