//! From the initramfs to the root of the sandbox.
//!
//! The rootfs that a kernel starts with can be neither unmounted nor pivoted away. So the
//! overlay is moved on top of it, and PID 1 changes its root: kernel threads share PID 1's idea
//! of the root, so they look for `modprobe` in the sandbox from then on.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, mount_move,
    move_mount, open_tree, unmount,
};

use super::BootError;
use super::plan::{self, Mount, Need};

/// Most files of the initramfs that are deleted to give back their memory.
const MAX_DELETED: usize = 256;

/// Most directories of the image's `/run` that are made again in the new one.
const MAX_RUN_DIRS: usize = 256;

/// The sandbox's own disk, held so that it can be closed cleanly at the end although no path
/// leads to it.
#[derive(Debug)]
pub(crate) struct Disk {
    /// The root of its file system.
    pub(crate) root: File,
}

/// Does one mount, making its mount point if there is none.
///
/// # Errors
/// [`BootError::Mount`], unless the mount is optional.
pub(super) fn mount(mount: &Mount) -> Result<(), BootError> {
    let failed = |source: io::Error| BootError::Mount {
        what: mount.source.clone(),
        target: mount.target.clone(),
        source,
    };
    make_dir(&mount.target).map_err(failed)?;
    let with = |options: &str| {
        let options = std::ffi::CString::new(options).unwrap_or_default();
        let Mount { source, target, fstype, flags, .. } = mount;
        rustix::mount::mount(source, target, *fstype, *flags, options.as_c_str())
    };
    let wished = mount.wish.map(|wish| with(&format!("{},{wish}", mount.options)));
    let done = match wished {
        Some(Err(Errno::INVAL)) | None => with(mount.options),
        Some(done) => done,
    };
    match (done, mount.need) {
        (Ok(()), _) | (Err(_), Need::Optional) => Ok(()),
        (Err(errno), Need::Required) => Err(failed(errno.into())),
    }
}

/// Makes a directory and those above it; existing ones stay as they are.
fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Makes the directories that the overlay needs on the disk. The top of the sandbox's tree
/// shows the attributes of the upper directory, so a new one takes them from the image.
///
/// # Errors
/// [`BootError::Prepare`] with the path.
pub(super) fn prepare_disk() -> Result<Disk, BootError> {
    let at = |path: &'static str| move |source| BootError::Prepare { path: path.into(), source };
    match fs::create_dir(plan::UPPER) {
        Ok(()) => {
            let image = fs::metadata(plan::BASE).map_err(at(plan::BASE))?;
            chown(plan::UPPER, Some(image.uid()), Some(image.gid())).map_err(at(plan::UPPER))?;
            let mode = Permissions::from_mode(image.mode() & 0o7777);
            fs::set_permissions(plan::UPPER, mode).map_err(at(plan::UPPER))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at(plan::UPPER)(error)),
    }
    make_dir(Path::new(plan::WORK)).map_err(at(plan::WORK))?;
    let path_only = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(plan::DISK);
    Ok(Disk { root: path_only.map_err(at(plan::DISK))? })
}

/// Parts of the disk that will be mounted in the sandbox: a mount that is nowhere yet, and
/// where it goes.
#[derive(Debug)]
pub(super) struct PlainDirs(Vec<(OwnedFd, &'static str)>);

/// Takes the plain directories from the disk while there is a path to it.
///
/// # Errors
/// [`BootError::Prepare`] with the path.
pub(super) fn plain_dirs() -> Result<PlainDirs, BootError> {
    let mut dirs = Vec::new();
    for target in plan::PLAIN_DIRS {
        let name = Path::new(target).file_name().unwrap_or_default();
        let path = Path::new(plan::PLAIN).join(name);
        let at = |source| BootError::Prepare { path: path.clone(), source };
        make_dir(&path).map_err(at)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &path, flags).map_err(|errno| at(errno.into()))?;
        dirs.push((tree, target));
    }
    Ok(PlainDirs(dirs))
}

/// Mounts the plain directories in the sandbox. An image in which that cannot be (a file is in
/// the place of a directory) is not one in which anyone misses them.
pub(super) fn attach_plain_dirs(dirs: PlainDirs) {
    for (tree, target) in dirs.0 {
        if make_dir(Path::new(target)).is_ok() {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            let _not_in_this_image = move_mount(&tree, "", CWD, target, flags);
        }
    }
}

/// Makes the overlay the root of everything, and gives back the initramfs's memory.
///
/// # Errors
/// [`BootError::SwitchRoot`].
pub(super) fn switch() -> Result<(), BootError> {
    let failed = |errno: Errno| BootError::SwitchRoot(errno.into());
    delete_initramfs();
    for left in [plan::BASE, plan::DISK, "/proc", "/sys", "/dev"] {
        unmount(left, UnmountFlags::DETACH).map_err(failed)?;
    }
    rustix::process::chdir(plan::ROOT).map_err(failed)?;
    mount_move(".", "/").map_err(failed)?;
    rustix::process::chroot(".").map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)?;
    // As systemd does: container engines in the sandbox expect to see later mounts.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).map_err(failed)
}

