//! Directories of large files that are there whole or not at all: images and kernels.
//!
//! `meta.json`, written last, says which files belong to an artifact, how long they are and what
//! their digests are. Opening one compares lengths and the digest of both ends of each file,
//! which finds what a full disk or a careless hand does to files and costs less than a
//! millisecond; [`Artifact::verify`] reads everything.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use banger_host::error::AtPath as _;
use banger_host::staged::Staged;
use banger_host::{HostError, fs};
use banger_model::Progress;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{sha256, sha256_file};

/// Version of the layout of artifacts. One of another version is made anew.
const FORMAT: u32 = 1;
const META: &str = "meta.json";
/// Longest `meta.json` that makes sense.
const MAX_META_LEN: u64 = 1024 * 1024;
/// So much of a file's begin and end is looked at when it is opened.
const EDGE: u64 = 64 * 1024;

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// A root file system.
    Image,
    /// A kernel with its modules.
    Kernel,
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Kernel => "kernel",
        })
    }
}

/// Why an image or a kernel cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is none of this name.
    #[error("there is no {kind} {name}: {}", choices(here, can_be_made))]
    Missing {
        /// What was asked for.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// Names of those that are here.
        here: Vec<String>,
        /// Names of those that can be made.
        can_be_made: &'static [&'static str],
    },
    /// It is not as it was when it was made. Removing it is the remedy: it is made anew then.
    #[error("the {kind} {name} is damaged: {problem}; remove it, and it is made anew")]
    Damaged {
        /// What was asked for.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// The file and what is wrong with it.
        problem: String,
    },
    /// It could not be read.
    #[error("cannot open the {kind} {name}")]
    Read {
        /// What was asked for.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// Why not.
        source: HostError,
    },
}

fn choices(here: &[String], can_be_made: &[&str]) -> String {
    let here = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
    format!("here are {here}; can be made: {}", can_be_made.join(", "))
}

impl OpenError {
    /// What has to be removed so that it is made anew, where that is the remedy.
    pub fn to_remove(&self) -> Option<(ArtifactKind, &str)> {
        match self {
            Self::Damaged { kind, name, .. } => Some((*kind, name)),
            _ => None,
        }
    }

    /// Whether there simply is none of this name.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Which artifact is meant, and where it would be.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) kind: ArtifactKind,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) can_be_made: &'static [&'static str],
}

impl Address {
    fn missing(&self) -> OpenError {
        let names = fs::list_dir(self.dir.parent().unwrap_or(Path::new("/"))).unwrap_or_default();
        let here = names.iter().filter_map(|name| name.to_str());
        OpenError::Missing {
            kind: self.kind,
            name: self.name.clone(),
            here: here.filter(|name| !name.starts_with('.')).map(str::to_owned).collect(),
            can_be_made: self.can_be_made,
        }
    }

    fn damaged(&self, problem: String) -> OpenError {
        OpenError::Damaged { kind: self.kind, name: self.name.clone(), problem }
    }

