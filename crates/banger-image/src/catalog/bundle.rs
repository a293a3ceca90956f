//! Bundles read and written: a tar of few members under zstd, as it streams by.
//!
//! Nothing that the tar says is used: each member has to be the one that is due, of the length and
//! the digest that the manifest says, and is written under a name that this program chooses.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_host::error::AtPath as _;
use banger_host::{HostError, fs};
use banger_model::{Bytes, Progress};
use banger_trust::{DocumentError, Sha256Digest, Sha256Stream};
use tar::{EntryType, Header};
use thiserror::Error;

use super::manifest::{BundleManifest, MANIFEST, MAX_MANIFEST, Member};
use crate::archive::{ArchiveError, check_sum};
use crate::oci::{Compression, Limits, decoder};

/// Archives consist of blocks of this size.
const BLOCK: u64 = BLOCK_LEN as u64;
const BLOCK_LEN: usize = 512;
/// Files are copied in pieces of this size; a piece of zeros becomes a hole.
const GRAIN: usize = 16 * 1024;
/// Most bytes of zeros behind the last member: what tools fill their last record with, and more.
const MAX_TRAILER: u64 = 64 * 1024;
/// How hard is compressed what is compressed once and fetched often.
const LEVEL: i32 = 10;

/// Why a bundle is not taken, or could not be made.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The stream is damaged, ends too early, or cannot be read.
    #[error("cannot read it to its end")]
    Read(#[source] io::Error),
    /// Its manifest is none.
    #[error("its {MANIFEST} is of no use")]
    Manifest(#[from] DocumentError),
    /// Bytes that are no header of a tar.
    #[error("it is no tar as bundles are")]
    Header(#[source] ArchiveError),
    /// Another member than the one that is due.
    #[error("it has {found:?} where {expected} is due")]
    Member {
        /// Its name, or what it is.
        found: String,
        /// The name that is due.
        expected: &'static str,
    },
    /// A member of another length.
    #[error("its {name} has {found} bytes instead of {expected}")]
    Size {
        /// The member.
        name: &'static str,
        /// As the manifest says.
        expected: u64,
        /// As the tar says.
        found: u64,
    },
    /// A member with another content.
    #[error("its {name} is sha256:{found} instead of sha256:{expected}")]
    Digest {
        /// The member.
        name: &'static str,
        /// As the manifest says.
        expected: Sha256Digest,
        /// What it is.
        found: Sha256Digest,
    },
    /// Something behind the last member.
    #[error("it goes on behind its last file")]
    Trailing,
    /// More than is taken.
    #[error("it unpacks to {size}, more than the {max} that are taken (images.max_unpacked)")]
    TooLarge {
        /// What it says.
        size: Bytes,
        /// The bound.
        max: Bytes,
    },
    /// Far more than bundles are.
    #[error("it unpacks to more than {ratio} times its size: it may be made to fill disks")]
    Bomb {
        /// The bound.
        ratio: u64,
    },
    /// A file could not be kept.
    #[error(transparent)]
    Keep(#[from] HostError),
    /// It could not be written.
    #[error("cannot write it")]
    Write(#[source] io::Error),
    /// Whoever wanted it does so no more.
    #[error("it was called off")]
    CalledOff,
}

/// Where the files of a bundle go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// Into this directory.
    Dir(&'a Path),
    /// Nowhere: they are only looked at.
    Nowhere,
}

/// A bundle that is read.
pub(super) struct Unpack<'a> {
    pub(super) limits: &'a Limits,
    /// Bytes of the compressed bundle.
    pub(super) compressed: u64,
    pub(super) into: Place<'a>,
    /// Becomes true when nobody waits for it any more.
    pub(super) called_off: &'a AtomicBool,
    pub(super) progress: &'a dyn Progress,
}

impl Unpack<'_> {
    /// Reads all of it. After an error, what was written is worth nothing. Nothing is synced.
    pub(super) fn run(&self, source: impl Read + 'static) -> Result<BundleManifest, BundleError> {
        let mut source = decoder(source, Compression::Zstd).map_err(BundleError::Read)?;
        self.tar(&mut source)
    }

    fn tar(&self, source: &mut dyn Read) -> Result<BundleManifest, BundleError> {
        let manifest = read_manifest(source)?;
        let (size, max) = (Bytes::new(manifest.size()), self.limits.max_unpacked);
        if size > max {
            return Err(BundleError::TooLarge { size, max });
        }
        let mut written = Written { done: 0, filled: 0, whole: size.get() };
        for member in &manifest.members {
            self.member(source, member, &mut written)?;
        }
        end(source)?;
        Ok(manifest)
    }

    fn member(
        &self,
        source: &mut dyn Read,
        member: &Member,
        written: &mut Written,
    ) -> Result<(), BundleError> {
        let (name, expected) = (member.name, member.size);
        let found = next_member(source, name)?;
        if found != expected {
            return Err(BundleError::Size { name, expected, found });
        }
        let file = match self.into {
            Place::Dir(dir) => Some((fs::create_new(&dir.join(name))?, dir.join(name))),
            Place::Nowhere => None,
        };
        let (mut hash, mut at, mut grain) = (Sha256Stream::new(), 0, vec![0; GRAIN]);
        while at < expected {
            if self.called_off.load(Ordering::Relaxed) {
                return Err(BundleError::CalledOff);
            }
            let len = usize::try_from(expected - at).unwrap_or(GRAIN).min(GRAIN);
            let grain = &mut grain[..len];
            source.read_exact(grain).map_err(BundleError::Read)?;
            hash.update(grain);
            if !is_zero(grain) {
                written.filled += len as u64;
                self.check_ratio(written.filled)?;
                if let Some((file, path)) = &file {
                    file.write_all_at(grain, at).at("write", path)?;
                }
            }
            at += len as u64;
            written.done += len as u64;
            self.progress.advance(written.done, Some(written.whole));
        }
        if let Some((file, path)) = &file {
            // What ends with a hole has to be made that long.
            file.set_len(expected).at("write", path)?;
        }
        padding(source, expected)?;
        let (expected, found) = (member.sha256, hash.finish());
        if found == expected { Ok(()) } else { Err(BundleError::Digest { name, expected, found }) }
    }

    /// Holes cost nothing, whatever their ratio.
    fn check_ratio(&self, filled: u64) -> Result<(), BundleError> {
        let ratio = self.limits.max_ratio;
        let bound = self.compressed.saturating_mul(ratio);
        if filled > bound.saturating_add(self.limits.ratio_free.get()) {
            return Err(BundleError::Bomb { ratio });
        }
        Ok(())
    }
}

/// Reads the tar of a bundle, decompressed already, and keeps nothing of it.
///
/// # Errors
/// When it is no bundle.
pub fn inspect_tar(source: &mut dyn Read, limits: &Limits) -> Result<BundleManifest, BundleError> {
    let called_off = &AtomicBool::new(false);
    let (compressed, into, progress) = (u64::MAX, Place::Nowhere, &banger_model::Silent);
    Unpack { limits, compressed, into, called_off, progress }.tar(source)
}

/// How much of a bundle is written.
struct Written {
    done: u64,
    /// Without holes.
    filled: u64,
    whole: u64,
}

fn is_zero(grain: &[u8]) -> bool {
    const ZEROS: [u8; GRAIN] = [0; GRAIN];
    grain == &ZEROS[..grain.len()]
}

fn read_manifest(source: &mut dyn Read) -> Result<BundleManifest, BundleError> {
    let size = next_member(source, MANIFEST)?;
    let len = usize::try_from(size).ok().filter(|len| *len <= MAX_MANIFEST);
    let max = MAX_MANIFEST as u64;
    let len = len.ok_or(BundleError::Size { name: MANIFEST, expected: max, found: size })?;
    let mut bytes = vec![0; len];
    source.read_exact(&mut bytes).map_err(BundleError::Read)?;
    padding(source, size)?;
    Ok(BundleManifest::parse(&bytes)?)
}

/// Reads the header of the member of this name, and returns its length.
fn next_member(source: &mut dyn Read, expected: &'static str) -> Result<u64, BundleError> {
    let mut bytes = [0; BLOCK_LEN];
    source.read_exact(&mut bytes).map_err(BundleError::Read)?;
    let header = Header::from_byte_slice(&bytes);
    if is_zero(&bytes) {
        return Err(BundleError::Member { found: "its end".to_owned(), expected });
    }
    check_sum(&bytes, header, 0).map_err(BundleError::Header)?;
    let name = header.path_bytes();
    let is_file = header.entry_type() == EntryType::Regular;
    if !is_file || *name != *expected.as_bytes() {
        let found = String::from_utf8_lossy(&name).chars().take(80).collect();
        return Err(BundleError::Member { found, expected });
    }
    let problem = "its size is no number";
    header
        .entry_size()
        .map_err(|_| BundleError::Header(ArchiveError::BadHeader { offset: 0, problem }))
}

/// Passes over what fills the last block of a member.
fn padding(source: &mut dyn Read, size: u64) -> Result<(), BundleError> {
    let len = size.next_multiple_of(BLOCK) - size;
    let mut bytes = [0; BLOCK_LEN];
    let bytes = &mut bytes[..usize::try_from(len).unwrap_or(0)];
    source.read_exact(bytes).map_err(BundleError::Read)
}

/// Only zeros may follow, and not many.
fn end(source: &mut dyn Read) -> Result<(), BundleError> {
    let mut rest = Vec::new();
    let read = source.take(MAX_TRAILER + 1).read_to_end(&mut rest);
    read.map_err(BundleError::Read)?;
    if rest.len() as u64 > MAX_TRAILER || rest.iter().any(|byte| *byte != 0) {
        return Err(BundleError::Trailing);
    }
    Ok(())
}

/// What a bundle became.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    pub(super) size: u64,
    pub(super) sha256: Sha256Digest,
}

/// Writes a bundle of the files that its manifest names, which are in one directory. Of the same
/// files it is always the same bytes. Nothing is synced.
pub(super) fn pack(
    manifest: &BundleManifest,
    dir: &Path,
    target: &File,
    progress: &dyn Progress,
) -> Result<Packed, BundleError> {
    let counted = Counted { file: target, len: 0, hash: Sha256Stream::new() };
    let mut out = zstd::Encoder::new(counted, LEVEL).map_err(BundleError::Write)?;
    let about = manifest.to_json();
    begin_member(&mut out, MANIFEST, about.len() as u64)?;
    out.write_all(&about).map_err(BundleError::Write)?;
    fill(&mut out, about.len() as u64)?;
    let (mut done, whole) = (0, manifest.size());
    for member in &manifest.members {
        begin_member(&mut out, member.name, member.size)?;
        let path = dir.join(member.name);
        let mut file = fs::open_file(&path)?.take(member.size);
        let (mut hash, mut len, mut grain) = (Sha256Stream::new(), 0, vec![0; GRAIN]);
        loop {
            let n = file.read(&mut grain).at("read", &path)?;
            if n == 0 {
                break;
            }
            hash.update(&grain[..n]);
            out.write_all(&grain[..n]).map_err(BundleError::Write)?;
            len += n as u64;
            done += n as u64;
            progress.advance(done, Some(whole));
        }
        let (name, expected, found) = (member.name, member.sha256, hash.finish());
        if len != member.size {
            return Err(BundleError::Size { name, expected: member.size, found: len });
        }
        if found != expected {
            return Err(BundleError::Digest { name, expected, found });
        }
        fill(&mut out, member.size)?;
    }
    // The end of a tar is two blocks of zeros.
    out.write_all(&[0; 2 * BLOCK_LEN]).map_err(BundleError::Write)?;
    let counted = out.finish().map_err(BundleError::Write)?;
    Ok(Packed { size: counted.len, sha256: counted.hash.finish() })
}

fn begin_member(out: &mut impl Write, name: &str, size: u64) -> Result<(), BundleError> {
    let mut header = Header::new_gnu();
    header.set_path(name).map_err(BundleError::Write)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    out.write_all(header.as_bytes()).map_err(BundleError::Write)
}

fn fill(out: &mut impl Write, size: u64) -> Result<(), BundleError> {
    let len = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
    out.write_all(&[0; BLOCK_LEN][..len]).map_err(BundleError::Write)
}

/// A file that knows what was written to it.
struct Counted<'a> {
    file: &'a File,
    len: u64,
    hash: Sha256Stream,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