/// Deletes the boot modules. A file that stays costs its memory and nothing else.
fn delete_initramfs() {
    let Ok(modules) = fs::read_dir("/modules") else { return };
    for entry in modules.take(MAX_DELETED).flatten() {
        let _stays = fs::remove_file(entry.path());
    }
}

/// Makes the links of `/dev` that are not the kernel's to make.
///
/// # Errors
/// [`BootError::Prepare`] with the link.
pub(super) fn link_dev() -> Result<(), BootError> {
    for (link, to) in plan::DEV_LINKS {
        match symlink(to, link) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(BootError::Prepare { path: link.into(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes `/tmp` where the image has none.
///
/// # Errors
/// [`BootError::Prepare`].
pub(super) fn make_tmp() -> Result<(), BootError> {
    let everyones = || fs::set_permissions("/tmp", Permissions::from_mode(0o1777));
    match fs::create_dir("/tmp").and_then(|()| everyones()) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(BootError::Prepare { path: "/tmp".into(), source })
        }
        _ => Ok(()),
    }
}

/// One directory of `/run` with what the image says about it.
#[derive(Debug)]
struct RunDir {
    path: PathBuf,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Mounts a fresh `/run` and makes the directories again that the image has there.
///
/// Files in `/run` speak of a machine that no longer runs, but images are made with directories
/// in it that their servers need (`/run/postgresql`, `/run/mysqld`) and nothing would make.
///
/// An image that has a file of that name, as those of a single program may, keeps it.
///
/// # Errors
/// [`BootError::Mount`].
pub(super) fn fresh_run() -> Result<(), BootError> {
    if fs::metadata("/run").is_ok_and(|run| !run.is_dir()) {
        return Ok(());
    }
    let dirs = run_dirs(Path::new("/run"));
    mount(&plan::run())?;
    for dir in dirs {
        // Without it, a server of the image misses its directory and says so.
        let _missing = remake(&dir);
    }
    Ok(())
}

fn remake(dir: &RunDir) -> io::Result<()> {
    match fs::create_dir(&dir.path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    chown(&dir.path, Some(dir.uid), Some(dir.gid))?;
    fs::set_permissions(&dir.path, Permissions::from_mode(dir.mode))
}

/// The directories below this one, parents first. Symbolic links are not followed.
fn run_dirs(top: &Path) -> Vec<RunDir> {
    let mut found = Vec::new();
    let mut next = vec![top.to_owned()];
    while let Some(parent) = next.pop() {
        let Ok(entries) = fs::read_dir(&parent) else { continue };
        for entry in entries.take(MAX_RUN_DIRS).flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if !about.is_dir() {
                continue;
            }
            if found.len() == MAX_RUN_DIRS {
                return found;
            }
            next.push(entry.path());
            let mode = about.mode() & 0o7777;
            found.push(RunDir { path: entry.path(), mode, uid: about.uid(), gid: about.gid() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_run_come_parents_first_and_links_stay_out() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir_all(run.path().join("a/b")).unwrap();
        fs::set_permissions(run.path().join("a/b"), Permissions::from_mode(0o3777)).unwrap();
        symlink("/", run.path().join("root")).unwrap();
        File::create(run.path().join("a/pid")).unwrap();
        let dirs = run_dirs(run.path());
        let paths: Vec<_> = dirs.iter().map(|d| d.path.strip_prefix(run.path()).unwrap()).collect();
        assert_eq!(paths, [Path::new("a"), Path::new("a/b")]);
        assert_eq!(dirs[1].mode, 0o3777);
    }

    #[test]
    fn a_run_without_end_is_cut_off() {
        let run = tempfile::tempdir().unwrap();
        for n in 0..MAX_RUN_DIRS + 5 {
            fs::create_dir(run.path().join(n.to_string())).unwrap();
        }
        assert_eq!(run_dirs(run.path()).len(), MAX_RUN_DIRS);
    }
}
