//! A machine whose first process is the image's systemd, with the agent beside it.
//!
//! The agent boots the machine as always. Then it becomes two processes: the first one executes the
//! image's init, the other serves the host. That one is nobody's unit on purpose: nothing that
//! systemd does with units stops it, it is there before the first of them and after the last, and
//! systemd itself can be made to stand still while the machine is saved.
//!
//! What systemd is told lies in `/run`, which the image has no part in: a unit that says when the
//! machine is up, and what would wait for a network that the agent brings up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use rustix::process::{Pid, Signal};
use thiserror::Error;

use crate::cgroup::{self, Place};
use crate::console;
use crate::files::{read_bounded, read_line};
use crate::fstab;
use crate::host_keys;
use crate::identity::replace;
use crate::sys::fork::{Forked, fork};

/// What the kernel would start.
const INIT: &str = "/sbin/init";
/// The argument that has this program say that the machine is up.
const READY: &str = "ready";
/// What can be read when the machine is up.
const READY_PIPE: &str = "/run/banger/ready";
/// How long a machine may take to be up, when something in it waits for what never comes: less
/// than the host waits for an answer. Then it is served as it is.
const PATIENCE: Duration = Duration::from_secs(100);

const MACHINE_ID: &str = "/etc/machine-id";
const FSTAB: &str = "/etc/fstab";
/// Longest table of file systems that is looked at, in bytes.
const MAX_FSTAB_LEN: u64 = 1024 * 1024;
/// What is shown in its place where it has lines that this machine cannot follow.
const OUR_FSTAB: &str = "/run/banger/fstab";

const UNITS: &str = "/run/systemd/system";
const READY_UNIT: &str = "banger-ready.service";
/// The targets that want our unit: whichever a machine has for its own leads through the first.
const WANTED_BY: &str = "/run/systemd/system/multi-user.target.wants";
/// Units that could only wait in vain: for a network that is the agent's to configure, or for
/// somebody at the console.
const MASKED: [&str; 4] = [
    "systemd-networkd-wait-online.service",
    "NetworkManager-wait-online.service",
    "networking.service",
    "serial-getty@ttyS0.service",
];
/// What makes nodes for kernel modules that are not loaded yet, and where its program may be: most
/// images do not bring it.
const STATIC_NODES: &str = "kmod-static-nodes.service";
const KMOD: [&str; 2] = ["/bin/kmod", "/usr/bin/kmod"];
/// What keeps other hands from the network interface: path, contents.
const UNMANAGED: [(&str, &str); 2] = [
    (
        "/run/systemd/network/00-banger.network",
        "[Match]\nDriver=virtio_net\n\n[Link]\nUnmanaged=yes\n",
    ),
    (
        "/run/NetworkManager/conf.d/00-banger.conf",
        "[keyfile]\nunmanaged-devices=driver:virtio_net\n",
    ),
];

/// Where journald is, which keeps the machine's id and its boot's as long as it lives.
const JOURNALD: &str = "system.slice/systemd-journald.service";
/// The signal that has systemd power the machine off in order (systemd(1)).
const POWER_OFF_ABOVE_RTMIN: i32 = 4;

