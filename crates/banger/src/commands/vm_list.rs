//! `banger vm list` and `banger ps`: many sandboxes at a glance.

use std::time::Duration;

use banger_api::types::{ConditionKind, Sandbox};
use banger_model::{ExitCode, LabelFilter, Span, Timestamp};

use crate::commands::with_daemon;
use crate::error::CommandError;
use crate::output::{self, Format, Table};

/// List sandboxes, running or not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm list\n  banger vm list --label app=shop\n  \
                        banger vm list -o json")]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Accepted for the habit: all are listed
    #[arg(long, short, hide = true)]
    all: bool,
}

/// List the sandboxes that run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger ps\n  banger ps -q --label app=shop")]
pub(crate) struct PsArgs {
    #[command(flatten)]
    selection: Selection,
    /// List those that do not run, too
    #[arg(long, short)]
    all: bool,
}

/// Which sandboxes, and in which form.
#[derive(Debug, clap::Args)]
struct Selection {
    /// Only those with this label, as KEY or KEY=VALUE; with all of them where repeated
    #[arg(long = "label", short, value_name = "KEY[=VALUE]")]
    labels: Vec<LabelFilter>,
    /// Print names and nothing else
    #[arg(long, short, conflicts_with = "output")]
    quiet: bool,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// In which states sandboxes are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    WithMachine,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let Args { selection, all: _ } = args;
    list(selection, Scope::All, verbosity)
}

pub(crate) fn run_ps(args: &PsArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let scope = if args.all { Scope::All } else { Scope::WithMachine };
    list(&args.selection, scope, verbosity)
}

fn list(selection: &Selection, scope: Scope, verbosity: u8) -> Result<ExitCode, CommandError> {
    let mut sandboxes =
        with_daemon(verbosity, async |client| Ok(client.list(&selection.labels).await?))?;
    sandboxes.retain(|sandbox| scope == Scope::All || has_machine(sandbox));
    if selection.quiet {
        let names: String = sandboxes.iter().map(|sandbox| format!("{}\n", sandbox.name)).collect();
        output::text(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    match selection.output {
        Format::Json => output::json(&sandboxes)?,
        Format::Text => output::text(&table(&sandboxes, now()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether something of it runs on the host.
pub(super) fn has_machine(sandbox: &Sandbox) -> bool {
    ["starting", "running", "stopping", "pausing"].contains(&sandbox.state.as_str())
}

/// This moment.
pub(super) fn now() -> Timestamp {
    let wall: Duration = banger_host::clock::wall();
    Timestamp(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
}

fn table(sandboxes: &[Sandbox], now: Timestamp) -> String {
    let mut table = Table::new(["NAME", "ID", "STATE", "IMAGE", "AGE", "EXPIRES", "IDLE"]);
    for sandbox in sandboxes {
        let idle = sandbox.lifetime.idle_timeout;
        table.row([
            sandbox.name.to_string(),
            sandbox.id.to_string(),
            state(sandbox),
            sandbox.spec.image.to_string(),
            now.since(sandbox.created).to_string(),
            sandbox.expires.map(|at| in_time(at.since(now))).unwrap_or_default(),
            idle.map(|span| span.to_string()).unwrap_or_default(),
        ]);
    }
    table.render(&["EXPIRES", "IDLE"])
}

/// How far away something that is to come is.
pub(super) fn in_time(left: Span) -> String {
    if left == Span::default() { "now".to_owned() } else { format!("in {left}") }
}

/// The state, and what is not as it should be.
pub(super) fn state(sandbox: &Sandbox) -> String {
    let words: Vec<&str> = sandbox.conditions.iter().map(|c| condition(c.kind)).collect();
    match words.is_empty() {
        true => sandbox.state.clone(),
        false => format!("{} ({})", sandbox.state, words.join(", ")),
    }
}

fn condition(kind: ConditionKind) -> &'static str {
    match kind {
        ConditionKind::NetworkOffline => "host offline",
        ConditionKind::NetworkFailed => "no network",
        ConditionKind::HostDiskFull => "host disk full",
        ConditionKind::Unreachable => "does not answer",
        ConditionKind::Broken => "broken",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use banger_api::types::Condition;

    /// A sandbox as the daemon tells of it.
    pub(in crate::commands) fn sandbox(name: &str, state: &str) -> Sandbox {
        serde_json::from_value(serde_json::json!({
            "id": "0123456789ab", "name": name, "state": state, "since": 1000, "reason": null,
            "spec": {"image": "debian-bookworm", "kernel": "debian-cloud", "cpus": null,
                     "memory": 536_870_912, "disk": 8_589_934_592_u64, "network": "user"},
            "labels": {}, "created": 1000, "expires": null, "boots": 1, "conditions": [],
            "lifetime": {"ttl": null, "idle_timeout": null, "restart": "no",
                         "disposal": "keep", "lease": null},
        }))
        .unwrap()
    }

    #[test]
    fn a_list_shows_what_is_set_and_what_is_wrong() {
        let mut web = sandbox("web", "running");
        let plain = table(std::slice::from_ref(&web), Timestamp(62_000));
        assert_eq!(
            plain,
            "NAME  ID            STATE    IMAGE            AGE\n\
             web   0123456789ab  running  debian-bookworm  1m 1s\n"
        );
        web.expires = Some(Timestamp(122_000));
        web.lifetime.idle_timeout = Some(Span::from_secs(1800));
        let full = Condition { kind: ConditionKind::HostDiskFull, message: "full".into() };
        web.conditions = vec![full];
        let all = table(&[web, sandbox("a", "stopped")], Timestamp(62_000));
        assert_eq!(
            all,
            "NAME  ID            STATE                     IMAGE            AGE    EXPIRES  IDLE\n\
             web   0123456789ab  running (host disk full)  debian-bookworm  1m 1s  in 1m    30m\n\
             a     0123456789ab  stopped                   debian-bookworm  1m 1s\n"
        );
    }

    #[test]
    fn what_has_a_machine_is_what_runs() {
        for (state, runs) in [("running", true), ("stopping", true), ("stopped", false)] {
            assert_eq!(has_machine(&sandbox("a", state)), runs, "{state}");
        }
    }
}
