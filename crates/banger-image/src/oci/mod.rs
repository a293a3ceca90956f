//! Images of containers: from registries and archives into a cache by digest, verified.
//!
//! [`pull`] is the door. It finds out what a name means, fetches what is not in the [`Cache`]
//! yet, and returns a [`Pulled`] image: its config, and layers whose compressed files are what
//! the manifest says. [`Layer::unpack_into`] makes tars of them, and holds those against the
//! config.
//!
//! **Invariant:** nothing has a name in the cache that is not whole and of that digest, whenever
//! whoever wrote it was killed.
//! **Invariant:** everything that comes from outside has a bound: see [`Limits`], [`Patience`]
//! and the `MAX_` constants.

mod allowance;
mod cache;
pub mod document;
mod download;
mod hash;
mod http;
mod layer;
mod local;
mod pull;
mod registry;
mod settings;
mod site;
mod source;

pub use allowance::Allowance;
pub use cache::{Blob, BlobReader, Cache, CacheEntry, Extent, Pruned};
pub use document::{Compression, Config, DocumentError, HealthCheck, NoPlatform, Platform};
pub use download::BlobError;
pub use http::{HttpError, RootsError};
pub use layer::{Layer, UnpackError, Unpacked};
pub(crate) use layer::{decoder, read_begin};
pub use local::{LocalError, SavedImage, choose_laid_out, choose_saved};
pub use pull::{Freshness, PullError, Pulled, pull};
pub use registry::{Challenge, CredentialsError, FetchError, parse_challenges};
pub use settings::{LastKnown, Limits, Mirror, ParseMirrorError, Patience, Settings};
pub(crate) use site::Site;
pub use site::{ParseSiteUrlError, SiteUrl};
pub use source::{ParseSourceError, Source};
