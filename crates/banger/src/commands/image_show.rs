//! `banger image show`: all about one image.

use banger_api::types::Image;
use banger_host::command::quoted;
use banger_model::{Bytes, ExitCode, InitMode, Timestamp};
use clap_complete::ArgValueCandidates;

use crate::commands::vm_list::now;
use crate::commands::{completion, with_daemon};
use crate::error::CommandError;
use crate::output::{self, Format, shown};

/// Tell all about an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger image show alpine-3.20\n  \
                        banger image show alpine:3.20 -o json")]
pub(crate) struct Args {
    /// The image: its name, or where it is in a registry
    #[arg(add = ArgValueCandidates::new(completion::images))]
    name: String,
    /// Print its name and nothing else
    #[arg(long, short, conflicts_with = "output")]
    quiet: bool,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let image = with_daemon(verbosity, async |client| Ok(client.image(&args.name).await?))?;
    match args.output {
        _ if args.quiet => output::line(image.name.as_str())?,
        Format::Json => output::json(&image)?,
        Format::Text => output::text(&text(&image, now()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(image: &Image, now: Timestamp) -> String {
    let plain = |text: &str| shown(text.as_bytes());
    let words = |words: &[String]| {
        let quoted: Vec<_> = words.iter().map(|word| quoted(word.as_ref())).collect();
        shown(quoted.join(" ").as_bytes())
    };
    let some = |text: &String| Some(plain(text)).filter(|text| !text.is_empty());
    let config = &image.config;
    let mut pairs = vec![
        ("name", image.name.to_string()),
        ("id", image.id.to_string()),
        ("source", plain(&image.source)),
    ];
    pairs.extend(image.digest.iter().map(|digest| ("digest", plain(digest))));
    pairs.push(("size", Bytes::new(image.size).to_string()));
    pairs.extend(image.made.map(|made| ("made", format!("{} ago", now.since(made)))));
    pairs.extend(image.kernel.iter().map(|kernel| ("kernel", kernel.to_string())));
    pairs.extend(image.used_by.iter().map(|user| ("used by", plain(user))));
    pairs.extend(some(&config.user).map(|user| ("user", user)));
    pairs.extend(some(&config.workdir).map(|dir| ("directory", dir)));
    for (what, argv) in
        [("entrypoint", &config.entrypoint), ("command", &config.cmd), ("shell", &config.shell)]
    {
        pairs.extend((!argv.is_empty()).then(|| (what, words(argv))));
    }
    pairs.extend((config.init != InitMode::Agent).then(|| ("init", config.init.to_string())));
    pairs.extend(config.disk.map(|disk| ("disk", disk.to_string())));
    pairs.extend(config.stop_signal.iter().map(|signal| ("stop signal", plain(signal))));
    pairs.extend(config.ports.iter().map(|port| ("port", plain(port))));
    pairs.extend(config.volumes.iter().map(|volume| ("volume", plain(volume))));
    let assigned = |(name, value): (&String, &String)| plain(&format!("{name}={value}"));
    pairs.extend(config.env.iter().map(|variable| ("variable", assigned(variable))));
    pairs.extend(config.labels.iter().map(|label| ("label", assigned(label))));
    output::pairs(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::image_list::tests::image;

    #[test]
    fn everything_that_is_said_is_told_in_plain_characters() {
        let mut image = image("app");
        image.config.entrypoint = vec!["/run me".to_owned(), "-x".to_owned()];
        image.config.labels.insert("by".to_owned(), "\x1b[31mme".to_owned());
        let text = text(&image, Timestamp(2000));
        for line in ["source", "digest", "made", "variable", "'/run me' -x"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains('\x1b') && !text.contains("port"), "{text}");
    }
}
