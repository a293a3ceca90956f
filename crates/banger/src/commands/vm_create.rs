//! `banger vm create`: a sandbox that stays.

use std::collections::BTreeMap;

use anyhow::anyhow;
use banger_api::client::Client;
use banger_api::types::CreateSandbox;
use banger_model::{
    Disposal, ExitCode, Label, Labels, Lifetime, OperationId, OperationStatus, RestartPolicy,
    SandboxName, Span,
};

use crate::commands::spec_args::SpecArgs;
use crate::commands::with_daemon;
use crate::error::{CommandError, Kind};
use crate::output::{self, notice};
use crate::progress;

/// Make a sandbox that stays, and start it
///
/// Its name is printed once it runs. It stays, with its disk, until you delete it, even when this
/// host is restarted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm create web\n  \
                        banger vm create --memory 2G --disk 20G --label app=shop db\n  \
                        banger vm create --ttl 8h --idle-timeout 30m\n  \
                        banger vm create --from web@1 again\n  \
                        name=$(banger vm create) && banger vm exec -it $name")]
pub(crate) struct Args {
    /// Its name; one is made up where none is given
    name: Option<SandboxName>,
    #[command(flatten)]
    spec: SpecArgs,
    /// A label to find it by; may be repeated
    #[arg(long = "label", short, value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// Delete it so long after it was made, such as 8h or 7d
    #[arg(long, value_name = "SPAN")]
    ttl: Option<Span>,
    /// Stop it when nothing has happened in it for so long, such as 30m
    #[arg(long, value_name = "SPAN")]
    idle_timeout: Option<Span>,
    /// Whether it starts again when it ends by itself: no, on-failure or always
    #[arg(long, value_name = "POLICY", default_value_t)]
    restart: RestartPolicy,
    /// Delete it when it stops
    #[arg(long)]
    rm: bool,
    /// Only make it
    #[arg(long)]
    no_start: bool,
}

impl Args {
    fn wanted(self) -> Result<CreateSandbox, CommandError> {
        let labels: BTreeMap<_, _> =
            self.labels.into_iter().map(|label| (label.key, label.value)).collect();
        let labels =
            Labels::try_from(labels).map_err(|error| CommandError::new(Kind::Usage, error))?;
        let (spec, from) = self.spec.made_of()?;
        Ok(CreateSandbox {
            name: self.name,
            spec,
            from,
            labels,
            lifetime: Lifetime {
                ttl: self.ttl,
                idle_timeout: self.idle_timeout,
                restart: self.restart,
                disposal: if self.rm { Disposal::Remove } else { Disposal::Keep },
                lease: None,
            },
            start: !self.no_start,
        })
    }
}

pub(crate) fn run(args: Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let wanted = args.wanted()?;
    with_daemon(verbosity, async |client| {
        // From here on, so that no signal falls between making and starting.
        let mut interrupted = tokio::spawn(tokio::signal::ctrl_c());
        let created = tokio::select! {
            created = client.create(&wanted) => created?,
            _ = &mut interrupted => {
                notice("interrupted; `banger vm list` shows whether the sandbox is made");
                return Ok(INTERRUPTED);
            }
        };
        let name = created.sandbox.name;
        if let Some(operation) = created.operation {
            let disposal = wanted.lifetime.disposal;
            let started = tokio::select! {
                started = start(&client, &name, &operation, disposal) => started,
                _ = &mut interrupted => return call_off(&client, &name, &operation, disposal).await,
            };
            started?;
        }
        output::line(name.as_str())?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn start(
    client: &Client,
    name: &SandboxName,
    operation: &OperationId,
    disposal: Disposal,
) -> Result<(), CommandError> {
    let shown = progress::to_stderr();
    let ended = progress::follow(client, operation, &*shown).await?;
    let why = match ended.status {
        OperationStatus::Running | OperationStatus::Succeeded { .. } => return Ok(()),
        OperationStatus::Failed { error, .. } => error,
        OperationStatus::Cancelled { .. } => "it was called off".to_owned(),
    };
    if disposal == Disposal::Remove {
        let error = anyhow!("sandbox {name} did not start, and is deleted again: {why}");
        return Err(CommandError::new(Kind::Failed, error));
    }
    let error = anyhow!("sandbox {name} is made, but did not start: {why}");
    Err(CommandError::new(Kind::Failed, error)
        .hint(format!("`banger vm logs {name}` shows what it wrote to its console"))
        .hint(format!(
            "`banger vm start {name}` tries again, `banger vm delete {name}` deletes it"
        )))
}

/// The status of a program that was interrupted: 128 and SIGINT's number.
const INTERRUPTED: ExitCode = ExitCode(130);

/// Nobody wants to wait any more.
async fn call_off(
    client: &Client,
    name: &SandboxName,
    operation: &OperationId,
    disposal: Disposal,
) -> Result<ExitCode, CommandError> {
    let ended = client.cancel(operation).await;
    if disposal == Disposal::Remove {
        notice(&format!("sandbox {name} does not start, and is deleted again"));
        return Ok(INTERRUPTED);
    }
    match ended {
        Ok(_) => notice(&format!(
            "sandbox {name} is made, but does not start; `banger vm delete {name}` deletes it"
        )),
        // What is over cannot be called off: it runs by now, or has failed.
        Err(_) => notice(&format!("sandbox {name} is made; `banger vm show {name}` tells more")),
    }
    Ok(INTERRUPTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_model::{NetworkMode, SnapshotPart};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn wanted(line: &[&str]) -> CreateSandbox {
        let line = std::iter::once(&"create").chain(line);
        Line::try_parse_from(line).unwrap().args.wanted().ok().unwrap()
    }

    #[test]
    fn what_is_asked_for_is_what_is_wanted() {
        let plain = wanted(&[]);
        assert_eq!((plain.name, plain.start), (None, true));
        assert_eq!(plain.lifetime, Lifetime::default());
        let line = "web --label a=1 --label b --label a=2 --ttl 8h --idle-timeout 30m --rm \
                    --restart on-failure --no-start --network none";
        let all = wanted(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(all.labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "")]);
        assert_eq!(all.lifetime.ttl, Some(Span::from_secs(8 * 3600)));
        assert_eq!(all.lifetime.idle_timeout, Some(Span::from_secs(1800)));
        assert_eq!(all.lifetime.restart, RestartPolicy::OnFailure);
        assert_eq!(all.lifetime.disposal, Disposal::Remove);
        assert_eq!((all.start, all.spec.unwrap().network), (false, NetworkMode::None));
    }

    #[test]
    fn what_is_made_from_a_snapshot_is_as_that_is() {
        let made = wanted(&["--from", "web@1"]);
        let from = made.from.unwrap();
        assert_eq!((made.spec, from.snapshot.to_string().as_str()), (None, "web@1"));
        assert_eq!((from.part, from.network), (SnapshotPart::Machine, None));
        let disk = wanted(&["--from", "web@1", "--disk-only", "--network", "none"]).from.unwrap();
        assert_eq!((disk.part, disk.network), (SnapshotPart::Disk, Some(NetworkMode::None)));
        for wrong in [
            &["--from", "web@1", "--memory", "1G"][..],
            &["--from", "web@1", "--image", "debian-bookworm"],
            &["--from", "web@1", "--cold"],
            &["--from", "web"],
            &["--disk-only"],
        ] {
            assert!(Line::try_parse_from(std::iter::once(&"create").chain(wrong)).is_err());
        }
    }
}
