//! The host's power, as far as a file system feels it: one of its own, on a file, that from one
//! moment on takes nothing any more.
//!
//! The kernel is told to shut it down without writing its journal: what no flush has brought to the
//! device by then is lost. Mounted again, the journal is replayed as after a start of the host. It is
//! mounted such that nothing but a sync brings anything there soon: no commit every five seconds, and
//! no data along with a rename. The device itself loses nothing, so it need not be flushed.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use banger_host::clock::Deadline;
use banger_host::process::Process;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::world::processes_of;

/// Room for everything in a home; of the file that it is in, only what is used is taken.
const SIZE: u64 = 8 << 30;
/// What is enough to find out whether it works.
const TRIAL: u64 = 64 << 20;
const OPTIONS: &str = "loop,noauto_da_alloc,nobarrier,commit=300";
/// `EXT4_IOC_SHUTDOWN`, and that not even the journal is written (Linux, `fs/ext4/ext4.h`).
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
const NOTHING_MORE: u32 = 2;
/// How long a process that has no power may take to be gone, and whatever it has open.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts to take down what somebody may have open still.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A file system of its own. Dropped, it is not mounted any more; the file that it is in stays.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes one in a file, and mounts it.
    pub(crate) fn make(image: &Path, at: &Path) -> Result<Self> {
        Self::of_size(image, at, SIZE)
    }

    fn of_size(image: &Path, at: &Path, size: u64) -> Result<Self> {
        File::create_new(image)?.set_len(size)?;
        fs::create_dir_all(at)?;
        run(Command::new("mkfs.ext4").args(["-q", "-J", "size=16", "-E", "nodiscard"]).arg(image))?;
        let disk = Self { image: image.to_owned(), at: at.to_owned() };
        disk.mount()?;
        // Nothing but what a home has.
        fs::remove_dir(at.join("lost+found"))?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", OPTIONS])
            .arg(&self.image)
            .arg(&self.at))
    }

    /// From now on nothing gets there. Who has something open there does not get on.
    pub(crate) fn cut(&self) -> Result<()> {
        shut_down(&self.at)
    }

    /// Makes it what it is after a start of the host, once nobody has anything open there.
    pub(crate) fn come_back(&self) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let back = self.try_come_back();
            match back {
                Err(_) if !deadline.passed() => std::thread::sleep(LOOK_AGAIN),
                back => return back,
            }
        }
    }

    fn try_come_back(&self) -> Result<()> {
        let dir = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.dev());
        // Two could be mounted one over the other.
        if dir(&self.at)? != dir(self.at.parent().unwrap_or(&self.at))? {
            self.unmount()?;
        }
        self.mount()?;
        self.is_alive()
    }

    /// Whether it is another than the dead one: as long as that is mounted anywhere, as in the name
    /// space of a program that has just begun, the kernel mounts the same.
    fn is_alive(&self) -> Result<()> {
        fs::read_dir(&self.at)?;
        File::open(&self.at)?.sync_all().context("the file system is dead still")
    }

    fn unmount(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.unmount();
    }
}

/// Ends whatever has to do with this directory, as the end of the host does.
pub(crate) fn end_processes(root: &Path) -> Result<()> {
    loop {
        let there = processes_of(root)?;
        if there.is_empty() {
            return Ok(());
        }
        for pid in there.into_keys() {
            let process = Process::open(pid)?;
            // It may have ended, and its pid be another's.
            if let Some(process) = process.filter(|_| is_of(root, pid)) {
                process.kill(PATIENCE).context("it goes on without power")?;
            }
        }
    }
}

fn is_of(root: &Path, pid: i32) -> bool {
    processes_of(root).is_ok_and(|there| there.contains_key(&pid))
}

/// Whether the power can be cut here.
///
/// # Errors
/// Why it cannot.
pub fn can_be_cut() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "only root can mount");
    let dir = tempfile::tempdir()?;
    let disk = Disk::of_size(&dir.path().join("image"), &dir.path().join("at"), TRIAL)?;
    disk.cut()?;
    disk.come_back()
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(())
}

#[expect(unsafe_code, reason = "shutting down a file system has no safe wrapper")]
fn shut_down(at: &Path) -> Result<()> {
    let open = File::open(at)?;
    // SAFETY: the kernel reads one number of 32 bits, which the type says, and writes nothing to this
    // process's memory.
    // JUSTIFICATION: there is no other way to have a file system lose what is not on its device.
    let shut = unsafe { ioctl(&open, Setter::<SHUTDOWN, u32>::new(NOTHING_MORE)) };
    shut.context("this file system cannot be shut down")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_synced_is_there_afterwards_and_what_was_not_is_not() {
        if let Err(why) = can_be_cut() {
            return banger_testkit::skipped_on_this_machine(&format!("{why:#}"));
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("at");
        let disk = Disk::of_size(&dir.path().join("image"), &at, TRIAL).unwrap();
        let write = |name: &str| {
            let mut file = File::create_new(at.join(name)).unwrap();
            file.write_all(name.as_bytes()).unwrap();
            file
        };
        write("synced").sync_all().unwrap();
        let lost = write("lost");
        disk.cut().unwrap();
        assert!(lost.sync_all().is_err());
        drop(lost);
        disk.come_back().unwrap();
        assert_eq!(fs::read_to_string(at.join("synced")).unwrap(), "synced");
        assert!(!at.join("lost").exists());
        drop(disk);
        assert_eq!(fs::read_dir(at).unwrap().count(), 0);
    }
}
