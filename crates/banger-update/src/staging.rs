//! Filling the passive slot: files are written aside while they are verified, read back from the
//! disk, and only then get their names.
//!
//! An unfinished file is named after the digest that it is to have, so that what another run
//! began is gone on with, and what was begun of another release is not.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use banger_host::HostError;
use banger_trust::{
    Artifact, ArtifactName, Content, Expected, Sha256Digest, Sha256Stream, Signature, SignedBy,
    Trust, Unverified, Verified,
};
use thiserror::Error;

use crate::behind::Behind;
use crate::files::Files;
use crate::slot::{Layout, Slot};

/// Files are read back in pieces of this size.
const CHUNK: usize = 1024 * 1024;
/// What stays free on the file system of a slot.
const SPARE: u64 = 1024 * 1024;

/// Why a slot could not be filled.
#[derive(Debug, Error)]
pub enum StageError {
    /// A file.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Both slots are one directory.
    #[error("{path} is the directory of both slots: nothing is written over what runs", path = path.display())]
    OneSlot {
        /// The directory.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("{needed} bytes are needed in slot {slot}, and {free} are free")]
    NoRoom {
        /// The slot.
        slot: Slot,
        /// What is needed.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// What came is not what was signed.
    #[error("{} is not to be used", name.file_name())]
    Unverified {
        /// The file.
        name: ArtifactName,
        /// Why.
        source: Unverified,
    },
    /// The disk gives back something else than what was written.
    #[error("{path} does not read back as it was written: the disk is failing", path = path.display())]
    NotKept {
        /// The file.
        path: PathBuf,
    },
}

/// The slot that does not run.
#[derive(Debug)]
pub struct Passive<'a, F> {
    files: &'a F,
    layout: Layout,
    slot: Slot,
}

impl<'a, F: Files> Passive<'a, F> {
    /// The one beside the slot that was booted.
    ///
    /// # Errors
    /// When a directory is missing, or both slots are one and the same.
    pub fn beside(files: &'a F, layout: Layout, booted: Slot) -> Result<Self, StageError> {
        let slot = !booted;
        let path = layout.slot(slot);
        if files.identity(&path)? == files.identity(&layout.slot(booted))? {
            return Err(StageError::OneSlot { path });
        }
        Ok(Self { files, layout, slot })
    }

    /// Which it is.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Begins to take in a file, or goes on with what is there of it.
    ///
    /// # Errors
    /// When there is no signature where there must be one, no room, or the disk fails.
    pub fn incoming(
        &self,
        artifact: &Artifact,
        trust: &Trust,
        signed_by: &SignedBy,
        signature: Option<Signature>,
    ) -> Result<Incoming<'_, F>, StageError> {
        let mut incoming = Incoming {
            files: self.files,
            path: self.part(artifact.name, artifact.sha256),
            name: artifact.name,
            begin: Begin {
                trust: trust.clone(),
                signed_by: signed_by.clone(),
                signature,
                expected: Expected {
                    max_len: artifact.name.default_max_len(),
                    len: artifact.size,
                    digest: Some(artifact.sha256),
                },
            },
            check: None,
            len: 0,
            room: 0,
            slot: self.slot,
        };
        self.forget_parts_of(artifact.name, Some(&incoming.path))?;
        incoming.go_on()?;
        let most = incoming.begin.expected.limit().saturating_sub(incoming.len);
        let more = self.make_room(most)?;
        if artifact.size.is_some() && more < most {
            return Err(StageError::NoRoom { slot: self.slot, needed: most, free: more });
        }
        incoming.room = incoming.len.saturating_add(more);
        Ok(incoming)
    }

    /// Whether the disk gives back what was verified.
    ///
    /// # Errors
    /// When it does not.
    pub fn read_back(
        &self,
        name: ArtifactName,
        file: &Verified<Content>,
    ) -> Result<(), StageError> {
        let path = self.part(name, file.get().digest);
        self.files.settle(&self.layout.slot(self.slot), &[&path])?;
        if self.digest(&path)? == Some(file.get().digest) {
            return Ok(());
        }
        self.files.remove(&path)?;
        Err(StageError::NotKept { path })
    }

