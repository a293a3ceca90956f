//! What this machine says of itself, and its end of a boot.

use std::path::Path;
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::fs::{is_there, read_bounded, read_text};
use banger_host::{HostError, facts};
use banger_model::Timestamp;
use banger_trust::{Clock, Freshness, Sha256Digest, Version, parse_time};
use banger_update::{BootLoader, CommandLine, Observed};
use thiserror::Error;

use crate::settings::Settings;

/// Longest file that a machine says something in.
pub(crate) const MAX_FACT: u64 = 64 * 1024;
/// No program of this source is older: 2026-11-01. A clock that stands before it is wrong.
const BUILT: Timestamp = Timestamp(1_793_491_200_000);
/// How long the service manager may take to begin.
const REBOOT_PATIENCE: Duration = Duration::from_secs(60);

/// How long what was written may take to reach the disk before that.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);

/// What a machine did not say.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A file.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What runs.
    #[error("{0} does not say which version runs: it should have a line VERSION_ID=1.2.3")]
    Version(String),
    /// Go's name of the processor is not known.
    #[error("there are no releases for this processor")]
    Architecture,
}

/// The version that runs.
///
/// # Errors
/// When it is not said.
pub fn running_version(file: &Path) -> Result<Version, MachineError> {
    let text = read_text(file, MAX_FACT)?;
    let bad = || MachineError::Version(file.display().to_string());
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    let version = line.unwrap_or(text.trim()).trim().trim_matches(['"', '\'']);
    version.parse().map_err(|_| bad())
}

/// Go's name of this processor.
///
/// # Errors
/// When there is none.
pub fn architecture() -> Result<&'static str, MachineError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        _ => Err(MachineError::Architecture),
    }
}

/// What tells this machine from others, as nobody can read it back; none if it has no id (machine-id(5)).
pub fn machine_id(file: &Path) -> Option<Sha256Digest> {
    let id = read_bounded(file, MAX_FACT).unwrap_or_default();
    let id = Some(id.trim_ascii()).filter(|id| !id.is_empty() && *id != b"uninitialized");
    id.map(Sha256Digest::of)
}

/// The time before which a document was not signed, as it says itself. The clock that it was believed
/// by proves nothing: one that is ahead would have releases expire for as long as it was ahead.
pub fn signed_after(release_date: &str, document: Freshness) -> Timestamp {
    let said = parse_time(release_date).ok();
    let makes_sense = |said: &Timestamp| document.expires.is_some_and(|expires| *said < expires);
    said.filter(makes_sense).unwrap_or_default()
}

/// The time to assume.
pub fn clock(last_good: Timestamp) -> Clock {
    Clock { built: BUILT, last_good }
}

/// The clock of the system.
pub fn system_time() -> Timestamp {
    Timestamp(u64::try_from(banger_host::clock::wall().as_millis()).unwrap_or(u64::MAX))
}

/// What can be seen of it.
///
/// # Errors
/// When it does not say which boot it is in, or what runs.
pub fn observe(settings: &Settings, loader: &dyn BootLoader) -> Result<Observed, MachineError> {
    let line = read_text(&settings.cmdline_file, MAX_FACT)?;
    Ok(Observed {
        booted: CommandLine::parse(&line),
        boot: loader.view().ok(),
        boot_id: facts::boot_id()?,
        running: running_version(&settings.version_file)?,
        forgotten: None,
    })
}

/// The clock of the system, if it has been set: one that stands before this program was made has not.
pub fn wall_time() -> Option<Timestamp> {
    Some(system_time()).filter(|now| *now >= BUILT)
}

/// Starts the machine again: by the service manager if there is one, else, or if that does not answer,
/// by the kernel. A machine that has to be left is not always one that answers.
///
/// # Errors
/// When both refuse.
pub fn reboot() -> Result<(), HostError> {
    let managed = is_there(Path::new("/run/systemd/system"));
    if managed && Tool::new("systemctl").arg("reboot").capture(REBOOT_PATIENCE).is_ok() {
        return Ok(());
    }
    // A disk that hangs must not keep the machine from it.
    let (tell, told) = std::sync::mpsc::channel();
    let sync = move || {
        rustix::fs::sync();
        let _ = tell.send(());
    };
    if std::thread::Builder::new().name("sync".to_owned()).spawn(sync).is_ok() {
        let _ = told.recv_timeout(SYNC_PATIENCE);
    }
    rustix::system::reboot(rustix::system::RebootCommand::Restart)
        .map_err(|error| HostError::system("restart the machine", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_either_kind_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("version");
        for (text, expected) in [
            ("NAME=\"KubeSolo OS\"\nVERSION_ID=\"1.4.0\"\n", Some("1.4.0")),
            ("VERSION_ID=v1.4.0-rc.1\n", Some("1.4.0-rc.1")),
            ("v1.4.0\n", Some("1.4.0")),
            ("", None),
            ("VERSION_ID=12\n", None),
        ] {
            banger_host::fs::write_atomic(&path, text.as_bytes()).unwrap();
            let found = running_version(&path).ok().map(|version| version.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn t17_only_what_was_signed_moves_the_assumed_time() {
        let expiring = |at| Freshness { serial: None, expires: Some(Timestamp(at)) };
        let day = parse_time("2027-01-31").unwrap();
        assert_eq!(signed_after("2027-01-31", expiring(day.0 + 1)), day);
        // Nothing, nonsense, a slip of the pen, and one that never expires.
        for (date, document) in [
            ("", expiring(u64::MAX)),
            ("soon", expiring(u64::MAX)),
            ("2027-01-31", expiring(day.0)),
            ("2027-01-31", Freshness::default()),
        ] {
            assert_eq!(signed_after(date, document), Timestamp(0), "{date}");
        }
    }

    #[test]
    fn a_machine_without_an_id_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        assert_eq!(machine_id(&path), None);
        for (text, known) in [("", false), ("uninitialized\n", false), ("0123\n", true)] {
            banger_host::fs::write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(machine_id(&path).is_some(), known, "{text}");
        }
    }

    #[test]
    fn t17_a_clock_before_this_program_is_not_believed() {
        assert_eq!(clock(Timestamp(0)).now(Timestamp(0)), BUILT);
        assert_eq!(banger_trust::show_time(BUILT), "2026-11-01T00:00:00Z");
    }
}
