//! Included from `banger-agent`, under the name it has there: what takes in a copy from the host.

#[cfg_attr(not(test), expect(dead_code, reason = "writing headers is not fuzzed"))]
#[path = "../../banger-agent/src/tool/header.rs"]
mod header;

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "where the path is made of its parts is not fuzzed")
)]
#[path = "../../banger-agent/src/tool/inside.rs"]
mod inside;

#[path = "../../banger-agent/src/tool/pax.rs"]
mod pax;

#[path = "../../banger-agent/src/tool/reader.rs"]
mod reader;

use crate::blocks::{Cut, are_in_order, mended};
use reader::{Content, Entry, Reader};

/// Bytes of data that are taken at once.
const CHUNK: usize = 700;

/// Where the stream is cut does not matter; no entry has data that the stream has not, no name
/// leads out of the destination, and nobody's owner is the one that means "leave it as it is".
pub(crate) fn cp_into_guest(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    for bytes in [bytes, &mended(bytes)] {
        let whole = read(Cut { bytes, piece: usize::MAX });
        assert_eq!(read(Cut { bytes, piece: usize::from(*piece) }), whole, "cuts matter");
        let data: u64 = whole.0.iter().map(|(_, len)| len).sum();
        assert!(data <= bytes.len() as u64, "{data} bytes out of {}", bytes.len());
        for (entry, _) in &whole.0 {
            check(entry);
        }
    }
}

/// Every entry with how many bytes of data it had, and why there are no more.
fn read(input: Cut<'_>) -> (Vec<(Entry, u64)>, String) {
    let mut reader = Reader::new(input);
    let mut entries = Vec::new();
    loop {
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return (entries, String::new()),
            Err(error) => return (entries, error.to_string()),
        };
        let mut len = 0;
        loop {
            match reader.data(&mut [0; CHUNK]) {
                Ok(0) => break,
                Ok(count) => len += count as u64,
                Err(error) => return (entries, error.to_string()),
            }
        }
        if let Content::File { segments, .. } = &entry.content {
            assert_eq!(segments.iter().map(|segment| segment.len).sum::<u64>(), len);
        }
        entries.push((entry, len));
    }
}

fn check(entry: &Entry) {
    assert!(entry.uid != u32::MAX && entry.gid != u32::MAX && entry.mode <= 0o7777, "{entry:?}");
    assert!(entry.mtime.1 < 1_000_000_000, "{entry:?}");
    if let Content::File { size, segments } = &entry.content {
        let pieces = segments.iter().map(|segment| (segment.offset, segment.len));
        assert!(are_in_order(*size, pieces), "{entry:?}");
    }
    for first in [None, Some(&b"first"[..])] {
        let Ok(path) = inside::inside(&entry.name, first) else { continue };
        let mut parts = path.split(|byte| *byte == b'/');
        let proper = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        assert!(path.is_empty() || parts.clone().all(proper), "{path:?}");
        assert!(first.is_none_or(|first| path.is_empty() || parts.next() == Some(first)));
    }
}
