//! Writes what is at a path as a tar stream. What cannot be read is said and left out.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, major, minor};
use rustix::io::Errno;

use super::Log;
use super::header::{BLOCK, Header, Kind, MAX_SHORT, Segment};
use super::reader::{MAX_NAME, MAX_SEGMENTS};

/// Most directories within each other: each holds a descriptor while it is read.
const MAX_DEPTH: usize = 512;

/// Most bytes of names that are remembered for files with several names. Beyond, such files are
/// packed once for each name.
const MAX_LINK_BYTES: usize = 16 * 1024 * 1024;

/// Longest value of an extended attribute, and longest list of names, that Linux has (xattr(7)).
const MAX_XATTR_LEN: usize = 64 * 1024;
const MAX_XATTR_NAMES_LEN: usize = 64 * 1024;

/// Bytes that are read and written at once.
const CHUNK: usize = 64 * 1024;

/// File systems whose files are the kernel's own: where one is mounted in the tree, it stays out
/// (`magic.h`).
const KERNELS_OWN: [i64; 13] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x6265_6570, // configfs
    0x4249_4e4d, // binfmt_misc
];

/// What of a tree is packed, and how much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// For people: what is mounted in it, too, and holes as holes.
    Everything,
    /// For an image: nothing that is mounted in it, and of files all that a file system knows.
    OneFileSystem,
}

/// Packs what is at a path. An error is one of writing: nothing more can be said then.
pub(super) fn pack(output: impl Write, path: &[u8], scope: Scope, log: &mut Log) -> io::Result<()> {
    let mut packer = Packer { output, scope, log, links: BTreeMap::new(), link_bytes: 0 };
    packer.top(path)?;
    packer.output.write_all(&[0; 2 * BLOCK])?;
    packer.output.flush()
}

struct Packer<'a, W> {
    output: W,
    scope: Scope,
    log: &'a mut Log,
    /// The names of files with several, by device and inode.
    links: BTreeMap<(u64, u64), Vec<u8>>,
    link_bytes: usize,
}

/// A directory that is being read.
struct Level {
    dir: Dir,
    name: Vec<u8>,
    device: u64,
}

/// Where something is: its directory, and its name there.
type At<'a> = (BorrowedFd<'a>, &'a CStr);

/// The name that entries begin with: the last component of a path, `.` for one that has none.
pub(super) fn top_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    match &path[start..end] {
        b"" | b".." => b".",
        name => name,
    }
}

