//! The logs of a sandbox: kept within bounds, told from any byte on, followed.
//!
//! A log is a file that the virtual machine monitor appends to, daemon or not. A place in it is a
//! byte offset that never changes its meaning. A small index beside it says when which offset was
//! reached.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use banger_api::types::LogSource;
use banger_host::fs::{file_size, read_bounded, write_atomic};
use banger_host::readiness::WriteWatch;
use banger_model::Timestamp;
use banger_vmm::console::{self, CONSOLE_LOG, LogReader, VMM_LOG};
use banger_vmm::pollable;
use tokio::io::unix::AsyncFd;

use crate::operations::now;

/// After a log was written to, nothing is done about it for so long: a flood of small writes is
/// one event.
const PAUSE: Duration = Duration::from_millis(200);
/// Suffix of a log's index.
const INDEX: &str = "times";
/// An entry of the index: a time in milliseconds and an offset, little-endian.
const ENTRY: usize = 16;
/// Most entries; when there are more, every second one goes.
const MAX_ENTRIES: usize = 4096;
/// Entries are at least so far apart, in milliseconds.
const RESOLUTION: u64 = 1000;
/// Bytes told at once.
const CHUNK: usize = 32 * 1024;
/// What the agent's lines begin with.
const AGENT: &[u8] = b"banger-agent: ";

/// Keeps the logs in `dir` within bounds and their indices up to date, for ever.
///
/// # Errors
/// When a log cannot be watched or cut.
pub(crate) async fn keep(dir: &Path) -> Result<()> {
    let paths = console::paths(dir);
    let watch = WriteWatch::new(paths.iter().map(PathBuf::as_path))?;
    let written = pollable(&watch)?;
    let mut indices = paths.map(|path| Index::load(&path));
    loop {
        for index in &mut indices {
            index.note(now())?;
        }
        console::trim(dir)?;
        let mut ready = written.readable().await?;
        tokio::time::sleep(PAUSE).await;
        watch.clear();
        ready.clear_ready();
    }
}

/// When which byte of a log was reached.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    log: PathBuf,
    entries: Vec<(u64, u64)>,
}

impl Index {
    fn load(log: &Path) -> Self {
        let bytes = read_bounded(&path(log), (2 * MAX_ENTRIES * ENTRY) as u64).unwrap_or_default();
        // What a crash has left of it is as good as none.
        Self { log: log.to_owned(), entries: decode(&bytes) }
    }

    /// The log is so long at this time.
    fn note(&mut self, at: Timestamp) -> Result<()> {
        let len = file_size(&self.log)?.apparent.get();
        let (last_at, last_len) = self.entries.last().copied().unwrap_or((0, 0));
        if len <= last_len || at.0 < last_at + RESOLUTION {
            return Ok(());
        }
        if self.entries.len() >= MAX_ENTRIES {
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.entries.push((at.0, len));
        Ok(write_atomic(&path(&self.log), &encode(&self.entries))?)
    }

    /// Where what was written at this time or later begins.
    fn offset_at(&self, at: Timestamp) -> u64 {
        let before = self.entries.iter().take_while(|(then, _)| *then < at.0);
        before.last().map_or(0, |(_, offset)| *offset)
    }

    /// When this byte was noticed.
    fn time_of(&self, offset: u64) -> Option<Timestamp> {
        self.entries.iter().find(|(_, reached)| *reached > offset).map(|(at, _)| Timestamp(*at))
    }
}

fn path(log: &Path) -> PathBuf {
    log.with_extension(INDEX)
}

fn encode(entries: &[(u64, u64)]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|(at, offset)| [at.to_le_bytes(), offset.to_le_bytes()])
        .flatten()
        .collect()
}

fn decode(bytes: &[u8]) -> Vec<(u64, u64)> {
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let entries = bytes.chunks_exact(ENTRY).map(|entry| (number(&entry[..8]), number(&entry[8..])));
    entries.take(MAX_ENTRIES).collect()
}

/// Where a reader of a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// At the oldest byte that is kept.
    Oldest,
    /// At this byte.
    Byte(u64),
    /// At what was written at this time or later.
    Time(Timestamp),
    /// So many lines before the end.
    LastLines(usize),
}

/// Tells a log piece by piece.
#[derive(Debug)]
pub(crate) struct Teller {
    path: PathBuf,
    reader: Option<LogReader>,
    from: From,
    source: LogSource,
    /// The beginning of a line of which the end has not come, where only whole lines count.
    partial: Vec<u8>,
}

/// A piece of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The byte behind it.
    pub cursor: u64,
    /// When it was noticed.
    pub at: Option<Timestamp>,
    /// What it says.
    pub text: Vec<u8>,
}

impl Teller {
    /// Of a log of the sandbox in `dir`.
    pub(crate) fn new(dir: &Path, source: LogSource, from: From) -> Self {
        let name = match source {
            LogSource::Console | LogSource::Agent => CONSOLE_LOG,
            LogSource::Vmm => VMM_LOG,
        };
        Self { path: dir.join(name), reader: None, from, source, partial: Vec::new() }
    }

