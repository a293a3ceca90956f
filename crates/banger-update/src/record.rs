//! What is remembered from one run to the next: one file, replaced as a whole.
//!
//! A file that is missing, torn or of a later form is a safe default: nothing is going on, and the
//! rollback floor is what runs. Nothing that it says makes anything bootable.

use std::path::{Path, PathBuf};

use banger_host::HostError;
use banger_model::Timestamp;
use banger_trust::{KeyId, SerialFloor, Sha256Digest, Version};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::files::Files;
use crate::slot::Slot;
use crate::state::{Attempt, Failure, Phase, ReleaseId, Return, State, Trial};

/// The form that this program writes.
const SCHEMA: u32 = 1;
/// Longest file: a few kilobytes, and reasons in sentences.
const MAX_LEN: u64 = 256 * 1024;
/// Releases that failed, the latest last.
const MAX_FAILED: usize = 32;
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 2000;
/// Most keys whose serials are kept.
const MAX_SERIALS: usize = 64;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What is going on.
    pub state: State,
    /// When that began.
    pub since: Timestamp,
    /// The boot in which that was last written down; none if nothing was.
    pub boot_id: Option<String>,
    /// The last thing that went wrong or was refused, in one sentence.
    pub last_error: Option<String>,
    /// When the server was last asked.
    pub last_check: Option<Timestamp>,
    /// The highest version that ever proved itself.
    pub committed: Option<Version>,
    /// Releases that failed here and are not tried again.
    pub failed: Vec<Sha256Digest>,
    /// What was seen of manifests.
    pub serials: SerialFloor,
    /// The latest time that a signed manifest made plausible.
    pub last_good: Timestamp,
    /// The key that signed what lies in the passive slot; none if nobody did.
    pub staged_by: Option<KeyId>,
}

impl Record {
    /// With one more release that failed.
    pub fn remember_failed(&mut self, fingerprint: Sha256Digest) {
        self.failed.retain(|known| *known != fingerprint);
        self.failed.push(fingerprint);
        let over = self.failed.len().saturating_sub(MAX_FAILED);
        self.failed.drain(..over);
    }

    /// Reads what a file at `path` holds. Pure.
    ///
    /// # Errors
    /// When it is of a later form, or makes no sense.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Form {
            schema: u32,
        }
        let nonsense = |problem: String| RecordError::Nonsense { path: path.to_owned(), problem };
        let form: Form =
            serde_json::from_slice(bytes).map_err(|error| nonsense(error.to_string()))?;
        if form.schema != SCHEMA {
            return Err(RecordError::Later { path: path.to_owned(), found: form.schema });
        }
        let raw: RawRecord =
            serde_json::from_slice(bytes).map_err(|error| nonsense(error.to_string()))?;
        Self::try_from(raw).map_err(|field| nonsense(format!("its {field} is none")))
    }

    /// What can be understood of a later form: the failed releases and the floors. Whatever cannot
    /// is left out alone.
    fn floors(bytes: &[u8]) -> Self {
        let json: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let failed = json["failed"].as_array().into_iter().flatten().filter_map(text);
        let serials = serde_json::from_value(json["serials"].clone()).unwrap_or_default();
        let raw = RawRecord {
            schema: SCHEMA,
            state: RawState::Idle,
            since: Timestamp(0),
            boot_id: None,
            last_error: None,
            last_check: None,
            committed: text(&json["committed"]).filter(|text| text.parse::<Version>().is_ok()),
            failed: failed.filter(|text| text.parse::<Sha256Digest>().is_ok()).collect(),
            serials,
            last_good: serde_json::from_value(json["last_good"].clone()).unwrap_or_default(),
            staged_by: None,
        };
        Self::try_from(raw).unwrap_or_default()
    }

    /// What its file holds.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&RawRecord::from(self)).unwrap_or_default()
    }

    /// With a release that proved itself.
    pub fn remember_committed(&mut self, version: &Version) {
        if self.committed.as_ref().is_none_or(|known| known < version) {
            self.committed = Some(version.clone());
        }
    }
}

