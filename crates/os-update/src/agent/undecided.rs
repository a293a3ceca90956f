//! A system that cannot even be judged: if it is on trial it is given up, with as little as that
//! takes.

use std::time::Duration;

use banger_host::fs::{is_there, read_text};
use banger_trust::ArtifactName;
use banger_update::{CommandLine, Slot, SlotStatus};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Agent, AgentError, Reboot};
use crate::machine::MAX_FACT;

/// What systemd-boot leaves behind if it counted the boot (LoaderBootCountPath, Boot Loader
/// Interface).
const COUNTED_BOOT: &str =
    "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// What follows for a machine that has no verdict.
#[derive(Debug)]
enum Next {
    /// Nothing: what runs is not on trial, or there is nothing else that could run.
    GoOn,
    /// It starts again, whether or not the boot loader could be told.
    Restart(Result<(), AgentError>),
}

impl Agent {
    /// Has the old system started if the one that runs is on trial, as the boot loader says; nothing
    /// else is asked, and nothing is written down. The old system finds out from the boot loader.
    ///
    /// # Errors
    /// When the boot loader cannot be told, or the machine cannot be restarted. A machine that is
    /// restarted has one trial less in any case.
    pub async fn give_up_undecided(&self, reboot: Reboot) -> Result<(), AgentError> {
        let booted = CommandLine::parse(&read_text(&self.settings.cmdline_file, MAX_FACT)?);
        let Some(slot) = booted.slot else { return Ok(()) };
        let (agent, told) = (self.clone(), booted.clone());
        // The disk may be what there is no verdict for.
        let telling = spawn_blocking(move || agent.tell_undecided(&told, slot));
        let selected = match timeout(self.grace(), telling).await {
            Ok(Ok(Ok(Next::GoOn))) => return Ok(()),
            Ok(Ok(Ok(Next::Restart(selected)))) => selected,
            Ok(Ok(Err(error))) => return Err(error),
            Ok(Err(_)) | Err(_) if !is_counted(&booted, COUNTED_BOOT.as_ref()) => return Ok(()),
            Ok(Err(_)) | Err(_) => Ok(()),
        };
        if reboot == Reboot::Now {
            self.restart.carry_out()?;
        }
        selected
    }

    /// How much longer than it should something may take before it counts as hanging.
    pub(super) fn grace(&self) -> Duration {
        const LEAST: Duration = Duration::from_secs(15);
        const MOST: Duration = Duration::from_secs(60);
        (self.settings.health.deadline / 4).clamp(LEAST, MOST)
    }

    fn tell_undecided(&self, booted: &CommandLine, slot: Slot) -> Result<Next, AgentError> {
        let loader = self.loader();
        let other = !slot;
        let view = match loader.view() {
            Ok(view) => view,
            Err(error) if is_counted(booted, COUNTED_BOOT.as_ref()) => {
                return Ok(Next::Restart(Err(error.into())));
            }
            Err(error) => return Err(error.into()),
        };
        if view.status(slot) == SlotStatus::Good {
            return Ok(Next::GoOn);
        }
        // Where nothing else can be started, this one would be started again and again.
        let missing = |name| !is_there(&self.layout().file(other, name));
        if booted.fell_back_from(other) || ArtifactName::ALL.into_iter().any(missing) {
            return Ok(Next::GoOn);
        }
        let selected = loader.select(other);
        if selected.is_err() && !view.status(other).is_startable() {
            return Ok(selected.map(|()| Next::GoOn)?);
        }
        Ok(Next::Restart(selected.map_err(AgentError::from)))
    }
}

/// Whether this boot is one of a trial, by what the boot loader said when it began.
fn is_counted(booted: &CommandLine, counted_boot: &std::path::Path) -> bool {
    match booted.boot.as_deref() {
        Some(left) if left.parse::<u8>().is_ok() => true,
        Some(CommandLine::COUNTED) => is_there(counted_boot),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f11_a_boot_that_was_counted_is_known_without_the_boot_loader() {
        let dir = tempfile::tempdir().unwrap();
        let variable = dir.path().join("LoaderBootCountPath");
        let told = |boot: &str| {
            let booted =
                CommandLine::parse(&format!("quiet os_update.slot=b os_update.boot={boot}"));
            is_counted(&booted, &variable)
        };
        assert_eq!(["2", "0", "good", "rescue", ""].map(told), [true, true, false, false, false]);
        assert!(!told("counted"));
        banger_host::fs::write_atomic(&variable, b"").unwrap();
        assert!(told("counted"));
    }
}
