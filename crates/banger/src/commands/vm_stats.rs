//! `banger vm stats`: what sandboxes use.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use banger_api::client::{Client, ClientError};
use banger_api::types::{ProblemCode, Stats};
use banger_host::terminal::is_terminal;
use banger_model::{Bytes, ExitCode};
use clap_complete::ArgValueCandidates;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::commands::vm_list::has_machine;
use crate::commands::{completion, with_daemon};
use crate::error::CommandError;
use crate::output::{self, Format, Table};

/// Show what sandboxes use
///
/// CPU is that of the host over the last second: 100 % is one processor. RSS is what the virtual
/// machine has of the host's memory; the guest's own figures are what it says of itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm stats\n  banger vm stats --watch web\n  \
                        banger vm stats -o json | jq .cpu_percent")]
pub(crate) struct Args {
    /// The sandboxes: names, ids or beginnings of ids; all that run now where none is given
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(completion::sandboxes))]
    names: Vec<String>,
    /// Again each second, until they stop
    #[arg(long, short)]
    watch: bool,
    /// The form of the output; as JSON, one object on each line
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Samples that wait to be shown.
const QUEUE: usize = 64;
/// A terminal is drawn again so long after a sample came: those of the others come with it.
const TOGETHER: Duration = Duration::from_millis(200);
/// Moves a terminal's cursor home and clears what is below it.
const CLEAR: &[u8] = b"\x1b[H\x1b[J";

/// What one sandbox uses. Field names are stable.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Sample {
    name: String,
    /// Of one processor of the host, since the sample before.
    cpu_percent: f64,
    #[serde(flatten)]
    stats: Stats,
}

/// How samples are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// In one table.
    Table,
    /// The last of each, on a terminal that is drawn again.
    Screen,
    /// Each on a line, under a header.
    Lines,
    /// Each as a line of JSON.
    Json,
}

/// How often each sandbox is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounds {
    One,
    UntilItStops,
}

/// Whether the user has named the sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    ByName,
    BecauseTheyRun,
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let rounds = if args.watch { Rounds::UntilItStops } else { Rounds::One };
    let view = match (args.output, rounds) {
        (Format::Json, _) => View::Json,
        (Format::Text, Rounds::One) => View::Table,
        (Format::Text, _) if is_terminal(std::io::stdout()) => View::Screen,
        (Format::Text, _) => View::Lines,
    };
    with_daemon(verbosity, async |client| {
        let (names, meant) = match args.names.is_empty() {
            false => (args.names, Meant::ByName),
            true => (running(&client).await?, Meant::BecauseTheyRun),
        };
        let (sender, samples) = mpsc::channel(QUEUE);
        for name in names {
            tokio::spawn(look_at(client.clone(), name, meant, rounds, sender.clone()));
        }
        drop(sender);
        show(samples, view).await
    })
}

async fn running(client: &Client) -> Result<Vec<String>, ClientError> {
    let all = client.list(&[]).await?;
    Ok(all.iter().filter(|sandbox| has_machine(sandbox)).map(|s| s.name.to_string()).collect())
}

type Sampled = Result<Sample, CommandError>;

async fn look_at(
    client: Client,
    name: String,
    meant: Meant,
    rounds: Rounds,
    samples: mpsc::Sender<Sampled>,
) {
    let Err(error) = sample(&client, &name, rounds, &samples).await else { return };
    let gone = matches!(error.code(), Some(ProblemCode::Denied | ProblemCode::NotFound));
    // One that stops while all are looked at is no failure.
    if meant == Meant::ByName || !gone {
        let _ = samples.send(Err(error.into())).await;
    }
}

/// Sends samples until the sandbox stops or nobody takes them.
async fn sample(
    client: &Client,
    name: &str,
    rounds: Rounds,
    samples: &mpsc::Sender<Sampled>,
) -> Result<(), ClientError> {
    let name = client.show(name).await?.name.to_string();
    let mut events = client.watch_stats(&name);
    let mut before: Option<Stats> = None;
    while let Some(stats) = events.next().await {
        let stats = stats?;
        let Some(before) = before.replace(stats.clone()) else { continue };
        let cpu_percent = cpu_percent(&before, &stats);
        let sample = Sample { name: name.clone(), cpu_percent, stats };
        if samples.send(Ok(sample)).await.is_err() || rounds == Rounds::One {
            break;
        }
    }
    Ok(())
}

/// Processor time between two samples, in percent of one processor, with one decimal.
fn cpu_percent(before: &Stats, after: &Stats) -> f64 {
    let used = after.host.cpu_ms.saturating_sub(before.host.cpu_ms);
    let passed = after.at.since(before.at).as_millis().max(1);
    let tenths = u32::try_from(used.saturating_mul(1000) / passed).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}

