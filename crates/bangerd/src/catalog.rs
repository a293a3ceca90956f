//! Catalogs as the command line works with them: without a daemon, as all of it is files and one
//! server.

use std::path::PathBuf;

use anyhow::Result;
use banger_host::home::Home;
pub use banger_image::catalog::{
    Build, Bundle, Catalogs, Current, ImageEntry, Index, KernelEntry, Offered, embedded,
    generate_key, show_time, sign, verify,
};

use crate::config::Config;

/// What this owner's names are looked up in. `roots` are certificates to trust besides those of the
/// system.
///
/// # Errors
/// When what the owner has set makes no sense.
pub fn catalogs(home: &Home, roots: Option<PathBuf>) -> Result<Catalogs> {
    let mut fetching = Config::read(&home.config())?.fetching()?;
    fetching.settings.roots = roots;
    Ok(Catalogs::new(home, fetching.catalog, &fetching.settings))
}
