//! Serves the link on standard input, without a sandbox: for tests, and for trying the agent.
//!
//! `serve [CGROUP]`: standard input is a stream socket; process trees get their cgroups below
//! the directory `CGROUP`, a cgroup of version 2. Orphans come to this process as they come to
//! the first process of a sandbox, and it starts itself as its tools. Identities are written to standard error and not taken on.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;

use banger_agent::{Cgroups, Freezer, Machine, PowersOff, Server, Setting};
use banger_link::Identity;
use rustix::fs::OFlags;

/// A machine that only says what it would have become.
struct Fake;

impl Machine for Fake {
    fn take_on(&mut self, identity: &Identity, _processes: Freezer) -> Result<(), String> {
        if identity.hostname.is_empty() {
            return Err("cannot be nobody".to_owned());
        }
        writeln!(std::io::stderr(), "{}", identity.hostname).map_err(|error| error.to_string())
    }

    fn settle(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn adjust_clock(&mut self, _by_ns: i64) -> Result<u64, String> {
        Err("this clock is its host's".to_owned())
    }

    fn thawed(&mut self) {}

    fn power_off(&mut self) -> Result<PowersOff, String> {
        Ok(PowersOff::Server)
    }
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    if let Some(status) = banger_agent::run_tool(std::env::args_os()) {
        return Ok(status);
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let port = std::io::stdin().as_fd().try_clone_to_owned()?;
    rustix::fs::fcntl_setfl(&port, OFlags::NONBLOCK)?;
    let cgroups = match std::env::args_os().nth(1) {
        Some(dir) => Some(Cgroups::below(Path::new(&dir))?),
        None => None,
    };
    Server::new(Setting { port, machine: Fake, cgroups, ready_us: 0 })?.run()?;
    Ok(ExitCode::SUCCESS)
}
