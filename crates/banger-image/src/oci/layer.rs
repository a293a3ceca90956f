//! One layer of an image: its verified compressed file, and the tar that comes out of it.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};

use banger_host::HostError;
use banger_model::{Bytes, Digest};
use flate2::bufread::MultiGzDecoder;
use thiserror::Error;

use super::allowance::Allowance;
use super::cache::{Blob, BlobReader, Cache};
use super::document::Compression;
use super::hash::Hasher;
use super::settings::Limits;

/// Compressed bytes are read, and unpacked ones written, in pieces of this size.
const CHUNK: usize = 256 * 1024;
/// Memory that a zstd stream may want for what it refers back to, as a power of two: 64 MiB is
/// eight times what a reader has to support (RFC 8878, section 3.1.1.1.2).
const MAX_ZSTD_WINDOW_LOG: u32 = 26;

/// One layer of a pulled image. Its file stays in the cache as long as this value lives.
#[derive(Clone, Debug)]
pub struct Layer {
    blob: Blob,
    diff_id: Digest,
    compression: Compression,
    limits: Limits,
    cache: Cache,
}

/// What a layer unpacked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the tar.
    pub size: Bytes,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The stream is damaged, or the file cannot be read.
    #[error("cannot decompress the layer {digest}")]
    Decompress {
        /// The layer.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// The tar cannot be written.
    #[error("cannot write what the layer {digest} unpacks to")]
    Write {
        /// The layer.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// It unpacks, with the other layers of the image, to more than is taken.
    #[error(
        "the layers of the image unpack to more than {max} in all; `max_unpacked` in config.toml says how much is taken"
    )]
    ImageTooLarge {
        /// The bound.
        max: Bytes,
    },
    /// It unpacks, with the other layers of the image, to far more than images do.
    #[error(
        "the layers of the image unpack to more than {ratio} times what was fetched: it may be made to fill disks"
    )]
    ImageBomb {
        /// The bound.
        ratio: u64,
    },
    /// It unpacks to far more than layers do.
    #[error(
        "the layer {digest} unpacks to more than {ratio} times its size: it may be made to fill disks"
    )]
    Bomb {
        /// The layer.
        digest: Digest,
        /// The bound.
        ratio: u64,
    },
    /// What comes out is not what the config says.
    #[error("the layer {digest} unpacks to {found}, but the image's config promises {expected}")]
    DiffId {
        /// The layer.
        digest: Digest,
        /// What the config says.
        expected: Digest,
        /// What came out.
        found: Digest,
    },
    /// Whoever wanted the image does so no more.
    #[error("it was called off")]
    CalledOff,
    /// The file has changed since it was verified; it is removed.
    #[error(
        "the layer {digest} was damaged in the cache, and is removed from it: pull the image again"
    )]
    Damaged {
        /// The layer.
        digest: Digest,
    },
    /// It could not be removed.
    #[error("cannot remove the damaged layer {digest} from the cache")]
    Discard {
        /// The layer.
        digest: Digest,
        /// Why not.
        source: HostError,
    },
}

impl Layer {
    /// `compression` is what the manifest says.
    pub(super) fn new(
        blob: Blob,
        diff_id: Digest,
        compression: Compression,
        (cache, limits): (&Cache, &Limits),
    ) -> Self {
        Self { blob, diff_id, compression, limits: limits.clone(), cache: cache.clone() }
    }

    /// The digest of the compressed file.
    pub fn digest(&self) -> &Digest {
        self.blob.digest()
    }

    /// What it was pulled with.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of the compressed file.
    pub fn size(&self) -> Bytes {
        self.blob.size()
    }

    /// The digest of the tar in it, as the config has it.
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// How the manifest says that it is compressed. What its bytes say goes before: some tools
    /// write the wrong type, and the digest of what comes out is the judge.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Reads the compressed file.
    pub fn open(&self) -> BlobReader {
        self.blob.reader()
    }

    /// Writes the tar to a file, from where that stands, and takes what it has of the image's
    /// allowance. It is written before it is known to be
    /// right: after an error it is worth nothing. Nothing is synced.
    ///
    /// # Errors
    /// [`UnpackError`]; a file that was damaged in the cache is gone from it.
    pub fn unpack_into(
        &self,
        target: &File,
        allowance: &Allowance<'_>,
    ) -> Result<Unpacked, UnpackError> {
        match self.unpack(target, allowance) {
            // Who is to blame: the image, or this host's disk?
            Err(UnpackError::DiffId { .. } | UnpackError::Decompress { .. })
                if !self.blob.is_intact() =>
            {
                let digest = self.digest().clone();
                match self.cache.discard(&digest) {
                    Ok(()) => Err(UnpackError::Damaged { digest }),
                    Err(source) => Err(UnpackError::Discard { digest, source }),
                }
            }
            other => other,
        }
    }

    fn unpack(&self, target: &File, allowance: &Allowance<'_>) -> Result<Unpacked, UnpackError> {
        let mut source = self.decoder()?;
        let mut hash = Hasher::new(self.diff_id.algorithm());
        let mut chunk = vec![0; CHUNK];
        let bound = self.bound();
        let mut size = 0u64;
        let digest = || self.digest().clone();
        loop {
            let n = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(UnpackError::Decompress { digest: digest(), source }),
            };
            size += n as u64;
            if size > bound {
                return Err(UnpackError::Bomb { digest: digest(), ratio: self.limits.max_ratio });
            }
            allowance.take(n as u64)?;
            hash.update(&chunk[..n]);
            (&*target)
                .write_all(&chunk[..n])
                .map_err(|source| UnpackError::Write { digest: digest(), source })?;
        }
        let (expected, found) = (self.diff_id.clone(), hash.finish());
        if found != expected {
            return Err(UnpackError::DiffId { digest: digest(), expected, found });
        }
        Ok(Unpacked { size: Bytes::new(size) })
    }

    fn decoder(&self) -> Result<Box<dyn Read>, UnpackError> {
        let failed = |source| UnpackError::Decompress { digest: self.digest().clone(), source };
        let compression = if self.diff_id == *self.digest() {
            // Whatever it looks like, it is what the config promises.
            Compression::Plain
        } else {
            let mut begin = [0; 4];
            let n = read_begin(&mut self.open(), &mut begin).map_err(failed)?;
            Compression::sniff(&begin[..n])
        };
        decoder(self.open(), compression).map_err(failed)
    }

    /// Most bytes that may come out of this one layer.
    fn bound(&self) -> u64 {
        let by_ratio = self.size().get().saturating_mul(self.limits.max_ratio);
        by_ratio.saturating_add(self.limits.ratio_free.get())
    }
}

/// Reads until the buffer is full or the source ends.
pub(crate) fn read_begin(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match source.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// What is in a compressed stream; all members of gzip, all frames of zstd.
pub(crate) fn decoder<R: Read + 'static>(
    source: R,
    compression: Compression,
) -> io::Result<Box<dyn Read>> {
    let source = BufReader::with_capacity(CHUNK, source);
    Ok(match compression {
        Compression::Plain => Box::new(source),
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}
