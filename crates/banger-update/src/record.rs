//! What is remembered from one run to the next: one file, replaced as a whole.
//!
//! A file that is missing, torn or of a later form is a safe default: nothing is going on. What keeps
//! the machine from going backwards is taken from it as far as it can be read, and from the history.
//! Nothing that it says makes anything bootable.

use std::path::{Path, PathBuf};

use banger_host::HostError;
use banger_model::Timestamp;
use banger_trust::{KeyId, SerialFloor, Sha256Digest, Version};
use serde::Deserialize;
use thiserror::Error;

use crate::files::Files;
use crate::record_form::{RawRecord, SCHEMA, floors};
use crate::state::State;

/// Longest file: a few kilobytes, and reasons in sentences.
const MAX_LEN: u64 = 256 * 1024;
/// Releases that failed, the latest last.
pub(crate) const MAX_FAILED: usize = 32;

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
    /// This machine's place in a rollout, where it has no id.
    pub place: Option<Sha256Digest>,
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
    /// One that does not count: of it, what keeps the machine from going backwards.
    Unusable(Box<Record>, RecordError),
    /// It may well be read the next time.
    Unreadable(HostError),
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
                Err(error) => ReadRecord::Unusable(Box::new(floors(&bytes)), error),
            },
            // A file that is too large makes no sense either, and will not the next time.
            Err(error) if error.io_kind().is_none() => {
                ReadRecord::Unusable(Box::default(), error.into())
            }
            Err(error) => ReadRecord::Unreadable(error),
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
            place: Some(Sha256Digest::of(b"place")),
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
            assert!(matches!(file.read(), ReadRecord::Unusable(..)), "{len} bytes");
        }
        let later = String::from_utf8(whole).unwrap().replace("\"schema\": 1", "\"schema\": 2");
        std::fs::write(&path, later).unwrap();
        let ReadRecord::Unusable(floors, error) = file.read() else { panic!("it counts") };
        assert!(matches!(error, RecordError::Later { found: 2, .. }), "{error}");
        // F13: what failed here does not come back because a later version wrote that down.
        let Record { committed, failed, serials, last_good, .. } = full(State::Idle);
        let expected = Record { committed, failed, serials, last_good, ..Record::default() };
        assert_eq!(*floors, expected);
        let strange = r#"{"schema": 3, "failed": [7, "x"], "serials": {}, "last_good": "soon"}"#;
        std::fs::write(&path, strange).unwrap();
        let ReadRecord::Unusable(floors, _) = file.read() else { panic!("it counts") };
        assert_eq!(*floors, Record::default());
    }

    #[test]
    fn f14_an_entry_that_makes_no_sense_costs_no_other() {
        let record = full(State::Idle);
        let whole = String::from_utf8(record.encode()).unwrap();
        let bad = r#"[["no key", 1, true], 7, null, ["x"], "#;
        let text = whole.replace("\"serials\": [", &format!("\"serials\": {bad}"));
        let text = text.replace("\"failed\": [", "\"failed\": [\"x\", 7, ");
        assert_eq!(text.len(), whole.len() + bad.len() - 1 + 8, "both are there: {text}");
        let path = Path::new("state.json");
        assert_eq!(Record::decode(text.as_bytes(), path).unwrap(), record);
        // The same where the rest makes no sense.
        let text = text.replace("\"since\": 5", "\"since\": \"soon\"");
        assert!(Record::decode(text.as_bytes(), path).is_err());
        let floors = floors(text.as_bytes());
        assert_eq!((floors.serials, floors.failed), (record.serials, record.failed));
        assert_eq!(floors.committed, record.committed);
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
