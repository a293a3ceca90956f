//! A system on trial that cannot even be judged: it is given up, with as little as that takes.

use banger_host::fs::read_text;
use banger_update::{CommandLine, SlotStatus};

use super::{Agent, AgentError, Reboot};
use crate::dns::Resolver;
use crate::http::Patience;
use crate::machine::{self, MAX_FACT};
use crate::settings::Settings;

/// Has the old system started if the one that runs is on trial, as the boot loader says; nothing else
/// is asked, and nothing is written down. The old system finds out from the boot loader.
///
/// # Errors
/// When the boot loader cannot be told, or the machine cannot be restarted. A machine that is
/// restarted has one trial less in any case.
pub fn give_up_undecided(settings: &Settings, reboot: Reboot) -> Result<(), AgentError> {
    let loader = Agent::new(settings.clone(), Patience::default(), Resolver::default()).loader();
    let booted = CommandLine::parse(&read_text(&settings.cmdline_file, MAX_FACT)?);
    let Some(slot) = booted.slot else { return Ok(()) };
    if !matches!(loader.view()?.status(slot), SlotStatus::Trial { .. }) {
        return Ok(());
    }
    let selected = loader.select(!slot);
    if reboot == Reboot::Now {
        machine::reboot()?;
    }
    Ok(selected?)
}
