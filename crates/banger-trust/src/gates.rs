//! The gates that a release passes before it is installed, in their order.
//!
//! 1. the maintenance window ([`window`]), before anything is asked of a server
//! 2. the signature of the manifest, by opening it ([`crate::Trust::open`])
//! 3. its age and the rollback floor
//! 4. the channel
//! 5. the architecture
//! 6. the version that has to run already
//! 7. the share of the rollout
//!
//! and, last, that this very release has not failed here before. [`judge`] is 3 and all that
//! follow. Each refusal is a value; whoever gets one has changed nothing yet.

use banger_model::Timestamp;
use thiserror::Error;

use crate::digest::Sha256Digest;
use crate::freshness::{SerialFloor, Stale};
use crate::key::KeySet;
use crate::manifest::{Channel, Manifest, Via};
use crate::rollout::RolloutSeed;
use crate::verified::Verified;
use crate::version::Version;
use crate::window::{Window, Zone};

/// What the gates need to know of a machine.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// What runs.
    pub running: &'a Version,
    /// The highest version that ever proved itself here.
    pub committed: Option<&'a Version>,
    /// What it follows.
    pub channel: &'a Channel,
    /// What it is, by Go's name.
    pub architecture: &'a str,
    /// What tells it from others; for the rollout alone.
    pub machine_id: &'a [u8],
    /// The releases that failed here, by their fingerprints.
    pub failed: &'a [Sha256Digest],
    /// What was seen of earlier manifests.
    pub serials: &'a SerialFloor,
    /// The keys that are trusted; without any, nothing is known of serials.
    pub keys: Option<&'a KeySet>,
    /// The time to assume.
    pub now: Timestamp,
}

/// How a manifest was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is the server's newest.
    Latest,
    /// A newer one that passed named it as a stepping stone: it vouches for its age.
    SteppingStone,
}

/// What follows for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs already.
    UpToDate,
    /// It may be installed.
    Install,
}

/// Whether the window may be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hours {
    /// No.
    Keep,
    /// The operator said so. This is all that `--force` does.
    Ignore,
}

/// Why a release is not installed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// It is not the time.
    #[error("the maintenance window {window} ({zone}) is closed: wait for it, or use --force")]
    WindowClosed {
        /// The window.
        window: Window,
        /// Where its hours are counted.
        zone: Zone,
    },
    /// It is not the newest.
    #[error("the release manifest is stale")]
    Stale(#[source] Stale),
    /// It is older than what ran here.
    #[error(
        "{offered} is older than {floor}, which ran here: releases are never rolled back by a server"
    )]
    Rollback {
        /// What was offered.
        offered: Version,
        /// The oldest that is acceptable.
        floor: Version,
    },
    /// It is for others.
    #[error("{offered} is of the channel {:?}, and this machine follows {:?}", channel.as_str(), follows.as_str())]
    Channel {
        /// What was offered.
        offered: Version,
        /// Its channel.
        channel: Channel,
        /// The machine's.
        follows: Channel,
    },
    /// It does not run here.
    #[error("{offered} is for {architecture}, and this machine is {machine}")]
    Architecture {
        /// What was offered.
        offered: Version,
        /// Its architecture.
        architecture: String,
        /// The machine's.
        machine: String,
    },
    /// Another release has to come first.
    #[error("blocked: {} needs {} or later, and {} runs", .0.offered, .0.needs, .0.running)]
    NeedsStep(Box<Step>),
    /// Others come first.
    #[error("{offered} is being rolled out, and it is not this machine's turn yet")]
    NotYet {
        /// What was offered.
        offered: Version,
    },
    /// It was tried.
    #[error(
        "{offered} failed on this machine before, and is not tried again: wait for another release"
    )]
    FailedBefore {
        /// What was offered.
        offered: Version,
    },
}

