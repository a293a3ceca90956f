//! The logs that a monitor writes into its directory, kept within bounds while it runs.
//!
//! A guest may write to its console without end, and may make its monitor complain without end.
//! Both files are opened for appending, so they can be cut while the monitor holds them open.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use banger_host::Result;
use banger_host::error::AtPath as _;
use banger_host::fs::write_atomic;
use banger_host::process::Process;
use banger_host::readiness::{Interest, WriteWatch, wait};

/// What the guest writes to its serial console.
pub const CONSOLE_LOG: &str = "console.log";
/// What the monitor itself writes.
pub const VMM_LOG: &str = "vmm.log";
/// A log longer than this is cut, in bytes.
pub const MAX_LOG_LEN: u64 = 1024 * 1024;

/// Cuts the logs in `dir` that have grown beyond [`MAX_LOG_LEN`]: the last half of it is kept in
/// a file with `.1` behind its name, replacing the one before. What is written between copying
/// and cutting is lost.
///
/// # Errors
/// When a log cannot be read, copied or cut.
pub fn trim(dir: &Path) -> Result<()> {
    for name in [CONSOLE_LOG, VMM_LOG] {
        let path = dir.join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => trim_file(&path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("open", &path),
        }
    }
    Ok(())
}

fn trim_file(path: &Path, mut file: File) -> Result<()> {
    let len = file.metadata().at("look at", path)?.len();
    if len <= MAX_LOG_LEN {
        return Ok(());
    }
    let kept = tail_of(&mut file, MAX_LOG_LEN / 2).at("read", path)?;
    write_atomic(&old_name(path), &kept)?;
    file.set_len(0).at("cut", path)
}

fn old_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn tail_of(file: &mut File, len: u64) -> io::Result<Vec<u8>> {
    let begin = file.metadata()?.len().saturating_sub(len);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last `len` bytes of a log, as text; empty when there is none.
pub(crate) fn tail(path: &Path, len: u64) -> String {
    let read = File::open(path).and_then(|mut file| tail_of(&mut file, len));
    String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
}

/// The last line or two that the guest wrote to its console, for an error message. They are the
/// guest's: whoever shows them escapes them.
pub fn last_words(dir: &Path) -> String {
    tail(&dir.join(CONSOLE_LOG), 512).trim().escape_debug().to_string()
}

/// Keeps the logs in `dir` within bounds until the monitor has ended. It blocks, and uses no
/// processor time while nothing is written.
///
/// # Errors
/// When a log cannot be watched or cut.
pub fn keep_trimmed(dir: &Path, vmm: &Process) -> Result<()> {
    let logs = [dir.join(CONSOLE_LOG), dir.join(VMM_LOG)];
    let watch = WriteWatch::new(logs.iter().map(PathBuf::as_path))?;
    loop {
        trim(dir)?;
        let fds = [(watch.as_fd(), Interest::Reading), (vmm.as_fd(), Interest::Reading)];
        if wait(&fds, None)?[1].reading {
            return trim(dir);
        }
        watch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::clock::Deadline;
    use banger_host::fs::{open_append, read_bounded};
    use banger_host::process::Launch;
    use std::io::Write as _;
    use std::time::Duration;

    const LEN: usize = 1024 * 1024;

    #[test]
    fn a_log_is_cut_under_its_writer_and_its_end_is_kept() {
        assert_eq!(LEN as u64, MAX_LOG_LEN);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_LOG);
        let mut log = open_append(&path).unwrap();
        log.write_all(&vec![b'a'; LEN]).unwrap();
        trim(dir.path()).unwrap();
        assert!(!old_name(&path).exists(), "at the bound nothing is cut");
        log.write_all(b"end").unwrap();
        trim(dir.path()).unwrap();
        let kept = read_bounded(&old_name(&path), MAX_LOG_LEN).unwrap();
        assert_eq!(kept.len(), LEN / 2);
        assert!(kept.ends_with(b"aend"));
        log.write_all(b"more").unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap(), b"more");
    }

    #[test]
    fn a_flood_is_kept_within_bounds_while_it_lasts() {
        let dir = tempfile::tempdir().unwrap();
        for name in [CONSOLE_LOG, VMM_LOG] {
            open_append(&dir.path().join(name)).unwrap();
        }
        let flood = format!("head -c {} /dev/zero >>{CONSOLE_LOG}; read x </dev/zero", 20 * LEN);
        let vmm = Launch::new("sh", dir.path()).args(["-c", &flood]).start().unwrap();
        let process = Process::find(vmm.identity()).unwrap().unwrap();
        let path = dir.path().to_owned();
        let keeper = std::thread::spawn(move || keep_trimmed(&path, &process));
        let late = Deadline::after(Duration::from_secs(30));
        let sizes = || {
            let len = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
            let log = dir.path().join(CONSOLE_LOG);
            (len(&log), len(&old_name(&log)))
        };
        while sizes().1 == 0 || sizes().0 > MAX_LOG_LEN {
            assert!(!late.passed(), "not cut: {:?}", sizes());
            std::thread::yield_now();
        }
        vmm.kill(Duration::from_secs(10)).unwrap();
        keeper.join().unwrap().unwrap();
    }

    #[test]
    fn the_tail_of_a_missing_log_is_empty() {
        assert_eq!(tail(Path::new("/nonexistent/log"), 10), "");
    }
}
