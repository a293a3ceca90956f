//! What was seen of the configured catalog: its last index that was believed, and what no later
//! one may fall behind.
//!
//! One file, replaced as a whole under a lock: an index and the serial that was seen with it are
//! there together. What it says is not believed for being there: the index is verified again
//! whenever it is used.

use std::path::PathBuf;

use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::{HostError, fs};
use banger_model::Timestamp;
use banger_trust::{Clock, KeyId, SerialFloor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::index::MAX_INDEX;

const FILE: &str = "known.json";
const LOCK: &str = "lock";
/// Most bytes of the file: an index whose every character takes two, and the rest.
const MAX_FILE: u64 = 2 * MAX_INDEX as u64 + 64 * 1024;
const FORMAT: u32 = 1;

/// Why it is not known what was seen. Then no index is believed: that it is the newest could not be
/// told.
#[derive(Debug, Error)]
pub enum KnownError {
    /// The file cannot be read or written.
    #[error("cannot tell what was seen of the catalog before")]
    Host(#[from] HostError),
    /// It is not what was written.
    #[error(
        "what was seen of the catalog before is damaged ({problem}): look at {path}, and remove it to begin anew",
        path = path.display()
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The last index.
    pub(super) last: Option<LastIndex>,
    /// What was seen, for each key.
    pub(super) floor: SerialFloor,
    /// The latest time that was plausible.
    pub(super) clock: Clock,
}

/// An index as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastIndex {
    /// Where from.
    pub(super) url: String,
    /// When.
    pub(super) fetched: Timestamp,
    /// Its exact text.
    pub(super) index: String,
    /// Its signature, in base64.
    pub(super) signature: String,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    format: u32,
    last: Option<LastIndex>,
    last_good: Timestamp,
    floor: Vec<RawSeen>,
}

#[derive(Serialize, Deserialize)]
struct RawSeen {
    key: String,
    serial: Option<u64>,
    expires: bool,
}

/// The right to change what is known.
#[derive(Debug)]
pub(super) struct Locked {
    home: Home,
    _lock: FileLock,
}

impl Known {
    /// What is known; nothing, when nothing was ever seen.
    pub(super) fn read(home: &Home) -> Result<Self, KnownError> {
        let path = home.catalog().join(FILE);
        let bytes = match fs::read_bounded(&path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        Self::parse(&bytes).map_err(|problem| KnownError::Damaged { path, problem })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if raw.format != FORMAT {
            return Err(format!("its format is {} instead of {FORMAT}", raw.format));
        }
        let seen = |it: RawSeen| {
            let key = KeyId::parse(&it.key).ok_or_else(|| "it names no key".to_owned())?;
            Ok((key, it.serial, it.expires))
        };
        let floor = raw.floor.into_iter().map(seen).collect::<Result<Vec<_>, String>>()?;
        let clock = Clock { last_good: raw.last_good, ..Clock::default() };
        Ok(Self { last: raw.last, floor: SerialFloor::from_entries(floor), clock })
    }

    fn to_json(&self) -> Vec<u8> {
        let seen = |(key, serial, expires): (&KeyId, _, _)| RawSeen {
            key: key.to_string(),
            serial,
            expires,
        };
        let raw = Raw {
            format: FORMAT,
            last: self.last.clone(),
            last_good: self.clock.last_good,
            floor: self.floor.entries().map(seen).collect(),
        };
        // Texts and numbers always make JSON.
        serde_json::to_vec(&raw).unwrap_or_default()
    }
}

impl Locked {
    /// Waits for whoever changes it now.
    pub(super) fn acquire(home: &Home) -> Result<Self, KnownError> {
        fs::create_private_dir(&home.catalog())?;
        let lock = FileLock::acquire(&home.catalog().join(LOCK))?;
        Ok(Self { home: home.clone(), _lock: lock })
    }

    pub(super) fn read(&self) -> Result<Known, KnownError> {
        Known::read(&self.home)
    }

    pub(super) fn write(&self, known: &Known) -> Result<(), KnownError> {
        Ok(fs::write_atomic(&self.home.catalog().join(FILE), &known.to_json())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let key = KeyId::parse("0123456789abcdef").unwrap();
        Known {
            last: Some(LastIndex {
                url: "https://a.example.com/index.json".to_owned(),
                fetched: Timestamp(5),
                index: "{\n\"x\": \"\\\"\"}".to_owned(),
                signature: "abc".to_owned(),
            }),
            floor: SerialFloor::from_entries([(key, Some(7), true)]),
            clock: Clock { last_good: Timestamp(9), ..Clock::default() },
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_is_as_if_nothing_was_seen() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        assert_eq!(Known::read(&home).unwrap(), Known::default());
        let locked = Locked::acquire(&home).unwrap();
        locked.write(&known()).unwrap();
        assert_eq!(locked.read().unwrap(), known());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_never_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        let file = home.catalog().join(FILE);
        fs::create_private_dir(&file).unwrap();
        assert!(matches!(Known::read(&home), Err(KnownError::Host(_))));
        fs::remove_all(&file).unwrap();
        let good = String::from_utf8(known().to_json()).unwrap();
        let bads = [
            String::new(),
            good[..good.len() - 1].to_owned(),
            good.replace("\"format\":1", "\"format\":2"),
            good.replace("0123456789abcdef", "x"),
        ];
        for bad in bads {
            fs::write_atomic(&file, bad.as_bytes()).unwrap();
            let said = Known::read(&home).unwrap_err().to_string();
            assert!(said.contains("remove it to begin anew"), "{said}");
        }
    }
}
