//! The machine that the agent is PID 1 of, from its first moment to its last.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use banger_link::Identity;
use rustix::process::{Resource, Rlimit, setrlimit};
use thiserror::Error;

use crate::boot::{self, BootError, Booted, Disk};
use crate::boot_id::BootId;
use crate::cgroup::{Cgroups, Freezer};
use crate::clock;
use crate::console;
use crate::files;
use crate::identity;
use crate::link_port::{self, LinkPortError};
use crate::network::{self, NetworkError};
use crate::power;
use crate::server::{Machine, ServeError, Server, Setting};
use crate::settle;
use crate::tool::run_tool;

/// Most files that the agent, and whoever asks for more than the default, may have open: what
/// service managers allow.
const MAX_FILES: u64 = 524_288;

/// Who may ping without privilege: every group, as in containers.
const PING_GROUPS: (&str, &[u8]) = ("/proc/sys/net/ipv4/ping_group_range", b"0 2147483647");

/// Why a machine does not serve.
#[derive(Debug, Error)]
enum GuestError {
    #[error("cannot boot")]
    Boot(#[from] BootError),
    #[error("cannot open the link")]
    LinkPort(#[from] LinkPortError),
    #[error("cannot serve")]
    Serve(#[from] ServeError),
    #[error("cannot bring up the loopback interface")]
    Loopback(#[from] NetworkError),
}

/// The real machine.
#[derive(Debug, Default)]
struct Guest {
    /// How often it has become a sandbox: more than once when it was saved.
    generation: u64,
    /// Which sandbox it is.
    machine_id: Option<[u8; 16]>,
    boot_id: BootId,
}

impl Machine for Guest {
    fn take_on(&mut self, identity: &Identity, processes: Freezer) -> Result<(), String> {
        identity::take_on(identity).map_err(|error| console::chain(&error))?;
        let before = self.machine_id.replace(identity.machine_id);
        // They know the boot id of the sandbox that this was before.
        if processes == Freezer::Frozen && before.is_some_and(|id| id != identity.machine_id) {
            let renewed = self.boot_id.renew();
            renewed.map_err(|error| format!("cannot give this boot an id of its own: {error}"))?;
        }
        self.generation += 1;
        identity::publish(self.generation).map_err(|error| console::chain(&error))
    }

    fn settle(&mut self) -> Result<(), String> {
        settle::settle().map_err(|error| format!("cannot clear free memory: {error}"))
    }

    fn adjust_clock(&mut self, by_ns: i64) -> Result<u64, String> {
        clock::adjust(by_ns).map_err(|error| format!("cannot move the clock: {error}"))
    }
}

/// The whole life of a sandbox's first process, or of a tool that it started with these
/// `arguments`. The first process comes back only when the kernel refuses to turn the power off.
pub fn live(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // The first process has the kernel's command line for arguments: they ask for nothing.
    if !is_process_one()
        && let Some(status) = run_tool(arguments)
    {
        return status;
    }
    if !is_first() {
        return ExitCode::FAILURE;
    }
    let errno = match serve() {
        Ok(Some(disk)) => power::off(&disk),
        Ok(None) => power::halt(),
        Err(error) => {
            console::say(&console::chain(&error));
            power::halt()
        }
    };
    console::say(&format!("cannot power off: {errno}"));
    ExitCode::FAILURE
}

/// The life of the first process of the machine that shows how fast one could start.
pub fn live_as_floor() {
    if !is_first() {
        return;
    }
    if let Err(error) = boot::boot_floor() {
        console::say(&console::chain(&error));
    }
    let errno = power::halt();
    console::say(&format!("cannot power off: {errno}"));
}

/// Powering off is what the agent does when all else fails; it must not do that to the machine
/// of someone who only tried what the program does.
fn is_first() -> bool {
    let first = is_process_one();
    if !first {
        console::say("this is the first process of a sandbox; it does nothing anywhere else");
    }
    first
}

fn is_process_one() -> bool {
    rustix::process::getpid() == rustix::process::Pid::INIT
}

/// Boots and serves until the machine is to end.
fn serve() -> Result<Option<Disk>, GuestError> {
    let (disk, mut timeline) = match boot::boot()? {
        Booted::Probe => return Ok(None),
        Booted::Sandbox(disk, timeline) => (disk, timeline),
    };
    let files = Rlimit { current: Some(MAX_FILES), maximum: Some(MAX_FILES) };
    // With fewer files, fewer processes can be started at once, and a start says so.
    let _fewer = setrlimit(Resource::Nofile, files);
    // A kernel without unprivileged ping does without.
    let _without = files::set(Path::new(PING_GROUPS.0), PING_GROUPS.1);
    network::loopback_up()?;
    timeline.mark("loopback");
    let cgroups = Cgroups::set_up();
    timeline.mark("cgroups");
    let port = link_port::open()?;
    timeline.mark("link port");
    let ready_us = boot::since_boot_us();
    let server = Server::new(Setting { port, machine: Guest::default(), cgroups, ready_us })?;
    timeline.mark("ready");
    server.run()?;
    Ok(Some(disk))
}