async fn show(mut samples: mpsc::Receiver<Sampled>, view: View) -> Result<ExitCode, CommandError> {
    let mut last: BTreeMap<String, Sample> = BTreeMap::new();
    let mut draw_at: Option<Instant> = None;
    if view == View::Lines {
        output::line(HEADER.join("  "))?;
    }
    loop {
        let sample = tokio::select! {
            sample = samples.recv() => match sample {
                Some(sample) => sample?,
                None => break,
            },
            () = sleep_until(draw_at.unwrap_or_else(Instant::now)), if draw_at.is_some() => {
                draw_at = None;
                // Not by way of what takes such sequences out where no colours are wanted.
                std::io::stdout().write_all(CLEAR)?;
                output::text(&table(last.values()))?;
                continue;
            }
        };
        match view {
            View::Json => output::json_line(&sample)?,
            View::Lines => output::line(cells(&sample).join("  "))?,
            View::Screen => draw_at = draw_at.or(Some(Instant::now() + TOGETHER)),
            View::Table => {}
        }
        last.insert(sample.name.clone(), sample);
    }
    if view == View::Table {
        output::text(&table(last.values()))?;
    }
    Ok(ExitCode::SUCCESS)
}

const HEADER: [&str; 6] = ["NAME", "CPU", "MEMORY", "RSS", "DISK", "NET RX/TX"];

fn table<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> String {
    let mut table = Table::new(HEADER);
    for sample in samples {
        table.row(cells(sample));
    }
    table.render(&[])
}

fn cells(sample: &Sample) -> [String; 6] {
    let Sample { name, cpu_percent, stats: Stats { host, guest, .. } } = sample;
    let of = |used: u64, whole: u64| format!("{} / {}", Bytes::new(used), Bytes::new(whole));
    let guest = guest.as_ref();
    // A guest that does not answer says nothing.
    let unknown = || "-".to_owned();
    [
        name.clone(),
        format!("{cpu_percent:.1}%"),
        guest.map_or_else(unknown, |guest| {
            of(guest.memory_total.saturating_sub(guest.memory_available), guest.memory_total)
        }),
        Bytes::new(host.memory).to_string(),
        of(host.disk.real, host.disk.apparent),
        guest.map_or_else(unknown, |guest| of(guest.net_rx, guest.net_tx)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::types::{DiskUsage, GuestUse, HostUse};
    use banger_model::Timestamp;

    fn stats(at: u64, cpu_ms: u64) -> Stats {
        let disk = DiskUsage { apparent: 8 << 30, real: 3 << 20 };
        let host = HostUse { cpu_ms, memory: 200 << 20, disk };
        let guest = GuestUse {
            uptime_ms: 1,
            cpu_busy_ms: 1,
            cpus: 2,
            memory_total: 512 << 20,
            memory_available: 384 << 20,
            disk_total: 1,
            disk_free: 1,
            net_rx: 2048,
            net_tx: 0,
            processes: 1,
        };
        Stats { at: Timestamp(at), host, guest: Some(guest) }
    }

    fn sample(stats: Stats) -> Sample {
        Sample { name: "web".into(), cpu_percent: 12.5, stats }
    }

    #[test]
    fn the_processor_is_what_was_used_between_two_looks() {
        let percent = |at, used| cpu_percent(&stats(1000, 100), &stats(at, used)).to_string();
        assert_eq!(percent(2000, 600), "50");
        assert_eq!(percent(2000, 2100), "200");
        assert_eq!(percent(1000, 100), "0", "no time has passed");
        assert_eq!(percent(3000, 0), "0", "counters went back");
    }

    #[test]
    fn what_a_guest_does_not_say_is_a_dash() {
        let said = sample(stats(0, 0));
        let mut silent = said.clone();
        silent.stats.guest = None;
        assert_eq!(
            table([&said, &silent]),
            "NAME  CPU    MEMORY       RSS   DISK     NET RX/TX\n\
             web   12.5%  128M / 512M  200M  3M / 8G  2K / 0B\n\
             web   12.5%  -            200M  3M / 8G  -\n"
        );
    }

    #[test]
    fn programs_find_everything_in_one_object() {
        let json = serde_json::to_value(sample(stats(7, 0))).unwrap();
        assert_eq!(json["name"], "web");
        assert_eq!(json["cpu_percent"], 12.5);
        assert_eq!(json["at"], 7);
        assert_eq!(json["host"]["disk"]["real"], 3 << 20);
        assert_eq!(json["guest"]["cpus"], 2);
    }
}
