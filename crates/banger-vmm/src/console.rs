//! The logs that a monitor writes into its directory, kept within bounds while it runs.
//!
//! A guest may write to its console without end, and may make its monitor complain without end.
//! What is old is given back to the file system as a hole at the log's beginning: an offset means
//! the same byte for ever, whoever reads, and nothing is lost between two looks.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use banger_host::Result;
use banger_host::error::AtPath as _;
use banger_host::fs::{data_begins, punch_hole, read_tail};

/// What the guest writes to its serial console.
pub const CONSOLE_LOG: &str = "console.log";
/// What the monitor itself writes.
pub const VMM_LOG: &str = "vmm.log";
/// So much of a log is always kept, in bytes.
pub const KEPT: u64 = 1024 * 1024;
/// A log with more in it than this is cut, in bytes: not each time that a line is added.
const MAX_LOG_LEN: u64 = 2 * KEPT;
/// Holes begin and end where blocks do.
const BLOCK: u64 = 4096;

/// The paths of the logs of the machine in `dir`.
pub fn paths(dir: &Path) -> [PathBuf; 2] {
    [dir.join(CONSOLE_LOG), dir.join(VMM_LOG)]
}

/// Cuts the logs in `dir` that have grown too long: the last [`KEPT`] bytes stay.
///
/// # Errors
/// When a log cannot be looked at or cut.
pub fn trim(dir: &Path) -> Result<()> {
    for path in paths(dir) {
        match OpenOptions::new().write(true).read(true).open(&path) {
            Ok(file) => trim_file(&file).at("cut", &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("open", &path),
        }
    }
    Ok(())
}

fn trim_file(file: &File) -> io::Result<()> {
    let len = file.metadata()?.len();
    let begin = data_begins(file)?.unwrap_or(len);
    if len - begin <= MAX_LOG_LEN {
        return Ok(());
    }
    match punch_hole(file, 0..(len - KEPT) / BLOCK * BLOCK) {
        // Where there are no holes, a log that begins anew is better than one without end.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => file.set_len(0),
        done => done,
    }
}

/// Reads a log from any byte on, while it is written and cut.
#[derive(Debug)]
pub struct LogReader {
    file: File,
    offset: u64,
}

impl LogReader {
    /// A reader of the log at `path`; `None` where there is no log.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self { file, offset: 0 })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", path),
        }
    }

    /// The byte that is read next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at this byte.
    pub fn go_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Goes back to where the last `lines` lines begin.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn go_to_last(&mut self, lines: usize) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        let from = len.saturating_sub(KEPT).max(data_begins(&self.file)?.unwrap_or(len));
        self.file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        (&self.file).take(len - from).read_to_end(&mut bytes)?;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let newlines = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let begin = match lines.checked_sub(1) {
            None => bytes.len(),
            Some(before) => newlines.map(|(at, _)| at + 1).nth(before).unwrap_or(0),
        };
        self.offset = from + begin as u64;
        Ok(())
    }

    /// The next bytes, `max` at most; none at the end. What was cut meanwhile is left out.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self, max: usize) -> io::Result<Vec<u8>> {
        let len = self.file.metadata()?.len();
        if len < self.offset {
            self.offset = 0;
        }
        if let Some(begin) = data_begins(&self.file)?
            && begin > self.offset
        {
            self.offset = begin;
        }
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        (&self.file).take(max as u64).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }
}

/// The last `len` bytes of a log, as text; empty when there is none.
pub(crate) fn tail(path: &Path, len: u64) -> String {
    read_tail(path, len).unwrap_or_default()
}

/// The last line or two that the guest wrote to its console, for an error message. They are the
/// guest's: whoever shows them escapes them.
pub fn last_words(dir: &Path) -> String {
    tail(&dir.join(CONSOLE_LOG), 512).trim().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::fs::{file_size, open_append};
    use std::io::Write as _;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn a_log_is_cut_under_its_writer_and_offsets_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_LOG);
        let mut log = open_append(&path).unwrap();
        let mut reader = LogReader::open(&path).unwrap().unwrap();
        for n in 0..40u8 {
            log.write_all(&vec![n + 1; MIB / 4]).unwrap();
            trim(dir.path()).unwrap();
            let size = file_size(&path).unwrap();
            assert!(size.real.get() <= MAX_LOG_LEN + (MIB / 4) as u64, "{size:?}");
        }
        log.write_all(b"end").unwrap();
        assert_eq!(file_size(&path).unwrap().apparent.get(), (10 * MIB) as u64 + 3);
        reader.go_to(10 * MIB as u64 - 1);
        assert_eq!(reader.read(100).unwrap(), b"\x28end");
        reader.go_to(0);
        let first = reader.read(1).unwrap();
        assert!(first[0] > 30, "what was cut is not read as zeros: {first:?}");
        assert_eq!(reader.read(0).unwrap(), b"");
    }

    #[test]
    fn the_last_lines_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_LOG);
        open_append(&path).unwrap().write_all(b"a\nb\nc\n").unwrap();
        let mut reader = LogReader::open(&path).unwrap().unwrap();
        for (lines, expected) in [(0, &b""[..]), (1, b"c\n"), (2, b"b\nc\n"), (9, b"a\nb\nc\n")] {
            reader.go_to_last(lines).unwrap();
            assert_eq!(reader.read(100).unwrap(), expected, "{lines}");
        }
    }

    #[test]
    fn a_missing_log_is_empty() {
        assert_eq!(tail(Path::new("/nonexistent/log"), 10), "");
        assert!(LogReader::open(Path::new("/nonexistent/log")).unwrap().is_none());
        trim(Path::new("/nonexistent")).unwrap();
    }
}
