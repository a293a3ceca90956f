//! Whether a system that was just booted is as it should be.
//!
//! Each check says what is wrong, or nothing. All of them are asked again until all are satisfied,
//! or the deadline has come.

use std::path::Path;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::command::Tool;
use banger_host::fs::{free_space, read_text, remove_all, write_atomic};
use banger_trust::Version;
use banger_update::{Attempt, Slot, State};
use tokio::time::timeout;

use crate::dns::Resolver;
use crate::http::{Client, Patience};
use crate::settings::{Health, Network};
use crate::url::{Rules, Url};

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(2);
/// What the first round of all checks has, however short the deadline is.
const LEAST: Duration = Duration::from_secs(2);
/// How long one check may take.
const CHECK_PATIENCE: Duration = Duration::from_secs(30);
/// A disk with less than this is full.
const MIN_FREE: u64 = 1024 * 1024;
/// Longest list of routes.
const MAX_ROUTES: u64 = 1024 * 1024;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub check: String,
    /// What is wrong, in one sentence; none if all is well.
    pub problem: Option<String>,
}

/// What should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Where, and how it is known.
    pub attempt: Attempt,
    /// Its version, if anybody knows it.
    pub version: Option<Version>,
}

impl Expected {
    /// By what is remembered, if anything has to prove itself.
    pub fn of(state: &State) -> Option<Self> {
        let version = match state {
            State::Trial(trial) => Some(trial.release.version.clone()),
            _ => None,
        };
        Some(Self { attempt: state.attempt()?.clone(), version })
    }
}

/// What runs, as it is seen.
#[derive(Clone, Debug)]
pub struct Running<'a> {
    /// The slot that was booted.
    pub slot: Option<Slot>,
    /// What the boot loader passed on.
    pub nonce: Option<&'a str>,
    /// What runs.
    pub version: &'a Version,
}

/// Checks once.
pub async fn once(
    health: &Health,
    expected: Option<&Expected>,
    running: &Running<'_>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(Expected { attempt, version: expected }) = expected {
        findings.push(finding("slot", slot(attempt, running)));
        if let Some(expected) = expected {
            findings.push(finding("version", version(expected, running)));
        }
    }
    if health.network == Network::Needed {
        findings.push(finding("network", network(Path::new("/proc/net/route"))));
    }
    if let Some(dir) = &health.disk {
        let dir = dir.clone();
        findings.push(finding("disk", beside(move || disk(&dir)).await));
    }
    for unit in &health.units {
        let name = unit.clone();
        let outcome = beside(move || is_active(&name)).await;
        findings.push(finding(&format!("unit {unit}"), outcome));
    }
    for url in &health.http {
        let outcome = answers(url, health.ca_file.as_deref()).await;
        findings.push(finding(&format!("http {url}"), outcome));
    }
    if let Some(command) = health.command.clone() {
        let run = move || Tool::new(command).capture(CHECK_PATIENCE).map(drop).map_err(chain);
        findings.push(finding("command", beside(run).await));
    }
    findings
}

/// A check that waits for other programs or for a disk, in a thread of its own: should it never end, its caller
/// does not wait for it for ever.
async fn beside(check: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    tokio::task::spawn_blocking(check).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Checks until all is well, or the deadline has come; then what is still wrong.
pub async fn until_well(
    health: &Health,
    expected: Option<&Expected>,
    running: &Running<'_>,
    deadline: Deadline,
) -> Vec<Finding> {
    loop {
        let round = timeout(deadline.left().max(LEAST), once(health, expected, running)).await;
        let Ok(findings) = round else {
            let after = health.deadline.as_secs();
            let problem = format!("the checks had no end within {after} s");
            return vec![finding("deadline", Err(problem))];
        };
        let well = findings.iter().all(|finding| finding.problem.is_none());
        if well || deadline.passed() || is_final(&findings) {
            return findings;
        }
        tokio::time::sleep(PAUSE.min(deadline.left())).await;
    }
}

/// Another slot or version than the expected one does not change by waiting.
fn is_final(findings: &[Finding]) -> bool {
    findings.iter().any(|f| matches!(f.check.as_str(), "slot" | "version") && f.problem.is_some())
}

fn finding(check: &str, outcome: Result<(), String>) -> Finding {
    Finding { check: check.to_owned(), problem: outcome.err() }
}

fn slot(attempt: &Attempt, running: &Running<'_>) -> Result<(), String> {
    if running.slot != Some(attempt.slot) {
        return Err(format!("slot {} should run, and does not", attempt.slot));
    }
    if running.nonce != Some(attempt.nonce.as_str()) {
        return Err("the boot loader did not pass on what it was told".to_owned());
    }
    Ok(())
}

fn version(expected: &Version, running: &Running<'_>) -> Result<(), String> {
    if running.version == expected {
        Ok(())
    } else {
        Err(format!("{} runs, and {expected} was installed", running.version))
    }
}

/// Whether there is a default route: destination and mask are zero (proc_net_route).
fn network(routes: &Path) -> Result<(), String> {
    let text = read_text(routes, MAX_ROUTES).map_err(chain)?;
    let is_default = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (destination, mask) = (fields.next(), fields.nth(5));
        destination == Some("00000000") && mask == Some("00000000")
    };
    let found = text.lines().skip(1).any(is_default);
    if found { Ok(()) } else { Err("there is no default route".to_owned()) }
}

