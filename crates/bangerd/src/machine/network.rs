//! A sandbox's network without root: its programs, and how they end.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use banger_host::process::Process;
use banger_host::readiness::{self, Interest};
use banger_net::user::{Ended, StartNetError};
use banger_net::{NetBackend, RelayCommand, UserNet};
use banger_vmm::Record;

use super::HelperProgram;

/// How long a killed program of the network may take to be gone.
const NETWORK_KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How a sandbox is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// To its own network.
    Connected,
    /// Not at all, as was asked or because it was so when it was started.
    Absent,
    /// Not at all: the host itself has no way out.
    HostOffline,
    /// Not any more.
    Failed(Ended),
}

pub(super) fn start(
    plan: &UserNet,
    dir: &Path,
    relay: &HelperProgram,
) -> Result<(Option<NetBackend>, Network)> {
    let HelperProgram { program, args } = relay.clone();
    match NetBackend::start(plan, dir, &RelayCommand { program, args }) {
        Ok(net) => Ok((Some(net), Network::Connected)),
        Err(StartNetError::NoRoute) => Ok((None, Network::HostOffline)),
        Err(error) => Err(error.into()),
    }
}

/// Why the network of the running machine in `dir` has ended, if it has.
pub fn network_end(dir: &Path) -> Option<Ended> {
    let record = Record::read(dir).ok().flatten()?;
    banger_net::user::ended(&record.network, dir)
}

/// Blocks until a program of the network in `dir` ends, and ends the other.
pub fn wait_for_network_end(dir: &Path) -> Option<Ended> {
    let record = Record::read(dir).ok().flatten()?;
    let found = record.network.iter().filter_map(|identity| Process::find(identity).ok()?);
    let programs: Vec<_> = found.collect();
    let ends: Vec<_> =
        programs.iter().map(|program| (program.as_fd(), Interest::Reading)).collect();
    readiness::wait(&ends, None).ok()?;
    let ended = banger_net::user::ended(&record.network, dir);
    for program in &programs {
        // passt alone may spin without noticing; a network in half is of no use.
        let _ = program.kill(NETWORK_KILL_PATIENCE);
    }
    ended
}