    /// Gives the files their names. The slot has to be closed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn place(&self, files: &[(ArtifactName, Verified<Content>)]) -> Result<(), StageError> {
        let dir = self.layout.slot(self.slot);
        for (name, file) in files {
            let to = self.layout.file(self.slot, *name);
            self.files.rename(&self.part(*name, file.get().digest), &to)?;
        }
        self.files.sync_dir(&dir)?;
        for name in ArtifactName::ALL {
            self.forget_parts_of(name, None)?;
        }
        Ok(self.files.settle(&dir, &[])?)
    }

    /// What lies in the slot, read from the disk: the same number as
    /// [`banger_trust::Manifest::fingerprint`]. `None` when it is not complete.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn fingerprint(&self) -> Result<Option<Sha256Digest>, StageError> {
        let paths = ArtifactName::ALL.map(|name| self.layout.file(self.slot, name));
        let mut both = Vec::new();
        for path in &paths {
            let Some(digest) = self.digest(path)? else { return Ok(None) };
            both.extend_from_slice(digest.bytes());
        }
        Ok(Some(Sha256Digest::of(&both)))
    }

    fn part(&self, name: ArtifactName, digest: Sha256Digest) -> PathBuf {
        let digest = digest.to_string();
        let file = format!("{}.{}.part", name.file_name(), digest.get(..16).unwrap_or_default());
        self.layout.slot(self.slot).join(file)
    }

    fn forget_parts_of(&self, name: ArtifactName, but: Option<&Path>) -> Result<(), StageError> {
        let dir = self.layout.slot(self.slot);
        for file in self.files.list(&dir)? {
            let path = dir.join(&file);
            let is_part = file.starts_with(name.file_name()) && file.ends_with(".part");
            if is_part && Some(path.as_path()) != but {
                self.files.remove(&path)?;
            }
        }
        Ok(())
    }

    /// How many more bytes fit, if need be at the cost of what the slot held: it is closed.
    fn make_room(&self, wanted: u64) -> Result<u64, StageError> {
        let dir = self.layout.slot(self.slot);
        let fits = || Ok::<_, HostError>(self.files.free(&dir)?.saturating_sub(SPARE));
        if fits()? < wanted {
            for name in ArtifactName::ALL {
                self.files.remove(&self.layout.file(self.slot, name))?;
            }
            self.files.sync_dir(&dir)?;
        }
        Ok(fits()?)
    }

    fn digest(&self, path: &Path) -> Result<Option<Sha256Digest>, StageError> {
        let mut stream = Sha256Stream::new();
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            let read = match self.files.read_at(path, offset, &mut buffer) {
                Err(error) if error.is_not_found() => return Ok(None),
                other => other?,
            };
            if read == 0 {
                return Ok(Some(stream.finish()));
            }
            stream.update(&buffer[..read]);
            offset += read as u64;
        }
    }
}

/// What a check begins with, to begin it again.
#[derive(Debug)]
struct Begin {
    trust: Trust,
    signed_by: SignedBy,
    signature: Option<Signature>,
    expected: Expected,
}

/// A file on its way into the slot.
#[derive(Debug)]
pub struct Incoming<'a, F> {
    files: &'a F,
    path: PathBuf,
    name: ArtifactName,
    begin: Begin,
    check: Option<Behind>,
    len: u64,
    /// Bytes that it may have at most before the disk is full.
    room: u64,
    slot: Slot,
}