/// A release that another has to come before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was offered.
    pub offered: Version,
    /// What has to run.
    pub needs: Version,
    /// What runs.
    pub running: Version,
    /// What may be installed first, as far as the server names any that helps: the furthest last.
    pub via: Vec<Via>,
}

/// The first gate, and again the last thing before a machine is switched over.
///
/// # Errors
/// [`Refusal::WindowClosed`].
pub fn window(window: Window, zone: Zone, now: Timestamp, hours: Hours) -> Result<(), Refusal> {
    if hours == Hours::Ignore || window.is_open(now, zone) {
        Ok(())
    } else {
        Err(Refusal::WindowClosed { window, zone })
    }
}

/// Every gate that needs the manifest. There is no way to skip any of them.
///
/// # Errors
/// The first gate that is closed.
pub fn judge(
    manifest: &Verified<Manifest>,
    machine: &Machine<'_>,
    role: Role,
) -> Result<Verdict, Refusal> {
    judge_plain(manifest.get(), machine, role)
}

/// What [`judge`] would say if the manifest were signed, for machines without a key. Nothing can
/// be installed by it.
///
/// # Errors
/// The first gate that is closed.
pub fn preview(unverified: &Manifest, machine: &Machine<'_>) -> Result<Verdict, Refusal> {
    judge_plain(unverified, machine, Role::Latest)
}

fn judge_plain(release: &Manifest, machine: &Machine<'_>, role: Role) -> Result<Verdict, Refusal> {
    if role == Role::Latest
        && let Some(keys) = machine.keys
    {
        machine.serials.judge(keys, release.freshness, machine.now).map_err(Refusal::Stale)?;
    }
    let offered = || release.version.clone();
    let floor = machine.committed.map_or(machine.running, |known| known.max(machine.running));
    // A stepping stone lies between: what was once committed further on does not count for it, and
    // neither does it for the release that runs.
    let runs = release.version == *machine.running;
    let floor = if runs || role == Role::SteppingStone { machine.running } else { floor };
    if release.version < *floor {
        return Err(Refusal::Rollback { offered: offered(), floor: floor.clone() });
    }
    if let Some(channel) = release.channel.as_ref().filter(|channel| *channel != machine.channel) {
        return Err(Refusal::Channel {
            offered: offered(),
            channel: channel.clone(),
            follows: machine.channel.clone(),
        });
    }
    if let Some(architecture) =
        release.architecture.as_ref().filter(|name| *name != machine.architecture)
    {
        return Err(Refusal::Architecture {
            offered: offered(),
            architecture: architecture.clone(),
            machine: machine.architecture.to_owned(),
        });
    }
    // Not before: what is for others must not raise the floors of this machine.
    if runs {
        return Ok(Verdict::UpToDate);
    }
    steps(release, machine.running)?;
    turn(release, machine)?;
    if machine.failed.contains(&release.fingerprint()) {
        return Err(Refusal::FailedBefore { offered: offered() });
    }
    Ok(Verdict::Install)
}

fn steps(release: &Manifest, running: &Version) -> Result<(), Refusal> {
    let Some(needs) = release.min_compatible_version.as_ref().filter(|needs| running < *needs)
    else {
        return Ok(());
    };
    // Steps that lead towards the release. Whether one can be taken, its own manifest tells.
    let forward = |via: &&Via| via.version > *running && via.version < release.version;
    let mut via: Vec<Via> = release.via.iter().filter(forward).cloned().collect();
    via.sort_by(|a, b| a.version.cmp(&b.version));
    Err(Refusal::NeedsStep(Box::new(Step {
        offered: release.version.clone(),
        needs: needs.clone(),
        running: running.clone(),
        via,
    })))
}

fn turn(release: &Manifest, machine: &Machine<'_>) -> Result<(), Refusal> {
    let seed = RolloutSeed::new(machine.machine_id, &release.version);
    match &release.rollout {
        Some(rollout) if !rollout.admits(seed, machine.now) => {
            Err(Refusal::NotYet { offered: release.version.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
