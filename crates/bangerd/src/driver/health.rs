//! The check that an image brings along, run in its sandbox again and again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use banger_api::types::{self, Health, HealthStatus};
use banger_host::home::Home;
use banger_host::random;
use banger_image::oci::HealthCheck;
use banger_image::{Image, ImageConfig};
use banger_link::{Command, ProcessId, Request, SignalScope};
use banger_model::ProcessEnd;
use tokio::time::{Instant, timeout};

use crate::exec;
use crate::link::{Link, LinkState, Program};
use crate::machine::base::image_of;
use crate::operations::now;

/// Most of what a check says that is kept, in bytes: as Docker keeps.
const MAX_OUTPUT: usize = 4096;

/// The number of the signal that ends a check which takes too long (signal(7), `SIGKILL`).
const KILL: u8 = 9;

/// How long that may take.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// What the upper half of a check's process id says: nobody outside has started it.
const MARK: u64 = 0x6368_6563 << 32;

/// Whether a process is a check.
pub(super) fn is_check(process: ProcessId) -> bool {
    process.0 & (u64::from(u32::MAX) << 32) == MARK
}

/// A check, and what it is run with.
#[derive(Debug)]
pub(super) struct Check {
    check: HealthCheck,
    command: Command,
}

/// How one check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Good(String),
    Bad(String),
}

/// What is known of a sandbox that nobody has checked.
pub(super) fn unknown() -> Health {
    Health { status: HealthStatus::Starting, failures: 0, checked: None, output: String::new() }
}

/// What is known after one more check, so long after the start.
pub(super) fn after(
    before: &Health,
    outcome: Outcome,
    (check, up): (&HealthCheck, Duration),
) -> Health {
    let (status, failures, output) = match outcome {
        Outcome::Good(output) => (HealthStatus::Healthy, 0, output),
        // It may take so long to come up.
        Outcome::Bad(output)
            if before.status == HealthStatus::Starting && up < check.start_period =>
        {
            (HealthStatus::Starting, 0, output)
        }
        Outcome::Bad(output) => {
            let failures = before.failures.saturating_add(1);
            let enough = failures >= check.retries;
            (if enough { HealthStatus::Unhealthy } else { before.status }, failures, output)
        }
    };
    Health { status, failures, checked: Some(now()), output }
}

impl Check {
    /// The check of the image that the sandbox in this directory is made of. It reads files.
    ///
    /// # Errors
    /// When the image cannot be read, or its check makes no command.
    pub(super) fn of(home: &Home, dir: &Path) -> Result<Option<Self>> {
        let Some(id) = image_of(dir)? else { return Ok(None) };
        let image = Image::open_stored(home, &id)?;
        Self::of_image(image.config())
    }

    fn of_image(config: &ImageConfig) -> Result<Option<Self>> {
        let Some(check) = config.health_check.clone() else { return Ok(None) };
        let argv = check.argv.iter().map(|word| types::Text::from(word.as_str())).collect();
        let wanted = types::Command { argv, ..types::Command::default() };
        let program = exec::program(types::StartProcess::Command(wanted), config)?;
        let Program::Command(command) = program else { bail!("a check is a command") };
        Ok(Some(Self { check, command }))
    }

    /// What is known after the next check, when that is due; the machine came up at `begin`. None
    /// when the link is gone.
    pub(super) async fn next(
        &self,
        link: &Link,
        before: &Health,
        begin: Instant,
    ) -> Option<Health> {
        tokio::time::sleep(self.check.interval).await;
        let outcome = self.once(link).await?;
        Some(after(before, outcome, (&self.check, begin.elapsed())))
    }

    /// None when the link is gone.
    async fn once(&self, link: &Link) -> Option<Outcome> {
        match self.try_once(link).await {
            Ok(outcome) => Some(outcome),
            Err(_) if matches!(&*link.watch().borrow(), LinkState::Down(_)) => None,
            Err(error) => Some(Outcome::Bad(format!("{error:#}"))),
        }
    }

    async fn try_once(&self, link: &Link) -> Result<Outcome> {
        let random = u32::from_ne_bytes(random::bytes()?);
        let id = ProcessId(MARK | u64::from(random));
        let mut process = link.start_as(id, Program::Command(self.command.clone())).await?;
        let mut said = Vec::new();
        let ended = timeout(self.check.timeout, process.finish(&mut said, MAX_OUTPUT)).await;
        let end = match ended {
            Ok(end) => Some(end?),
            Err(_) => {
                let scope = SignalScope::Tree;
                let kill = Request::Signal { process: process.id(), signal: KILL, scope };
                link.request(kill).await?;
                timeout(KILL_PATIENCE, process.finish(&mut said, MAX_OUTPUT))
                    .await
                    .context("a check does not end")??;
                None
            }
        };
        process.release().await?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok(match end {
            Some(ProcessEnd::Exited(0)) => Outcome::Good(said),
            Some(_) => Outcome::Bad(said),
            None => Outcome::Bad(format!("no answer within {} s", self.check.timeout.as_secs())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_unhealthy_when_its_check_has_failed_often_enough() {
        let check = HealthCheck {
            argv: vec!["x".to_owned()],
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::from_secs(10),
            retries: 2,
        };
        let at = |up| (&check, Duration::from_secs(up));
        let bad = || Outcome::Bad("no".to_owned());
        let health = after(&unknown(), bad(), at(9));
        assert_eq!((health.status, health.failures), (HealthStatus::Starting, 0));
        let once = after(&health, bad(), at(11));
        assert_eq!((once.status, once.failures), (HealthStatus::Starting, 1));
        let twice = after(&once, bad(), at(12));
        assert_eq!((twice.status, twice.failures), (HealthStatus::Unhealthy, 2));
        let good = after(&twice, Outcome::Good("yes".to_owned()), at(13));
        assert_eq!((good.status, good.failures, &*good.output), (HealthStatus::Healthy, 0, "yes"));
        // Once it was up, the time that it may take to come up is over.
        let again = after(&after(&good, bad(), at(1)), bad(), at(2));
        assert_eq!(again.status, HealthStatus::Unhealthy);
    }
}
