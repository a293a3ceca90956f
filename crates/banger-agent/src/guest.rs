//! The machine that the agent is PID 1 of, from its first moment to its last.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use banger_link::Identity;
use rustix::process::{Resource, Rlimit, setrlimit};
use thiserror::Error;

use crate::boot::{self, BootError, Booted, Disk, Init};
use crate::boot_id::BootId;
use crate::cgroup::{Cgroups, Freezer};
use crate::clock;
use crate::console;
use crate::files;
use crate::identity;
use crate::link_port::{self, LinkPortError};
use crate::network::{self, NetworkError};
use crate::power;
use crate::server::{Machine, PowersOff, ServeError, Server, Setting};
use crate::settle;
use crate::systemd::{self, SystemdError};
use crate::tool::{VolumeError, mount_volume, run_tool};

/// Most files that the agent, and whoever asks for more than the default, may have open: what
/// service managers allow.
const MAX_FILES: u64 = 524_288;

/// How the kernel is set before anything runs; one that lacks a setting does without.
const SETTINGS: [(&str, &[u8]); 4] = [
    // Every group may ping without privilege, as in containers.
    ("/proc/sys/net/ipv4/ping_group_range", b"0 2147483647"),
    // These three woke an idle machine some ten times a second: to look for memory to put together
    // (it does that when somebody asks for some), to sum up counters (every second), and to see
    // whether a processor hangs, which a machine that is paused always seems to do.
    ("/proc/sys/vm/compaction_proactiveness", b"0"),
    ("/proc/sys/vm/stat_interval", b"30"),
    ("/proc/sys/kernel/watchdog", b"0"),
];

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
    #[error("cannot mount a volume")]
    Volume(#[from] VolumeError),
    #[error("cannot start the image's own init")]
    Systemd(#[from] SystemdError),
}

/// The real machine.
#[derive(Debug)]
struct Guest {
    init: Init,
    /// How often it has become a sandbox: more than once when it was saved.
    generation: u64,
    /// Which sandbox it is.
    machine_id: Option<[u8; 16]>,
    boot_id: BootId,
    journal: Journal,
    means: identity::Means,
}

/// Whose the journal of the image's systemd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Ours,
    /// That of the sandbox that this was before, as long as nobody can be told.
    Anothers,
}

/// What a machine becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Becomes {
    /// What it was before, as after a pause.
    Itself,
    Another,
}

impl Becomes {
    /// Bears with what cannot be made so for a machine that was this sandbox before: what is in its
    /// memory is worth more. Another must not be taken for what it was.
    fn bear(self, failed: impl IntoIterator<Item = String>) -> Result<(), String> {
        for said in failed {
            match self {
                Self::Itself => console::say(&said),
                Self::Another => return Err(said),
            }
        }
        Ok(())
    }
}

/// The machine id of nobody, which no machine is to remember.
const NOBODY: [u8; 16] = [0; 16];

impl Guest {
    fn new(init: Init) -> Self {
        let machine_id = match init {
            Init::Agent => None,
            Init::Systemd => systemd::machine_id(),
        };
        Self {
            init,
            generation: 0,
            machine_id,
            boot_id: BootId::default(),
            journal: Journal::Ours,
            means: identity::Means::default(),
        }
    }

    fn renew_journal(&mut self, processes: Freezer) {
        if self.journal == Journal::Anothers && processes == Freezer::Thawed {
            systemd::renew_journal();
            self.journal = Journal::Ours;
        }
    }
}

impl Machine for Guest {
    fn take_on(&mut self, identity: &Identity, processes: Freezer) -> Result<(), String> {
        let failed = self.means.take_on(identity).map_err(|error| console::chain(&error))?;
        let becomes = match self.machine_id == Some(identity.machine_id) {
            true => Becomes::Itself,
            false => Becomes::Another,
        };
        becomes.bear(failed.iter().map(|error| console::chain(error)))?;
        let before = self.machine_id.replace(identity.machine_id);
        // They know the boot id of the sandbox that this was before.
        if processes == Freezer::Frozen && before.is_some() && becomes == Becomes::Another {
            let renewed = self.boot_id.renew();
            renewed.map_err(|error| format!("cannot give this boot an id of its own: {error}"))?;
        }
        if self.init == Init::Systemd
            && identity.machine_id != NOBODY
            && becomes == Becomes::Another
        {
            if before == Some(NOBODY) {
                systemd::renew_secrets();
            }
            self.journal = Journal::Anothers;
            self.renew_journal(processes);
        }
        self.generation += 1;
        let published = identity::publish(self.generation);
        becomes.bear(published.err().map(|error| console::chain(&error)))
    }

