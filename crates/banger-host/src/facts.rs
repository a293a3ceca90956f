//! What is true of this host until its next boot.
#![expect(unsafe_code, reason = "the time stamp counter is read by an instruction")]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{HostError, Result};
use crate::fs::read_text;

/// Longest file under /proc or /sys that is read here.
const MAX_FACT_LEN: u64 = 64 * 1024;

/// How long the counter is watched: 50 ms make the result good to about 20 ppm, well within
/// what the kernel corrects itself.
const TSC_WINDOW: Duration = Duration::from_millis(50);

/// The measured frequency is rounded to this many kHz, so that two measurements agree.
const TSC_ROUNDING_KHZ: u64 = 1000;

/// The kernel's random id of the boot it is in.
///
/// # Errors
/// When /proc is not there.
pub fn boot_id() -> Result<String> {
    let id = read_text(Path::new("/proc/sys/kernel/random/boot_id"), MAX_FACT_LEN)?;
    Ok(id.trim().to_owned())
}

/// The release of the running kernel, as `uname -r` shows it.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The user that this process acts as; 0 is root.
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Total memory of the host and what is available for new programs, in bytes.
///
/// # Errors
/// When /proc is not there.
pub fn memory() -> Result<(u64, u64)> {
    let text = read_text(Path::new("/proc/meminfo"), MAX_FACT_LEN)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    match (field("MemTotal:"), field("MemAvailable:")) {
        (Some(total), Some(available)) => Ok((total, available)),
        _ => Err(HostError::system("understand /proc/meminfo", std::io::ErrorKind::InvalidData)),
    }
}

/// How long all processors together were busy since the host started, to a hundredth of a second.
///
/// # Errors
/// When /proc is not there.
pub fn busy() -> Result<Duration> {
    let text = read_text(Path::new("/proc/stat"), 16 * 1024 * 1024)?;
    let line = text.lines().next().unwrap_or_default();
    busy_of(line)
        .ok_or_else(|| HostError::system("understand /proc/stat", std::io::ErrorKind::InvalidData))
}

/// The sum of the first line of /proc/stat but for idling and waiting (proc_stat(5)), in ticks of
/// 10 ms: `USER_HZ` is 100 wherever Linux runs that we do.
fn busy_of(line: &str) -> Option<Duration> {
    let fields: Vec<u64> =
        line.strip_prefix("cpu ")?.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, softirq, steal, ..] = fields[..] else {
        return None;
    };
    Some(Duration::from_millis(10 * (user + nice + system + irq + softirq + steal)))
}

/// The processors of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processors {
    /// The name they give themselves.
    pub model: String,
    /// What they can do, by the kernel's names.
    pub flags: String,
    /// How many of them this process may use.
    pub count: usize,
}

/// The processors of this host.
///
/// # Errors
/// When /proc is not there.
pub fn processors() -> Result<Processors> {
    let text = read_text(Path::new("/proc/cpuinfo"), 16 * 1024 * 1024)?;
    let first = |name: &str| {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let mut named = fields.filter(|(field, _)| field.trim() == name);
        named.next().map(|(_, value)| value.trim().to_owned())
    };
    Ok(Processors {
        model: first("model name").unwrap_or_else(|| "unknown".to_owned()),
        flags: first("flags").unwrap_or_default(),
        count: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    })
}

/// The frequency of the processor's time stamp counter in kHz, rounded; takes 50 ms.
///
/// A guest under TCG reads the host's counter and, left to itself, hangs in half of its attempts
/// to find out how fast that runs.
#[cfg(target_arch = "x86_64")]
pub fn measure_tsc_khz() -> u64 {
    let count = || {
        // SAFETY: RDTSC is part of every x86-64 processor and only reads a register.
        // JUSTIFICATION: no system call tells the counter's value.
        unsafe { std::arch::x86_64::_rdtsc() }
    };
    let (begin, from) = (Instant::now(), count());
    while begin.elapsed() < TSC_WINDOW {
        std::hint::spin_loop();
    }
    let (elapsed, to) = (begin.elapsed(), count());
    let ticks = u128::from(to.wrapping_sub(from));
    let khz = ticks * 1_000_000 / elapsed.as_nanos().max(1);
    let rounded = (khz + u128::from(TSC_ROUNDING_KHZ) / 2) / u128::from(TSC_ROUNDING_KHZ);
    u64::try_from(rounded).unwrap_or(u64::MAX / TSC_ROUNDING_KHZ) * TSC_ROUNDING_KHZ
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_all_but_idling() {
        let line = "cpu  1 2 3 1000 1000 4 5 6 0 0";
        assert_eq!(busy_of(line), Some(Duration::from_millis(210)));
        for bad in ["", "cpu", "cpu 1 2", "cpu0 1 2 3 4 5 6 7 8"] {
            assert_eq!(busy_of(bad), None, "{bad}");
        }
        assert!(busy().unwrap() > Duration::ZERO);
    }

    #[test]
    fn the_boot_id_does_not_change() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_eq!(boot_id().unwrap().len(), 36);
    }

    #[test]
    fn files_of_this_process_belong_to_its_user() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(file.as_file().metadata().unwrap().uid(), user_id());
    }

    #[test]
    fn memory_is_known() {
        let (total, available) = memory().unwrap();
        assert!(total >= available && available > 0);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_counter_runs_at_a_processors_speed() {
        assert!((500_000..20_000_000).contains(&measure_tsc_khz()));
    }
}
