//! Catalogs: names that somebody stands for with a signature, and what is behind them.
//!
//! Behind a name there is a *bundle* (a file with an image or a kernel as it is), an image in a
//! registry *pinned by digest*, or a *recipe* that is carried out on this host.

mod index;

pub use index::{
    Bundle, BundleUrl, ImageEntry, ImageRecipe, Index, KernelEntry, KernelRecipe, MAX_INDEX,
    MAX_NAMES, ParseBundleUrlError, bundle_for,
};
