//! `banger image list`.

use banger_api::types::Image;
use banger_model::{Bytes, ExitCode, Timestamp};

use crate::commands::listing::Listing;
use crate::commands::vm_list::now;
use crate::commands::with_daemon;
use crate::error::CommandError;
use crate::output::{Table, shown};

/// List images: read-only root file systems that sandboxes are made of
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger image list\n  banger image list -o json")]
pub(crate) struct Args {
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let images = with_daemon(verbosity, async |client| Ok(client.images().await?))?;
    args.listing.show(&images, |it| it.name.to_string(), |all| table(all, now()))
}

fn table(images: &[Image], now: Timestamp) -> String {
    let mut table = Table::new(["NAME", "SOURCE", "SIZE", "AGE", "USED BY"]);
    for image in images {
        let age = image.made.map_or("-".to_owned(), |made| now.since(made).to_string());
        let used = match image.used_by.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            more => format!("{} sandboxes and snapshots", more.len()),
        };
        table.row([
            image.name.to_string(),
            shown(image.source.as_bytes()),
            Bytes::new(image.size).to_string(),
            age,
            used,
        ]);
    }
    table.render(&[])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn image(name: &str) -> Image {
        serde_json::from_value(serde_json::json!({
            "name": name, "id": "00112233445566778899aabbccddeeff", "source": "alpine:3.20",
            "digest": "sha256:abc", "size": 8 << 20, "made": 1000, "used_by": [],
            "config": { "cmd": ["/bin/sh"], "env": { "PATH": "/bin" } },
        }))
        .unwrap()
    }

    #[test]
    fn a_list_shows_where_each_comes_from_and_who_needs_it() {
        let used = Image { used_by: vec!["web".to_owned()], made: None, ..image("b") };
        let many = Image { used_by: vec!["x".to_owned(); 3], ..image("c") };
        assert_eq!(
            table(&[image("a"), used, many], Timestamp(62_000)),
            "NAME  SOURCE       SIZE  AGE    USED BY\n\
             a     alpine:3.20  8M    1m 1s  -\n\
             b     alpine:3.20  8M    -      web\n\
             c     alpine:3.20  8M    1m 1s  3 sandboxes and snapshots\n"
        );
    }
}
