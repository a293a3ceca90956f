//! `banger snapshot list`.

use banger_api::types::Snapshot;
use banger_model::{Bytes, ExitCode, Timestamp};

use crate::commands::listing::Listing;
use crate::commands::vm_list::now;
use crate::commands::with_daemon;
use crate::error::CommandError;
use crate::output::Table;

/// List snapshots: what sandboxes were at one moment
///
/// SIZE is the space that each takes on the disk; what a file system shares between files counts
/// for each. Nothing is made from one that is damaged; `banger snapshot delete` deletes it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger snapshot list\n  banger snapshot list -o json\n  \
                        banger vm create --from web@1 again")]
pub(crate) struct Args {
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let snapshots = with_daemon(verbosity, async |client| Ok(client.snapshots().await?))?;
    args.listing.show(&snapshots, |it| it.name.to_string(), |all| table(all, now()))
}

fn table(snapshots: &[Snapshot], now: Timestamp) -> String {
    let mut table = Table::new(["NAME", "IMAGE", "MEMORY", "DISK", "SIZE", "AGE", "DAMAGED"]);
    for snapshot in snapshots {
        // Of a damaged one little is certain.
        let damaged = snapshot.damaged.clone().unwrap_or_default();
        let certain = |cell: String| if damaged.is_empty() { cell } else { String::new() };
        table.row([
            snapshot.name.to_string(),
            certain(snapshot.image.to_string()),
            certain(snapshot.memory.to_string()),
            certain(snapshot.disk.to_string()),
            Bytes::new(snapshot.size).to_string(),
            certain(now.since(snapshot.created).to_string()),
            damaged.clone(),
        ]);
    }
    table.render(&["DAMAGED"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_what_each_is_and_costs() {
        let snapshot: Snapshot = serde_json::from_value(serde_json::json!({
            "id": "0123456789abcdef", "name": "web@1", "image": "debian-bookworm",
            "kernel": "debian-cloud", "cpus": 2, "memory": 536_870_912,
            "disk": 8_589_934_592_u64, "accelerator": "tcg", "size": 200 << 20,
            "apparent": 9_126_805_504_u64, "created": 1000,
        }))
        .unwrap();
        let damaged = Some("devices is missing".to_owned());
        let damaged = Snapshot { name: "web@2".parse().unwrap(), damaged, ..snapshot.clone() };
        assert_eq!(
            table(&[snapshot.clone(), damaged], Timestamp(62_000)),
            "NAME   IMAGE            MEMORY  DISK  SIZE  AGE    DAMAGED\n\
             web@1  debian-bookworm  512M    8G    200M  1m 1s\n\
             web@2                                 200M         devices is missing\n"
        );
        assert_eq!(
            table(&[snapshot], Timestamp(62_000)),
            "NAME   IMAGE            MEMORY  DISK  SIZE  AGE\n\
             web@1  debian-bookworm  512M    8G    200M  1m 1s\n"
        );
        assert_eq!(table(&[], Timestamp(0)), "NAME  IMAGE  MEMORY  DISK  SIZE  AGE\n");
    }
}
