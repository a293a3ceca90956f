//! What is remembered, as its file has it. Field names are a promise to later versions.

use banger_model::Timestamp;
use banger_trust::{KeyId, SerialFloor, Sha256Digest, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::record::{MAX_FAILED, Record};
use crate::slot::Slot;
use crate::state::{Attempt, Failure, Phase, ReleaseId, Return, State, Trial};

/// The form that this program writes.
pub(crate) const SCHEMA: u32 = 1;
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 2000;
/// Most keys whose serials are kept.
const MAX_SERIALS: usize = 64;

/// The record as it is written.
#[derive(Serialize, Deserialize)]
pub(crate) struct RawRecord {
    schema: u32,
    state: RawState,
    since: Timestamp,
    #[serde(default)]
    boot_id: Option<String>,
    last_error: Option<String>,
    last_check: Option<Timestamp>,
    committed: Option<String>,
    /// Each entry of these lists counts for itself: one that makes no sense costs no other.
    failed: Vec<Value>,
    serials: Vec<Value>,
    last_good: Timestamp,
    #[serde(default)]
    staged_by: Option<String>,
    #[serde(default)]
    place: Option<String>,
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
            failed: record.failed.iter().map(|failed| failed.to_string().into()).collect(),
            serials: serials
                .take(MAX_SERIALS)
                .map(|(key, serial, expires)| json!([key.to_string(), serial, expires]))
                .collect(),
            last_good: record.last_good,
            staged_by: record.staged_by.as_ref().map(ToString::to_string),
            place: record.place.as_ref().map(ToString::to_string),
        }
    }
}

/// The releases of a list that are some.
fn failed_releases(entries: &[Value]) -> Vec<Sha256Digest> {
    let known = entries.iter().filter_map(|entry| entry.as_str()?.parse().ok());
    known.take(MAX_FAILED).collect()
}

/// The floors of a list that make sense.
fn serial_floors(entries: &[Value]) -> SerialFloor {
    let known = entries.iter().filter_map(|entry| {
        let (key, serial, expires) = Deserialize::deserialize(entry).ok()?;
        let key: String = key;
        Some((KeyId::parse(&key)?, serial, expires))
    });
    SerialFloor::from_entries(known.take(MAX_SERIALS))
}

/// What can be understood of another form, or of one that makes no sense as a whole: what keeps the
/// machine from going backwards. Whatever cannot is left out alone.
pub(crate) fn floors(bytes: &[u8]) -> Record {
    let json: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
    Record {
        committed: json["committed"].as_str().and_then(|text| text.parse().ok()),
        failed: failed_releases(&list("failed")),
        serials: serial_floors(&list("serials")),
        last_good: Timestamp::deserialize(&json["last_good"]).unwrap_or_default(),
        ..Record::default()
    }
}

impl TryFrom<RawRecord> for Record {
    type Error = &'static str;

    fn try_from(raw: RawRecord) -> Result<Self, Self::Error> {
        let committed = raw.committed.map(|text| text.parse::<Version>());
        Ok(Self {
            state: raw.state.try_into()?,
            since: raw.since,
            boot_id: raw.boot_id,
            last_error: raw.last_error,
            last_check: raw.last_check,
            committed: committed.transpose().map_err(|_| "committed version")?,
            failed: failed_releases(&raw.failed),
            serials: serial_floors(&raw.serials),
            last_good: raw.last_good,
            staged_by: raw.staged_by.as_deref().and_then(KeyId::parse),
            place: raw.place.and_then(|text| text.parse().ok()),
        })
    }
}