    fn unreadable(&self, source: HostError) -> OpenError {
        OpenError::Read { kind: self.kind, name: self.name.clone(), source }
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
            Err(error) if error.is_not_found() && !address.dir.exists() => {
                return Err(address.missing());
            }
            Err(error) if error.is_not_found() => {
                return Err(address.damaged(format!("its {META} is missing")));
            }
            Err(error) => return Err(address.unreadable(error)),
        };
        let meta: Meta<T> = serde_json::from_slice(&bytes)
            .map_err(|error| address.damaged(format!("its {META} makes no sense ({error})")))?;
        if meta.format != FORMAT {
            let found = meta.format;
            return Err(address.damaged(format!("its format is {found} instead of {FORMAT}")));
        }
        let artifact = Self { address, meta, identity: sha256(&bytes) };
        for (name, record) in &artifact.meta.files {
            artifact.check_edges(name, record)?;
        }
        Ok(artifact)
    }

    /// Describes the files in a staging directory and puts it in place.
    pub(crate) fn seal(
        address: Address,
        staged: Staged,
        files: &[&str],
        info: T,
    ) -> Result<Self, HostError> {
        let mut records = BTreeMap::new();
        for name in files {
            let path = staged.path().join(name);
            let (size, edges) = edges(&path)?;
            let record = FileRecord { size, sha256: sha256_file(&path)?, edges };
            records.insert((*name).to_owned(), record);
        }
        let meta = Meta { format: FORMAT, files: records, info };
        let bytes = serde_json::to_vec_pretty(&meta).map_err(|error| {
            HostError::system(format!("write {META}"), std::io::Error::from(error))
        })?;
        fs::write_atomic(&staged.path().join(META), &bytes)?;
        staged.commit()?;
        Ok(Self { address, meta, identity: sha256(&bytes) })
    }

    /// Reads every file whole and compares its digest.
    pub(crate) fn verify(&self) -> Result<(), OpenError> {
        for (name, record) in &self.meta.files {
            let found =
                sha256_file(&self.path(name)).map_err(|error| self.address.unreadable(error))?;
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
            Err(error) if error.is_not_found() => damaged(format!("{name} is missing")),
            Err(error) => Err(self.address.unreadable(error)),
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

/// A file's length and the digest of its ends.
fn edges(path: &Path) -> Result<(u64, String), HostError> {
    let file = File::open(path).at("open", path)?;
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
mod tests {
    use super::*;
    use banger_model::Silent;
    use std::io::Write as _;

    fn address(root: &Path) -> Address {
        Address {
            kind: ArtifactKind::Kernel,
            name: "k".to_owned(),
            dir: root.join("k"),
            can_be_made: &["debian-cloud"],
        }
    }

    fn made(root: &Path) -> Artifact<String> {
        let Ok(Claim::<String>::ToMake(staged)) = claim(&address(root), &Silent) else {
            panic!("it is there already");
        };
        let content: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
        fs::write_atomic(&staged.path().join("large"), &content).unwrap();
        fs::write_atomic(&staged.path().join("small"), b"").unwrap();
        Artifact::seal(address(root), staged, &["large", "small"], "info".to_owned()).unwrap()
    }

    fn opened(root: &Path) -> Result<Artifact<String>, OpenError> {
        Artifact::open(address(root))
    }

    fn overwrite(path: &Path, at: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(b"??", at).unwrap();
    }

    #[test]
    fn what_was_made_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let made = made(dir.path());
        let found = opened(dir.path()).unwrap();
        assert_eq!((found.info(), &found.identity), (made.info(), &made.identity));
        assert_eq!(found.files()["large"].size, 300_000);
        found.verify().unwrap();
    }

    #[test]
    fn one_that_is_not_there_is_told_with_those_that_are() {
        let dir = tempfile::tempdir().unwrap();
        let missing = || opened(dir.path()).unwrap_err().to_string();
        assert_eq!(missing(), "there is no kernel k: here are none; can be made: debian-cloud");
        fs::create_private_dir(&dir.path().join("other")).unwrap();
        assert!(missing().contains("here are other;"));
    }

    #[test]
    fn damage_names_the_file_and_the_remedy() {
        type Damage = fn(&Path);
        let damages: [(Damage, &str); 6] = [
            (
                |dir| File::create(dir.join("large")).map(drop).unwrap(),
                "large has 0 bytes instead of 300000",
            ),
            (|dir| overwrite(&dir.join("large"), 0), "the content of large has changed"),
            (|dir| overwrite(&dir.join("large"), 299_998), "the content of large has changed"),
            (|dir| fs::remove_all(&dir.join("small")).unwrap(), "small is missing"),
            (|dir| fs::remove_all(&dir.join(META)).unwrap(), "its meta.json is missing"),
            (
                |dir| fs::write_atomic(&dir.join(META), b"{}").unwrap(),
                "its meta.json makes no sense",
            ),
        ];
        for (damage, problem) in damages {
            let dir = tempfile::tempdir().unwrap();
            made(dir.path());
            damage(&dir.path().join("k"));
            let error = opened(dir.path()).unwrap_err();
            assert_eq!(error.to_remove(), Some((ArtifactKind::Kernel, "k")));
            let text = error.to_string();
            assert!(text.contains(problem), "{text}");
            assert!(text.ends_with("; remove it, and it is made anew"), "{text}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_found_by_reading_everything() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        overwrite(&dir.path().join("k/large"), 150_000);
        let error = opened(dir.path()).unwrap().verify().unwrap_err();
        assert!(error.to_string().contains("the content of large has changed"));
    }

    #[test]
    fn who_comes_second_waits_and_finds_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let makers: Vec<_> = (0..4)
            .map(|_| {
                let root = dir.path().to_owned();
                std::thread::spawn(move || {
                    match claim::<String>(&address(&root), &Silent).unwrap() {
                        Claim::Here(_) => 0,
                        Claim::ToMake(staged) => {
                            fs::create_new(&staged.path().join("f"))
                                .unwrap()
                                .write_all(b"x")
                                .unwrap();
                            Artifact::seal(address(&root), staged, &["f"], String::new()).unwrap();
                            1
                        }
                    }
                })
            })
            .collect();
        let made: u32 = makers.into_iter().map(|maker| maker.join().unwrap()).sum();
        assert_eq!(made, 1);
    }

    #[test]
    fn an_abandoned_build_is_not_an_artifact() {
        let dir = tempfile::tempdir().unwrap();
        let half = dir.path().join(".k.new");
        fs::create_private_dir(&half).unwrap();
        fs::write_atomic(&half.join("large"), b"half").unwrap();
        assert!(opened(dir.path()).unwrap_err().is_missing());
        made(dir.path());
        assert!(!half.exists());
    }
}