impl<W: Write> Packer<'_, W> {
    fn top(&mut self, path: &[u8]) -> io::Result<()> {
        let name = top_name(path).to_vec();
        let Ok(path) = CString::new(path) else {
            self.log.fault(&name, "has a zero byte in its path");
            return Ok(());
        };
        let mut levels = Vec::new();
        levels.extend(self.add((CWD, &path), name)?);
        while let Some(level) = levels.last_mut() {
            let entry = match level.dir.read() {
                None => {
                    levels.pop();
                    continue;
                }
                Some(Err(errno)) => {
                    self.fault(&level.name, "cannot read", errno);
                    levels.pop();
                    continue;
                }
                Some(Ok(entry)) => entry,
            };
            let last = entry.file_name();
            if matches!(last.to_bytes(), b"." | b"..") {
                continue;
            }
            let name = [&level.name, &b"/"[..], last.to_bytes()].concat();
            let added = match level.dir.fd() {
                Ok(dir) => self.add((dir, last), name)?,
                Err(errno) => {
                    self.fault(&name, "cannot read", errno);
                    None
                }
            };
            levels.extend(self.descend(added, levels.len(), levels.last().map(|l| l.device)));
        }
        Ok(())
    }

    /// The contents of a directory, unless they are to stay out.
    fn descend(&mut self, added: Option<Level>, depth: usize, above: Option<u64>) -> Option<Level> {
        let level = added?;
        if depth >= MAX_DEPTH {
            self.log.fault(&level.name, "is too deep in directories: its contents are left out");
            return None;
        }
        let is_mounted = above.is_some_and(|above| above != level.device);
        let of_kernel = || {
            let kind = level.dir.fd().and_then(rustix::fs::fstatfs).map(|fs| fs.f_type);
            kind.is_ok_and(|kind| KERNELS_OWN.contains(&kind))
        };
        let stays_out = match self.scope {
            Scope::Everything => is_mounted && of_kernel(),
            Scope::OneFileSystem => is_mounted,
        };
        if stays_out { None } else { Some(level) }
    }

    /// Adds one entry. If it is a directory, its contents are to follow.
    fn add(&mut self, at: At<'_>, name: Vec<u8>) -> io::Result<Option<Level>> {
        if name.len() >= MAX_NAME {
            self.log.fault(&name, "has a name that is too long");
            return Ok(None);
        }
        let stat = match rustix::fs::statat(at.0, at.1, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) => {
                self.fault(&name, "cannot look at it", errno);
                return Ok(None);
            }
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.add_dir(at, name),
            FileType::RegularFile => self.add_file(at, name)?,
            FileType::Symlink => match rustix::fs::readlinkat(at.0, at.1, Vec::new()) {
                Ok(link) => {
                    let link = link.into_bytes();
                    self.add_plain(&name, &stat, Header { link, ..header(Kind::Symlink, &stat) })?;
                }
                Err(errno) => self.fault(&name, "cannot read", errno),
            },
            FileType::Fifo => self.add_plain(&name, &stat, header(Kind::Fifo, &stat))?,
            FileType::CharacterDevice => {
                self.add_plain(&name, &stat, header(Kind::CharDevice, &stat))?;
            }
            FileType::BlockDevice => {
                self.add_plain(&name, &stat, header(Kind::BlockDevice, &stat))?;
            }
            FileType::Socket => self.log.note(&name, "is a socket and left out"),
            FileType::Unknown => self.log.fault(&name, "is of an unknown kind and left out"),
        }
        Ok(None)
    }

    fn add_dir(&mut self, at: At<'_>, name: Vec<u8>) -> io::Result<Option<Level>> {
        let opened = open(at, OFlags::DIRECTORY).and_then(|fd| {
            let stat = rustix::fs::fstat(&fd)?;
            Ok((stat, self.properties(fd.as_fd(), &stat), Dir::new(fd)?))
        });
        match opened {
            Ok((stat, properties, dir)) => {
                self.write_properties(&properties)?;
                let shown_name = [&name, &b"/"[..]].concat();
                self.write_header(header(Kind::Directory, &stat), &shown_name)?;
                Ok(Some(Level { dir, name, device: stat.st_dev }))
            }
            Err(errno) => {
                self.fault(&name, "cannot read", errno);
                Ok(None)
            }
        }
    }

    /// Adds what is whole with its header.
    fn add_plain(&mut self, name: &[u8], stat: &Stat, header: Header) -> io::Result<()> {
        if self.link(name, stat)? { Ok(()) } else { self.write_header(header, name) }
    }

    fn add_file(&mut self, at: At<'_>, name: Vec<u8>) -> io::Result<()> {
        // What was a file a moment ago may be a pipe now, which would be waited for.
        let opened = open(at, OFlags::NONBLOCK).and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        let (stat, file) = match opened {
            Ok((stat, fd)) if FileType::from_raw_mode(stat.st_mode).is_file() => {
                (stat, File::from(fd))
            }
            Ok(_) => {
                self.log.fault(&name, "changed while it was packed, and is left out");
                return Ok(());
            }
            Err(errno) => {
                self.fault(&name, "cannot read", errno);
                return Ok(());
            }
        };
        if self.link(&name, &stat)? {
            return Ok(());
        }
        self.write_properties(&self.properties(file.as_fd(), &stat))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let stored = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(512);
        let whole = [Segment { offset: 0, len: size }];
        let may_be_sparse = stored < size && self.scope == Scope::Everything;
        let found = if may_be_sparse { segments(&file, size) } else { None };
        let Some(mut map) = found.filter(|map| *map != whole) else {
            let header = Header { size, ..header(Kind::File, &stat) };
            self.write_header(header, &name)?;
            return self.write_data(&file, &whole, &name);
        };
        let data = map.clone();
        if map.last().is_none_or(|last| last.offset + last.len < size) {
            map.push(Segment { offset: size, len: 0 });
        }
        let size_stored = data.iter().map(|segment| segment.len).sum();
        let header = Header { size: size_stored, ..header(Kind::Sparse, &stat) };
        let header = self.with_long_names(header, &name)?;
        self.output.write_all(&header.encode_sparse(&map, size).concat())?;
        self.write_data(&file, &data, &name)
    }

    /// What the header of an entry has no room for, if it is asked for.
    fn properties(&self, file: BorrowedFd<'_>, stat: &Stat) -> Vec<u8> {
        let mut records = Vec::new();
        if self.scope == Scope::Everything {
            return records;
        }
        if stat.st_mtime_nsec != 0 && stat.st_mtime >= 0 {
            let time = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            record(&mut records, b"mtime", time.as_bytes());
        }
        for name in xattr_names(file) {
            let mut value = vec![0; MAX_XATTR_LEN];
            // One that is gone, or that nobody may read, is not there.
            if let Ok(len) = rustix::fs::fgetxattr(file, &*name, value.as_mut_slice()) {
                let key = [&b"SCHILY.xattr."[..], name.to_bytes()].concat();
                record(&mut records, &key, &value[..len]);
            }
        }
        records
    }

    fn write_properties(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let size = records.len() as u64;
        let header = Header { name: b"././@PaxHeader".to_vec(), size, ..plain(Kind::Pax) };
        self.output.write_all(&header.encode())?;
        self.output.write_all(records)?;
        self.pad(size)
    }

    /// Says that this is another name of what was packed already, if it is.
    fn link(&mut self, name: &[u8], stat: &Stat) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let file = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&file) {
            let header = Header { link: first.clone(), ..header(Kind::HardLink, stat) };
            self.write_header(header, name)?;
            return Ok(true);
        }
        if self.link_bytes < MAX_LINK_BYTES {
            self.link_bytes += name.len();
            self.links.insert(file, name.to_vec());
        }
        Ok(false)
    }

    fn write_header(&mut self, header: Header, name: &[u8]) -> io::Result<()> {
        let header = self.with_long_names(header, name)?;
        self.output.write_all(&header.encode())
    }

    /// Writes what does not fit into the header in entries before it.
    fn with_long_names(&mut self, header: Header, name: &[u8]) -> io::Result<Header> {
        let header = Header { name: name.to_vec(), ..header };
        for (kind, text) in [(Kind::LongName, &header.name), (Kind::LongLink, &header.link)] {
            if text.len() > MAX_SHORT {
                let long = Header {
                    name: b"././@LongLink".to_vec(),
                    size: text.len() as u64 + 1,
                    ..plain(kind)
                };
                self.output.write_all(&long.encode())?;
                self.output.write_all(text)?;
                self.output.write_all(&[0])?;
                self.pad(long.size)?;
            }
        }
        Ok(header)
    }

    /// Writes pieces of a file. The header has said how long they are: what is missing by now is
    /// made up by zeros.
    fn write_data(&mut self, file: &File, pieces: &[Segment], name: &[u8]) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        let (mut total, mut missing) = (0, None);
        for piece in pieces {
            let (mut at, end) = (piece.offset, piece.offset + piece.len);
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                let n = match file.read_at(&mut buffer[..most], at) {
                    Ok(n @ 1..) if missing.is_none() => n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => {
                        let why = other.map_or_else(|error| error.to_string(), |_| String::new());
                        missing.get_or_insert(why);
                        buffer[..most].fill(0);
                        most
                    }
                };
                self.output.write_all(&buffer[..n])?;
                at += n as u64;
            }
            total += piece.len;
        }
        if let Some(why) = missing {
            let what = "changed or failed while it was packed; what is missing is zeros";
            self.log.fault(name, &format!("{what} {why}"));
        }
        self.pad(total)
    }

    fn pad(&mut self, len: u64) -> io::Result<()> {
        let over = usize::try_from(len % BLOCK as u64).unwrap_or(0);
        self.output.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])
    }

    fn fault(&mut self, name: &[u8], what: &str, errno: Errno) {
        self.log.fault(name, &format!("{what}: {}", io::Error::from(errno)));
    }
}

