//! How much of the machine is in use, as its kernel tells.

use std::fs;
use std::path::Path;

use banger_link::GuestStats;

use crate::files::read_bounded;

/// Longest file of procfs that is read here: `/proc/stat` counts every interrupt line.
const MAX_LEN: u64 = 1024 * 1024;

/// Clock ticks in a second, in which the kernel tells times: fixed for programs (`USER_HZ`).
const TICKS_PER_S: u64 = 100;

/// Most processes that are counted; looking at each takes a moment in which nothing else is done.
const MAX_COUNTED: usize = 32_768;

/// The columns of a processor's line in `/proc/stat` in which it works: user, nice, system, irq,
/// softirq, steal. The time of guests is within that of user.
const BUSY: [usize; 6] = [0, 1, 2, 5, 6, 7];

/// Everything there is to tell. What the kernel does not tell is zero.
pub(crate) fn gather() -> GuestStats {
    let text = |path: &str| {
        let bytes = read_bounded(Path::new(path), MAX_LEN).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let stat = text("/proc/stat");
    let memory = text("/proc/meminfo");
    let (net_rx, net_tx) = traffic(&text("/proc/net/dev"));
    let disk = rustix::fs::statvfs("/").ok();
    let bytes = |blocks: Option<u64>| {
        let size = disk.as_ref().map_or(0, |disk| disk.f_frsize);
        blocks.unwrap_or(0).saturating_mul(size)
    };
    GuestStats {
        uptime_ms: uptime_ms(&text("/proc/uptime")),
        cpu_busy_ms: busy_ms(&stat),
        cpus: u16::try_from(cpus(&stat)).unwrap_or(u16::MAX),
        memory_total: kilobytes(&memory, "MemTotal:"),
        memory_available: kilobytes(&memory, "MemAvailable:"),
        disk_total: bytes(disk.as_ref().map(|disk| disk.f_blocks)),
        disk_free: bytes(disk.as_ref().map(|disk| disk.f_bavail)),
        net_rx,
        net_tx,
        processes: processes(Path::new("/proc")),
    }
}

/// `SECONDS.HUNDREDTHS IDLE`.
fn uptime_ms(text: &str) -> u64 {
    let number = text.split_ascii_whitespace().next().unwrap_or_default();
    let (seconds, hundredths) = number.split_once('.').unwrap_or((number, "0"));
    let parse = |digits: &str| digits.parse::<u64>().unwrap_or(0);
    parse(seconds).saturating_mul(1000).saturating_add(parse(hundredths).saturating_mul(10))
}

/// The line `cpu`, which adds up all processors.
fn busy_ms(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let columns: Vec<u64> = line.split_ascii_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
    let ticks = BUSY.iter().filter_map(|at| columns.get(*at));
    ticks.fold(0, |sum: u64, n| sum.saturating_add(*n)).saturating_mul(1000 / TICKS_PER_S)
}

/// The lines `cpu0`, `cpu1` and so on.
fn cpus(stat: &str) -> usize {
    let numbered = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    stat.lines().filter(numbered).count()
}

/// `NAME:   NUMBER kB`, in bytes.
fn kilobytes(memory: &str, name: &str) -> u64 {
    let line = memory.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let number = line.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
    number.unwrap_or(0_u64).saturating_mul(1024)
}

/// `NAME: RECEIVED-BYTES (7 columns) SENT-BYTES (7 columns)`, added up without the loopback.
fn traffic(interfaces: &str) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for line in interfaces.lines() {
        let Some((name, counts)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let mut counts = counts.split_ascii_whitespace().map(|n| n.parse().unwrap_or(0));
        sum.0 = sum.0.saturating_add(counts.next().unwrap_or(0));
        sum.1 = sum.1.saturating_add(counts.nth(7).unwrap_or(0));
    }
    sum
}

/// How many processes have a program: a thread of the kernel has none, nor has one that has ended
/// and waits to be reaped.
fn processes(proc: &Path) -> u32 {
    let Ok(entries) = fs::read_dir(proc) else { return 0 };
    let numbered = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
    let ids = entries.flatten().filter(|entry| numbered(entry.file_name().as_encoded_bytes()));
    let with_program = ids.take(MAX_COUNTED).filter(|entry| {
        // It is the name that is asked for: whether its file still exists does not matter.
        fs::read_link(entry.path().join("exe")).is_ok()
    });
    u32::try_from(with_program.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 10 50 9999 777 5 5 30 20 0\ncpu0 50 5 25 1 1 1 1 1 1 0\n\
        cpu1 50 5 25 1 1 1 1 1 1 0\nintr 5 0 0\nctxt 5\nprocesses 700\n";

    #[test]
    fn the_time_of_all_processors_counts_without_idle_and_waiting() {
        assert_eq!(busy_ms(STAT), 2000);
        assert_eq!(cpus(STAT), 2);
        assert_eq!((busy_ms("cpu x 1"), cpus("cpu\ncpufreq 1")), (10, 0));
    }

    #[test]
    fn numbers_are_found_by_their_names() {
        let memory = "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:    100 kB\n";
        assert_eq!(kilobytes(memory, "MemTotal:"), 2 << 20);
        assert_eq!(kilobytes(memory, "MemAvailable:"), 102_400);
        assert_eq!(kilobytes(memory, "Swap:"), 0);
        assert_eq!(uptime_ms("12.34 99.00\n"), 12_340);
        assert_eq!(uptime_ms(""), 0);
    }

    #[test]
    fn the_loopback_is_no_traffic() {
        let interfaces = "Inter-| Receive | Transmit\n face |bytes packets\n\
            lo: 500 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0\n\
            eth0:1000 2 0 0 0 0 0 0 70 3 0 0 0 0 0 0\n  eth1: 5 2 0 0 0 0 0 0 7 3 0 0 0 0 0 0\n";
        assert_eq!(traffic(interfaces), (1005, 77));
        assert_eq!(traffic("eth0:"), (0, 0));
    }

    #[test]
    fn this_machine_has_some_of_everything() {
        let stats = gather();
        assert!(stats.uptime_ms > 0 && stats.cpu_busy_ms > 0 && stats.cpus > 0, "{stats:?}");
        assert!(stats.memory_total > stats.memory_available, "{stats:?}");
        assert!(stats.memory_available > 0 && stats.disk_total > stats.disk_free, "{stats:?}");
        assert!(stats.processes > 0, "{stats:?}");
    }
}
