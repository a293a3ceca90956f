//! `banger vm logs`: what a sandbox writes to its console.

use std::io::Write as _;
use std::str::FromStr;

use banger_api::client::{Follow, LogQuery};
use banger_api::types::LogSource;
use banger_host::terminal::is_terminal;
use banger_model::{ExitCode, ParseSpanError, Span, Timestamp};
use clap::ValueEnum;
use clap_complete::ArgValueCandidates;

use crate::commands::vm_list::now;
use crate::commands::{completion, with_daemon};
use crate::error::CommandError;
use crate::output;

/// Show what a sandbox writes to its console
///
/// On a terminal, what could steer the terminal is shown in place of doing it; elsewhere every
/// byte is passed on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm logs web\n  banger vm logs -f --tail 20 web\n  \
                        banger vm logs --since 10m web\n  banger vm logs --source vmm web")]
pub(crate) struct Args {
    /// The sandbox: its name, its id or the beginning of its id
    #[arg(add = ArgValueCandidates::new(completion::sandboxes))]
    name: String,
    /// Go on with what is written, until the sandbox stops
    #[arg(long, short)]
    follow: bool,
    /// Only what was written since then: a span such as 10m, or milliseconds since 1970
    #[arg(long, value_name = "WHEN", conflicts_with = "tail")]
    since: Option<Since>,
    /// Only so many of the last lines
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<u64>,
    /// Which log
    #[arg(long, value_enum, default_value_t)]
    source: Source,
}

/// Which log.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Source {
    /// What the guest's kernel, its programs and the agent write to the console
    #[default]
    Console,
    /// Only what the agent writes there
    Agent,
    /// What the virtual machine monitor complains of
    Vmm,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// So long before now.
    Ago(Span),
    At(Timestamp),
}

impl FromStr for Since {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(at) = text.parse()
        {
            return Ok(Self::At(Timestamp(at)));
        }
        text.parse().map(Self::Ago)
    }
}

impl Since {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(span) => Timestamp(now.0.saturating_sub(span.as_millis())),
            Self::At(at) => at,
        }
    }
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let query = LogQuery {
        source: match args.source {
            Source::Console => LogSource::Console,
            Source::Agent => LogSource::Agent,
            Source::Vmm => LogSource::Vmm,
        },
        follow: if args.follow { Follow::Yes } else { Follow::No },
        since: args.since.map(|since| since.at(now())),
        tail: args.tail,
    };
    let mut plain = is_terminal(std::io::stdout()).then(Plain::default);
    with_daemon(verbosity, async |client| {
        let mut log = client.logs(&args.name, &query);
        while let Some(chunk) = log.next().await {
            let bytes = chunk?.text.0;
            let bytes = plain.as_mut().map_or(bytes.clone(), |plain| plain.feed(&bytes));
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&bytes)?;
            stdout.flush()?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Longest character, in bytes.
const MAX_CHAR_LEN: usize = 4;

/// Takes what could steer a terminal out of text that comes in pieces.
#[derive(Debug, Default)]
struct Plain {
    /// The beginning of a character of which the end has not come.
    partial: Vec<u8>,
}

impl Plain {
    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.partial.extend_from_slice(bytes);
        let rest = self.partial.split_off(whole_characters(&self.partial));
        let whole = std::mem::replace(&mut self.partial, rest);
        let text = String::from_utf8_lossy(&whole);
        text.chars().flat_map(plain).collect::<String>().into_bytes()
    }
}

/// How much of this is not the beginning of a character that is cut.
fn whole_characters(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(MAX_CHAR_LEN - 1);
    for at in (from..bytes.len()).rev() {
        let wanted = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if bytes.len() - at < wanted { at } else { bytes.len() };
    }
    bytes.len()
}

fn plain(c: char) -> Vec<char> {
    match c {
        '\n' | '\t' => vec![c],
        '\r' => Vec::new(),
        c if output::steers(c) => c.escape_default().collect(),
        c => vec![c],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_span_or_a_point_in_time() {
        assert_eq!("10m".parse(), Ok(Since::Ago(Span::from_secs(600))));
        assert_eq!("1700000000000".parse(), Ok(Since::At(Timestamp(1_700_000_000_000))));
        for bad in ["", "yesterday", "-1h", "10x", "99999999999999999999"] {
            assert!(bad.parse::<Since>().is_err(), "{bad}");
        }
        let now = Timestamp(1000);
        assert_eq!(Since::Ago(Span::from_secs(10)).at(now), Timestamp(0));
        assert_eq!(Since::At(Timestamp(7)).at(now), Timestamp(7));
    }

    #[test]
    fn nothing_that_steers_a_terminal_passes() {
        let mut plain = Plain::default();
        assert_eq!(plain.feed(b"a\r\n\tb\x1b[2J\x07\x7f\n"), b"a\n\tb\\u{1b}[2J\\u{7}\\u{7f}\n");
        assert_eq!(plain.feed("a\u{202e}b".as_bytes()), b"a\\u{202e}b");
        // C1 controls are characters of two bytes; as single bytes they are no text.
        assert_eq!(plain.feed(b"\xc2\x9b1m\x9b1m"), "\\u{9b}1m\u{fffd}1m".as_bytes());
    }

    #[test]
    fn a_character_that_is_cut_between_two_pieces_stays_whole() {
        for text in ["grün\n", "€\n", "𝄞x"] {
            for cut in 0..=text.len() {
                let mut plain = Plain::default();
                let mut out = plain.feed(&text.as_bytes()[..cut]);
                out.extend(plain.feed(&text.as_bytes()[cut..]));
                assert_eq!(String::from_utf8(out).unwrap(), text, "cut at {cut}");
            }
        }
        let mut plain = Plain::default();
        assert_eq!(plain.feed(&[0x80; 10]), "\u{fffd}".repeat(10).as_bytes());
    }
}
