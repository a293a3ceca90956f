//! The process beside each sandbox that outlives its owner by a moment.
//!
//! It waits for the lease. When the owner is gone, however it went, it ends the sandbox's
//! processes and removes its directory. It sleeps in the kernel all the time and reads nothing
//! that a guest could write.

use std::path::Path;

use anyhow::Result;
use banger_host::process::{Launch, Process};
use banger_vmm::{Record, console};

use crate::lease::Lease;
use crate::sandbox::{HelperProgram, discard};

/// Starts the keeper of the sandbox in `dir`, whose lease the caller holds.
///
/// # Errors
/// When the program does not start.
pub fn start(program: &HelperProgram, dir: &Path) -> Result<Process> {
    let args = program.args.iter().map(|arg| arg.as_os_str());
    // Not in the sandbox's directory, which it is going to remove.
    let launch = Launch::new(&program.program, Path::new("/")).args(args).args([dir.as_os_str()]);
    Ok(launch.start()?)
}

/// What the keeper process does: returns when the sandbox is gone.
///
/// # Errors
/// When the sandbox could not be removed; the next sweep tries again.
pub fn run(dir: &Path) -> Result<()> {
    match Lease::wait(dir)? {
        Some(lease) => discard(&lease),
        None => Ok(()),
    }
}

/// Keeps the logs of a running sandbox within bounds; returns when its VMM has ended. This is the
/// owner's to do: while the owner is stopped, a guest that floods its console is not bounded.
///
/// # Errors
/// When a log cannot be watched or cut.
pub fn keep_logs(dir: &Path) -> Result<()> {
    let Some(record) = Record::read(dir)? else { return Ok(()) };
    match Process::find(&record.process)? {
        Some(vmm) => Ok(console::keep_trimmed(dir, &vmm)?),
        None => Ok(()),
    }
}