    /// The next piece; `None` at the end, or where there is no log yet.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>> {
        if self.reader.is_none() {
            self.reader = self.open()?;
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        loop {
            let bytes = reader.read(CHUNK)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let read_to = reader.offset();
            let (text, held) = match self.source {
                LogSource::Agent => agent_lines(&mut self.partial, &bytes),
                _ => (bytes, 0),
            };
            if text.is_empty() {
                continue;
            }
            let cursor = read_to - held as u64;
            let at = Index::load(&self.path).time_of(cursor.saturating_sub(1));
            return Ok(Some(Piece { cursor, at, text }));
        }
    }

    fn open(&self) -> Result<Option<LogReader>> {
        let Some(mut reader) = LogReader::open(&self.path)? else { return Ok(None) };
        match self.from {
            From::Oldest => {}
            From::Byte(offset) => reader.go_to(offset),
            From::Time(at) => reader.go_to(Index::load(&self.path).offset_at(at)),
            From::LastLines(lines) => reader.go_to_last(lines)?,
        }
        Ok(Some(reader))
    }

    /// A descriptor that becomes readable when the log is written to; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub(crate) fn watch(&self) -> Result<Option<AsyncFd<OwnedFd>>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let watch = WriteWatch::new([self.path.as_path()])?;
        Ok(Some(pollable(&watch)?))
    }
}

/// The agent's lines among whole lines; what is left of the last one is kept. Returns them, and
/// how much is kept.
fn agent_lines(partial: &mut Vec<u8>, bytes: &[u8]) -> (Vec<u8>, usize) {
    partial.extend_from_slice(bytes);
    let whole = partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = partial.split_off(whole);
    let lines = std::mem::replace(partial, rest);
    // A line without end is not the agent's.
    if partial.len() > CHUNK {
        partial.clear();
    }
    let own = lines.split_inclusive(|byte| *byte == b'\n').filter(|line| line.starts_with(AGENT));
    (own.flatten().copied().collect(), partial.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::fs::open_append;
    use std::io::Write as _;

    fn all(teller: &mut Teller) -> String {
        let mut text = Vec::new();
        while let Some(piece) = teller.next().unwrap() {
            text.extend(piece.text);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_teller_goes_on_at_its_cursor_without_gap_or_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Teller::new(dir.path(), LogSource::Console, From::Oldest);
        assert_eq!(first.next().unwrap(), None, "there is no log yet");
        let mut log = open_append(&dir.path().join(CONSOLE_LOG)).unwrap();
        log.write_all(b"one\ntwo\n").unwrap();
        let piece = first.next().unwrap().unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!(all(&mut first), "three\n");
        let mut second = Teller::new(dir.path(), LogSource::Console, From::Byte(piece.cursor));
        assert_eq!(all(&mut second), "three\n");
        let mut tail = Teller::new(dir.path(), LogSource::Console, From::LastLines(1));
        assert_eq!(all(&mut tail), "three\n");
    }

    #[test]
    fn only_the_agents_lines_are_told_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open_append(&dir.path().join(CONSOLE_LOG)).unwrap();
        let mut teller = Teller::new(dir.path(), LogSource::Agent, From::Oldest);
        log.write_all(b"[ 1.0] kernel\nbanger-agent: a\nbanger-ag").unwrap();
        assert_eq!(all(&mut teller), "banger-agent: a\n");
        log.write_all(b"ent: b\nx\n").unwrap();
        assert_eq!(all(&mut teller), "banger-agent: b\n");
    }

    #[test]
    fn the_index_finds_times_and_offsets_and_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_LOG);
        let mut log = open_append(&path).unwrap();
        let mut index = Index::load(&path);
        for second in 1..=3 {
            log.write_all(b"x").unwrap();
            index.note(Timestamp(second * 1000)).unwrap();
            index.note(Timestamp(second * 1000 + 1)).unwrap();
        }
        let index = Index::load(&path);
        assert_eq!(index.entries, [(1000, 1), (2000, 2), (3000, 3)]);
        assert_eq!(index.offset_at(Timestamp(0)), 0);
        assert_eq!(index.offset_at(Timestamp(2000)), 1);
        assert_eq!(index.offset_at(Timestamp(9000)), 3);
        assert_eq!(index.time_of(1), Some(Timestamp(2000)));
        assert_eq!(index.time_of(3), None);
        let many: Vec<_> = (0..MAX_ENTRIES as u64).map(|n| (n, n)).collect();
        let mut full = Index { log: path, entries: many };
        for _ in 0..5000 {
            log.write_all(b"y").unwrap();
        }
        full.note(Timestamp(10_000_000)).unwrap();
        assert!(full.entries.len() <= MAX_ENTRIES / 2 + 1);
        assert_eq!(decode(&encode(&full.entries)), full.entries);
    }
}
