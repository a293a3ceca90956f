//! Writes what is at a path here as a tar stream, for the agent of a sandbox to unpack.
//!
//! Links stay links, holes stay holes. Owners are not told: in the sandbox all is root's.

use std::fs::{File, Metadata, OpenOptions, ReadDir};
use std::io::{Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{OFlags, SeekFrom as Place, seek};
use rustix::io::Errno;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::stream::{MAX_NAME, MAX_SEGMENTS, Segment};
use crate::output::{notice, shown};

/// Bytes of a block. Everything in an archive begins at a multiple of it.
const BLOCK: u64 = 512;
/// What fills up a block; two blocks of it end an archive.
const ZEROS: [u8; 1024] = [0; 1024];
/// Bytes of a name or a link that have room in a header.
const MAX_SHORT: usize = 100;
/// Most directories within each other: each holds a descriptor while it is read.
const MAX_DEPTH: usize = 512;
/// Bytes of permissions, as far as they are told.
const MODES: u32 = 0o7777;

/// Writes the stream of what is at `path`, with names that begin with `top`.
pub(super) fn pack(mut output: impl Write, path: &Path, top: &[u8]) -> Result<()> {
    let mut open: Vec<(ReadDir, Vec<u8>)> = Vec::new();
    open.extend(add(&mut output, path, top.to_vec())?);
    while let Some((dir, name)) = open.last_mut() {
        let Some(entry) = dir.next() else {
            open.pop();
            continue;
        };
        let entry = entry.with_context(|| format!("cannot read directory {}", shown(name)))?;
        let name = [&name[..], b"/", entry.file_name().as_bytes()].concat();
        let below = add(&mut output, &entry.path(), name)?;
        open.extend(below);
        if open.len() > MAX_DEPTH {
            bail!("{} is in too many directories within each other", path.display());
        }
    }
    output.write_all(&ZEROS)?;
    output.flush()?;
    Ok(())
}

/// Adds one entry. If it is a directory, its entries are to follow.
fn add(output: &mut impl Write, path: &Path, name: Vec<u8>) -> Result<Option<(ReadDir, Vec<u8>)>> {
    let shown_path = || format!("cannot read {}", shown(path.as_os_str().as_bytes()));
    if name.len() >= MAX_NAME {
        bail!("{} has a name that is too long", shown(path.as_os_str().as_bytes()));
    }
    // With `.` at its end, a path is what a link leads to.
    let meta = std::fs::symlink_metadata(path).with_context(shown_path)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        let entries = std::fs::read_dir(path).with_context(shown_path)?;
        let header = header(EntryType::Directory, &meta, 0);
        write_header(output, header, &[&name[..], b"/"].concat(), b"")?;
        return Ok(Some((entries, name)));
    }
    if kind.is_symlink() {
        let to = std::fs::read_link(path).with_context(shown_path)?.into_os_string().into_vec();
        write_header(output, header(EntryType::Symlink, &meta, 0), &name, &to)?;
    } else if kind.is_file() {
        add_file(output, path, &name).with_context(shown_path)?;
    } else {
        notice(&format!("{} is no file, and left out", shown(path.as_os_str().as_bytes())));
    }
    Ok(None)
}

fn add_file(output: &mut impl Write, path: &Path, name: &[u8]) -> Result<()> {
    // What was a file a moment ago may be a pipe now, which would be waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        bail!("it changed while it was copied");
    }
    let size = meta.len();
    let whole = [Segment { offset: 0, len: size }];
    let is_sparse = meta.blocks().saturating_mul(BLOCK) < size;
    let map = if is_sparse { segments(&file, size)? } else { None };
    let Some(map) = map.filter(|map| *map != whole) else {
        write_header(output, header(EntryType::Regular, &meta, size), name, b"")?;
        return write_data(output, &mut file, &whole);
    };
    let stored = map.iter().map(|segment| segment.len).sum();
    write_sparse(output, header(EntryType::GNUSparse, &meta, stored), name, (&map, size))?;
    write_data(output, &mut file, &map)
}

/// Where a file has data; nothing when it has so many pieces that it is better told whole.
fn segments(file: &File, size: u64) -> Result<Option<Vec<Segment>>> {
    let mut map = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match seek(file, Place::Data(at)) {
            Ok(offset) => offset,
            Err(Errno::NXIO) => break,
            // The file system does not know.
            Err(Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(file, Place::Hole(offset))?.min(size);
        // Data within a block of the archive would have to be followed by none.
        let is_odd = end < size && (end - offset) % BLOCK != 0;
        if offset >= end || is_odd || map.len() >= MAX_SEGMENTS - 1 {
            return Ok(None);
        }
        map.push(Segment { offset, len: end - offset });
        at = end;
    }
    Ok(Some(map))
}

fn write_data(output: &mut impl Write, file: &mut File, map: &[Segment]) -> Result<()> {
    let mut sum = 0;
    for segment in map {
        file.seek(SeekFrom::Start(segment.offset))?;
        let copied = std::io::copy(&mut (&*file).take(segment.len), output)?;
        if copied < segment.len {
            bail!("it became shorter while it was copied");
        }
        sum += segment.len;
    }
    let padding = sum.next_multiple_of(BLOCK) - sum;
    Ok(output.write_all(&ZEROS[..usize::try_from(padding)?])?)
}

fn header(kind: EntryType, meta: &Metadata, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode() & MODES);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(size);
    header
}

