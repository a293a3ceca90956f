//! `banger image cache`: what was fetched, and stays for the next image that shares it.

use banger_api::types::{CachedBlob, PruneCacheRequest};
use banger_model::{Bytes, ExitCode, Timestamp};

use crate::commands::listing::Listing;
use crate::commands::vm_list::now;
use crate::commands::with_daemon;
use crate::error::CommandError;
use crate::output::{self, Table, notice};

/// List what was fetched for images, the least recently used first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger image cache list")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    listing: Listing,
}

/// Delete what was fetched for images
///
/// Images stay as they are: nothing of theirs is in the cache. The next pull of one that shares
/// layers with them fetches those again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger image cache prune\n  \
                        banger image cache prune --keep 2G")]
pub(crate) struct PruneArgs {
    /// Keep so much of it, what was used last first
    #[arg(long, default_value = "0")]
    keep: Bytes,
}

pub(crate) fn list(args: &ListArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let blobs = with_daemon(verbosity, async |client| Ok(client.image_cache().await?))?;
    args.listing.show(&blobs, |it| it.digest.clone(), |all| table(all, now()))
}

fn table(blobs: &[CachedBlob], now: Timestamp) -> String {
    let mut table = Table::new(["DIGEST", "SIZE", "USED", "STATE"]);
    for blob in blobs {
        table.row([
            blob.digest.clone(),
            Bytes::new(blob.size).to_string(),
            format!("{} ago", now.since(blob.last_used)),
            if blob.whole { "whole" } else { "partial" }.to_owned(),
        ]);
    }
    table.render(&[])
}

pub(crate) fn prune(args: &PruneArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let request = PruneCacheRequest { keep: args.keep.get() };
    let pruned =
        with_daemon(verbosity, async |client| Ok(client.prune_image_cache(&request).await?))?;
    for digest in &pruned.removed {
        output::line(digest)?;
    }
    notice(&format!("{} are free again", Bytes::new(pruned.space)));
    Ok(ExitCode::SUCCESS)
}
