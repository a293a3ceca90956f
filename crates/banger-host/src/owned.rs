//! Processes that belong to a directory, found by what their command lines say.
//!
//! Whoever starts a long-lived program on behalf of a directory gives it [`tag`] as one of its
//! arguments, bare or after [`NAME_KEY`]. So the program is found even if its starter died before it could write down whom
//! it had started.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::clock::Deadline;
use crate::error::Result;
use crate::fs::{list_dir, read_bounded};
use crate::process::Process;

/// Most bytes of a command line: twice what Linux allows arguments and environment by default.
const MAX_COMMAND_LINE: u64 = 4 * 1024 * 1024;

/// For so long after its start, a process without a command line may be a program that is being
/// put into place: Linux knows its arguments a moment after it has left its starter's behind.
const SETTLING: Duration = Duration::from_secs(5);

/// How long to wait between two looks at one that settles.
const GLANCE: Duration = Duration::from_millis(1);

/// Most bytes of `/proc/<pid>/statm`: seven numbers.
const MAX_STATM_LEN: u64 = 256;

/// What may stand before the tag in its argument. QEMU takes a name that has a `=` in it for an
/// option of another name, unless it is told that this is the name.
pub const NAME_KEY: &str = "guest=";

/// The argument that marks a process as belonging to `dir`, an absolute path without symbolic
/// links. Commas are doubled: QEMU, which takes the tag as a name, wants them so.
pub fn tag(dir: &Path) -> OsString {
    let mut tag = b"banger:".to_vec();
    for byte in dir.as_os_str().as_bytes() {
        tag.push(*byte);
        if *byte == b',' {
            tag.push(b',');
        }
    }
    OsString::from_vec(tag)
}

/// The live processes that belong to `dir`.
///
/// A process between fork and exec is not seen: it still has its parent's command line.
/// [`Launch::start`](crate::process::Launch::start) returns after that. Hold the directory's lock
/// while looking, if those who start processes hold it, too.
///
/// # Errors
/// When /proc cannot be read.
pub fn find(dir: &Path) -> Result<Vec<Process>> {
    let tag = tag(dir);
    let owned = each_process(|line| {
        line.split(|byte| *byte == 0).any(|arg| bare(arg) == tag.as_bytes()).then_some(())
    })?;
    Ok(owned.into_iter().map(|(process, ())| process).collect())
}

/// The names of directories directly below `root` that live processes belong to.
///
/// # Errors
/// When /proc cannot be read.
pub fn directories_below(root: &Path) -> Result<BTreeSet<OsString>> {
    let mut prefix = tag(root).into_vec();
    prefix.push(b'/');
    let below = |arg: &[u8]| bare(arg).strip_prefix(prefix.as_slice()).map(first_component);
    let owned = each_process(|line| line.split(|byte| *byte == 0).find_map(below))?;
    Ok(owned.into_iter().map(|(_, name)| name).collect())
}

/// The live processes whose command lines `judge` finds something in, with what it found.
fn each_process<T>(judge: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<(Process, T)>> {
    let mut found = Vec::new();
    for name in list_dir(Path::new("/proc"))? {
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let judged = || judge(&command_line(pid)?);
        if judged().is_none() {
            continue;
        }
        // Judged again once it is held: should the pid have passed to another process in
        // between, that one's command line is judged, and the pidfd means one that is gone.
        let Ok(Some(process)) = Process::open(pid) else { continue };
        if let Some(value) = judged() {
            found.push((process, value));
        }
    }
    Ok(found)
}

/// The command line of a process, waited for while its program is being put into place. Empty for
/// one that has none: a thread of the kernel, or one that has ended and was not reaped.
fn command_line(pid: i32) -> Option<Vec<u8>> {
    let dir = Path::new("/proc").join(pid.to_string());
    loop {
        let line = read_bounded(&dir.join("cmdline"), MAX_COMMAND_LINE).ok()?;
        let is_mapped = || {
            let statm = read_bounded(&dir.join("statm"), MAX_STATM_LEN);
            statm.is_ok_and(|pages| !pages.starts_with(b"0 "))
        };
        if !line.is_empty() || !is_mapped() {
            return Some(line);
        }
        let process = Process::open(pid).ok()??;
        let is_gone = process.ended(Deadline::after(GLANCE)).ok()?;
        if is_gone || age(&process) > SETTLING {
            return Some(line);
        }
    }
}

/// How long ago a process was forked.
fn age(process: &Process) -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::from_secs(now.tv_sec.unsigned_abs())
        + Duration::from_nanos(now.tv_nsec.unsigned_abs());
    let ticks = process.identity().start_time;
    let per_second = rustix::param::clock_ticks_per_second();
    let begun = Duration::from_millis(ticks.saturating_mul(1000) / per_second.max(1));
    now.saturating_sub(begun)
}

/// The first component of a path as it is in a tag.
fn first_component(path: &[u8]) -> OsString {
    let name = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        plain.push(*byte);
        if *byte == b',' {
            bytes.next();
        }
    }
    OsString::from_vec(plain)
}

fn bare(arg: &[u8]) -> &[u8] {
    arg.strip_prefix(NAME_KEY.as_bytes()).unwrap_or(arg)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::process::Launch;

    const SOON: Duration = Duration::from_secs(60);

    /// What launched shells wait for: they end with the test, however that ends.
    fn held() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
    }

    fn launch(holds: &OwnedFd, tag: OsString) -> Process {
        let launch = Launch::new("sh", Path::new("/")).args(["-c", "read line <&8", "sh"]);
        launch.args([tag]).fd(holds.try_clone().unwrap(), 8).start().unwrap()
    }

    #[test]
    fn a_process_is_found_from_the_moment_it_was_started() {
        let dir = tempfile::tempdir().unwrap();
        let (holds, _held) = held();
        for number in 0..300 {
            let process = launch(&holds, tag(dir.path()));
            let found = find(dir.path()).unwrap();
            process.kill(SOON).unwrap();
            assert_eq!(found.len(), 1, "start {number}");
        }
    }

    #[test]
    fn a_tagged_process_is_found_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        assert!(find(dir.path()).unwrap().is_empty());
        let (holds, _held) = held();
        let launch = |tag| launch(&holds, tag);
        let named = |tag: OsString| {
            let mut name = OsString::from(NAME_KEY);
            name.push(tag);
            name
        };
        let mine = launch(tag(dir.path()));
        let machine = launch(named(tag(dir.path())));
        let others = [launch(tag(&other)), launch(named(tag(&other)))];
        let found = find(dir.path()).unwrap();
        let mut pids: Vec<_> = found.iter().map(|process| process.identity().pid).collect();
        let mut expected = [mine.identity().pid, machine.identity().pid];
        pids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(pids, expected);
        let root = dir.path().parent().unwrap();
        let names = directories_below(root).unwrap();
        assert!(names.contains(dir.path().file_name().unwrap()));
        let below = directories_below(dir.path()).unwrap();
        assert_eq!(below.into_iter().collect::<Vec<_>>(), ["other"]);
        for process in [mine, machine].into_iter().chain(others) {
            process.kill(SOON).unwrap();
        }
        assert!(find(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn commas_are_doubled() {
        assert_eq!(tag(Path::new("/a,b")), "banger:/a,,b");
        assert_eq!(first_component(b"a,,b,,/c"), "a,b,");
    }
}