/// Why the file does not count.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It cannot be read or written.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It is of a later form.
    #[error("{path} is of form {found}, and this program knows {SCHEMA}: it is left alone", path = path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// Its form.
        found: u32,
    },
    /// It makes no sense.
    #[error("{path} makes no sense: {problem}", path = path.display())]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What was found.
#[derive(Debug)]
pub enum ReadRecord {
    /// What was remembered.
    Known(Box<Record>),
    /// Nothing yet.
    Missing,
    /// One of a later form: of it, what keeps the machine from going backwards.
    Later(Box<Record>, RecordError),
    /// A file that does not count.
    Unusable(RecordError),
}

/// The file.
#[derive(Debug)]
pub struct RecordFile<'a, F> {
    files: &'a F,
    path: PathBuf,
}

impl<'a, F: Files> RecordFile<'a, F> {
    /// The one at this path, whose directory has to be there.
    pub fn new(files: &'a F, path: &Path) -> Self {
        Self { files, path: path.to_owned() }
    }

    /// What is in it. Never fails: what cannot be read does not count.
    pub fn read(&self) -> ReadRecord {
        match self.files.read(&self.path, MAX_LEN) {
            Ok(None) => ReadRecord::Missing,
            Ok(Some(bytes)) => match Record::decode(&bytes, &self.path) {
                Ok(record) => ReadRecord::Known(Box::new(record)),
                Err(error @ RecordError::Later { .. }) => {
                    ReadRecord::Later(Box::new(Record::floors(&bytes)), error)
                }
                Err(error) => ReadRecord::Unusable(error),
            },
            Err(error) => ReadRecord::Unusable(error.into()),
        }
    }

    /// Replaces it. When this returns, the disk has it.
    ///
    /// # Errors
    /// When it cannot be written; the old one then stands.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        replace(self.files, &self.path, &record.encode())?;
        Ok(())
    }
}

