//! The last things that happened, for people.

use std::path::{Path, PathBuf};

use banger_host::HostError;
use banger_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::record::replace;

/// So many are kept.
pub const MAX_ENTRIES: usize = 100;
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
    /// What happened, in one sentence.
    pub text: String,
}

/// The file. What cannot be read of it is forgotten: it is for people, and decides nothing.
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
        let over = entries.len().saturating_sub(MAX_ENTRIES);
        entries.drain(..over);
        let bytes = serde_json::to_vec(&entries).unwrap_or_default();
        replace(self.files, &self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "these tests damage files")]

    use super::*;
    use crate::files::HostFiles;

    #[test]
    fn the_last_hundred_are_kept_and_a_torn_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.json");
        let history = History::new(&HostFiles, &path);
        let entry = |time| Entry {
            time: Timestamp(time),
            state: "Idle".into(),
            version: None,
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
}
