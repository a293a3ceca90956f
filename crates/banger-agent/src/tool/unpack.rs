//! Reads a tar stream into a directory. It stops at the first thing that is wrong.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;
use thiserror::Error;

use super::destination::{Destination, PlaceError};
use super::inside::is_component;
use super::reader::{Content, Entry, ReadError, Reader};
use super::shown;

/// Bytes that are read and written at once.
const CHUNK: usize = 64 * 1024;

/// Why not everything is extracted.
#[derive(Debug, Error)]
pub(crate) enum UnpackError {
    #[error("{}: cannot extract into it: {}", shown(path), io::Error::from(*errno))]
    Destination { path: Vec<u8>, errno: Errno },
    #[error("{}: is not the name of one file", shown(_0))]
    NotOneName(Vec<u8>),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("{}: cannot write: {source}", shown(name))]
    Write { name: Vec<u8>, source: io::Error },
}

/// Extracts a stream.
pub(super) fn unpack(
    input: impl Read,
    path: &[u8],
    name: Option<Vec<u8>>,
) -> Result<(), UnpackError> {
    if let Some(name) = name.as_ref().filter(|name| !is_component(name)) {
        return Err(UnpackError::NotOneName(name.clone()));
    }
    let opened = Destination::open(path, name);
    let mut destination =
        opened.map_err(|errno| UnpackError::Destination { path: path.to_vec(), errno })?;
    let placed = place_all(&mut Reader::new(input), &mut destination);
    // Directories get what they are to have, however far the rest came.
    let finished = destination.finish();
    placed.and(finished.map_err(UnpackError::from))
}

fn place_all<R: Read>(
    reader: &mut Reader<R>,
    destination: &mut Destination,
) -> Result<(), UnpackError> {
    while let Some(entry) = reader.next()? {
        destination.place(&entry, |file| fill(file, &entry, reader))?;
    }
    Ok(())
}

/// Writes the data of a file where they belong, and nothing where there are none.
fn fill<R: Read>(file: &File, entry: &Entry, reader: &mut Reader<R>) -> Result<(), UnpackError> {
    let Content::File { size, segments } = &entry.content else { return Ok(()) };
    let failed = |source| UnpackError::Write { name: entry.name.clone(), source };
    let mut buffer = vec![0; CHUNK];
    let mut end = 0;
    for segment in segments {
        let mut at = segment.offset;
        end = segment.offset.saturating_add(segment.len);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let n = reader.data(&mut buffer[..most])?;
            if n == 0 {
                return Err(ReadError::Truncated.into());
            }
            file.write_all_at(&buffer[..n], at).map_err(failed)?;
            at = at.saturating_add(n as u64);
        }
    }
    if end < *size {
        file.set_len(*size).map_err(failed)?;
    }
    Ok(())
}