impl<F: Files> Incoming<'_, F> {
    /// Bytes that are there already.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Throws away what is there: it is of another file.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn restart(&mut self) -> Result<(), StageError> {
        self.files.create(&self.path)?;
        self.len = 0;
        self.check = Some(self.begin()?);
        Ok(())
    }

    /// Takes in more; it is verified while the next comes. Nothing is written that is too much.
    ///
    /// # Errors
    /// When there is too much, or the disk fails.
    pub fn write(&mut self, bytes: Vec<u8>) -> Result<(), StageError> {
        if self.check.is_none() {
            self.restart()?;
        }
        let max = self.begin.expected.limit();
        let len = self.len.saturating_add(bytes.len() as u64);
        if len > max {
            return self.refuse(Unverified::TooLong { max });
        }
        if len > self.room {
            self.files.remove(&self.path)?;
            return Err(StageError::NoRoom { slot: self.slot, needed: len, free: self.room });
        }
        self.files.append(&self.path, &bytes).map_err(|error| self.give_back(error))?;
        self.len = len;
        if let Some(check) = &mut self.check {
            check.update(bytes);
        }
        Ok(())
    }

    /// All of it came. What is not what was signed is removed.
    ///
    /// # Errors
    /// When it is not, or the disk fails.
    pub fn finish(mut self) -> Result<Verified<Content>, StageError> {
        let check = match self.check.take() {
            Some(check) => check,
            None => self.begin()?,
        };
        // The disk and the processor work at the same time.
        self.files.sync(&self.path).map_err(|error| self.give_back(error))?;
        match check.finish() {
            Ok(content) => Ok(content),
            Err(source) => self.refuse(source),
        }
    }

    /// A disk that is full is not left full: there is more to be written down on it.
    fn give_back(&self, error: HostError) -> StageError {
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
        if error.io_kind().is_some_and(|kind| full.contains(&kind)) {
            // That it cannot be removed either is not what went wrong first.
            let _ = self.files.remove(&self.path);
        }
        error.into()
    }

    /// Nothing stays of what is not to be used.
    fn refuse<T>(&self, source: Unverified) -> Result<T, StageError> {
        self.files.remove(&self.path)?;
        Err(StageError::Unverified { name: self.name, source })
    }

    fn begin(&self) -> Result<Behind, StageError> {
        let Begin { trust, signed_by, signature, expected } = &self.begin;
        let check = trust.check(signed_by, signature.as_ref(), *expected);
        let check = check.map_err(|source| StageError::Unverified { name: self.name, source })?;
        Ok(Behind::begin(check)?)
    }

    /// Verifies again what another run left.
    fn go_on(&mut self) -> Result<(), StageError> {
        let mut check = self.begin()?;
        let mut len = 0;
        loop {
            let mut buffer = vec![0; CHUNK];
            let read = match self.files.read_at(&self.path, len, &mut buffer) {
                Err(error) if error.is_not_found() => return self.restart(),
                other => other?,
            };
            if read == 0 {
                break;
            }
            len += read as u64;
            if len > self.begin.expected.limit() {
                return self.restart();
            }
            buffer.truncate(read);
            check.update(buffer);
        }
        (self.check, self.len) = (Some(check), len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "these tests damage files")]

    use super::*;
    use crate::files::HostFiles;
    use banger_trust::{KeySet, SecretKey};

    struct Bench {
        dir: tempfile::TempDir,
        secret: SecretKey,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for slot in Slot::ALL {
                std::fs::create_dir_all(Layout::under(dir.path()).slot(slot)).unwrap();
            }
            Self { dir, secret: SecretKey::from_seed([1; 32]) }
        }

        fn passive(&self) -> Passive<'_, HostFiles> {
            Passive::beside(&HostFiles, Layout::under(self.dir.path()), Slot::A).unwrap()
        }

        fn names(&self) -> Vec<String> {
            HostFiles.list(&self.dir.path().join("os/b")).unwrap()
        }

        fn incoming<'a>(
            &self,
            passive: &'a Passive<'a, HostFiles>,
            name: ArtifactName,
            content: &[u8],
        ) -> Incoming<'a, HostFiles> {
            let artifact = Artifact {
                name,
                url: String::new(),
                signature_url: None,
                sha256: Sha256Digest::of(content),
                size: Some(content.len() as u64),
            };
            let trust = Trust::Keys(KeySet::new([self.secret.public()]).unwrap());
            let by = SignedBy::Key(self.secret.public().id());
            let signature = self.secret.sign(content);
            passive.incoming(&artifact, &trust, &by, Some(signature)).unwrap()
        }
    }

    #[test]
    fn files_get_their_names_when_all_of_them_are_verified() {
        let bench = Bench::new();
        let passive = bench.passive();
        let mut files = Vec::new();
        for (name, content) in ArtifactName::ALL.into_iter().zip([&b"kernel"[..], b"system"]) {
            let mut incoming = bench.incoming(&passive, name, content);
            incoming.write(content[..3].to_vec()).unwrap();
            // Another run goes on.
            let mut incoming = bench.incoming(&passive, name, content);
            assert_eq!(incoming.len(), 3);
            incoming.write(content[3..].to_vec()).unwrap();
            files.push((name, incoming.finish().unwrap()));
        }
        assert!(bench.names().iter().all(|name| name.ends_with(".part")));
        assert_eq!(passive.fingerprint().unwrap(), None);
        for (name, file) in &files {
            passive.read_back(*name, file).unwrap();
        }
        passive.place(&files).unwrap();
        assert_eq!(bench.names(), ["kubesolo-os.gz", "vmlinuz"]);
        let digests = [Sha256Digest::of(b"kernel"), Sha256Digest::of(b"system")];
        let both = [&digests[0].bytes()[..], digests[1].bytes()].concat();
        assert_eq!(passive.fingerprint().unwrap(), Some(Sha256Digest::of(&both)));
    }

    #[test]
    fn n04_n05_what_is_not_what_was_signed_leaves_nothing() {
        let bench = Bench::new();
        let passive = bench.passive();
        let kernel = ArtifactName::Kernel;
        let mut wrong = bench.incoming(&passive, kernel, b"kernel");
        wrong.write(b"kerneL".to_vec()).unwrap();
        let error = wrong.finish().unwrap_err();
        assert!(matches!(error, StageError::Unverified { .. }), "{error}");
        assert!(bench.names().is_empty());
        let mut short = bench.incoming(&passive, kernel, b"kernel");
        short.write(b"kern".to_vec()).unwrap();
        assert!(short.finish().is_err());
        let mut long = bench.incoming(&passive, kernel, b"kernel");
        assert!(long.write(b"kernel and more".to_vec()).is_err());
        assert!(bench.names().is_empty());
        // A part of another release is not gone on with.
        bench.incoming(&passive, kernel, b"kernel").write(b"ker".to_vec()).unwrap();
        assert!(bench.incoming(&passive, kernel, b"newer kernel").is_empty());
        assert_eq!(bench.names().len(), 1);
    }

    #[test]
    fn a_disk_that_gives_back_something_else_is_noticed() {
        let bench = Bench::new();
        let passive = bench.passive();
        let mut incoming = bench.incoming(&passive, ArtifactName::Kernel, b"kernel");
        incoming.write(b"kernel".to_vec()).unwrap();
        let file = incoming.finish().unwrap();
        let path = bench.dir.path().join("os/b").join(&bench.names()[0]);
        std::fs::write(path, b"kerneL").unwrap();
        let error = passive.read_back(ArtifactName::Kernel, &file).unwrap_err();
        assert!(matches!(error, StageError::NotKept { .. }), "{error}");
    }

    #[test]
    fn f12_one_directory_for_both_slots_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::under(dir.path());
        std::fs::create_dir_all(layout.slot(Slot::A)).unwrap();
        let beside = || Passive::beside(&HostFiles, layout.clone(), Slot::A);
        assert!(beside().is_err(), "the other one is missing");
        std::os::unix::fs::symlink("a", layout.slot(Slot::B)).unwrap();
        assert!(matches!(beside(), Err(StageError::OneSlot { .. })));
    }

    #[test]
    fn t06_without_a_signature_nothing_is_begun() {
        let bench = Bench::new();
        let passive = bench.passive();
        let artifact = Artifact {
            name: ArtifactName::Kernel,
            url: String::new(),
            signature_url: None,
            sha256: Sha256Digest::of(b"kernel"),
            size: None,
        };
        let trust = Trust::Keys(KeySet::new([bench.secret.public()]).unwrap());
        let by = SignedBy::Key(bench.secret.public().id());
        assert!(passive.incoming(&artifact, &trust, &by, None).is_err());
        assert!(bench.names().is_empty());
    }
}
