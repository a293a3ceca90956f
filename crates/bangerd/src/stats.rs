//! What a sandbox uses: as the host sees it, and as the guest says.

use std::path::Path;

use anyhow::{Context as _, Result};
use banger_api::types::{DiskUsage, GuestUse, HostUse, Stats};
use banger_host::fs::{file_size, read_text};
use banger_host::process::ProcessIdentity;

use crate::machine::{DISK, Live};
use crate::operations::now;

/// Longest file of /proc that is read here.
const MAX_PROC_LEN: u64 = 4096;
/// How long the guest may take to answer.
pub(crate) const GUEST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// What a sandbox uses at this moment.
///
/// # Errors
/// When its machine has ended.
pub(crate) async fn take(live: &Live, dir: &Path) -> Result<Stats> {
    let identity = live.machine.identity();
    let host = HostUse {
        cpu_ms: cpu_ms(identity).context("its machine has ended")?,
        memory: memory(identity).context("its machine has ended")?,
        disk: disk(dir).unwrap_or(DiskUsage { apparent: 0, real: 0 }),
    };
    let guest = tokio::time::timeout(GUEST_PATIENCE, live.link.stats()).await;
    let guest = guest.ok().and_then(Result::ok).map(|said| GuestUse {
        uptime_ms: said.uptime_ms,
        cpu_busy_ms: said.cpu_busy_ms,
        cpus: said.cpus,
        memory_total: said.memory_total,
        memory_available: said.memory_available,
        disk_total: said.disk_total,
        disk_free: said.disk_free,
        net_rx: said.net_rx,
        net_tx: said.net_tx,
        processes: said.processes,
    });
    Ok(Stats { at: now(), host, guest })
}

/// The size of the writable disk of the sandbox in `dir`; `None` before it is made.
pub(crate) fn disk(dir: &Path) -> Option<DiskUsage> {
    let size = file_size(&dir.join(DISK)).ok()?;
    Some(DiskUsage { apparent: size.apparent.get(), real: size.real.get() })
}

/// Milliseconds of processor time that a process has used: fields 14 and 15 of
/// `/proc/<pid>/stat`, in clock ticks (proc(5)). `None` when it is gone.
pub(crate) fn cpu_ms(identity: &ProcessIdentity) -> Option<u64> {
    let stat = read_text(Path::new(&format!("/proc/{}/stat", identity.pid)), MAX_PROC_LEN).ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some(parse_ticks(&stat, identity.start_time)?.saturating_mul(1000) / ticks)
}

fn parse_ticks(stat: &str, start_time: u64) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let field = |n: usize| after_name.split_ascii_whitespace().nth(n - 3)?.parse::<u64>().ok();
    // The pid may have passed to another process.
    (field(22)? == start_time).then_some(field(14)? + field(15)?)
}

/// Bytes of memory of a process that are in RAM: the second field of `/proc/<pid>/statm`, in
/// pages (proc(5)).
pub(crate) fn memory(identity: &ProcessIdentity) -> Option<u64> {
    let statm =
        read_text(Path::new(&format!("/proc/{}/statm", identity.pid)), MAX_PROC_LEN).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_process_that_was_meant() {
        let tail = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_ticks(&format!("7 (a) b) {tail}"), 22), Some(14 + 15));
        assert_eq!(parse_ticks(&format!("7 (a) b) {tail}"), 23), None);
        assert_eq!(parse_ticks("7 (x", 1), None);
    }

    #[test]
    fn this_process_uses_something() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = banger_host::process::Process::open(pid).unwrap().unwrap();
        assert!(cpu_ms(own.identity()).is_some());
        assert!(memory(own.identity()).unwrap() > 100_000);
    }
}
