//! `banger vm show`: all about one sandbox.

use banger_api::types::{Sandbox, SandboxDetail};
use banger_model::{Bytes, Disposal, ExitCode, Timestamp};
use clap_complete::ArgValueCandidates;

use crate::commands::vm_list::{in_time, now, state};
use crate::commands::{completion, with_daemon};
use crate::error::CommandError;
use crate::output::{self, Format, shown};

/// Tell all about a sandbox
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm show web\n  banger vm show web -o json")]
pub(crate) struct Args {
    /// The sandbox: its name, its id or the beginning of its id
    #[arg(add = ArgValueCandidates::new(completion::sandboxes))]
    name: String,
    /// Print its name and nothing else
    #[arg(long, short, conflicts_with = "output")]
    quiet: bool,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let sandbox = with_daemon(verbosity, async |client| Ok(client.show(&args.name).await?))?;
    match args.output {
        _ if args.quiet => output::line(sandbox.name.as_str())?,
        Format::Json => output::json(&sandbox)?,
        Format::Text => output::text(&text(&sandbox, now()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(sandbox: &Sandbox, now: Timestamp) -> String {
    let ago = |at: Timestamp| format!("{} ago", now.since(at));
    let Sandbox { spec, lifetime, .. } = sandbox;
    let mut pairs = vec![
        ("name", sandbox.name.to_string()),
        ("id", sandbox.id.to_string()),
        ("state", state(sandbox)),
    ];
    pairs.extend(sandbox.since.map(|at| ("since", ago(at))));
    pairs.extend(sandbox.reason.as_ref().map(|reason| ("reason", shown(reason.as_bytes()))));
    if let Some(health) = &sandbox.health {
        let said = shown(health.output.trim().as_bytes());
        let said = if said.is_empty() { said } else { format!(": {said}") };
        pairs.push(("health", format!("{}{said}", health.status)));
    }
    for condition in &sandbox.conditions {
        pairs.push(("condition", shown(condition.message.as_bytes())));
    }
    pairs.push(("created", ago(sandbox.created)));
    pairs.extend(sandbox.expires.map(|at| ("expires", in_time(at.since(now)))));
    pairs.extend(lifetime.idle_timeout.map(|span| ("idle timeout", span.to_string())));
    pairs.push(("restart", lifetime.restart.to_string()));
    pairs.extend(sandbox.restart_at.map(|at| ("starts again", in_time(at.since(now)))));
    if lifetime.disposal == Disposal::Remove {
        pairs.push(("when stopped", "deleted".to_owned()));
    }
    for (key, value) in sandbox.labels.iter() {
        pairs.push(("label", format!("{key}={value}")));
    }
    pairs.extend([
        ("image", spec.image.to_string()),
        ("cpus", spec.cpus.map_or("default".to_owned(), |cpus| cpus.to_string())),
        ("memory", spec.memory.to_string()),
        ("network", spec.network.to_string()),
    ]);
    let kernel = sandbox.detail.as_ref().and_then(|detail| detail.kernel.as_ref());
    pairs.extend(kernel.or(spec.kernel.as_ref()).map(|kernel| ("kernel", kernel.to_string())));
    pairs.extend(spec.init.map(|init| ("init", init.to_string())));
    pairs.extend(spec.volumes.iter().map(|mount| ("volume", mount.to_string())));
    pairs.extend([("boots", sandbox.boots.to_string())]);
    match &sandbox.detail {
        Some(detail) => add_detail(&mut pairs, detail, sandbox),
        None => pairs.push(("disk", wanted_disk(sandbox))),
    }
    output::pairs(&pairs)
}

fn wanted_disk(sandbox: &Sandbox) -> String {
    let told = sandbox.detail.as_ref().and_then(|detail| detail.disk_size);
    told.or(sandbox.spec.disk).map_or("default".to_owned(), |disk| disk.to_string())
}

fn add_detail(pairs: &mut Vec<(&'static str, String)>, detail: &SandboxDetail, sandbox: &Sandbox) {
    pairs.push((
        "disk",
        match detail.disk {
            Some(disk) => {
                let (real, apparent) = (Bytes::new(disk.real), Bytes::new(disk.apparent));
                format!("{real} of {apparent}")
            }
            None => format!("{}, not made yet", wanted_disk(sandbox)),
        },
    ));
    pairs.push(("directory", shown(&detail.dir.0)));
    pairs.extend(detail.accelerator.clone().map(|accelerator| ("accelerator", accelerator)));
    pairs.extend(detail.template.as_ref().map(|template| ("template", template.to_string())));
    pairs.extend(detail.address.clone().map(|address| ("address", address)));
    pairs.extend(detail.vmm_pid.map(|pid| ("vmm", format!("process {pid}"))));
    pairs.extend(detail.boot_id.as_ref().map(|id| ("boot id", shown(id.as_bytes()))));
    for process in &detail.processes {
        let ended = process.status.map(|status| format!(", ended with {status}"));
        let program = shown(process.program.as_bytes());
        let line = format!("{program} (pid {}{})", process.pid, ended.unwrap_or_default());
        pairs.push(("process", line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::vm_list::tests::sandbox;
    use banger_api::types::{DiskUsage, GuestProcess, ProcessId};

    #[test]
    fn everything_that_is_known_is_told_in_plain_characters() {
        let mut web = sandbox("web", "stopped");
        web.reason = Some("it crashed \x1b[31m".into());
        web.restart_at = Some(Timestamp(64_000));
        web.detail = Some(SandboxDetail {
            kernel: Some("debian-cloud".parse().unwrap()),
            dir: "/home/me".into(),
            disk: Some(DiskUsage { apparent: 8 << 30, real: 3 << 20 }),
            vmm_pid: Some(7),
            address: None,
            accelerator: Some("kvm".into()),
            boot_id: None,
            disk_size: None,
            template: Some("0123456789abcdef".parse().unwrap()),
            processes: vec![GuestProcess {
                process: ProcessId(1),
                pid: 9,
                program: "sh".into(),
                status: Some(137),
            }],
        });
        let text = text(&web, Timestamp(62_000));
        for line in [
            "name:         web\n",
            "state:        stopped\n",
            "since:        1m 1s ago\n",
            "reason:       it crashed \\u{1b}[31m\n",
            "restart:      no\n",
            "starts again: in 2s\n",
            "disk:         3M of 8G\n",
            "template:     0123456789abcdef\n",
            "vmm:          process 7\n",
            "process:      sh (pid 9, ended with 137)\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("expires") && !text.contains("idle"), "{text}");
    }
}
