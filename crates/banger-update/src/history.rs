//! The last things that happened, for people; and where the state is lost, the verdicts among them
//! are what is left of it.

use std::path::{Path, PathBuf};

use banger_host::HostError;
use banger_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::record::{Record, replace};
use crate::state::{ReleaseId, State};

/// So many are kept.
pub const MAX_ENTRIES: usize = 100;
/// So many of these are verdicts, at most, if there is more.
const MAX_VERDICTS: usize = 40;
/// Longest file.
const MAX_LEN: u64 = 512 * 1024;
/// Longest sentence, in characters.
const MAX_TEXT: usize = 1000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in milliseconds since 1970.
    pub time: Timestamp,
    /// The state that followed.
    pub state: String,
    /// The release that it was about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What tells its files from others, if this is a verdict on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What happened, in one sentence.
    pub text: String,
}

impl Entry {
    /// That this state began.
    pub fn of(state: &State, time: Timestamp) -> Self {
        let judged = matches!(state, State::Committed(..) | State::RolledBack { .. });
        let release = state.release();
        Self {
            time,
            state: state.name().to_owned(),
            version: release.map(|release| release.version.to_string()),
            fingerprint: release.filter(|_| judged).map(|known| known.fingerprint.to_string()),
            text: state.to_string(),
        }
    }

    /// The release that it is a verdict on.
    fn judged(&self) -> Option<ReleaseId> {
        let (version, fingerprint) = (self.version.as_ref()?, self.fingerprint.as_ref()?);
        Some(ReleaseId { version: version.parse().ok()?, fingerprint: fingerprint.parse().ok()? })
    }
}

/// The file. What cannot be read of it is forgotten.
#[derive(Debug)]
pub struct History<'a, F> {
    files: &'a F,
    path: PathBuf,
}

impl<'a, F: Files> History<'a, F> {
    /// The one at this path, whose directory has to be there.
    pub fn new(files: &'a F, path: &Path) -> Self {
        Self { files, path: path.to_owned() }
    }

    /// What is remembered, the oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        let bytes = self.files.read(&self.path, MAX_LEN).ok().flatten().unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// One more.
    ///
    /// # Errors
    /// When it cannot be written; the old ones then stand.
    pub fn add(&self, mut entry: Entry) -> Result<(), HostError> {
        entry.text = entry.text.chars().take(MAX_TEXT).collect();
        let mut entries = self.entries();
        entries.push(entry);
        while entries.len() > MAX_ENTRIES {
            entries.remove(least_wanted(&entries));
        }
        let bytes = serde_json::to_vec(&entries).unwrap_or_default();
        replace(self.files, &self.path, &bytes)
    }
}

/// The oldest of those that are no verdict; of the verdicts, if there are too many of them.
fn least_wanted(entries: &[Entry]) -> usize {
    let is_verdict = |entry: &Entry| entry.fingerprint.is_some();
    let too_many = entries.iter().filter(|entry| is_verdict(entry)).count() > MAX_VERDICTS;
    entries.iter().position(|entry| is_verdict(entry) == too_many).unwrap_or(0)
}

/// What is known of releases by the verdicts on them: those that failed, and the highest that proved
/// itself.
pub(crate) fn recall(record: &mut Record, entries: &[Entry]) {
    for entry in entries {
        let Some(release) = entry.judged() else { continue };
        if entry.state == "Committed" {
            record.remember_committed(&release.version);
            record.failed.retain(|known| *known != release.fingerprint);
        } else {
            record.remember_failed(release.fingerprint);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "these tests damage files")]

    use super::*;
    use crate::files::HostFiles;
    use crate::slot::Slot;
    use banger_trust::{Sha256Digest, Version};

    #[test]
    fn the_last_hundred_are_kept_and_a_torn_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.json");
        let history = History::new(&HostFiles, &path);
        let entry = |time| Entry {
            time: Timestamp(time),
            state: "Idle".into(),
            version: None,
            fingerprint: None,
            text: "é".repeat(2000),
        };
        (0..103).for_each(|time| history.add(entry(time)).unwrap());
        let entries = history.entries();
        assert_eq!((entries.len(), entries[0].time), (MAX_ENTRIES, Timestamp(3)));
        assert_eq!(entries[0].text.chars().count(), MAX_TEXT);
        std::fs::write(&path, "[{").unwrap();
        history.add(entry(1)).unwrap();
        assert_eq!(history.entries().len(), 1);
    }

    #[test]
    fn f13_verdicts_outlive_what_is_no_verdict_and_tell_what_failed() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(&HostFiles, &dir.path().join("history.json"));
        let release = |number: u64| ReleaseId {
            version: Version::new(2, 0, number),
            fingerprint: Sha256Digest::of(&number.to_be_bytes()),
        };
        let (to, reason) = (Slot::A, String::new());
        let add = |state: &State| history.add(Entry::of(state, Timestamp(1))).unwrap();
        add(&State::RolledBack { release: release(1), to, reason: reason.clone() });
        add(&State::RolledBack { release: release(2), to, reason });
        add(&State::Committed(release(2), Slot::B));
        (0..200).for_each(|_| add(&State::Checking));
        let entries = history.entries();
        assert_eq!(entries.len(), MAX_ENTRIES);
        let mut record = Record::default();
        recall(&mut record, &entries);
        assert_eq!(record.failed, [release(1).fingerprint], "the other one proved itself later");
        assert_eq!(record.committed, Some(release(2).version));
        (0..200).for_each(|number| add(&State::Committed(release(number), Slot::B)));
        add(&State::Idle);
        let entries = history.entries();
        let verdicts = entries.iter().filter(|entry| entry.fingerprint.is_some()).count();
        assert_eq!((entries.len(), verdicts), (MAX_ENTRIES, MAX_VERDICTS));
        assert_eq!(entries.last().map(|entry| entry.state.as_str()), Some("Idle"));
    }
}
