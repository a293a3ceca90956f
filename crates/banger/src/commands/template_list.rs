//! `banger template list`.

use banger_api::types::Template;
use banger_model::{Bytes, ExitCode, Timestamp};

use crate::commands::listing::Listing;
use crate::commands::vm_list::now;
use crate::commands::with_daemon;
use crate::error::CommandError;
use crate::output::Table;

/// List templates: machines that have booted, from which sandboxes are made
///
/// There is one for each image, kernel and size that was asked for, made when the first sandbox
/// needs it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger template list\n  banger template list -o json\n  \
                        banger template rm $(banger template list -q)")]
pub(crate) struct Args {
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let templates = with_daemon(verbosity, async |client| Ok(client.templates().await?))?;
    args.listing.show(&templates, |it| it.id.to_string(), |all| table(all, now()))
}

fn table(templates: &[Template], now: Timestamp) -> String {
    let mut table =
        Table::new(["ID", "IMAGE", "MEMORY", "SIZE", "AGE", "USED", "HITS", "IN USE", "SPARES"]);
    for template in templates {
        let used = template.last_used.map(|at| format!("{} ago", now.since(at)));
        table.row([
            template.id.to_string(),
            template.image.to_string(),
            template.memory.to_string(),
            Bytes::new(template.size).to_string(),
            now.since(template.made).to_string(),
            used.unwrap_or_else(|| "never".to_owned()),
            template.hits.to_string(),
            if template.in_use { "yes" } else { "no" }.to_owned(),
            template.spares.to_string(),
        ]);
    }
    table.render(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        serde_json::from_value(serde_json::json!({
            "id": "0123456789abcdef", "image": "debian-bookworm", "kernel": "debian-cloud",
            "cpus": 2, "memory": 536_870_912, "disk": 8_589_934_592_u64, "size": 200 << 20,
            "made": 1000, "last_used": null, "hits": 0, "in_use": false,
        }))
        .unwrap()
    }

    #[test]
    fn a_list_shows_what_each_costs_and_whether_it_is_of_use() {
        let used = Template {
            last_used: Some(Timestamp(2000)),
            hits: 12,
            in_use: true,
            spares: 4,
            ..template()
        };
        assert_eq!(
            table(&[template(), used], Timestamp(62_000)),
            "ID                IMAGE            MEMORY  SIZE  AGE    USED    HITS  IN USE  SPARES\n\
             0123456789abcdef  debian-bookworm  512M    200M  1m 1s  never   0     no      0\n\
             0123456789abcdef  debian-bookworm  512M    200M  1m 1s  1m ago  12    yes     4\n"
        );
        assert_eq!(
            table(&[], Timestamp(0)),
            "ID  IMAGE  MEMORY  SIZE  AGE  USED  HITS  IN USE  SPARES\n"
        );
    }
}
