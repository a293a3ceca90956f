//! Directories of large files that are there whole or not at all: images and kernels.
//!
//! `meta.json`, written last, says which files belong to an artifact, how long they are and what
//! their digests are. Opening one compares lengths and the digest of both ends of each file,
//! which finds what a full disk or a careless hand does to files and costs less than a
//! millisecond; [`Artifact::verify`] reads everything.

mod error;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use banger_host::error::AtPath as _;
use banger_host::staged::{Staged, Synced};
use banger_host::{HostError, fs};
use banger_model::Progress;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use error::{ArtifactKind, OpenError};

use crate::digest::{sha256, sha256_file};

/// Version of the layout of artifacts. One of another version is made anew.
const FORMAT: u32 = 1;
const META: &str = "meta.json";
/// Longest `meta.json` that makes sense.
const MAX_META_LEN: u64 = 1024 * 1024;
/// So much of a file's begin and end is looked at when it is opened.
const EDGE: u64 = 64 * 1024;

/// Which artifact is meant, and where it would be.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) kind: ArtifactKind,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// The directory whose entries are the names of all of its kind.
    pub(crate) names: PathBuf,
    /// Names of its files, beside `meta.json`.
    pub(crate) files: &'static [&'static str],
    pub(crate) can_be_made: &'static [&'static str],
    /// The command that removes it.
    pub(crate) removal: String,
}

impl Address {
    pub(crate) fn missing(&self) -> OpenError {
        let names = fs::list_dir(&self.names).unwrap_or_default();
        let here = names.iter().filter_map(|name| name.to_str());
        OpenError::Missing {
            kind: self.kind,
            name: self.name.clone(),
            here: here.filter(|name| !name.starts_with('.')).map(str::to_owned).collect(),
            can_be_made: self.can_be_made,
        }
    }

    pub(crate) fn damaged(&self, problem: String) -> OpenError {
        let (kind, name, removal) = (self.kind, self.name.clone(), self.removal.clone());
        OpenError::Damaged { kind, name, removal, problem }
    }

    /// What it means that one of its files cannot be read.
    fn failed(&self, name: &str, error: HostError) -> OpenError {
        match error {
            HostError::NotAFile { .. } => self.damaged(format!("{name} is not a file")),
            HostError::TooLarge { limit, .. } => {
                self.damaged(format!("{name} is larger than {limit} bytes"))
            }
            error => match error.io_kind() {
                Some(ErrorKind::NotFound) => self.damaged(format!("{name} is missing")),
                Some(ErrorKind::NotADirectory) => {
                    self.damaged(format!("{} is not a directory", self.dir.display()))
                }
                _ => OpenError::Read { kind: self.kind, name: self.name.clone(), source: error },
            },
        }
    }
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Length in bytes.
    pub size: u64,
    /// Digest of the whole file.
    pub sha256: String,
    /// Digest of its first and last 64 KiB, compared whenever it is opened.
    edges: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Meta<T> {
    format: u32,
    files: BTreeMap<String, FileRecord>,
    info: T,
}

impl<T> Meta<T> {
    /// Whether it names exactly these files. Nothing that it names is looked at before that: it
    /// might lead out of the artifact's directory.
    fn is_of(&self, files: &[&str]) -> bool {
        self.files.len() == files.len() && files.iter().all(|name| self.files.contains_key(*name))
    }
}

/// An artifact that has been found whole.
#[derive(Clone, Debug)]
pub(crate) struct Artifact<T> {
    address: Address,
    meta: Meta<T>,
    /// Digest of `meta.json`, and so of everything.
    pub(crate) identity: String,
}

impl<T: Serialize + DeserializeOwned> Artifact<T> {
    /// Opens an artifact and looks whether its files are what they were.
    pub(crate) fn open(address: Address) -> Result<Self, OpenError> {
        let bytes = match fs::read_bounded(&address.dir.join(META), MAX_META_LEN) {
            Ok(bytes) => bytes,
            // A link that leads nowhere is there nevertheless.
            Err(error) if error.is_not_found() && !fs::is_there(&address.dir) => {
                return Err(address.missing());
            }
            Err(error) => return Err(address.failed(META, error)),
        };
        let meta: Meta<T> = serde_json::from_slice(&bytes)
            .map_err(|error| address.damaged(format!("its {META} makes no sense ({error})")))?;
        if meta.format != FORMAT {
            let found = meta.format;
            return Err(address.damaged(format!("its format is {found} instead of {FORMAT}")));
        }
        if !meta.is_of(address.files) {
            let files = address.files.join(", ");
            return Err(address.damaged(format!("its {META} is not that of the files {files}")));
        }
        let artifact = Self { address, meta, identity: sha256(&bytes) };
        for (name, record) in &artifact.meta.files {
            artifact.check_edges(name, record)?;
        }
        Ok(artifact)
    }

    /// Describes the files in a staging directory and puts it in place.
    pub(crate) fn seal(address: Address, staged: Staged, info: T) -> Result<Self, HostError> {
        let artifact = Self::describe(address, staged, info)?.publish()?;
        fs::sync_parent(&artifact.address.dir)?;
        Ok(artifact)
    }