/// Appends a record, whose length counts its own digits (pax(1)).
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len += 1;
    }
    records.extend(format!("{len} ").into_bytes());
    records.extend([key, b"=", value, b"\n"].concat());
}

/// The extended attributes of a file that are its user's or its own; those of an overlay tell how
/// that is put together.
fn xattr_names(file: BorrowedFd<'_>) -> Vec<CString> {
    let mut list = vec![0; MAX_XATTR_NAMES_LEN];
    let len = rustix::fs::flistxattr(file, list.as_mut_slice()).unwrap_or(0);
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .filter(|name| !name.starts_with(b"trusted."))
        .filter_map(|name| CString::new(name).ok())
        .collect()
}

/// Opens for reading. A path that ends in a slash means the directory behind a link.
fn open((dir, name): At<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn plain(kind: Kind) -> Header {
    let (name, link) = (Vec::new(), Vec::new());
    Header { name, mode: 0, uid: 0, gid: 0, size: 0, mtime: 0, kind, link, device: (0, 0) }
}

fn header(kind: Kind, stat: &Stat) -> Header {
    Header {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        mtime: u64::try_from(stat.st_mtime).unwrap_or(0),
        device: (major(stat.st_rdev).into(), minor(stat.st_rdev).into()),
        ..plain(kind)
    }
}

/// The pieces of a file that are no holes, as the file system tells, at whole blocks of the
/// archive; none where it does not tell.
fn segments(file: &File, size: u64) -> Option<Vec<Segment>> {
    let block = BLOCK as u64;
    let mut found: Vec<Segment> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).ok()?;
        if end <= start {
            return None;
        }
        let is_last = found.len() + 1 >= MAX_SEGMENTS;
        let end = if is_last { size } else { end.next_multiple_of(block).min(size) };
        let start = start / block * block;
        match found.last_mut() {
            Some(last) if last.offset + last.len >= start => last.len = end - last.offset,
            _ => found.push(Segment { offset: start, len: end - start }),
        }
        at = end;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_named_after_the_last_component() {
        let names = [
            ("/etc/nginx", "nginx"),
            ("/etc/nginx//", "nginx"),
            ("nginx", "nginx"),
            ("/", "."),
            ("", "."),
            ("/etc/.", "."),
            ("/etc/..", "."),
            (".", "."),
        ];
        for (path, name) in names {
            assert_eq!(top_name(path.as_bytes()), name.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for value_len in [0, 1, 2, 3, 89, 90, 91, 92, 990, 995] {
            let mut records = Vec::new();
            record(&mut records, b"key", &vec![b'v'; value_len]);
            let space = records.iter().position(|byte| *byte == b' ').unwrap();
            let told: usize = std::str::from_utf8(&records[..space]).unwrap().parse().unwrap();
            assert_eq!(told, records.len(), "{value_len}");
            assert!(records[space + 1..].starts_with(b"key=") && records.ends_with(b"\n"));
        }
    }
}
