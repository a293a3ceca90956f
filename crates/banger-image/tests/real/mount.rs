//! What this machine's kernel makes of images and disks. Needs root and loop devices.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::{HostError, facts, fs};
use banger_image::archive::Archive;
use banger_image::ext4::{WriteImageError, create_disk, write_image};
use banger_image::tree::Tree;
use banger_model::{Bytes, Silent};

const SOON: Duration = Duration::from_secs(120);

/// A mounted file system. Dropped, it is not mounted any more.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    fn new(args: &[&str], source: &Path, dir: &Path) -> Result<Self, HostError> {
        fs::create_private_dir(dir)?;
        Tool::new("/bin/mount").args(args).arg(source).arg(dir).capture(SOON)?;
        Ok(Self(dir.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Tool::new("/bin/umount").arg(&self.0).capture(SOON);
    }
}

/// `None` when nothing can be mounted here, which is said.
pub(crate) fn mounted(args: &[&str], source: &Path, dir: &Path) -> Option<Mounted> {
    if facts::user_id() != 0 {
        banger_testkit::skipped_on_this_machine("only root can mount");
        return None;
    }
    Mounted::new(args, source, dir)
        .map_err(|error| {
            banger_testkit::skipped_on_this_machine(&format!(
                "nothing can be mounted here: {error}"
            ))
        })
        .ok()
}

/// Everything that can be seen of a tree: by path, all that `stat` and `getfattr` say.
pub(crate) fn seen(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            path.read_link().unwrap().into_os_string().into_encoded_bytes()
        } else if kind.is_file() {
            fs::read_bounded(&path, 1 << 24).unwrap()
        } else {
            Vec::new()
        };
        if kind.is_dir() {
            left.extend(fs::list_dir(&path).unwrap().iter().map(|name| path.join(name)));
        }
        let links = if kind.is_dir() { 0 } else { meta.nlink() };
        let device = kind.is_char_device().then(|| meta.rdev());
        let line = format!(
            "{:o} {}:{} {}.{} {links} {device:?} {:?} {content:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            attributes(&path),
        );
        let name = path.strip_prefix(root).unwrap().as_os_str().as_encoded_bytes();
        let name = name.escape_ascii().to_string();
        if !name.is_empty() && name != "lost+found" {
            found.insert(name, line);
        }
    }
    found
}

/// Extended attributes by name.
fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(len);
        (String::from_utf8_lossy(name).into_owned(), value)
    };
    names.map(value).collect()
}

fn varied_tree(root: &Path) {
    fs::create_private_dir(&root.join("dir/deeper")).unwrap();
    for (name, len) in [("empty", 0), ("dir/small", 10), ("dir/deeper/large", 3_000_000)] {
        fs::write_atomic(&root.join(name), &vec![b'x'; len]).unwrap();
    }
    std::fs::hard_link(root.join("dir/small"), root.join("link")).unwrap();
    symlink("t".repeat(100), root.join("long-link")).unwrap();
    symlink("dir/small", root.join("short-link")).unwrap();
    std::os::unix::fs::chown(root.join("empty"), Some(3_000_000_000), Some(70_000)).unwrap();
    let sh = |script: &str| Tool::new("sh").args(["-c", script]).dir(root).capture(SOON).unwrap();
    sh("mknod null c 1 3; mkfifo fifo; chmod 7755 dir/small; touch -d @-100000.123456789 empty");
    // Names and targets are bytes, in a directory with an index, too.
    sh("mkdir many && cd many && seq -f %0100.0f 1 2000 | xargs touch -d @1");
    sh("for n in $(seq 128 255); do : > \"$(printf \"many/\\\\$(printf %o $n)\")\"; done");
    sh("ln -s \"$(printf '\\377')\" odd");
}

#[test]
fn an_image_shows_the_tree_that_was_archived() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, tar, image) =
        (dir.path().join("tree"), dir.path().join("tar"), dir.path().join("image"));
    if facts::user_id() != 0 {
        return banger_testkit::skipped_on_this_machine("only root can make devices and mount");
    }
    varied_tree(&tree);
    let archiver =
        Tool::new("tar").args(["--format=posix", "--xattrs", "--xattrs-include=*", "-cf"]);
    archiver.arg(&tar).arg("-C").arg(&tree).arg(".").capture(SOON).unwrap();
    let archive = Archive::open(File::open(&tar).unwrap()).unwrap();
    write_image(&image, "test", &Tree::of(archive).unwrap(), &Silent).unwrap();
    let Some(mount) = mounted(&["-o", "loop,ro,noload"], &image, &dir.path().join("mnt")) else {
        return;
    };
    assert_eq!(seen(&mount.0), seen(&tree));
}

#[test]
fn a_disk_is_writable_and_stays_sound() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    create_disk(&disk, Bytes::gib(8)).unwrap();
    let at = dir.path().join("mnt");
    let Some(mount) = mounted(&["-o", "loop,discard"], &disk, &at) else { return };
    let file = mount.0.join("file");
    fs::write_atomic(&file, &[7; 1_000_000]).unwrap();
    assert!(fs::free_space(&mount.0).unwrap() > Bytes::mib(7900));
    drop(mount);
    Tool::new("/sbin/e2fsck").arg("-fn").arg(&disk).capture(SOON).unwrap();
    let real = fs::file_size(&disk).unwrap().real;
    assert!(real < Bytes::mib(8), "no inode table was written in the background: {real}");
    let mount = mounted(&["-o", "loop,discard"], &disk, &at).unwrap();
    assert_eq!(fs::read_bounded(&mount.0.join("file"), 1 << 20).unwrap(), [7; 1_000_000]);
}

#[test]
fn a_full_disk_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    let Some(mount) = mounted(&["-t", "tmpfs", "-o", "size=1M"], Path::new("tmpfs"), &small) else {
        return;
    };
    let file = tempfile::tempfile_in(dir.path()).unwrap();
    let content = vec![7; 5 << 20];
    let entries = vec![banger_image::archive::Entry::file("big", content, (0, 0))];
    let tree = Tree::of(Archive { entries, file }).unwrap();
    let error = write_image(&mount.0.join("image"), "x", &tree, &Silent);
    let error = error.unwrap_err();
    assert!(matches!(error, WriteImageError::NoSpace { .. }), "{error}");
    assert!(error.to_string().ends_with("small/image: it needs about 5M"), "{error}");
}
