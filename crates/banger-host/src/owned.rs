//! Processes that belong to a directory, found by what their command lines say.
//!
//! Whoever starts a long-lived program on behalf of a directory gives it [`tag`] as one of its
//! arguments, bare or after [`NAME_KEY`]. So the program is found even if its starter died before it could write down whom
//! it had started.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use crate::error::Result;
use crate::fs::{list_dir, read_bounded};
use crate::process::Process;

/// Most bytes of a command line: twice what Linux allows arguments and environment by default.
const MAX_COMMAND_LINE: u64 = 4 * 1024 * 1024;

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
/// A process between fork and exec is not seen: it still has its parent's command line. Hold the
/// directory's lock while looking, if those who start processes hold it, too.
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
        let path = Path::new("/proc").join(&name).join("cmdline");
        let judged = || judge(&read_bounded(&path, MAX_COMMAND_LINE).ok()?);
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
    use super::*;
    use crate::process::Launch;
    use std::time::Duration;

    #[test]
    fn a_tagged_process_is_found_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        assert!(find(dir.path()).unwrap().is_empty());
        let script = ["-c", "echo >&7; read line <&8", "sh"];
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        // They end with this test, however that ends: nobody else has `_held`.
        let ((began, begins), (holds, _held)) = (pipe(), pipe());
        let launch = |tag| {
            let launch = Launch::new("sh", Path::new("/")).args(script).args([tag]);
            let launch = launch.fd(begins.try_clone().unwrap(), 7);
            let launched = launch.fd(holds.try_clone().unwrap(), 8).start().unwrap();
            // /proc knows the arguments a moment after the program began.
            assert_eq!(rustix::io::read(&began, &mut [0; 1]).unwrap(), 1);
            launched
        };
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
            process.kill(Duration::from_secs(10)).unwrap();
        }
        assert!(find(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn commas_are_doubled() {
        assert_eq!(tag(Path::new("/a,b")), "banger:/a,,b");
        assert_eq!(first_component(b"a,,b,,/c"), "a,b,");
    }
}
