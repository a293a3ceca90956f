//! What is written down about a machine, so that whoever knows its directory finds it again.

use std::path::{Path, PathBuf};

use banger_host::fs::{read_bounded, write_atomic};
use banger_host::process::ProcessIdentity;
use banger_host::{HostError, Result};
use serde::{Deserialize, Serialize};

/// Name of the record in a machine's directory.
pub const RECORD_FILE: &str = "vmm.json";
/// Longest record that makes sense, in bytes.
const MAX_RECORD_LEN: u64 = 64 * 1024;

/// A machine's processes. It is a hint where to look: each process is compared with its identity
/// before it is touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name and version of the monitor.
    pub vmm: String,
    /// The monitor's process.
    pub process: ProcessIdentity,
    /// The processes of the machine's network. They end by themselves after the monitor.
    pub network: Vec<ProcessIdentity>,
    /// Where its memory is; not known of a machine that an older banger has made.
    #[serde(default)]
    pub memory: Option<Memory>,
}

/// Where the memory of a running machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// In a file of its own that has no name.
    Own,
    /// In this file, as far as the machine has not written to it.
    Over(PathBuf),
}

impl Record {
    /// Writes the record of the machine in `dir`.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(RECORD_FILE);
        let json = serde_json::to_vec_pretty(self).map_err(|e| HostError::Path {
            operation: "encode",
            path: path.clone(),
            source: e.into(),
        })?;
        write_atomic(&path, &json)
    }

    /// Reads the record of the machine in `dir`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(RECORD_FILE);
        let json = match read_bounded(&path, MAX_RECORD_LEN) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        serde_json::from_slice(&json).map(Some).map_err(|error| HostError::Path {
            operation: "understand",
            path,
            source: error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_garbage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let identity = ProcessIdentity { boot_id: "b".into(), pid: 7, start_time: 9 };
        let record = Record {
            vmm: "qemu 7.2.0".into(),
            process: identity.clone(),
            network: vec![identity],
            memory: Some(Memory::Over("/t".into())),
        };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        for garbage in ["", "{}", "[1]", "{\"vmm\":1}"] {
            write_atomic(&dir.path().join(RECORD_FILE), garbage.as_bytes()).unwrap();
            let error = Record::read(dir.path()).unwrap_err();
            assert!(error.to_string().starts_with("cannot understand /"), "{error}");
        }
    }
}
