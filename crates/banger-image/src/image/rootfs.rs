//! An image of a root file system that is no image of a registry: a tar, a directory, or a file
//! with ext4 in it.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::home::Home;
use banger_host::{HostError, fs};
use banger_model::{Bytes, ImageName, OperationId, Progress, Timestamp};
use bstr::BString;
use thiserror::Error;

use super::import::ImportError;
use super::wishes::{SandboxWishes, image_config};
use super::{Image, ImageConfig, ImageInfo, NewImage};
use crate::archive::{Archive, ArchiveError, Entry};
use crate::ext4::{WriteImageError, ext4_is_clean};
use crate::hosttools::{MissingPackages, TAR};
use crate::oci::{Compression, Config, decoder, read_begin};
use crate::tree::{Tree, TreeError};
use crate::until::Until;

/// Where ext4 has its magic number, and what that is (Linux, `fs/ext4/ext4.h`).
const EXT4_MAGIC_AT: usize = 1080;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xef];
/// Bytes that are copied at once.
const CHUNK: usize = 256 * 1024;
/// How long packing a directory may go on without anything that comes of it. Each directory is read to its
/// end before the first name in it comes, also over a slow network.
const PACK_SILENCE: Duration = Duration::from_secs(5 * 60);

/// What every machine has of its own: empty in an image that is made of one.
const OWN_FILES: [&str; 4] = ["etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"];