    /// Describes the files in a staging directory, for which all of them are read, and waits until
    /// they have reached the disk.
    pub(crate) fn describe(
        address: Address,
        staged: Staged,
        info: T,
    ) -> Result<Described<T>, HostError> {
        let mut records = BTreeMap::new();
        for name in address.files {
            let path = staged.path().join(name);
            let (size, edges) = edges(&path)?;
            let record = FileRecord { size, sha256: sha256_file(&path)?, edges };
            records.insert((*name).to_owned(), record);
        }
        let meta = Meta { format: FORMAT, files: records, info };
        let bytes = serde_json::to_vec_pretty(&meta).map_err(|error| {
            HostError::system(format!("write {META}"), std::io::Error::from(error))
        })?;
        if bytes.len() as u64 > MAX_META_LEN {
            // Nobody would read it again.
            let limit = MAX_META_LEN;
            return Err(HostError::TooLarge { path: address.dir.join(META), limit });
        }
        fs::write_atomic(&staged.path().join(META), &bytes)?;
        let artifact = Self { address, meta, identity: sha256(&bytes) };
        Ok(Described { artifact, synced: staged.sync()? })
    }

    /// Reads every file whole and compares its digest.
    pub(crate) fn verify(&self) -> Result<(), OpenError> {
        for (name, record) in &self.meta.files {
            let found =
                sha256_file(&self.path(name)).map_err(|error| self.address.failed(name, error))?;
            if found != record.sha256 {
                return Err(self.address.damaged(format!("the content of {name} has changed")));
            }
        }
        Ok(())
    }

    fn check_edges(&self, name: &str, record: &FileRecord) -> Result<(), OpenError> {
        let damaged = |problem: String| Err(self.address.damaged(problem));
        match edges(&self.path(name)) {
            Ok((size, _)) if size != record.size => {
                damaged(format!("{name} has {size} bytes instead of {}", record.size))
            }
            Ok((_, edges)) if edges != record.edges => {
                damaged(format!("the content of {name} has changed"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.address.failed(name, error)),
        }
    }

    /// Where a file of it is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.address.dir.join(name)
    }

    /// What its maker says of it.
    pub(crate) fn info(&self) -> &T {
        &self.meta.info
    }

    /// Its files by name.
    pub(crate) fn files(&self) -> &BTreeMap<String, FileRecord> {
        &self.meta.files
    }
}

/// An artifact that only lacks its place. Dropped, nothing of it remains.
#[derive(Debug)]
pub(crate) struct Described<T> {
    artifact: Artifact<T>,
    synced: Synced,
}

impl<T> Described<T> {
    /// Puts it in place, which is a rename: it survives a power cut when that has been synced.
    pub(crate) fn publish(self) -> Result<Artifact<T>, HostError> {
        self.synced.publish()?;
        Ok(self.artifact)
    }
}

/// The identity of an artifact, damaged or not.
pub(crate) fn identity_at(dir: &Path) -> Result<String, HostError> {
    fs::read_bounded(&dir.join(META), MAX_META_LEN).map(|bytes| sha256(&bytes))
}

/// A file's length and the digest of its ends.
fn edges(path: &Path) -> Result<(u64, String), HostError> {
    let file = fs::open_file(path)?;
    let size = file.metadata().at("look at", path)?.len();
    let first = size.min(EDGE);
    let last = (size - first).min(EDGE);
    let mut bytes = vec![0; usize::try_from(first + last).unwrap_or(0)];
    let (head, tail) = bytes.split_at_mut(usize::try_from(first).unwrap_or(0));
    file.read_exact_at(head, 0).at("read", path)?;
    file.read_exact_at(tail, size - last).at("read", path)?;
    Ok((size, sha256(&bytes)))
}

/// Whether an artifact is there already or is to be made.
#[derive(Debug)]
pub(crate) enum Claim<T> {
    /// It is here.
    Here(Artifact<T>),
    /// It is not, and nobody else makes it while this value lives.
    ToMake(Staged),
}

/// What keeps an artifact from being claimed.
#[derive(Debug, Error)]
pub(crate) enum ClaimError {
    #[error(transparent)]
    Open(OpenError),
    #[error(transparent)]
    Stage(HostError),
}

/// Opens an artifact, or takes the lock under which it may be made. Whoever comes second waits
/// and then finds it made.
pub(crate) fn claim<T: Serialize + DeserializeOwned>(
    address: &Address,
    progress: &dyn Progress,
) -> Result<Claim<T>, ClaimError> {
    let open = || match Artifact::open(address.clone()) {
        Ok(artifact) => Ok(Some(artifact)),
        Err(OpenError::Missing { .. }) => Ok(None),
        Err(error) => Err(ClaimError::Open(error)),
    };
    if let Some(artifact) = open()? {
        return Ok(Claim::Here(artifact));
    }
    progress.stage(&format!("preparing the {} {}", address.kind, address.name));
    let staged = Staged::begin(&address.dir).map_err(ClaimError::Stage)?;
    Ok(match open()? {
        Some(artifact) => Claim::Here(artifact),
        None => Claim::ToMake(staged),
    })
}

#[cfg(test)]
mod tests;