    fn settle(&mut self) -> Result<(), String> {
        settle::settle().map_err(|error| format!("cannot clear free memory: {error}"))
    }

    fn adjust_clock(&mut self, by_ns: i64) -> Result<u64, String> {
        clock::adjust(by_ns).map_err(|error| format!("cannot move the clock: {error}"))
    }

    fn thawed(&mut self) {
        self.renew_journal(Freezer::Thawed);
    }

    fn power_off(&mut self) -> Result<PowersOff, String> {
        match self.init {
            Init::Agent => Ok(PowersOff::Server),
            Init::Systemd => systemd::power_off()
                .map(|()| PowersOff::Init)
                .map_err(|error| format!("cannot tell systemd to power off: {error}")),
        }
    }
}

/// The whole life of a sandbox's first process, or of a tool that it started with these
/// `arguments`. The first process comes back only when the kernel refuses to turn the power off.
pub fn live(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // The first process has the kernel's command line for arguments: they ask for nothing.
    let arguments: Vec<_> = arguments.into_iter().collect();
    if !is_process_one()
        && let Some(status) = systemd::say_ready(&arguments).or_else(|| run_tool(arguments))
    {
        return status;
    }
    if !is_first() {
        return ExitCode::FAILURE;
    }
    let errno = match serve() {
        Ok(Served::First(disk)) => power::off(&disk),
        Ok(Served::Nothing) => power::halt(),
        Ok(Served::BesideInit) => return ExitCode::SUCCESS,
        // The machine goes on without us, for its user is in the midst of something.
        Err(error) if !is_process_one() => {
            console::say(&console::chain(&error));
            return ExitCode::FAILURE;
        }
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

/// As what the agent has served until the end.
#[derive(Debug)]
enum Served {
    /// As the first process of a machine with this disk.
    First(Disk),
    /// Beside the first process, which ends the machine.
    BesideInit,
    /// There was nothing to serve.
    Nothing,
}

/// Boots and serves until the machine is to end.
fn serve() -> Result<Served, GuestError> {
    let (disk, init, volumes, mut timeline) = match boot::boot()? {
        Booted::Probe => return Ok(Served::Nothing),
        Booted::Sandbox { disk, init, volumes, timeline } => (disk, init, volumes, timeline),
    };
    for (setting, value) in SETTINGS {
        let _without = files::set(Path::new(setting), value);
    }
    network::loopback_up()?;
    timeline.mark("loopback");
    let cgroups = Cgroups::set_up();
    timeline.mark("cgroups");
    for (slot, path) in volumes {
        mount_volume(slot, &path)?;
    }
    if init == Init::Systemd {
        systemd::hand_over()?;
        timeline.mark("systemd");
    }
    let files = Rlimit { current: Some(MAX_FILES), maximum: Some(MAX_FILES) };
    // With fewer files, fewer processes can be started at once, and a start says so.
    let _fewer = setrlimit(Resource::Nofile, files);
    let port = link_port::open()?;
    timeline.mark("link port");
    let ready_us = boot::since_boot_us();
    let server = Server::new(Setting { port, machine: Guest::new(init), cgroups, ready_us })?;
    timeline.mark("ready");
    server.run()?;
    Ok(match init {
        Init::Agent => Served::First(disk),
        Init::Systemd => Served::BesideInit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_it_was_before_may_be_as_it_was() {
        let failed = || ["no network".to_owned(), "no file".to_owned()];
        assert_eq!(Becomes::Itself.bear(failed()), Ok(()));
        assert_eq!(Becomes::Another.bear(failed()), Err("no network".to_owned()));
        assert_eq!(Becomes::Another.bear([]), Ok(()));
    }
}