/// Why a machine has no systemd.
#[derive(Debug, Error)]
pub(crate) enum SystemdError {
    #[error("the image has no {INIT} that could be executed")]
    Init(#[source] io::Error),
    #[error("cannot tell systemd about this machine")]
    Tell(#[source] io::Error),
    #[error("cannot become two processes")]
    Fork(#[source] io::Error),
}

/// Executes the image's init in this process, and returns in another, when the machine is up.
///
/// # Errors
/// [`SystemdError`], in the first process.
pub(crate) fn hand_over() -> Result<(), SystemdError> {
    fs::metadata(INIT).map_err(SystemdError::Init)?;
    let ready = prepare().map_err(SystemdError::Tell)?;
    cgroup::move_to(Place::Agents).map_err(SystemdError::Tell)?;
    match fork().map_err(SystemdError::Fork)? {
        Forked::Parent(agent) => {
            drop(ready);
            cgroup::move_to(Place::Root).map_err(SystemdError::Tell)?;
            tell_of(agent).map_err(SystemdError::Tell)?;
            Err(SystemdError::Init(execute_init()))
        }
        Forked::Child => {
            // Its own session: the first process is to have no part in what becomes of this one.
            let _own = rustix::process::setsid();
            wait_until_up(&ready);
            Ok(())
        }
    }
}

/// Returns when that fails.
#[expect(clippy::disallowed_methods, reason = "it takes this process's place: nothing to wait for")]
fn execute_init() -> io::Error {
    Command::new(INIT).env_clear().env("TERM", "linux").exec()
}

/// Everything in `/run` but the unit that names the agent. Returns what can be read when the
/// machine is up.
fn prepare() -> io::Result<File> {
    fs::create_dir_all(WANTED_BY)?;
    let no_kmod = !KMOD.iter().any(|program| Path::new(program).exists());
    for unit in MASKED.into_iter().chain(no_kmod.then_some(STATIC_NODES)) {
        symlink("/dev/null", Path::new(UNITS).join(unit))?;
    }
    for (path, contents) in UNMANAGED {
        replace(Path::new(path), contents.as_bytes(), 0o644)?;
    }
    make_machine_id()?;
    hide_fstab()?;
    host_keys::prepare(Path::new(UNITS), Path::new(WANTED_BY))?;
    fs::create_dir_all("/run/banger")?;
    mkfifoat(CWD, READY_PIPE, Mode::RUSR | Mode::WUSR)?;
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(READY_PIPE)
}

/// The unit that says when the machine is up. The agent's program lies where no path leads.
fn tell_of(agent: Pid) -> io::Result<()> {
    let unit = format!(
        "[Unit]\nDescription=Tells the host that this machine is up\nDefaultDependencies=no\n\
         After=multi-user.target\n\n\
         [Service]\nType=oneshot\nExecStart=/proc/{}/exe {READY}\n",
        agent.as_raw_nonzero()
    );
    let path = Path::new(UNITS).join(READY_UNIT);
    replace(&path, unit.as_bytes(), 0o644)?;
    symlink(path, Path::new(WANTED_BY).join(READY_UNIT))
}

/// A machine without an id counts as one that was never booted, and systemd would set it up anew.
/// This one stands until the machine becomes somebody's.
fn make_machine_id() -> io::Result<()> {
    if machine_id().is_some() {
        return Ok(());
    }
    let uuid = read_line(Path::new("/proc/sys/kernel/random/uuid"))?;
    replace(Path::new(MACHINE_ID), (uuid.replace('-', "") + "\n").as_bytes(), 0o444)
}

/// The machine's id, if it has one.
pub(crate) fn machine_id() -> Option<[u8; 16]> {
    let line = read_line(Path::new(MACHINE_ID)).ok().filter(|line| line.len() == 32)?;
    let id = u128::from_str_radix(&line, 16).ok()?.to_be_bytes();
    (id != [0; 16]).then_some(id)
}

/// Shows another table of file systems where the image's own has lines for disks that this machine
/// does not have: systemd would wait for each, and then give up. The image's own stays as it is.
fn hide_fstab() -> io::Result<()> {
    let Ok(own) = read_bounded(Path::new(FSTAB), MAX_FSTAB_LEN) else { return Ok(()) };
    let Some(ours) = fstab::without_disks(&own) else { return Ok(()) };
    replace(Path::new(OUR_FSTAB), &ours, 0o644)?;
    mount_bind(OUR_FSTAB, FSTAB)?;
    mount_remount(FSTAB, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    Ok(())
}

fn wait_until_up(ready: &File) {
    let timeout = Timespec::try_from(PATIENCE).ok();
    if let Ok(0) | Err(_) = poll(&mut [PollFd::new(ready, PollFlags::IN)], timeout.as_ref()) {
        console::say("multi-user.target was not reached in time; serving all the same");
    }
    let _of_no_use_any_more = fs::remove_file(READY_PIPE);
}

/// Says that the machine is up, if the arguments of this program ask for that.
pub(crate) fn say_ready(arguments: &[std::ffi::OsString]) -> Option<ExitCode> {
    arguments.get(1).filter(|argument| *argument == READY)?;
    let pipe = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(READY_PIPE);
    match pipe.and_then(|mut pipe| pipe.write_all(b"1")) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            console::say(&format!("cannot say that this machine is up: {error}"));
            Some(ExitCode::FAILURE)
        }
    }
}

/// Has the journal be of the machine that this is now: `journalctl` shows no other's. journald is
/// started again at once, and what logs to it notices nothing.
///
/// systemd itself remembers the first id until it is told to look again (`%m` in units). It could
/// be told now, but for half a second nobody could ask it anything.
pub(crate) fn renew_journal() {
    cgroup::signal_group(JOURNALD, Signal::TERM);
}

/// Has what is secret and was made when this machine was nobody's made anew.
pub(crate) fn renew_secrets() {
    host_keys::renew(Path::new(UNITS));
}

/// Has systemd stop everything and power the machine off.
///
/// # Errors
/// What the kernel says.
pub(crate) fn power_off() -> io::Result<()> {
    let number = libc::SIGRTMIN() + POWER_OFF_ABOVE_RTMIN;
    crate::sys::signals::send_realtime(Pid::INIT, number)
}