fn disk(dir: &Path) -> Result<(), String> {
    let free = free_space(dir).map_err(chain)?.get();
    if free < MIN_FREE {
        return Err(format!("{} is full", dir.display()));
    }
    let probe = dir.join(".os-update-health");
    let written = write_atomic(&probe, b"written by os-update healthcheck\n");
    written.and_then(|()| remove_all(&probe)).map_err(chain)
}

fn is_active(unit: &str) -> Result<(), String> {
    let args = ["is-active", "--quiet", "--", unit];
    let outcome = Tool::new("systemctl").args(args).capture(CHECK_PATIENCE);
    outcome.map(drop).map_err(|_| "it is not active".to_owned())
}

async fn answers(url: &Url, ca_file: Option<&Path>) -> Result<(), String> {
    let patience =
        Patience { connect: CHECK_PATIENCE, idle: CHECK_PATIENCE, ..Patience::default() };
    let client = Client::new(ca_file, Resolver::default(), patience).map_err(chain)?;
    let answer = client.get(url, &Rules::new(url, &[]), &[]).await.map_err(chain)?;
    if answer.status.is_success() { Ok(()) } else { Err(format!("it answers {}", answer.status)) }
}

/// An error with its causes, in one line.
pub fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn expected() -> Expected {
        let attempt = Attempt { slot: Slot::B, nonce: "n2".into(), boot_id: "before".into() };
        Expected { attempt, version: Some(Version::new(2, 0, 0)) }
    }

    fn health() -> Health {
        Health {
            deadline: Duration::ZERO,
            network: Network::NotNeeded,
            disk: None,
            units: vec![],
            http: vec![],
            command: None,
            ca_file: None,
        }
    }

    fn now() -> Deadline {
        Deadline::after(Duration::ZERO)
    }

    fn problems(findings: &[Finding]) -> Vec<&str> {
        findings.iter().filter(|f| f.problem.is_some()).map(|f| f.check.as_str()).collect()
    }

    #[tokio::test]
    async fn t13_another_slot_nonce_or_version_than_expected_is_not_well() {
        let (right, wrong) = (Version::new(2, 0, 0), Version::new(1, 0, 0));
        let check = async |slot, nonce, version: &Version| {
            let running = Running { slot, nonce: Some(nonce), version };
            let findings = until_well(&health(), Some(&expected()), &running, now()).await;
            problems(&findings).join(" ")
        };
        assert_eq!(check(Some(Slot::B), "n2", &right).await, "");
        assert_eq!(check(Some(Slot::A), "n2", &right).await, "slot");
        assert_eq!(check(Some(Slot::B), "n1", &right).await, "slot");
        assert_eq!(check(None, "n2", &wrong).await, "slot version");
    }

    #[tokio::test]
    async fn what_was_configured_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let mut wanted = Health { disk: Some(dir.path().into()), ..health() };
        wanted.command = Some("/bin/true".into());
        let version = Version::new(1, 0, 0);
        let running = Running { slot: None, nonce: None, version: &version };
        let findings = once(&wanted, None, &running).await;
        assert_eq!((findings.len(), problems(&findings).len()), (2, 0), "{findings:?}");
        wanted.command = Some("/bin/false".into());
        wanted.disk = Some(dir.path().join("missing"));
        wanted.http = vec![Url::parse("http://127.0.0.1:1/").unwrap()];
        let findings = until_well(&wanted, None, &running, now()).await;
        assert_eq!(problems(&findings), ["disk", "http http://127.0.0.1:1/", "command"]);
    }

    #[tokio::test]
    async fn f11_a_check_that_never_ends_is_a_problem_after_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let command = dir.path().join("hangs");
        // Its child holds what the check waits for.
        banger_host::fs::write_atomic(&command, b"#!/bin/sh\nsleep 4 &\n").unwrap();
        std::fs::set_permissions(&command, PermissionsExt::from_mode(0o700)).unwrap();
        let wanted = Health { command: Some(command), ..health() };
        let version = Version::new(1, 0, 0);
        let running = Running { slot: None, nonce: None, version: &version };
        let begun = Deadline::after(Duration::from_millis(3500));
        let findings = until_well(&wanted, None, &running, now()).await;
        assert_eq!(problems(&findings), ["deadline"]);
        assert!(!begun.passed());
    }

    #[test]
    fn a_default_route_is_a_network() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("route");
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n";
        let put = |row: &str| write_atomic(&path, format!("{head}{row}").as_bytes()).unwrap();
        put("eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n");
        assert!(network(&path).is_err());
        put("eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\n");
        assert_eq!(network(&path), Ok(()));
    }
}
