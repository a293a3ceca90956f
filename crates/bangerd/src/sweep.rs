//! Removing what dead owners left, before anything new is made.

use anyhow::Result;
use banger_host::fs::list_dir;
use banger_host::home::Home;
use banger_model::SandboxId;

use crate::lease::Lease;
use crate::sandbox::discard;

/// Removes every sandbox whose owner is gone and that is not to be kept; returns which.
///
/// # Errors
/// When the directory of sandboxes cannot be used, or something of a sandbox remains.
pub fn sweep(home: &Home) -> Result<Vec<SandboxId>> {
    let mut swept = Vec::new();
    for name in list_dir(&home.sandboxes())? {
        let Some(id) = name.to_str().and_then(|name| name.parse::<SandboxId>().ok()) else {
            continue;
        };
        if let Some(lease) = Lease::take_over(home, &home.sandbox(&id))? {
            discard(&lease)?;
            if !lease.dir().exists() {
                swept.push(id);
            }
        }
    }
    Ok(swept)
}