/// Writes a header with its name and link, whatever their length.
fn write_header(
    output: &mut impl Write,
    mut header: Header,
    name: &[u8],
    link: &[u8],
) -> Result<()> {
    for (kind, long) in [(EntryType::GNULongName, name), (EntryType::GNULongLink, link)] {
        if long.len() > MAX_SHORT {
            write_long(output, kind, long)?;
        }
    }
    if let Some(gnu) = header.as_gnu_mut() {
        let short = |text: &[u8]| text.len().min(MAX_SHORT);
        gnu.name[..short(name)].copy_from_slice(&name[..short(name)]);
        gnu.linkname[..short(link)].copy_from_slice(&link[..short(link)]);
    }
    header.set_cksum();
    Ok(output.write_all(header.as_bytes())?)
}

/// Writes a name, or a link, that has no room in the header behind it.
fn write_long(output: &mut impl Write, kind: EntryType, text: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(text.len() as u64 + 1);
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name[..13].copy_from_slice(b"././@LongLink");
    }
    header.set_cksum();
    let mut data = text.to_vec();
    data.resize((text.len() + 1).next_multiple_of(usize::try_from(BLOCK)?), 0);
    output.write_all(header.as_bytes())?;
    Ok(output.write_all(&data)?)
}

/// Writes the header of a sparse file: its map, as far as it has room, and the rest behind it.
fn write_sparse(
    output: &mut impl Write,
    mut header: Header,
    name: &[u8],
    (map, size): (&[Segment], u64),
) -> Result<()> {
    let mut left = map.to_vec();
    if map.last().is_none_or(|last| last.offset + last.len < size) {
        left.push(Segment { offset: size, len: 0 });
    }
    let mut left = &left[..];
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.set_real_size(size);
        left = put(left, &mut gnu.sparse);
        gnu.set_is_extended(!left.is_empty());
    }
    write_header(output, header, name, b"")?;
    while !left.is_empty() {
        let mut block = GnuExtSparseHeader::new();
        left = put(left, block.sparse_mut());
        block.set_is_extended(!left.is_empty());
        output.write_all(block.as_bytes())?;
    }
    Ok(())
}

/// Puts segments where there is room; returns the others.
fn put<'a>(segments: &'a [Segment], room: &mut [GnuSparseHeader]) -> &'a [Segment] {
    for (segment, room) in segments.iter().zip(room.iter_mut()) {
        room.set_offset(segment.offset);
        room.set_length(segment.len);
    }
    segments.get(room.len()..).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files that are copied")]
mod tests {
    use super::super::places::Place;
    use super::super::unpack::unpack;
    use super::*;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};

    fn packed(path: &Path, top: &str) -> Vec<u8> {
        let mut stream = Vec::new();
        pack(&mut stream, path, top.as_bytes()).unwrap();
        stream
    }

    fn copy(from: &Path, top: &str, to: &Path) {
        let dir = to.as_os_str().as_bytes().to_vec();
        unpack(&packed(from, top)[..], top.as_bytes(), Place { dir, name: None }).unwrap();
    }

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let long = "n".repeat(200);
        let tree = from.path().join("t");
        std::fs::create_dir_all(tree.join(&long)).unwrap();
        std::fs::write(tree.join(&long).join("f"), "data").unwrap();
        std::fs::write(tree.join("x"), "").unwrap();
        std::fs::set_permissions(tree.join("x"), std::fs::Permissions::from_mode(0o751)).unwrap();
        symlink("l".repeat(300), tree.join("l")).unwrap();
        copy(&tree, "t", to.path());
        let made = to.path().join("t");
        assert_eq!(std::fs::read(made.join(&long).join("f")).unwrap(), b"data");
        assert_eq!(std::fs::read_link(made.join("l")).unwrap(), Path::new(&"l".repeat(300)));
        let (old, new) = (tree.join("x").metadata().unwrap(), made.join("x").metadata().unwrap());
        assert_eq!((old.mode(), old.mtime()), (new.mode(), new.mtime()));
    }

    #[test]
    fn holes_stay_holes_however_many_there_are() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, pieces, tail) in [("one", 1, 0), ("many", 60, 1 << 20), ("none", 0, 1 << 30)] {
            let path = from.path().join(name);
            let file = File::create(&path).unwrap();
            for piece in 0..pieces {
                file.write_all_at(b"data", 65536 * (2 * piece + 1)).unwrap();
            }
            let size = 65536 * 2 * pieces + tail;
            file.set_len(size + 3).unwrap();
            copy(&path, name, to.path());
            let made = to.path().join(name);
            let meta = made.metadata().unwrap();
            assert_eq!(meta.len(), size + 3, "{name}");
            assert!(meta.blocks() * 512 <= (pieces + 1) * 65536, "{name}: {}", meta.blocks());
            let (old, new) = (File::open(&path).unwrap(), File::open(&made).unwrap());
            for piece in 0..pieces {
                let (mut a, mut b) = ([0; 8], [0; 8]);
                old.read_at(&mut a, 65536 * (2 * piece + 1)).unwrap();
                new.read_at(&mut b, 65536 * (2 * piece + 1)).unwrap();
                assert_eq!(a, b, "{name} {piece}");
            }
        }
    }

    #[test]
    fn any_reader_of_tar_understands_it() {
        let from = tempfile::tempdir().unwrap();
        let long = "n".repeat(150);
        std::fs::write(from.path().join(&long), "data").unwrap();
        let file = File::create(from.path().join("sparse")).unwrap();
        file.write_all_at(b"end", 1 << 20).unwrap();
        let stream = packed(from.path(), ".");
        let mut archive = tar::Archive::new(&stream[..]);
        let mut sizes = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            sizes.insert(entry.path().unwrap().display().to_string(), entry.size());
        }
        let expected = [("./".to_owned(), 0), (format!("./{long}"), 4)];
        let expected = expected.into_iter().chain([("./sparse".to_owned(), (1 << 20) + 3)]);
        assert_eq!(sizes, expected.collect());
    }
}