/// Why a root file system does not become an image.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// It cannot be opened.
    #[error("cannot open it")]
    Open(#[source] HostError),
    /// It cannot be read or copied.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// More than is taken.
    #[error("it unpacks to more than {0}; `max_unpacked` in config.toml says how much is taken")]
    TooLarge(Bytes),
    /// It is no archive.
    #[error("it is neither a tar nor a file with ext4 in it")]
    Archive(#[source] ArchiveError),
    /// Something in it has no place.
    #[error("it is no root file system")]
    Tree(#[from] TreeError),
    /// The file system in it has to be repaired first.
    #[error("the file system in it is damaged or was not unmounted; `e2fsck -f` repairs it")]
    Unclean(#[source] HostError),
    /// A program is missing.
    #[error(transparent)]
    Missing(#[from] MissingPackages),
    /// It cannot be packed.
    #[error("cannot pack the directory")]
    Pack(#[source] HostError),
    /// The image could not be written.
    #[error("cannot write the image")]
    Write(#[from] WriteImageError),
    /// The image could not be kept.
    #[error("cannot keep the image")]
    Keep(#[source] HostError),
    /// The name is that of something else.
    #[error(transparent)]
    Taken(ImportError),
    /// Whoever wanted it does so no more.
    #[error("it was called off")]
    CalledOff,
}

/// A root file system.
#[derive(Debug)]
pub enum Rootfs {
    /// A tar, perhaps compressed.
    Tar(File),
    /// A directory.
    Directory(PathBuf),
    /// A file with ext4 in it.
    Ext4(PathBuf),
}

impl Rootfs {
    /// What is at this path.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn at(path: &Path) -> Result<Self, RootfsError> {
        if fs::is_dir(path).map_err(RootfsError::Open)? {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut file = fs::open_file(path).map_err(RootfsError::Open)?;
        let mut begin = [0; EXT4_MAGIC_AT + EXT4_MAGIC.len()];
        let len = read_begin(&mut file, &mut begin).map_err(RootfsError::Read)?;
        if begin[..len].get(EXT4_MAGIC_AT..) == Some(&EXT4_MAGIC) {
            return Ok(Self::Ext4(path.to_owned()));
        }
        fs::open_file(path).map(Self::Tar).map_err(RootfsError::Open)
    }
}

/// Whose the root file system is.
#[derive(Clone, Debug)]
pub enum Whose {
    /// Nobody's: it is taken as it is, and looked through for what it wishes.
    Nobodys,
    /// A machine's, which wished this: what only that machine may have stays out.
    Machines(Box<ImageConfig>),
}

/// An image that is to be made of a root file system.
#[derive(Debug)]
pub struct FromRootfs<'a> {
    /// The owner's directories.
    pub home: &'a Home,
    /// What it is to be called.
    pub name: &'a ImageName,
    /// How a person would tell where it comes from.
    pub source: &'a str,
    /// Whose it is.
    pub whose: Whose,
    /// What its sandboxes are to have.
    pub wishes: SandboxWishes,
    /// Most bytes that it may unpack to.
    pub max_unpacked: Bytes,
    /// When it is made.
    pub now: Timestamp,
    /// The operation that makes it.
    pub made_by: Option<&'a OperationId>,
    /// How long somebody wants it.
    pub until: Until<'a>,
}

impl FromRootfs<'_> {
    /// Makes the image.
    ///
    /// # Errors
    /// [`RootfsError`]; nothing half-made remains.
    pub fn make(&self, rootfs: Rootfs, progress: &dyn Progress) -> Result<Image, RootfsError> {
        let _claim = Image::claim(self.home, self.name).map_err(RootfsError::Keep)?;
        self.go_on()?;
        self.check_name()?;
        let new = NewImage::begin(self.home).map_err(RootfsError::Keep)?;
        let config = match rootfs {
            Rootfs::Ext4(path) => {
                progress.stage("copying the file system");
                self.check_size(&path)?;
                ext4_is_clean(&path)?.map_err(RootfsError::Unclean)?;
                new.copy(&path).map_err(RootfsError::Keep)?;
                ImageConfig::unknown()
            }
            Rootfs::Directory(dir) => {
                progress.stage("packing the directory");
                self.of_tar(&new, self.pack(&new, tar_of(&dir)?, PACK_SILENCE)?, progress)?
            }
            Rootfs::Tar(tar) => {
                progress.stage("unpacking the archive");
                self.of_tar(&new, self.unpack(&new, tar)?, progress)?
            }
        };
        let info = ImageInfo {
            source: self.source.to_owned(),
            config: self.wishes.in_config(config),
            origin: None,
            made: Some(self.now),
            bundle: None,
            made_by: self.made_by.cloned(),
            kernel: self.wishes.kernel.clone(),
        };
        let made = new.finish_until(self.name, info, self.until).map_err(RootfsError::Keep)?;
        made.ok_or(RootfsError::CalledOff)
    }

    fn go_on(&self) -> Result<(), RootfsError> {
        match self.until.is_over() {
            true => Err(RootfsError::CalledOff),
            false => Ok(()),
        }
    }

    /// All of a file system is read, its holes included.
    fn check_size(&self, path: &Path) -> Result<(), RootfsError> {
        let size = fs::file_size(path).map_err(RootfsError::Open)?.apparent;
        match size > self.max_unpacked {
            true => Err(RootfsError::TooLarge(self.max_unpacked)),
            false => Ok(()),
        }
    }

    fn check_name(&self) -> Result<(), RootfsError> {
        let name = || self.name.clone();
        let taken = |source_of_it| {
            Err(RootfsError::Taken(ImportError::Taken { name: name(), source_of_it }))
        };
        if Image::can_be_made(self.name) {
            return taken("this host's own making".to_owned());
        }
        match Image::open(self.home, self.name) {
            Ok(image) => taken(image.info().source.clone()),
            // A damaged one gives its name away.
            Err(_) => Ok(()),
        }
    }

    fn of_tar(
        &self,
        new: &NewImage,
        tar: File,
        progress: &dyn Progress,
    ) -> Result<ImageConfig, RootfsError> {
        let archive = Archive::open_while(tar, self.until);
        let mut archive =
            archive.map_err(|error| self.called_off_or(RootfsError::Archive(error)))?;
        if matches!(self.whose, Whose::Machines(_)) {
            forget_machine(&mut archive.entries);
        }
        let tree = Tree::of(archive)?;
        progress.stage("writing the image");
        let written = new.write_until(&tree, (progress, self.until));
        written.map_err(|error| self.called_off_or(error.into()))?;
        Ok(match &self.whose {
            Whose::Nobodys => image_config(&Config::default(), &tree),
            Whose::Machines(config) => (**config).clone(),
        })
    }

    /// What was given up because it was called off failed for that reason.
    fn called_off_or(&self, error: RootfsError) -> RootfsError {
        match self.until.is_over() {
            true => RootfsError::CalledOff,
            false => error,
        }
    }

    /// The tar in a file that may be compressed.
    fn unpack(&self, new: &NewImage, tar: File) -> Result<File, RootfsError> {
        let mut begin = [0; 4];
        let mut tar = tar;
        let len = read_begin(&mut tar, &mut begin).map_err(RootfsError::Read)?;
        io::Seek::rewind(&mut tar).map_err(RootfsError::Read)?;
        let compression = Compression::sniff(&begin[..len]);
        if compression == Compression::Plain {
            return Ok(tar);
        }
        let source = decoder(tar, compression).map_err(RootfsError::Read)?;
        self.spool(new, source)
    }

    /// What `tar` makes of a directory. Given up, it is ended.
    fn pack(&self, new: &NewImage, tar: Tool, silence: Duration) -> Result<File, RootfsError> {
        let mut running = tar.stream(silence).map_err(RootfsError::Pack)?;
        let spooled = self.spool(new, running.output(&|| self.until.is_over()));
        let spooled = spooled.map_err(|error| self.called_off_or(error))?;
        running.finish().map_err(RootfsError::Pack)?;
        Ok(spooled)
    }

    /// Everything there is, in a file without a name.
    fn spool(&self, new: &NewImage, mut source: impl Read) -> Result<File, RootfsError> {
        let file = fs::nameless(new.dir()).map_err(RootfsError::Keep)?;
        let mut chunk = vec![0; CHUNK];
        let mut size = 0u64;
        loop {
            self.go_on()?;
            let n = match source.read(&mut chunk) {
                Ok(0) => return Ok(file),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(RootfsError::Read(error)),
            };
            size += n as u64;
            if size > self.max_unpacked.get() {
                return Err(RootfsError::TooLarge(self.max_unpacked));
            }
            (&file).write_all(&chunk[..n]).map_err(RootfsError::Read)?;
        }
    }
}

/// Writes a tar of a directory, with everything that GNU's tar can tell about files.
fn tar_of(dir: &Path) -> Result<Tool, RootfsError> {
    let tool = TAR.tool()?.args(["--create", "--format=pax", "--numeric-owner"]);
    let tool = tool.args(["--xattrs", "--xattrs-include=*", "--directory"]).arg(dir);
    Ok(tool.arg("."))
}

/// Takes out what only the machine may have that a root file system comes from.
fn forget_machine(entries: &mut Vec<Entry>) {
    let is_key = |path: &BString| path.starts_with(b"etc/ssh/ssh_host_");
    entries.retain(|entry| !is_key(&entry.path));
    for entry in entries {
        if OWN_FILES.iter().any(|own| entry.path == *own) {
            let mtime = entry.attributes.mtime;
            *entry = Entry::file(&entry.path.to_string(), Vec::new(), mtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use banger_model::Silent;

    fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    struct Place {
        dir: tempfile::TempDir,
        home: Home,
        max_unpacked: Bytes,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let home = Home::under(&dir.path().join("home"));
            Self { dir, home, max_unpacked: Bytes::mib(1) }
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write_atomic(&path, bytes).unwrap();
            path
        }

        fn register(&self, name: &str, path: &Path) -> Result<Image, RootfsError> {
            self.make(name, Whose::Nobodys, Rootfs::at(path)?)
        }

        fn make(&self, name: &str, whose: Whose, rootfs: Rootfs) -> Result<Image, RootfsError> {
            self.from(&name.parse().unwrap(), whose).make(rootfs, &Silent)
        }

        fn from<'a>(&'a self, name: &'a ImageName, whose: Whose) -> FromRootfs<'a> {
            FromRootfs {
                wishes: SandboxWishes::default(),
                home: &self.home,
                name,
                source: "a test",
                whose,
                max_unpacked: self.max_unpacked,
                now: Timestamp(1),
                made_by: None,
                until: Until::default(),
            }
        }
    }

    #[test]
    fn tars_directories_and_file_systems_become_images() {
        let place = Place::new();
        let plain = tar(&[("bin/sh", "#!"), ("etc/hostname", "mine\n")]);
        let image = place.register("plain", &place.file("a.tar", &plain)).unwrap();
        assert_eq!(image.config().shell, ["/bin/sh", "-l"]);
        let packed = zstd::encode_all(plain.as_slice(), 1).unwrap();
        let same = place.register("packed", &place.file("a.tar.zst", &packed)).unwrap();
        assert_eq!(same.config().shell, image.config().shell);
        // A file system is as long as its holes make it.
        let place = Place { max_unpacked: Bytes::gib(8), ..place };
        place.register("ext4", &image.root()).unwrap();
        let dir = place.dir.path().join("dir");
        fs::create_private_dir(&dir.join("bin")).unwrap();
        fs::write_atomic(&dir.join("bin/sh"), b"#!").unwrap();
        let of_dir = place.register("dir", &dir).unwrap();
        assert!(of_dir.config().shell.is_empty(), "nobody may execute it");
    }

    #[test]
    fn what_is_no_root_file_system_or_has_no_free_name_is_refused() {
        let place = Place::new();
        let refused = |name: &str, path: &Path| place.register(name, path).unwrap_err();
        let missing = refused("a", &place.dir.path().join("nothing"));
        assert!(matches!(missing, RootfsError::Open(_)), "{missing:?}");
        let text = place.file("text", &b"no archive ".repeat(100));
        assert!(matches!(refused("a", &text), RootfsError::Archive(_)));
        let large = tar(&[("f", &"x".repeat(2 << 20))]);
        let bomb = place.file("bomb", &zstd::encode_all(large.as_slice(), 1).unwrap());
        assert!(matches!(refused("a", &bomb), RootfsError::TooLarge(_)));
        let mut holes = vec![0; EXT4_MAGIC_AT];
        holes.extend(EXT4_MAGIC);
        let holes = place.file("holes", &holes);
        fs::open_append(&holes).unwrap().set_len(2 << 20).unwrap();
        assert!(matches!(refused("a", &holes), RootfsError::TooLarge(_)));
        let good = place.file("good", &tar(&[("f", "")]));
        place.register("a", &good).unwrap();
        for taken in ["a", "debian-bookworm"] {
            assert!(matches!(refused(taken, &good), RootfsError::Taken(_)), "{taken}");
        }
        assert_eq!(Image::list(&place.home).unwrap().len(), 1);
    }

    #[test]
    fn a_directory_that_stops_answering_is_given_up() {
        let place = Place::new();
        let name = "a".parse().unwrap();
        let from = |until| FromRootfs { until, ..place.from(&name, Whose::Nobodys) };
        let new = NewImage::begin(&place.home).unwrap();
        let hanging = || Tool::new("sh").args(["-c", "head -c 10000 /dev/zero; exec sleep 1000"]);
        let silence = Duration::from_millis(200);
        let error = from(Until::default()).pack(&new, hanging(), silence).unwrap_err();
        let RootfsError::Read(source) = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("nothing came of it"), "{source}");

        let called_off = AtomicBool::new(false);
        let error = std::thread::scope(|scope| {
            let packs = || from(Until::set(&called_off)).pack(&new, hanging(), PACK_SILENCE);
            let packs = scope.spawn(packs);
            called_off.store(true, Ordering::Relaxed);
            packs.join().unwrap().unwrap_err()
        });
        assert!(matches!(error, RootfsError::CalledOff), "{error:?}");

        // What it says of its own failure tells more than what came before.
        let failing = Tool::new("sh").args(["-c", "echo x; echo no such disk >&2; exit 2"]);
        let error = from(Until::default()).pack(&new, failing, PACK_SILENCE).unwrap_err();
        let RootfsError::Pack(source) = &error else { panic!("{error:?}") };
        assert!(source.to_string().ends_with("no such disk"), "{source}");
    }

    #[test]
    fn what_is_called_off_gets_no_name() {
        let place = Place::new();
        let path = place.file("a.tar", &tar(&[("bin/sh", "#!")]));
        let called_off = AtomicBool::new(true);
        let name = "a".parse().unwrap();
        let from =
            FromRootfs { until: Until::set(&called_off), ..place.from(&name, Whose::Nobodys) };
        let ended = from.make(Rootfs::at(&path).unwrap(), &Silent).unwrap_err();
        assert!(matches!(ended, RootfsError::CalledOff), "{ended:?}");
        // It may be called off when nothing is left to do but to give it its name.
        let new = NewImage::begin(&place.home).unwrap();
        new.write(&Tree::new(), &Silent).unwrap();
        let info = ImageInfo {
            source: "a test".to_owned(),
            config: ImageConfig::default(),
            origin: None,
            made: None,
            kernel: None,
            bundle: None,
            made_by: None,
        };
        let made = new.finish_until(from.name, info, from.until).unwrap();
        assert!(made.is_none() && Image::list(&place.home).unwrap().is_empty());
    }

    #[test]
    fn a_machine_leaves_nothing_of_its_own() {
        let own = [("etc/hostname", "web\n"), ("etc/ssh/ssh_host_rsa_key", "secret")];
        let file = tar(&[&own[..], &[("etc/passwd", "root"), ("etc/machine-id", "0a")]].concat());
        let place = Place::new();
        let opened = fs::open_file(&place.file("tar", &file)).unwrap();
        let mut archive = Archive::open(opened).unwrap();
        forget_machine(&mut archive.entries);
        let lens: Vec<_> = archive
            .entries
            .iter()
            .map(|entry| match &entry.kind {
                crate::archive::Kind::File(content) => (entry.path.to_string(), content.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [("etc/hostname", 0), ("etc/passwd", 4), ("etc/machine-id", 0)];
        assert_eq!(lens, expected.map(|(path, len)| (path.to_owned(), len)));
    }
}
