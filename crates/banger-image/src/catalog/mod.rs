//! Catalogs: names that somebody stands for with a signature, and what is behind them.
//!
//! Behind a name there is a *bundle* (a file with an image or a kernel as it is), an image in a
//! registry *pinned by digest*, or a *recipe* that is carried out on this host.
//!
//! - `index`, `manifest`: what is signed, and what is in a bundle; pure.
//! - `bundle`: bundles read and written as they stream by.
//! - `known`, `remote`, `catalogs`: which index is believed, and what a name stands for.
//! - `install`: a bundle becomes an image or a kernel here.
//! - `publish`: the other side: a directory that any web server can serve.
//!
//! **Invariant:** nothing of a configured catalog is used before the exact bytes of its index have
//! been verified; everything else goes by digests that stand in it.
//! **Invariant:** what cannot be read or fetched is an error, and never "not in the catalog".

mod bundle;
mod catalogs;
mod index;
mod install;
mod known;
mod manifest;
mod publish;
mod remote;

pub use banger_trust::show_time;
pub use bundle::{BundleError, inspect_tar};
pub use catalogs::{Catalogs, embedded};
pub use index::{
    Bundle, BundleUrl, ImageEntry, ImageRecipe, Index, KernelEntry, KernelRecipe, MAX_INDEX,
    MAX_NAMES, ParseBundleUrlError, bundle_for,
};
pub use install::{Install, InstallError};
pub use known::KnownError;
pub use manifest::{BundleContent, BundleManifest, ImageContent, Member};
pub use publish::{Build, Offered, ParseOfferedError, PublishError, generate_key, sign, verify};
pub use remote::{CatalogError, Configured, ConfiguredError, Current};