/// Replaces a file by one that was written aside and synced.
pub(crate) fn replace<F: Files>(files: &F, path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    let aside = path.with_extension("new");
    files.create(&aside)?;
    files.append(&aside, bytes)?;
    files.sync(&aside)?;
    files.rename(&aside, path)?;
    files.sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// The record as it is written. Its field names are a promise to later versions.
#[derive(Serialize, Deserialize)]
struct RawRecord {
    schema: u32,
    state: RawState,
    since: Timestamp,
    #[serde(default)]
    boot_id: Option<String>,
    last_error: Option<String>,
    last_check: Option<Timestamp>,
    committed: Option<String>,
    failed: Vec<String>,
    serials: Vec<(String, Option<u64>, bool)>,
    last_good: Timestamp,
    #[serde(default)]
    staged_by: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct RawRelease {
    version: String,
    fingerprint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "name")]
enum RawState {
    Idle,
    Checking,
    Available(RawRelease),
    Downloading(RawRelease),
    Verifying(RawRelease),
    Staging(RawRelease),
    Staged { release: RawRelease, slot: String },
    Trial { release: RawRelease, slot: String, nonce: String, boot_id: String },
    Committed { release: RawRelease, slot: String },
    Returning { given_up: RawRelease, reason: String, slot: String, nonce: String, boot_id: String },
    RolledBack { release: RawRelease, to: String, reason: String },
    Blocked { offered: String, needs: String },
    Failed { phase: String, error: String, retryable: bool },
}

impl From<&ReleaseId> for RawRelease {
    fn from(release: &ReleaseId) -> Self {
        Self { version: release.version.to_string(), fingerprint: release.fingerprint.to_string() }
    }
}

impl TryFrom<RawRelease> for ReleaseId {
    type Error = &'static str;

    fn try_from(raw: RawRelease) -> Result<Self, Self::Error> {
        Ok(Self {
            version: raw.version.parse().map_err(|_| "version")?,
            fingerprint: raw.fingerprint.parse().map_err(|_| "fingerprint")?,
        })
    }
}

impl From<&State> for RawState {
    fn from(state: &State) -> Self {
        let short = |text: &String| text.chars().take(MAX_REASON).collect::<String>();
        match state {
            State::Idle => Self::Idle,
            State::Checking => Self::Checking,
            State::Available(release) => Self::Available(release.into()),
            State::Downloading(release) => Self::Downloading(release.into()),
            State::Verifying(release) => Self::Verifying(release.into()),
            State::Staging(release) => Self::Staging(release.into()),
            State::Staged(release, slot) => {
                Self::Staged { release: release.into(), slot: slot.to_string() }
            }
            State::Trial(trial) => Self::Trial {
                release: (&trial.release).into(),
                slot: trial.attempt.slot.to_string(),
                nonce: trial.attempt.nonce.clone(),
                boot_id: trial.attempt.boot_id.clone(),
            },
            State::Committed(release, slot) => {
                Self::Committed { release: release.into(), slot: slot.to_string() }
            }
            State::Returning(back) => Self::Returning {
                given_up: (&back.given_up).into(),
                reason: short(&back.reason),
                slot: back.attempt.slot.to_string(),
                nonce: back.attempt.nonce.clone(),
                boot_id: back.attempt.boot_id.clone(),
            },
            State::RolledBack { release, to, reason } => Self::RolledBack {
                release: release.into(),
                to: to.to_string(),
                reason: short(reason),
            },
            State::Blocked { offered, needs } => {
                Self::Blocked { offered: offered.to_string(), needs: needs.to_string() }
            }
            State::Failed(failure) => Self::Failed {
                phase: failure.phase.as_str().to_owned(),
                error: short(&failure.error),
                retryable: failure.retryable,
            },
        }
    }
}

impl TryFrom<RawState> for State {
    type Error = &'static str;

    fn try_from(raw: RawState) -> Result<Self, Self::Error> {
        let slot = |text: String| text.parse::<Slot>().map_err(|_| "slot");
        let version = |text: String| text.parse::<Version>().map_err(|_| "version");
        Ok(match raw {
            RawState::Idle => Self::Idle,
            RawState::Checking => Self::Checking,
            RawState::Available(release) => Self::Available(release.try_into()?),
            RawState::Downloading(release) => Self::Downloading(release.try_into()?),
            RawState::Verifying(release) => Self::Verifying(release.try_into()?),
            RawState::Staging(release) => Self::Staging(release.try_into()?),
            RawState::Staged { release, slot: at } => Self::Staged(release.try_into()?, slot(at)?),
            RawState::Trial { release, slot: at, nonce, boot_id } => {
                let attempt = Attempt { slot: slot(at)?, nonce, boot_id };
                Self::Trial(Trial { release: release.try_into()?, attempt })
            }
            RawState::Committed { release, slot: at } => {
                Self::Committed(release.try_into()?, slot(at)?)
            }
            RawState::Returning { given_up, reason, slot: at, nonce, boot_id } => {
                let attempt = Attempt { slot: slot(at)?, nonce, boot_id };
                Self::Returning(Return { given_up: given_up.try_into()?, reason, attempt })
            }
            RawState::RolledBack { release, to, reason } => {
                Self::RolledBack { release: release.try_into()?, to: slot(to)?, reason }
            }
            RawState::Blocked { offered, needs } => {
                Self::Blocked { offered: version(offered)?, needs: version(needs)? }
            }
            RawState::Failed { phase, error, retryable } => {
                let phase = Phase::ALL.into_iter().find(|known| known.as_str() == phase);
                Self::Failed(Failure { phase: phase.ok_or("phase")?, error, retryable })
            }
        })
    }
}

impl From<&Record> for RawRecord {
    fn from(record: &Record) -> Self {
        let short = |text: &String| text.chars().take(MAX_REASON).collect();
        let serials = record.serials.entries();
        Self {
            schema: SCHEMA,
            state: (&record.state).into(),
            since: record.since,
            boot_id: record.boot_id.clone(),
            last_error: record.last_error.as_ref().map(short),
            last_check: record.last_check,
            committed: record.committed.as_ref().map(ToString::to_string),
            failed: record.failed.iter().map(ToString::to_string).collect(),
            serials: serials
                .take(MAX_SERIALS)
                .map(|(key, serial, expires)| (key.to_string(), serial, expires))
                .collect(),
            last_good: record.last_good,
            staged_by: record.staged_by.as_ref().map(ToString::to_string),
        }
    }
}

impl TryFrom<RawRecord> for Record {
    type Error = &'static str;

    fn try_from(raw: RawRecord) -> Result<Self, Self::Error> {
        let serials: Result<Vec<_>, &'static str> = raw
            .serials
            .into_iter()
            .take(MAX_SERIALS)
            .map(|(key, serial, expires)| Ok((KeyId::parse(&key).ok_or("key")?, serial, expires)))
            .collect();
        let committed = raw.committed.map(|text| text.parse::<Version>());
        let failed: Result<Vec<_>, _> =
            raw.failed.iter().take(MAX_FAILED).map(|text| text.parse()).collect();
        Ok(Self {
            state: raw.state.try_into()?,
            since: raw.since,
            boot_id: raw.boot_id,
            last_error: raw.last_error,
            last_check: raw.last_check,
            committed: committed.transpose().map_err(|_| "committed version")?,
            failed: failed.map_err(|_| "failed release")?,
            serials: SerialFloor::from_entries(serials?),
            last_good: raw.last_good,
            staged_by: raw.staged_by.as_deref().and_then(KeyId::parse),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "these tests damage files")]

    use super::*;
    use crate::files::HostFiles;
    use banger_trust::{Freshness, SecretKey, SignedBy};

    fn full(state: State) -> Record {
        let key = SecretKey::from_seed([1; 32]).public().id();
        let staged_by = Some(key.clone());
        let fresh = Freshness { serial: Some(u64::MAX), expires: Some(Timestamp(1)) };
        Record {
            state,
            since: Timestamp(5),
            boot_id: Some("boot".into()),
            last_error: Some("it \"failed\"\n".into()),
            last_check: Some(Timestamp(7)),
            committed: Some(Version::new(1, 2, 3)),
            failed: vec![Sha256Digest::of(b"x")],
            serials: SerialFloor::default().raised(&SignedBy::Key(key), fresh),
            last_good: Timestamp(9),
            staged_by,
        }
    }

    #[test]
    fn every_state_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::new(&HostFiles, &dir.path().join("state.json"));
        assert!(matches!(file.read(), ReadRecord::Missing));
        for state in crate::state::samples() {
            let record = full(state);
            file.write(&record).unwrap();
            let ReadRecord::Known(read) = file.read() else { panic!("{:?}", file.read()) };
            assert_eq!(*read, record);
        }
        assert_eq!(HostFiles.list(dir.path()).unwrap(), ["state.json"]);
    }

    #[test]
    fn f14_a_torn_or_later_file_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let file = RecordFile::new(&HostFiles, &path);
        file.write(&full(State::Idle)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(file.read(), ReadRecord::Unusable(_)), "{len} bytes");
        }
        let later = String::from_utf8(whole).unwrap().replace("\"schema\": 1", "\"schema\": 2");
        std::fs::write(&path, later).unwrap();
        let ReadRecord::Later(floors, error) = file.read() else { panic!("it counts") };
        assert!(matches!(error, RecordError::Later { found: 2, .. }), "{error}");
        // F13: what failed here does not come back because a later version wrote that down.
        let Record { committed, failed, serials, last_good, .. } = full(State::Idle);
        let expected = Record { committed, failed, serials, last_good, ..Record::default() };
        assert_eq!(*floors, expected);
        let strange = r#"{"schema": 3, "failed": [7, "x"], "serials": {}, "last_good": "soon"}"#;
        std::fs::write(&path, strange).unwrap();
        let ReadRecord::Later(floors, _) = file.read() else { panic!("it counts") };
        assert_eq!(*floors, Record::default());
    }

    #[test]
    fn only_the_latest_failures_are_remembered() {
        let mut record = Record::default();
        let fingerprint = |i: usize| Sha256Digest::of(&i.to_be_bytes());
        (0..40).for_each(|i| record.remember_failed(fingerprint(i)));
        record.remember_failed(fingerprint(20));
        assert_eq!(record.failed.len(), MAX_FAILED);
        assert_eq!(record.failed.last(), Some(&fingerprint(20)));
        assert!(!record.failed.contains(&fingerprint(7)));
        record.remember_committed(&Version::new(2, 0, 0));
        record.remember_committed(&Version::new(1, 0, 0));
        assert_eq!(record.committed, Some(Version::new(2, 0, 0)));
    }
}
